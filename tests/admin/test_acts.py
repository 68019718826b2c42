"""What staff do on a page runs through a service, with a note and a name; who may not is refused."""

import json
import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.db import transaction

from catalog.models import ApiKey, Merchant, Product
from durability.models import Delivery, SagaRun
from foundation.database import database_now
from foundation.ids import uuid7
from inventory.models import Stock, StockMovement
from orders.models import MerchantCall, Order, OrderHistory
from payments import services as payments
from payments.models import Payment, Refund
from reconciliation.admin import discrepancies
from reconciliation.models import Discrepancy, DiscrepancyAction
from tests.admin.conftest import act_url, list_url, page_url
from tests.shop import settle


def press(client, row, act: str, **fields):
    """Press a button with its form filled in; follows to the page that comes after it. Each call is a press of its own."""
    if act == "refund":
        fields.setdefault("press", str(uuid7()))
    return client.post(act_url(row, act), {f"{act}-{name}": value for name, value in fields.items()}, follow=True)


# --- Orders and payments ---


def test_a_manager_refunds_part_of_an_order_with_a_reason(as_role, shop):
    shop.bought()
    order, payment = Order.objects.get(), Payment.objects.get()
    answer = press(as_role("manager"), order, "refund", payment=payment.number, amount="5.00", note="torn cover")
    refund = Refund.objects.get()
    assert (refund.amount_minor, refund.reason, refund.requested_by) == (500, "torn cover", "manager")
    assert refund.number in answer.content.decode()
    settle()
    assert shop.order(order.number)["refund_status"] == "partial"


@pytest.mark.guard(15)
@pytest.mark.parametrize("page", [Order, Payment])
def test_a_refund_that_is_sent_twice_by_one_press_is_made_once(as_role, shop, page):
    shop.bought()
    fields = {"press": str(uuid7()), "amount": "5.00", "note": "torn cover"}
    if page is Order:
        fields["payment"] = Payment.objects.get().number
    for _ in range(2):
        assert press(as_role("manager"), page.objects.get(), "refund", **fields).status_code == 200
    assert Refund.objects.get().amount_minor == 500


def test_without_an_amount_all_that_is_left_is_refunded(as_role, shop):
    shop.bought()
    press(as_role("manager"), Payment.objects.get(), "refund", note="never arrived")
    assert Refund.objects.get().amount_minor == 1500


def test_too_much_is_refused_and_what_was_typed_is_kept(as_role, shop):
    shop.bought()
    answer = press(as_role("manager"), Payment.objects.get(), "refund", amount="15.01", note="a slip of the pen")
    assert answer.status_code == 409
    assert "a slip of the pen" in answer.content.decode()
    assert not Refund.objects.exists()


@pytest.mark.parametrize("note", ["", "   "])
def test_nothing_is_done_without_a_note(as_role, shop, note):
    shop.bought()
    answer = press(as_role("manager"), Payment.objects.get(), "refund", note=note)
    assert answer.status_code == 400
    assert "Say why" in answer.content.decode()
    assert not Refund.objects.exists()


@pytest.mark.parametrize("role", ["clerk", "operator"])
def test_only_managers_refund(as_role, shop, role):
    shop.bought()
    client = as_role(role)
    payment = Payment.objects.get()
    assert press(client, payment, "refund", note="please").status_code == 403
    assert "Your role does not include this" in client.get(page_url(payment)).content.decode()
    assert not Refund.objects.exists()


def test_an_operator_cancels_a_paid_order_and_the_books_say_who_and_why(as_role, shop):
    shop.bought()
    order = Order.objects.get()
    press(as_role("operator"), order, "cancel", note="the warehouse burnt down")
    settle()
    assert shop.order(order.number)["status"] == "cancelled"
    assert (Refund.objects.get().requested_by, Refund.objects.get().reason) == ("operator", "the warehouse burnt down")
    assert shop.level() == (10, 0)


