"""Above the merchant's limit it takes two people to refund, and PostgreSQL knows it too."""

import pytest
from django.db import Error, IntegrityError, transaction

from catalog.models import Merchant
from durability.models import SagaRun
from foundation.errors import IllegalTransition, InvalidInput
from inventory import services as inventory
from orders.models import Order
from payments import services
from payments.errors import PaymentDisputed, SecondPersonNeeded
from payments.models import Payment, Refund
from tests.factories import make_merchant
from tests.payments.books import balance
from tests.races import orders
from tests.shop import Shop, open_shop, settle


@pytest.fixture
def careful(transactional_db, valkey, sandbox) -> Shop:
    """A shop in which refunds above 5.00 wait for a second person, with ten copies of one book at 15.00 USD."""
    sandbox.control("POST", "webhooks", {"mode": "drop"})
    shop = open_shop(refund_approval_above_minor=500)
    shop.stock("book", 10)
    return shop


def paid(shop: Shop) -> str:
    number: str = shop.bought()["payments"][0]["number"]
    return number


def ask(payment: str, amount: int = 501, *, by: str = "maria") -> Refund:
    with transaction.atomic():
        number = services.request_refund(
            payment=payment, amount_minor=amount, reason="a torn page", requested_by=by, policy=None
        )
    return Refund.objects.get(pk=Refund.id_of(number))


def decide(verb, refund: Refund, *, by: str = "paul", why: str = "I have seen the page") -> Refund:
    with transaction.atomic():
        verb(number=refund.number, by=by, why=why)
    refund.refresh_from_db()
    return refund


def test_up_to_the_limit_nobody_waits(careful):
    refund = ask(paid(careful), 500)
    assert (refund.status, refund.approval_above_minor) == ("processing", 500)
    settle()
    refund.refresh_from_db()
    assert refund.status == "succeeded"


def test_above_the_limit_nothing_is_sent_and_the_amount_stays_held(careful):
    payment = paid(careful)
    refund = ask(payment)
    settle()
    refund.refresh_from_db()
    assert (refund.status, refund.first_sent_at) == ("awaiting_approval", None)
    assert not SagaRun.objects.filter(recipe="payments.refund").exists()
    assert balance("refunds_in_flight") == -501
    answer = careful.post(f"/payments/{payment}/refunds", {"amount": 1000, "reason": "more"})
    assert answer.json()["code"] == "refund_exceeds_captured"  # 999 are left


def test_a_second_person_approves_and_the_refund_goes_its_way(careful):
    refund = decide(services.approve_refund, ask(paid(careful)))
    assert (refund.status, refund.approved_by) == ("processing", "paul")
    assert refund.approved_at is not None
    last = refund.history.latest("pk")
    assert (last.by, last.why) == ("paul", "I have seen the page")
    settle()
    refund.refresh_from_db()
    assert refund.status == "succeeded"


@pytest.mark.guard(15)
def test_nobody_approves_what_they_asked_for(careful):
    refund = ask(paid(careful), by="maria")
    with pytest.raises(SecondPersonNeeded):
        decide(services.approve_refund, refund, by="maria")
    refund.refresh_from_db()
    assert refund.status == "awaiting_approval"


def test_a_rejection_frees_what_was_held_and_sends_nothing(careful, sandbox):
    payment = paid(careful)
    before = sandbox.books()["refunded"]
    refund = decide(services.reject_refund, ask(payment, 1500), why="the page is whole")
    settle()
    assert (refund.status, refund.failure_message) == ("cancelled", "the page is whole")
    assert balance("refunds_in_flight") == 0
    assert balance("merchant_payable") == -1500
    assert Payment.objects.get().refunds_committed_minor == 0
    assert sandbox.books()["refunded"] == before


@pytest.mark.parametrize("verb", [services.approve_refund, services.reject_refund])
def test_it_is_decided_once_and_with_a_reason(careful, verb):
    refund = ask(paid(careful))
    with pytest.raises(InvalidInput):
        decide(verb, refund, why=" ")
    decide(verb, refund)
    for again in (services.approve_refund, services.reject_refund):
        with pytest.raises(IllegalTransition):
            decide(again, refund)


@pytest.mark.parametrize("turns", orders("yes", "yes", "no", "no"))
def test_of_an_approval_and_a_rejection_at_once_one_counts(race, careful, turns):
    refund = ask(paid(careful))
    race.stop("payments.services.refunds.lock_refund", at="after")
    race.actor("yes", lambda: decide(services.approve_refund, Refund.objects.get(), by="paul").status)
    race.actor("no", lambda: decide(services.reject_refund, Refund.objects.get(), by="vera").status)
    results = race.play(turns)
    told = [result for result in results.values() if isinstance(result, str)]
    assert len(told) == 1
    refund.refresh_from_db()
    assert refund.status == told[0]
    assert balance("refunds_in_flight") == (-501 if told[0] == "processing" else 0)


