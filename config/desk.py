"""What stands around the desk's pages: the navigation, the badge of the environment, our style sheet and script."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse

LIVE_KEYS = ("sk_live", "rk_live")

# (title, [(title, icon, model whose list it is, or model/report)])
_NAVIGATION: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Desk",
        (
            ("Discrepancies", "difference", "reconciliation.discrepancy"),
            ("Incidents", "crisis_alert", "reconciliation.incident"),
            ("Bulk actions", "playlist_add_check", "reconciliation.bulkaction"),
            ("Reconciliation runs", "fact_check", "reconciliation.reconciliationrun"),
            ("Statement", "receipt", "reconciliation.reconciliationrun/statement"),
            ("Order to bank", "conversion_path", "reconciliation.bankline/walk"),
            ("Bank lines", "account_balance_wallet", "reconciliation.bankline"),
            ("Statement files", "upload_file", "reconciliation.statementfile"),
            ("Periods", "event_available", "reconciliation.period"),
            ("Matches", "join_inner", "reconciliation.match"),
            ("Tolerances", "tune", "reconciliation.tolerance"),
        ),
    ),
    (
        "Sales",
        (
            ("Orders", "receipt_long", "orders.order"),
            ("Payments", "payments", "payments.payment"),
            ("Refunds", "undo", "payments.refund"),
            ("Disputes", "gavel", "payments.dispute"),
        ),
    ),
    (
        "Books",
        (
            ("Journal", "menu_book", "payments.journalentry"),
            ("Accounts", "account_balance", "payments.account"),
            ("Payouts", "savings", "payments.payout"),
            ("Trial balance", "balance", "payments.account/trial_balance"),
            ("Proofs", "verified", "payments.bookscheck"),
            ("Store credit", "redeem", "payments.creditgrant"),
        ),
    ),
    (
        "Goods",
        (
            ("Products", "auto_stories", "catalog.product"),
            ("Stock", "inventory_2", "inventory.stock"),
            ("Stock log", "history", "inventory.stockmovement"),
            ("Stock proofs", "verified", "inventory.stockcheck"),
            ("Merchants", "storefront", "catalog.merchant"),
            ("API keys", "key", "catalog.apikey"),
        ),
    ),
    (
        "Operations",
        (
            ("Sagas", "linear_scale", "durability.sagarun"),
            ("Deliveries", "outbox", "durability.delivery"),
            ("Messages", "campaign", "durability.message"),
            ("Webhooks", "inbox", "payments.inboxevent"),
            ("Calls to merchants", "webhook", "orders.merchantcall"),
            ("Periodic tasks", "schedule", "django_celery_beat.periodictask"),
        ),
    ),
    ("People", (("Users", "person", "auth.user"), ("Groups", "group", "auth.group"))),
)


def favicon(request: HttpRequest) -> str:
    return static("everycent/favicon.svg")


def style_sheet(request: HttpRequest) -> str:
    return static("everycent/desk.css")


def script(request: HttpRequest) -> str:
    return static("everycent/desk.js")


def environment(request: HttpRequest) -> list[str] | None:
    """The badge on every page while no real money moves."""
    return None if settings.STRIPE_API_KEY.startswith(LIVE_KEYS) else ["Test mode", "warning"]


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar: what this person may see, and nothing else."""
    groups = [{"title": title, "separator": True, "items": _links(request, links)} for title, links in _NAVIGATION]
    home = {"title": "Dashboard", "icon": "monitoring", "link": reverse("admin:index")}
    shown: list[dict[str, Any]] = [{"title": "", "items": [home]}, *(group for group in groups if group["items"])]
    _mark_where_we_are(request.path, [item for group in shown for item in group["items"]])
    return shown


def _mark_where_we_are(path: str, items: list[dict[str, Any]]) -> None:
    """One link at most: a report's own, not that of the list above it as well. The dashboard's leads to itself alone."""
    home = reverse("admin:index")
    here = [
        item["link"]
        for item in items
        if path == item["link"] or (item["link"] != home and path.startswith(item["link"]))
    ]
    for item in items:
        item["active"] = bool(here) and item["link"] == max(here, key=len)


def _links(request: HttpRequest, links: tuple[tuple[str, str, str], ...]) -> list[dict[str, Any]]:
    items = []
    for title, icon, model in links:
        listed, _, report = model.partition("/")
        app, name = listed.split(".")
        if request.user.has_perm(f"{app}.view_{name}"):
            link = reverse(f"admin:{app}_{name}_{report or 'changelist'}")
            items.append({"title": title, "icon": icon, "link": link})
    return items