def test_an_operator_cancels_an_unpaid_order_and_its_history_says_who_and_why(as_role, shop):
    shop.checkout()
    order = Order.objects.get()
    press(as_role("operator"), order, "cancel", note="ordered twice")
    settle()
    last = OrderHistory.objects.latest("pk")
    assert (last.to_state, last.by, last.why) == ("cancelled", "operator", "ordered twice")


def test_a_second_cancel_changes_nothing(as_role, shop):
    shop.bought()
    order, client = Order.objects.get(), as_role("operator")
    for _ in range(2):
        press(client, order, "cancel", note="no")
    settle()
    assert Refund.objects.count() == 1


def test_an_operator_ships_an_order_with_carrier_and_tracking_and_completes_it(as_role, shop):
    shop.bought()
    order, client = Order.objects.get(), as_role("operator")
    press(client, order, "ship", carrier="Post", tracking="42", note="with the evening van")
    order.refresh_from_db()
    assert (order.status, order.carrier, order.tracking) == ("shipped", "Post", "42")
    assert "Post 42" in client.get(page_url(order)).content.decode()
    press(client, order, "complete", note="signed for")
    steps = OrderHistory.objects.order_by("-pk")[:2]
    assert [(one.to_state, one.by, one.why) for one in steps] == [
        ("completed", "operator", "signed for"),
        ("shipped", "operator", "with the evening van"),
    ]


def test_clerks_ship_nothing(as_role, shop):
    shop.bought()
    order, client = Order.objects.get(), as_role("clerk")
    assert press(client, order, "ship", note="please").status_code == 403
    order.refresh_from_db()
    assert order.status == "paid"


def test_a_disputed_order_is_shipped_by_a_person_who_says_so(as_role, shop, sandbox):
    intent = shop.bought()["payments"][0]["provider_reference"]
    order, client = Order.objects.get(), as_role("manager")
    assert "Although it is disputed" not in client.get(page_url(order)).content.decode()
    sandbox.control("POST", "disputes", {"payment_intent": intent})
    settle()
    assert "Although it is disputed" in client.get(page_url(order)).content.decode()
    assert press(client, order, "ship", note="it is packed").status_code == 409
    press(client, order, "ship", although_disputed="on", note="the customer called")
    assert OrderHistory.objects.latest("pk").why == "although its payment is disputed: the customer called"


# --- Calls to merchants ---


def called(shop) -> MerchantCall:
    return MerchantCall.objects.create(
        merchant_id=shop.merchant_id,
        event="orders.order_paid.v1",
        subject="ord_1",
        payload={"order": "ord_1"},
        state="given_up",
        attempts=11,
    )


def test_an_operator_has_a_call_sent_again(as_role, shop):
    call, client = called(shop), as_role("operator")
    press(client, call, "again", note="their server is back")
    call.refresh_from_db()
    assert (call.state, call.attempts, call.decided_by) == ("pending", 0, "operator")
    assert press(client, call, "again", note="once more").status_code == 409


def test_an_operator_has_all_calls_from_one_on_sent_again(as_role, shop):
    first, *_ = [called(shop) for _ in range(3)]
    answer = press(as_role("operator"), first, "again_since", note="they lost a day")
    assert "3 calls are sent again" in answer.content.decode()
    assert MerchantCall.objects.filter(state="pending").count() == 3


def test_an_operator_drops_a_call_and_a_clerk_does_not(as_role, shop):
    call = called(shop)
    assert press(as_role("clerk"), call, "drop", note="no").status_code == 403
    press(as_role("operator"), call, "drop", note="the shop is closed")
    call.refresh_from_db()
    assert (call.state, call.decided_reason) == ("dropped", "the shop is closed")


def test_calls_are_found_by_merchant_number_and_id(as_role, shop):
    call, client = called(shop), as_role("clerk")
    name = Merchant.objects.get(pk=shop.merchant_id).name
    for text in (call.number, "ord_1", name, str(shop.merchant_id)):
        assert page_url(call) in client.get(list_url(MerchantCall), {"q": text}).content.decode(), text
    assert page_url(call) not in client.get(list_url(MerchantCall), {"q": "ord_2"}).content.decode()


