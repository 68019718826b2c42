"""Who may do what on the finance desk. One table; the groups follow it after every migrate.

Nobody has a permission to add, change or delete a row of money by hand, superusers included: the pages offer acts only.
"""

from typing import Any

from django.apps import AppConfig
from django.contrib.auth.models import Group, Permission
from django.db.models import Q

# What everybody at the desk reads: the books, the goods, the differences.
_READ = (
    "orders.view_order",
    "orders.view_merchantcall",
    "payments.view_payment",
    "payments.view_refund",
    "payments.view_dispute",
    "payments.view_payout",
    "payments.view_journalentry",
    "payments.view_account",
    "payments.view_bookscheck",
    "payments.view_creditgrant",
    "payments.view_inboxevent",
    "catalog.view_merchant",
    "catalog.view_product",
    "inventory.view_stock",
    "inventory.view_stockmovement",
    "inventory.view_stockcheck",
    "reconciliation.view_discrepancy",
    "reconciliation.view_incident",
    "reconciliation.view_bulkaction",
    "reconciliation.view_reconciliationrun",
    "reconciliation.view_bankline",
    "reconciliation.view_statementfile",
    "reconciliation.view_period",
    "reconciliation.view_match",
    "reconciliation.view_tolerance",
)
# How the machinery stands.
_MACHINERY = (
    "durability.view_sagarun",
    "durability.view_delivery",
    "durability.view_message",
    "django_celery_beat.view_periodictask",
)
# Looking closer, and asking the provider: nothing of it moves money.
_INVESTIGATE = ("payments.recheck_payment", "reconciliation.investigate_discrepancy")
# Up to what the role may settle alone (SETTLE_ALONE_MINOR); above it a second person approves.
_SETTLE = ("reconciliation.repair_discrepancy", "reconciliation.accept_discrepancy")
# What the provider or the bank says. Nothing in it can be changed afterwards, and the same again changes nothing.
_TAKE_IN = ("reconciliation.import_statement",)

ROLES: dict[str, tuple[str, ...]] = {
    "clerk": (*_READ, *_INVESTIGATE, *_SETTLE, *_TAKE_IN),
    "manager": (
        *_READ,
        *_MACHINERY,
        *_INVESTIGATE,
        *_SETTLE,
        *_TAKE_IN,
        "reconciliation.approve_discrepancy",
        "reconciliation.close_period",
        "reconciliation.reopen_period",
        "reconciliation.start_reconciliation",
        "reconciliation.set_tolerance",
        "payments.refund_payment",
        "payments.decide_payment",
        "payments.replay_inboxevent",
        "payments.approve_refund",  # a manager approves what another one asked for
        "payments.correct_ledger",
        "payments.grant_store_credit",
        "payments.approve_store_credit",
        "orders.cancel_order",
        "orders.ship_order",
        "orders.decide_merchantcall",
        "catalog.change_merchant",
        "catalog.view_apikey",
        "catalog.add_apikey",
        "catalog.change_apikey",
        "catalog.add_product",
        "catalog.change_product",
        "inventory.change_stock",
    ),
    "operator": (
        *_READ,
        *_MACHINERY,
        "catalog.view_apikey",
        "durability.retry_sagarun",
        "durability.decide_sagarun",
        "payments.recheck_payment",
        "payments.decide_payment",
        "payments.replay_inboxevent",
        "durability.decide_delivery",
        "orders.cancel_order",
        "orders.ship_order",
        "orders.decide_merchantcall",
    ),
}


def write_roles(sender: AppConfig, using: str, **signal: Any) -> None:
    """Give each role's group exactly its permissions. Connected to the post_migrate of the last app that has some."""
    for role, wanted in ROLES.items():
        group, _ = Group.objects.using(using).get_or_create(name=role)
        group.permissions.set(_permissions(wanted, using))


def _permissions(wanted: tuple[str, ...], using: str) -> list[Permission]:
    asked = Q(pk__in=[])
    for name in wanted:
        app, codename = name.split(".")
        asked |= Q(content_type__app_label=app, codename=codename)
    return list(Permission.objects.using(using).filter(asked))
