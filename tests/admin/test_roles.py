"""Who may open which page: the table of roles, asked page by page."""

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.urls import reverse

from config.roles import ROLES

BOOKS = [
    "orders_order",
    "orders_merchantcall",
    "payments_payment",
    "payments_refund",
    "payments_dispute",
    "payments_payout",
    "payments_journalentry",
    "payments_account",
    "payments_bookscheck",
    "payments_creditgrant",
    "payments_inboxevent",
    "catalog_merchant",
    "catalog_product",
    "inventory_stock",
    "inventory_stockmovement",
    "inventory_stockcheck",
    "reconciliation_discrepancy",
    "reconciliation_incident",
    "reconciliation_bulkaction",
    "reconciliation_reconciliationrun",
    "reconciliation_bankline",
    "reconciliation_statementfile",
    "reconciliation_period",
    "reconciliation_match",
    "reconciliation_tolerance",
]
MACHINERY = ["durability_sagarun", "durability_delivery", "durability_message", "django_celery_beat_periodictask"]
KEYS = ["catalog_apikey"]
PEOPLE = ["auth_user", "auth_group"]

SEES = {
    "nobody": [],
    "clerk": BOOKS,
    "manager": BOOKS + MACHINERY + KEYS,
    "operator": BOOKS + MACHINERY + KEYS,
    "superuser": BOOKS + MACHINERY + KEYS + PEOPLE,
}


@pytest.mark.parametrize("role", SEES)
def test_each_role_sees_its_lists_and_no_others(as_role, role):
    client = as_role(role)
    for name in BOOKS + MACHINERY + KEYS + PEOPLE:
        answer = client.get(reverse(f"admin:{name}_changelist"))
        assert answer.status_code == (200 if name in SEES[role] else 403), name


def test_the_lists_of_this_test_are_all_there_are():
    registered = {f"{model._meta.app_label}_{model._meta.model_name}" for model in admin.site._registry}
    assert registered == {*BOOKS, *MACHINERY, *KEYS, *PEOPLE}


@pytest.mark.parametrize("role", ["clerk", "manager", "operator", "superuser"])
def test_nobody_adds_changes_or_deletes_a_row_of_money_by_hand(as_role, role, shop):
    number = shop.bought()["number"]
    from orders.models import Order

    client = as_role(role)
    row = Order.objects.get()
    for page in ("change", "delete"):
        answer = client.post(
            reverse(f"admin:orders_order_{page}", args=[row.pk]), {"status": "completed", "post": "yes"}
        )
        assert answer.status_code == 403
    assert client.post(reverse("admin:orders_order_add"), {"status": "paid"}).status_code == 403
    assert shop.order(number)["status"] == "paid"


@pytest.mark.parametrize("role", ["clerk", "manager", "operator", "superuser"])
def test_no_page_of_money_offers_to_edit(rf, as_role, role):
    client = as_role(role)
    request = rf.get("/")
    request.user = client.get("/admin/").wsgi_request.user
    for model, page in admin.site._registry.items():
        if f"{model._meta.app_label}_{model._meta.model_name}" not in PEOPLE:
            assert not page.has_add_permission(request), model
            assert not page.has_change_permission(request), model
            assert not page.has_delete_permission(request), model


def test_the_sidebar_shows_what_the_role_sees(as_role):
    page = as_role("clerk").get("/admin/").content.decode()
    assert reverse("admin:payments_payment_changelist") in page
    assert reverse("admin:durability_sagarun_changelist") not in page
    assert reverse("admin:auth_user_changelist") not in page


def test_every_permission_of_the_table_exists(db):
    from django.contrib.auth.models import Group

    for role, wanted in ROLES.items():
        held = Group.objects.get(name=role).permissions.values_list("content_type__app_label", "codename")
        assert {f"{app}.{codename}" for app, codename in held} == set(wanted)


def test_strangers_are_asked_to_sign_in(client, db):
    answer = client.get(reverse("admin:orders_order_changelist"))
    assert answer.status_code == 302
    assert answer["Location"].startswith(reverse("admin:login"))


def test_scripts_may_be_evaluated_on_the_desk_and_nowhere_else(as_role, client):
    assert "'unsafe-eval'" in as_role("clerk").get("/admin/").headers["Content-Security-Policy"]
    assert "'unsafe-eval'" in client.get(reverse("admin:login")).headers["Content-Security-Policy"]
    assert "'unsafe-eval'" not in client.get("/api/v1/orders").headers["Content-Security-Policy"]


def test_a_login_is_never_deleted_not_even_by_a_superuser(as_role):
    """Its name stands under what its person did; whoever is no login, as a job, has no limits."""
    client = as_role("superuser")
    as_role("clerk")
    clerk = User.objects.get(username="clerk")
    assert client.get(reverse("admin:auth_user_change", args=[clerk.pk])).status_code == 200
    assert client.post(reverse("admin:auth_user_delete", args=[clerk.pk]), {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": clerk.pk, "post": "yes"}
    client.post(reverse("admin:auth_user_changelist"), chosen)
    assert User.objects.filter(pk=clerk.pk).exists()