def test_a_clerk_reads_a_payment_at_the_provider(as_role, shop, sandbox):
    shop.bought()
    payment = Payment.objects.get()
    sandbox.control("POST", "faults", {"match": "GET /v1/payment_intents", "kind": "error_500", "times": 1})
    client = as_role("clerk")
    answer = press(client, payment, "recheck", note="the customer says that it was charged twice")
    assert answer.status_code == 503  # said as the service says it
    assert "does not answer" in answer.content.decode()
    answer = press(client, payment, "recheck", note="the customer says that it was charged twice")
    assert "Read at the provider" in answer.content.decode()
    assert LogEntry.objects.get().user.username == "clerk"
    assert "charged twice" in LogEntry.objects.get().change_message


def test_acts_are_posted_and_not_fetched(as_role, shop):
    shop.bought()
    url = act_url(Payment.objects.get(), "refund")
    assert as_role("manager").get(url).status_code == 405
    assert as_role("manager").post(url.replace("refund", "nonsense")).status_code == 404


def test_acts_need_the_token_of_the_form(as_role, shop):
    shop.bought()
    client = as_role("manager")
    client.handler.enforce_csrf_checks = True
    assert press(client, Payment.objects.get(), "refund", note="from another site").status_code == 403
    assert not Refund.objects.exists()


# --- Refunds that take two, and refunds that came back ---


@pytest.fixture
def waiting(shop) -> Refund:
    """A refund above the limit of 5.00, asked for by a manager."""
    Merchant.objects.update(refund_approval_above_minor=500)
    shop.bought()
    with transaction.atomic():
        payments.request_refund(
            payment=Payment.objects.get().number, amount_minor=None, reason="torn", requested_by="maria", policy=None
        )
    return Refund.objects.get()


def test_a_large_refund_is_told_to_wait_and_stands_in_its_saved_view(as_role, shop):
    Merchant.objects.update(refund_approval_above_minor=500)
    shop.bought()
    client = as_role("manager")
    answer = press(client, Payment.objects.get(), "refund", amount="5.01", note="torn cover")
    assert "waits for a second person" in answer.content.decode()
    assert (
        "waits for a second person"
        not in press(client, Payment.objects.get(), "refund", amount="5.00", note="torn cover").content.decode()
    )
    page = client.get(list_url(Refund) + "?status=awaiting_approval").content.decode()
    assert "Awaiting approval" in page
    shown, hidden = Refund.objects.get(amount_minor=501), Refund.objects.get(amount_minor=500)
    assert shown.number in page
    assert hidden.number not in page


def test_a_manager_approves_what_another_one_asked_for(as_role, shop, waiting):
    client = as_role("manager")
    assert press(client, waiting, "approve", note="").status_code == 400
    press(client, waiting, "approve", note="I have seen the page")
    waiting.refresh_from_db()
    assert (waiting.status, waiting.approved_by) == ("processing", "manager")
    assert "I have seen the page" in LogEntry.objects.get().change_message
    settle()
    assert "Approved by" in client.get(page_url(waiting)).content.decode()
    assert press(client, waiting, "approve", note="again").status_code == 409


def test_not_even_a_superuser_approves_their_own(as_role, shop):
    Merchant.objects.update(refund_approval_above_minor=500)
    shop.bought()
    client = as_role("superuser")
    press(client, Payment.objects.get(), "refund", note="torn cover")
    refund = Refund.objects.get()
    answer = press(client, refund, "approve", note="I say so")
    assert (answer.status_code, "second person" in answer.content.decode()) == (403, True)
    refund.refresh_from_db()
    assert refund.status == "awaiting_approval"


@pytest.mark.parametrize("role", ["clerk", "operator"])
@pytest.mark.parametrize("act", ["approve", "reject"])
def test_approval_is_a_permission_of_its_own(as_role, shop, waiting, role, act):
    assert press(as_role(role), waiting, act, note="let me").status_code == 403
    waiting.refresh_from_db()
    assert waiting.status == "awaiting_approval"