@pytest.mark.guard(10)
def test_what_is_disputed_meanwhile_is_not_approved(careful):
    refund = ask(paid(careful))
    Payment.objects.update(disputed_at="2026-01-01T00:00Z")
    with pytest.raises(PaymentDisputed):
        decide(services.approve_refund, refund)


def test_a_customers_request_over_the_api_waits_too(careful):
    answer = careful.post(f"/payments/{paid(careful)}/refunds", {"reason": "a torn page"})
    assert (answer.status_code, answer.json()["status"], answer.json()["requested_by"]) == (
        201,
        "awaiting_approval",
        "api",
    )
    decide(services.approve_refund, Refund.objects.get())
    settle()
    document = careful.storefront.get(f"/api/v1/refunds/{answer.json()['number']}").json()
    assert document["status"] == "succeeded"


def test_money_that_no_order_explains_waits_for_nobody(careful):
    body = careful.checkout(payment={"method": "card", "payment_method": "pm_card_visa", "confirm": True}).json()
    Order.objects.update(status="cancelled")  # as if expiry had won, before anybody told us of the money
    inventory.release_reserved(merchant_id=careful.merchant_id, reference=body["order"]["number"], by="expiry")
    settle()
    refund = Refund.objects.get()
    assert (refund.automatic, refund.approval_above_minor, refund.status) == (True, None, "succeeded")


def test_a_limit_in_one_currency_lets_nothing_pass_in_another(careful):
    careful.stock("yen", 5, price=400, currency="jpy")
    order = careful.bought("yen")
    refund = ask(order["payments"][0]["number"], 400)
    assert (refund.status, refund.approval_above_minor) == ("awaiting_approval", 0)


def test_a_later_limit_does_not_reach_back(careful):
    refund = ask(paid(careful))
    Merchant.objects.update(refund_approval_above_minor=None)
    with pytest.raises(SecondPersonNeeded):
        decide(services.approve_refund, refund, by="maria")


# --- What PostgreSQL holds, whoever writes ----------------------------------------------------------


@pytest.fixture
def waiting(transactional_db) -> Refund:
    """A refund of 6.00 that waits, above a limit of 5.00; no service made it."""
    merchant = make_merchant()
    number = services.begin_payment(
        merchant_id=merchant.id, reference="ord_1", customer="c", amount_minor=1000, currency="usd", method="card"
    )
    payment = Payment.objects.get(pk=Payment.id_of(number))
    return Refund.objects.create(
        merchant_id=merchant.id,
        payment=payment,
        status="awaiting_approval",
        amount_minor=600,
        currency="usd",
        reason="x",
        requested_by="maria",
        approval_above_minor=500,
    )


@pytest.mark.guard(15)
@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"status": "processing"}, "refund_above_the_limit_is_approved"),
        (
            {"status": "processing", "approved_by": "maria", "approved_at": "2026-01-01T00:00Z"},
            "refund_approver_is_a_second_person",
        ),
        ({"status": "processing", "approved_by": "paul"}, "refund_approval_is_dated"),
        ({"approval_above_minor": None}, "terms_are_final|Cannot update"),
        ({"amount_minor": 500}, "terms_are_final|Cannot update"),
        ({"requested_by": "nobody"}, "terms_are_final|Cannot update"),
    ],
)
def test_raw_updates_do_not_get_around_the_second_person(waiting, columns, constraint):
    with pytest.raises(Error, match=constraint):
        Refund.objects.filter(pk=waiting.pk).update(**columns)


def test_an_approval_is_not_taken_over_by_somebody_else(waiting):
    rows = Refund.objects.filter(pk=waiting.pk)
    rows.update(status="processing", approved_by="paul", approved_at="2026-01-01T00:00Z")
    with pytest.raises(Error, match="Cannot update"):
        rows.update(approved_by="vera")


def test_a_refund_above_the_limit_cannot_be_inserted_as_sent(waiting):
    waiting.pk = None
    waiting.id = Refund._meta.get_field("id").get_default()
    waiting.status = "processing"
    with pytest.raises(IntegrityError, match="refund_above_the_limit_is_approved"):
        waiting.save(force_insert=True)


def test_control_without_the_constraint_one_person_alone_refunds(waiting, unguarded):
    unguarded.constraint("payments_refund", "refund_above_the_limit_is_approved")
    assert Refund.objects.filter(pk=waiting.pk).update(status="processing") == 1
