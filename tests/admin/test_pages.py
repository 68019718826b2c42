"""Every list and every page answers, in few queries, and in no more when there are more rows."""

from datetime import timedelta
from io import BytesIO

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext

from catalog.models import ApiKey
from durability.models import Delivery
from foundation.database import database_now
from foundation.ids import uuid7
from foundation.money import EXPONENTS
from inventory import services as inventory
from orders.models import MerchantCall, Order
from payments import services as payments
from payments.models import InboxEvent, JournalEntry, Payment, Refund
from reconciliation import services as reconciliation
from reconciliation.models import Discrepancy, ReconciliationRun
from reconciliation.types import Action
from tests.admin.conftest import list_url, page_url
from tests.credit import grant

LIST_QUERIES = 12
PAGE_QUERIES = 30
DASHBOARD_QUERIES = 21


def queries(client, url: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        answer = client.get(url)
    assert answer.status_code == 200, url
    return len(captured)


def staff_lists():
    return [model for model in admin.site._registry if model._meta.app_label not in ("auth", "django_celery_beat")]


@pytest.fixture
def trade(books):
    """Some of everything: sales, a decline, a refund, differences and a run."""

    currencies = iter(EXPONENTS)

    def more() -> None:
        sold = books.sell(3)
        reconciliation.set_tolerance(
            merchant_id=books.shop.merchant_id, currency=next(currencies), amount_minor=1, by="test", note="roundings"
        )
        books.refund(sold[0], 500)
        books.abandon()
        grant(books.shop, 100)
        books.plant("amount_mismatch")
        books.plant("missing_in_our_system")
        (payment,) = Payment.objects.filter(reference=sold[1]["number"])
        body = {"payment_intent": payment.provider_reference, "amount": 500}
        disputed = books.sandbox.control("POST", "disputes", body)
        payments.sync_dispute(disputed["id"], by="test")
        for payout in books.sandbox.control("POST", "payouts", {"include_pending": True})["payouts"]:
            payments.sync_payout(payout["id"], by="test")
            told = f"reference,account,booked_on,currency,amount_minor,text\n{payout['id']},A,2026-01-12,usd,5,Stripe\n"
            reconciliation.import_bank_statement(file=BytesIO(told.encode()), name="bank.csv", by="test")
        books.reconcile()
        open_items = list(Discrepancy.objects.values_list("pk", flat=True))
        reconciliation.plan_bulk(
            bulk_id=uuid7(), action=Action.CLAIM, discrepancies=open_items, by="test", scope="all that is open"
        )
        payments.check_books(day=database_now().date())
        inventory.check_stock(day=database_now().date())
        payments.replay_events(since=database_now() - timedelta(days=2))
        delivery = Delivery.objects.filter(state="done").earliest("pk")
        Delivery.objects.filter(pk=delivery.pk).update(state="parked", last_error="Traceback\nValueError: no")
        MerchantCall.objects.create(
            merchant_id=books.shop.merchant_id,
            event="orders.order_paid.v1",
            subject=sold[0]["number"],
            payload={"order": sold[0]["number"]},
            state="given_up",
            attempts=11,
            last_answer="shop.example answered 500, after 120 ms",
        )

    more()
    return more


def test_lists_take_few_queries_and_no_more_with_more_rows(as_role, trade):
    client = as_role("superuser")
    urls = {
        model: f"{list_url(model)}{'?state=all' if model in (Delivery, Discrepancy) else ''}" for model in staff_lists()
    }
    client.get("/admin/")  # content types and the like are cached from here on
    before = {model: queries(client, url) for model, url in urls.items()}
    trade()
    after = {model: queries(client, url) for model, url in urls.items()}
    assert after == before
    assert max(before.values()) <= LIST_QUERIES, before


def test_no_list_counts_all_rows(as_role, trade):
    client = as_role("superuser")
    for model in staff_lists():
        with CaptureQueriesContext(connection) as captured:
            client.get(list_url(model))
        counts = [query["sql"] for query in captured if "COUNT(*)" in query["sql"]]
        assert counts == [], model


def test_every_page_answers(as_role, trade):
    client = as_role("superuser")
    for model in staff_lists():
        row = model._default_manager.order_by("-pk").first()
        assert row is not None, f"no {model.__name__} to look at"
        assert queries(client, page_url(row)) <= PAGE_QUERIES, model


def test_the_dashboard_takes_few_queries_and_no_more_with_more_rows(as_role, trade):
    client = as_role("manager")
    client.get("/admin/")
    before = queries(client, "/admin/")
    trade()
    assert queries(client, "/admin/") == before
    assert before <= DASHBOARD_QUERIES


def test_an_empty_desk_says_so(as_role):
    page = as_role("manager").get("/admin/").content.decode()
    assert "Nothing is open" in page
    assert "No run yet" in page
    assert "Nothing was sold" in page


def test_staff_without_a_role_are_told(as_role):
    assert "no role yet" in as_role("nobody").get("/admin/").content.decode()


def test_the_dashboard_shows_the_differences_and_the_runs(as_role, trade):
    page = as_role("clerk").get("/admin/").content.decode()
    assert "Missing in our system" in page
    assert "Amounts differ" in page
    assert "Machinery" not in page  # a clerk's business it is not


def test_an_order_is_found_by_every_number_that_belongs_to_it(as_role, books):
    order, other = books.sell(2)
    refund = books.refund(order, 500)
    payment = Payment.objects.get(reference=order["number"])
    client = as_role("clerk")
    for text in (order["number"], payment.number, refund, payment.provider_reference, payment.charge_reference):
        page = client.get(list_url(Order), {"q": text}).content.decode()
        assert order["number"] in page, text
        assert other["number"] not in page, text
    assert order["number"] not in client.get(list_url(Order), {"q": "ord_nonsense"}).content.decode()


def test_an_orders_page_tells_its_whole_story(as_role, books):
    order = books.sell()[0]
    refund = books.refund(order, 500)
    row = Order.objects.get()
    page = as_role("manager").get(page_url(row)).content.decode()
    payment = Payment.objects.get()
    for told in (
        order["number"],
        "The book of book",
        payment.number,
        refund,
        "came damaged",
        "Merchant payable",
        "orders.payment_success",
        "post the sale",
        "orders.order_paid.v1",
        "$15.00",
    ):
        assert told in page, told


def test_the_first_page_shows_open_items_and_the_saved_views_the_others(as_role, books):
    books.sell(2)
    books.plant("amount_mismatch")
    books.reconcile()
    client = as_role("clerk")
    shown = lambda query: Discrepancy.objects.get().source in client.get(list_url(Discrepancy) + query).content.decode()  # noqa: E731
    assert shown("")
    assert shown("?owner=nobody")
    assert shown("?kind=amount_mismatch&age=0-1&currency=usd&severity=high")
    assert not shown("?owner=me")
    assert not shown("?state=resolved")
    assert not shown("?age=over+30")


def test_names_of_customers_are_escaped(as_role, shop):
    shop.checkout()
    for model in (Order, Payment):
        model.objects.update(customer="<script>alert(1)</script>")
    client = as_role("clerk")
    for url in (list_url(Order), page_url(Order.objects.get()), list_url(Payment), page_url(Payment.objects.get())):
        page = client.get(url).content.decode()
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


def test_a_page_for_no_row_is_not_found(as_role, books):
    books.sell()
    client = as_role("superuser")
    for model in (Order, Payment, Refund, JournalEntry, InboxEvent, ApiKey, ReconciliationRun):
        assert client.get(f"{list_url(model)}nonsense/change/").status_code == 404, model