def test_a_rejection_frees_the_amount_and_says_why(as_role, shop, waiting):
    press(as_role("manager"), waiting, "reject", note="the page is whole")
    waiting.refresh_from_db()
    assert (waiting.status, waiting.failure_message) == ("cancelled", "the page is whole")
    assert Payment.objects.get().refunds_committed_minor == 0


@pytest.fixture
def came_back(shop) -> Refund:
    """A refund of 15.00 that the customer's bank has sent back."""
    shop.checkout(payment={"method": "card", "payment_method": "pm_card_refundFail", "confirm": True})
    settle()
    shop.post(f"/payments/{Payment.objects.get().number}/refunds", {"reason": "torn"})
    settle(webhooks=False)
    time.sleep(0.3)
    settle()
    return Refund.objects.get()


def test_what_came_back_is_seen_and_refunded_again_once(as_role, shop, came_back):
    client = as_role("manager")
    payment = Payment.objects.get()
    assert payment.number in client.get(list_url(Payment) + "?owes=a+refund").content.decode()
    page = client.get(page_url(came_back)).content.decode()
    assert "came back" in page
    assert "Refund again" in page
    press(client, came_back, "again", note="to the same card")
    second = Refund.objects.latest("pk")
    assert (second.again_of_id, second.amount_minor, second.requested_by) == (came_back.pk, 1500, "manager")
    assert press(client, came_back, "again", note="once more").status_code == 409
    assert payment.number not in client.get(list_url(Payment) + "?owes=a+refund").content.decode()
    assert press(as_role("clerk"), came_back, "again", note="me too").status_code == 403


def test_what_came_back_is_paid_another_way(as_role, shop, came_back):
    press(as_role("manager"), came_back, "outside", note="bank transfer of today, 2026/118")
    second = Refund.objects.latest("pk")
    assert (second.status, second.paid_outside) == ("succeeded", True)
    assert Payment.objects.get().refunds_owed_minor == 0


def test_the_limit_is_one_of_a_merchants_terms(as_role, shop):
    merchant, client = Merchant.objects.get(), as_role("manager")
    terms = {
        "order_expires_after_s": "900",
        "refund_window_days": "7",
        "refund_ratio_bp": "10000",
        "refund_fee": "0.00",
        "webhook_url": "",
        "loyalty_rate_bp": "0",
        "note": "since the audit",
    }
    for typed, stored in (("500.00", 50_000), ("", None)):
        press(client, merchant, "terms", **terms, refund_approval_above=typed)
        merchant.refresh_from_db()
        assert merchant.refund_approval_above_minor == stored
    assert press(client, merchant, "terms", **terms, refund_approval_above="-1").status_code == 400


# --- Goods ---


def test_a_form_that_is_sent_twice_restocks_once(as_role, shop):
    stock, client, key = Stock.objects.get(), as_role("manager"), uuid4()
    for _ in range(2):
        press(client, stock, "restock", quantity="7", note="delivery of Monday", key=key)
    assert shop.level() == (17, 0)
    movement = StockMovement.objects.latest("pk")
    assert (movement.by, movement.reason) == ("manager", "delivery of Monday")


def test_a_count_is_corrected_but_not_below_what_is_reserved(as_role, shop):
    shop.checkout(quantity=4)
    stock, client = Stock.objects.get(), as_role("manager")
    press(client, stock, "adjust", change="-6", note="counted", key=uuid4(), version=stock.version)
    assert shop.level() == (4, 4)
    stock.refresh_from_db()
    below = {"change": "-1", "note": "counted", "version": stock.version}
    answer = press(client, stock, "adjust", **below, key=uuid4())
    assert (answer.status_code, "not enough in stock" in answer.content.decode()) == (409, True)
    assert shop.level() == (4, 4)
    assert press(as_role("clerk"), stock, "adjust", **below, key=uuid4()).status_code == 403


def test_an_api_key_is_shown_once(as_role, shop):
    merchant, client = Merchant.objects.get(), as_role("manager")
    answer = press(client, merchant, "key", name="new till", scopes=["storefront"], note="for the new till")
    key = ApiKey.objects.get(name="new till")
    assert f"ek_{key.prefix}_" in answer.content.decode()
    secret = answer.context["secret"]
    assert secret not in client.get(page_url(merchant)).content.decode()
    assert secret not in str(LogEntry.objects.get().change_message)
    press(client, key, "revoke", note="lost")
    key.refresh_from_db()
    assert key.revoked_at is not None


def test_an_api_key_rotates_and_both_are_seen(as_role, shop):
    client, old = as_role("manager"), ApiKey.objects.get(name="storefront")
    answer = press(client, old, "rotate", overlap_h="2", expires_on="2999-12-31", note="yearly")
    new = ApiKey.objects.get(replaces=old)
    assert answer.context["secret"].startswith(f"ek_{new.prefix}_")
    assert shop.storefront.get("/api/v1/products").status_code == 200
    assert new.expires_at is not None
    assert new.expires_at.isoformat() == "2999-12-31T23:59:59.999999+00:00"
    page = client.get(page_url(old)).content.decode()
    assert "replaced" in page
    assert page_url(new) in page
    assert press(client, old, "rotate", overlap_h="2", note="again").status_code == 409
    assert press(client, new, "rotate", overlap_h="721", note="for good").status_code == 400
    found = client.get(list_url(ApiKey) + "?state=replaced").content.decode()
    assert old.prefix in found
    assert new.prefix not in found
    for role in ("operator", "clerk"):
        assert press(as_role(role), new, "rotate", overlap_h="2", note="mine").status_code == 403
    assert ApiKey.objects.count() == 3


def test_an_api_key_ends_with_its_last_day(as_role, shop):
    merchant, client = Merchant.objects.get(), as_role("manager")
    fields = {"name": "till", "scopes": ["storefront"], "note": "for the fair"}
    assert press(client, merchant, "key", **fields, expires_on="2020-01-01").status_code == 400
    press(client, merchant, "key", **fields, expires_on="2999-12-31")
    assert str(ApiKey.objects.get(name="till").expires_at).startswith("2999-12-31 23:59:59")


def test_a_webhooks_secret_is_made_anew_and_shown_once(as_role, shop):
    merchant, client = Merchant.objects.get(), as_role("manager")
    old = merchant.webhook_secret
    answer = press(client, merchant, "webhook_secret", note="theirs is lost")
    merchant.refresh_from_db()
    assert answer.context["secret"] == merchant.webhook_secret != old
    assert merchant.webhook_secret.startswith("whsec_")
    assert merchant.webhook_secret not in client.get(page_url(merchant)).content.decode()
    assert merchant.webhook_secret not in str(LogEntry.objects.get().change_message)
    assert press(as_role("clerk"), merchant, "webhook_secret", note="mine").status_code == 403


def test_a_product_is_changed_and_a_wrong_isbn_refused(as_role, shop):
    product, client = Product.objects.get(), as_role("manager")
    fields = {
        "title": "Dust",
        "author": "",
        "price": "16.50",
        "description": "",
        "image_url": "https://covers.example/dust.jpg",
        "metadata": '{"shelf": "A3"}',
        "published": "on",
        "note": "new edition",
        "version": product.version,
    }
    press(client, product, "change", **fields)
    product.refresh_from_db()
    assert (product.title, product.price_minor) == ("Dust", 1650)
    assert (product.image_url, product.metadata) == ("https://covers.example/dust.jpg", {"shelf": "A3"})
    for wrong in (
        {"isbn": "9780000000000"},
        {"metadata": "[]"},
        {"metadata": '{"a": NaN}'},
        {"image_url": "ftp://covers.example/x"},
    ):
        assert press(client, product, "change", **{**fields, **wrong}).status_code == 400, wrong
    assert press(as_role("operator"), product, "change", **fields).status_code == 403


# --- Machinery ---


def test_an_operator_retries_or_skips_a_parked_delivery(as_role, shop):
    shop.bought()
    client = as_role("operator")
    first, second = Delivery.objects.filter(state="done")[:2]
    Delivery.objects.filter(pk__in=[first.pk, second.pk]).update(state="parked", done_at=None)
    press(client, first, "retry", note="the mail server is back")
    press(client, second, "skip", note="told the customer by telephone")
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, first.resolved_by) == ("pending", "operator")
    assert (second.state, second.resolved_by, second.resolved_reason) == (
        "skipped",
        "operator",
        "told the customer by telephone",
    )
    assert press(client, second, "retry", note="changed my mind").status_code == 409
    assert press(as_role("manager"), first, "skip", note="no").status_code == 403


def test_an_operator_retries_a_saga(as_role, shop):
    shop.bought()
    run = SagaRun.objects.latest("pk")
    SagaRun.objects.filter(pk=run.pk).update(state="compensation_failed", finished_at=None, attempts=9)
    press(as_role("operator"), run, "retry", note="mended")
    run.refresh_from_db()
    assert (run.state, run.attempts) == ("compensating", 0)
    assert press(as_role("clerk"), run, "retry", note="mended").status_code == 403


# --- Discrepancies ---


@pytest.fixture
def item(books) -> Discrepancy:
    books.sell(2)
    books.plant("amount_mismatch")
    books.reconcile()
    return Discrepancy.objects.get()


def test_a_page_shows_ours_theirs_and_the_difference(as_role, books):
    books.sell(2)
    source = books.plant("amount_mismatch")[0]
    books.reconcile()
    page = as_role("clerk").get(page_url(Discrepancy.objects.get())).content.decode()
    told_by_stripe = "As Stripe told it", "&quot;reporting_category&quot;: &quot;charge&quot;"
    for told in (
        "Our books",
        "Stripe's books".replace("'", "&#x27;"),
        "$15.00",
        source,
        "Post a correcting entry",
        *told_by_stripe,
    ):
        assert told in page, told


def test_what_stripe_told_keeps_its_zeros_and_leaves_out_what_it_left_empty():
    (shown,) = discrepancies._told({"txn_1": {"fee": 0, "description": None, "note": "", "net": 5}})
    assert json.loads(shown.text) == {"fee": 0, "net": 5}


def test_a_manager_corrects_and_the_next_run_confirms(as_role, books, item):
    press(as_role("manager"), item, "post_correction", note="Stripe is right", key=uuid4())
    item.refresh_from_db()
    assert (item.state, item.closed_as, item.resolved_by) == ("resolved", "fixed", "manager")
    done = DiscrepancyAction.objects.get()
    assert (done.by, done.note, done.outcome) == ("manager", "Stripe is right", "ok")
    books.reconcile()
    item.refresh_from_db()
    assert item.verified_at is not None


def test_a_button_that_is_pressed_twice_acts_once(as_role, item):
    client, key = as_role("manager"), uuid4()
    press(client, item, "post_correction", note="Stripe is right", key=key)
    answer = press(client, item, "post_correction", note="Stripe is right", key=key)
    assert "done before" in answer.content.decode()
    assert DiscrepancyAction.objects.count() == 1


def test_a_stale_page_says_what_happened(as_role, item):
    client = as_role("manager")
    press(client, item, "accept", note="two cents", key=uuid4())
    answer = press(client, item, "post_correction", note="too late", key=uuid4())
    assert answer.status_code == 409
    assert "resolved already" in answer.content.decode()


def test_a_clerk_claims_and_asks_and_an_operator_does_not(as_role, item):
    client = as_role("clerk")
    press(client, item, "claim", note="I look into it.", key=uuid4())
    press(client, item, "requery", note="is it still so?", key=uuid4())
    item.refresh_from_db()
    assert (item.state, item.owner) == ("investigating", "clerk")
    for act in ("claim", "post_correction", "refund_customer", "mark_fraud", "accept", "approve", "reject"):
        assert press(as_role("operator"), item, act, note="me too", key=uuid4()).status_code == 403, act


def test_above_a_clerks_limit_a_manager_approves_what_the_clerk_asked_for(as_role, books, item, settings):
    settings.SETTLE_ALONE_MINOR = {"clerk": {"usd": abs(item.difference_minor) - 1}, "manager": {"usd": 100_000}}
    clerk, manager = as_role("clerk"), as_role("manager")
    answer = press(clerk, item, "post_correction", note="Stripe is right", key=uuid4())
    assert "a second person has to approve it" in answer.content.decode()
    page = manager.get(page_url(item)).content.decode()
    for told in ("Waits for a second person", "clerk", "Stripe is right", "post correction"):
        assert told in page, told
    assert press(clerk, item, "approve", note="I am sure").status_code == 403
    press(manager, item, "approve", note="so am I")
    item.refresh_from_db()
    assert (item.state, item.closed_as, item.resolved_by) == ("resolved", "fixed", "clerk")
    done = DiscrepancyAction.objects.get()
    assert (done.by, done.approved_by, done.outcome) == ("clerk", "manager", "ok")
    assert press(manager, item, "approve", note="again").status_code == 409
    books.reconcile()
    item.refresh_from_db()
    assert item.verified_at is not None


def test_a_manager_refuses_what_a_clerk_asked_for(as_role, item, settings):
    settings.SETTLE_ALONE_MINOR = {"clerk": {}, "manager": {"usd": 100_000}}
    press(as_role("clerk"), item, "accept", note="never mind", key=uuid4())
    press(as_role("manager"), item, "reject", note="I do mind")
    item.refresh_from_db()
    assert (item.state, DiscrepancyAction.objects.get().outcome) == ("investigating", "rejected")


def test_an_action_without_a_note_is_refused(as_role, item):
    assert press(as_role("manager"), item, "accept", note="", key=uuid4()).status_code == 400
    item.refresh_from_db()
    assert item.state == "open"


def test_the_missing_payment_is_attached_to_the_order_that_the_charge_names(as_role, books):
    order = books.abandon()
    books.plant("missing_in_our_system")
    books.reconcile()
    item = Discrepancy.objects.get()
    client = as_role("manager")
    assert order["number"] in client.get(page_url(item)).content.decode()
    press(client, item, "create_missing_payment", order_number=order["number"], note="it is theirs", key=uuid4())
    settle(webhooks=False)
    assert books.shop.order(order["number"])["status"] == "paid"


def test_save_and_next_leads_to_the_next_open_item(as_role, books):
    books.sell(3)
    books.plant("amount_mismatch", 2)
    books.reconcile()
    first, second = Discrepancy.objects.order_by("business_date", "pk")
    fields = {"claim-note": "mine", "claim-key": uuid4(), "_next": "1"}
    answer = as_role("clerk").post(act_url(first, "claim"), fields)
    assert answer["Location"] == page_url(second)


def test_an_item_is_given_to_a_colleague_or_put_off(as_role, books, item):
    client, _ = as_role("manager"), as_role("clerk")
    press(client, item, "assign", owner="clerk", note="yours", key=uuid4())
    item.refresh_from_db()
    assert item.owner == "clerk"
    assert press(client, item, "assign", owner="a stranger", note="yours", key=uuid4()).status_code == 400
    assert (
        press(client, item, "ignore_until", until="2999-01-01", note="not this century", key=uuid4()).status_code == 400
    )
    next_month = database_now().date() + timedelta(days=30)
    press(client, item, "ignore_until", until=next_month, note="not this month", key=uuid4())
    item.refresh_from_db()
    assert item.state == "ignored"


def test_a_manager_asks_for_a_day_to_be_reconciled_again(as_role, item, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "reconciliation.services.runs.current_app.send_task",
        lambda name, **options: sent.append((name, options["kwargs"])),
    )
    press(as_role("manager"), item.last_seen_run, "again", note="after the repairs")
    assert sent == [("reconciliation.reconcile_day", {"day": item.business_date.isoformat(), "by": "manager"})]
    assert press(as_role("clerk"), item.last_seen_run, "again", note="again").status_code == 403
