"""Disputes: what the provider took, gave back, and what that means for the books and for refunds."""

from itertools import permutations
from typing import Any

import pytest
import requests
import stripe
from django.db import IntegrityError, transaction
from django.db.models import Sum
from django.db.models.functions import Now

from durability.models import Message
from orders import selectors as orders
from orders.models import OrderHistory
from payments import selectors, services
from payments.errors import PaymentDisputed
from payments.models import Dispute, DisputeHistory, JournalEntry, Payment, Posting, Refund
from payments.services import disputes
from reconciliation.models import Discrepancy
from tests.races import orders as every_order
from tests.shop import Shop, settle

FEE = 1500
PRICE = 1500
CHARGE_FEE = 74  # 2.9 % and 30 cents


def dispute(sandbox, payment: Payment, **body: Any) -> Dispute:
    """The customer's bank disputes a payment, and the news arrive."""
    made = sandbox.control("POST", "disputes", {"payment_intent": payment.provider_reference, **body})
    settle()
    return Dispute.objects.get(provider_reference=made["id"])


def decide(sandbox, made: Dispute, status: str) -> Dispute:
    sandbox.control("POST", "disputes/outcome", {"dispute": made.provider_reference, "status": status})
    settle()
    made.refresh_from_db()
    return made


def books(**accounts: Any) -> dict[str, int]:
    """Kind of account → Σ of its postings, debit positive; those at 0 are left out."""
    rows = Posting.objects.values_list("account__kind").annotate(total=Sum("amount_minor"))
    return {kind: total for kind, total in rows if total}


@pytest.fixture
def paid(shop: Shop) -> Payment:
    return Payment.objects.get(reference=shop.bought()["number"])


def test_an_open_dispute_takes_the_money_out_of_clearing_and_marks_payment_and_order(shop, sandbox, paid):
    before = sandbox.books()["balance"]["usd"]  # other tests have traded there, too
    made = dispute(sandbox, paid, reason="product_not_received")
    assert (made.status, made.amount_minor, made.currency, made.reason) == (
        "needs_response",
        PRICE,
        "usd",
        "product_not_received",
    )
    assert made.evidence_due_at
    assert made.evidence_due_at > made.opened_at
    assert books() == {
        "provider_clearing": PRICE - CHARGE_FEE - PRICE - FEE,
        "fees": CHARGE_FEE + FEE,
        "disputes": PRICE,
        "merchant_payable": -PRICE,
    }
    paid.refresh_from_db()
    assert paid.disputed_at == made.opened_at
    order = orders.get_order(paid.reference)
    assert (order.dispute, order.status) == ("disputed", "paid")  # a mark, not a state
    assert selectors.disputed_references() == [paid.reference]
    assert sandbox.books()["balance"]["usd"] == before - PRICE - FEE


def test_a_dispute_that_is_won_gives_back_what_was_withdrawn_and_lifts_the_mark(shop, sandbox, paid):
    made = decide(sandbox, dispute(sandbox, paid), "won")
    assert (made.status, made.withdrawn_minor, made.lost_minor) == ("won", 0, 0)
    assert made.closed_at
    assert books() == {
        "provider_clearing": PRICE - CHARGE_FEE - FEE,
        "fees": CHARGE_FEE + FEE,  # the fee is not given back
        "merchant_payable": -PRICE,
    }
    paid.refresh_from_db()
    assert (paid.disputed_at, paid.disputed_lost_minor) == (None, 0)
    assert orders.get_order(paid.reference).dispute == ""


def test_a_dispute_that_is_lost_is_the_merchants_loss(shop, sandbox, paid):
    made = decide(sandbox, dispute(sandbox, paid, amount=1000), "lost")
    assert (made.withdrawn_minor, made.lost_minor) == (1000, 1000)
    assert books() == {
        "provider_clearing": PRICE - CHARGE_FEE - 1000 - FEE,
        "fees": CHARGE_FEE + FEE,
        "merchant_payable": -(PRICE - 1000),
    }
    paid.refresh_from_db()
    assert (paid.disputed_at, paid.disputed_lost_minor) == (None, 1000)
    assert orders.get_order(paid.reference).dispute == "lost"


def test_an_appeal_takes_the_loss_back(shop, sandbox, paid):
    lost = decide(sandbox, dispute(sandbox, paid), "lost")
    won = decide(sandbox, lost, "won")
    assert (won.status, won.withdrawn_minor, won.lost_minor) == ("won", 0, 0)
    assert books() == {
        "provider_clearing": PRICE - CHARGE_FEE - FEE,
        "fees": CHARGE_FEE + FEE,
        "merchant_payable": -PRICE,
    }
    paid.refresh_from_db()
    assert paid.disputed_lost_minor == 0
    told = Message.objects.filter(name__startswith="payments.dispute").order_by("id").values_list("name", flat=True)
    assert list(told) == [f"payments.dispute_{what}.v1" for what in ("opened", "closed", "closed")]  # it is not open


def test_an_inquiry_moves_no_money_and_keeps_nobody_from_refunding(shop, sandbox, paid):
    before = books()
    made = dispute(sandbox, paid, inquiry=True)
    assert (made.status, made.refundable, made.withdrawn_minor) == ("inquiry_needs_response", True, 0)
    assert books() == before
    paid.refresh_from_db()
    assert paid.disputed_at is None
    answer = shop.post(f"/payments/{paid.number}/refunds", {"amount": 100, "reason": "settles it"})
    assert answer.status_code == 201
    settle()
    assert Refund.objects.get().status == "succeeded"
    assert decide(sandbox, made, "warning_closed").status == "inquiry_closed"


def test_an_inquiry_that_becomes_a_dispute_is_told_again(shop, sandbox, paid):
    made = decide(sandbox, dispute(sandbox, paid, inquiry=True), "needs_response")
    assert (made.status, made.withdrawn_minor) == ("needs_response", PRICE)
    told = Message.objects.filter(name="payments.dispute_opened.v1").order_by("id")
    assert [message.payload["inquiry"] for message in told] == [True, False]


@pytest.mark.guard(10)
def test_what_is_disputed_is_not_refunded(shop, sandbox, paid):
    made = dispute(sandbox, paid)
    before = books()
    answer = shop.post(f"/payments/{paid.number}/refunds", {"reason": "torn"})
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_disputed")
    settle()
    assert not Refund.objects.exists()
    assert books() == before
    decide(sandbox, made, "won")
    assert shop.post(f"/payments/{paid.number}/refunds", {"reason": "torn"}).status_code == 201
    settle()
    assert Refund.objects.get().status == "succeeded"


@pytest.mark.guard(10)
def test_what_a_lost_dispute_took_is_not_refunded_as_well(shop, sandbox, paid):
    decide(sandbox, dispute(sandbox, paid, amount=1000), "lost")
    answer = shop.post(f"/payments/{paid.number}/refunds", {"amount": 501, "reason": "torn"})
    assert (answer.status_code, answer.json()["code"]) == (409, "refund_exceeds_captured")
    assert shop.post(f"/payments/{paid.number}/refunds", {"reason": "torn"}).json()["amount"] == 500


@pytest.mark.guard(10)
def test_postgresql_refuses_a_refund_of_a_disputed_payment_whatever_the_code_does(shop, sandbox, paid):
    def insert(amount_minor: int, **values: Any) -> Refund:
        return Refund.objects.create(
            merchant_id=paid.merchant_id,
            payment=paid,
            amount_minor=amount_minor,
            currency="usd",
            reason="torn",
            requested_by="test",
            **values,
        )

    made = dispute(sandbox, paid, amount=1000)
    with pytest.raises(IntegrityError, match="is disputed"):
        insert(100)
    insert(100, made_elsewhere=True)  # what happened is recorded
    decide(sandbox, made, "lost")
    with pytest.raises(IntegrityError, match="a dispute took"):
        insert(501)
    insert(500)


@pytest.mark.guard(10)
def test_a_refund_that_waited_for_its_approval_is_not_sent_while_the_payment_is_disputed(shop, sandbox, paid):
    waiting = Refund.objects.create(
        merchant_id=paid.merchant_id,
        payment=paid,
        amount_minor=100,
        currency="usd",
        reason="torn",
        requested_by="test",
        status="awaiting_approval",
    )
    dispute(sandbox, paid)
    with pytest.raises(IntegrityError, match="is disputed"):
        Refund.objects.filter(pk=waiting.pk).update(status="processing")
    Refund.objects.filter(pk=waiting.pk).update(status="cancelled")  # it can still be refused


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_order_of_the_events_any_number_of_times_ends_alike(shop, sandbox, paid, order):
    """Everything has happened at the provider before the first of its events is worked on."""
    body = {"payment_intent": paid.provider_reference}
    made = sandbox.control("POST", "disputes", body)
    sandbox.control("POST", "disputes/outcome", {"dispute": made["id"], "status": "won"})
    kinds = ["charge.dispute.created", "charge.dispute.funds_withdrawn", "charge.dispute.closed"]
    for _ in range(2):
        for place in order:
            services.rereads.sync_provider_object(
                event_type=kinds[place], object_id=made["id"], intent_id=paid.provider_reference or ""
            )
    settle()
    row = Dispute.objects.get()
    assert (row.status, row.withdrawn_minor) == ("won", 0)
    assert [entry.kind for entry in JournalEntry.objects.filter(subject=row.number).order_by("pk")] == [
        "dispute_withdrawn",
        "fee",
        "dispute_reinstated",
    ]
    assert (
        JournalEntry.objects.filter(key__in=[f"fee:{one['id']}" for one in made["balance_transactions"]]).count() == 1
    )
    names = list(
        Message.objects.filter(name__startswith="payments.dispute").order_by("id").values_list("name", flat=True)
    )
    assert names == ["payments.dispute_opened.v1", "payments.dispute_closed.v1"]
    assert DisputeHistory.objects.count() == 1


@pytest.mark.parametrize("turns", every_order("a", "a", "b", "b"))
def test_an_old_reading_is_never_applied_over_a_new_one(shop, sandbox, paid, race, turns):
    """`a` reads while the dispute is open, `b` after it was lost; whoever comes last, it is lost."""
    made = dispute(sandbox, paid)
    _race_two_readings(sandbox, race, made)
    race.play(turns)
    made.refresh_from_db()
    assert made.status == "lost"
    assert books().get("disputes", 0) == 0


def test_without_the_count_of_readings_an_old_one_wins(shop, sandbox, paid, race, monkeypatch):
    made = dispute(sandbox, paid)
    real = disputes._apply

    def careless(payment: Payment, news: Any, *, seen: int, by: str) -> bool:
        return real(payment, news, seen=disputes._readings(news.id), by=by)

    monkeypatch.setattr(disputes, "_apply", careless)
    _race_two_readings(sandbox, race, made)
    race.play("a b b a")
    made.refresh_from_db()
    assert made.status == "needs_response"  # the damage


def _race_two_readings(sandbox, race, made: Dispute) -> None:
    def read_when_lost() -> bool:
        sandbox.control("POST", "disputes/outcome", {"dispute": made.provider_reference, "status": "lost"})
        return disputes.sync_dispute(made.provider_reference, by="b")

    race.stop("payments.gateway.retrieve_dispute", at="after", actor="a")
    race.stop("payments.gateway.retrieve_dispute", at="after", actor="b")
    race.actor("a", lambda: disputes.sync_dispute(made.provider_reference, by="a"))
    race.actor("b", read_when_lost)


def test_a_dispute_of_a_payment_whose_success_we_have_not_heard_of_is_recorded(shop, sandbox):
    """The webhook of the dispute overtakes all others."""
    answer = shop.checkout().json()
    intent = answer["payment"]["provider_reference"]
    requests.post(
        f"{sandbox.url}/v1/payment_intents/{intent}/confirm",
        data={"client_secret": answer["payment"]["client_secret"], "payment_method": "pm_card_visa"},
        headers={"Authorization": "Bearer pk_test_sandbox"},
        timeout=10,
    ).raise_for_status()
    made = sandbox.control("POST", "disputes", {"payment_intent": intent})
    services.sync_dispute(made["id"], by="test")
    settle()
    payment = Payment.objects.get()
    assert (payment.status, payment.disputed_at is not None) == ("succeeded", True)
    assert books()["disputes"] == PRICE


def test_a_dispute_of_somebody_elses_payment_is_left_alone(shop, sandbox):
    client = stripe.StripeClient("sk_test_sandbox", base_addresses={"api": sandbox.url}, max_network_retries=0)
    params: Any = {
        "amount": 2000,
        "currency": "usd",
        "payment_method": "pm_card_visa",
        "payment_method_types": ["card"],
        "confirm": True,
    }
    intent = client.v1.payment_intents.create(params)
    made = sandbox.control("POST", "disputes", {"payment_intent": intent.id})
    settle()
    assert not services.sync_dispute(made["id"], by="test")
    assert not Dispute.objects.exists()


def test_a_dispute_in_another_currency_is_not_posted_but_told_to_a_person(shop, sandbox, paid):
    sandbox.control("POST", "plant", {"kind": "currency_mismatch"})
    before = books()
    made = dispute(sandbox, paid)
    services.sync_dispute(made.provider_reference, by="test")
    assert (made.currency, made.withdrawn_minor, books()) == ("eur", 0, before)
    paid.refresh_from_db()
    assert paid.disputed_at  # it is not refunded, whatever the currency
    assert (paid.contradiction.count(made.provider_reference), paid.contradicted_at is not None) == (1, True)
    settle()
    found = Discrepancy.objects.get()
    assert (found.kind, found.state, found.source) == ("dispute_unexpected", "open", made.provider_reference)
    assert (found.theirs_amount_minor, found.theirs_currency) == (PRICE, "eur")
    assert found.order_reference == paid.reference
    made = decide(sandbox, made, "lost")
    paid.refresh_from_db()
    assert (made.status, made.lost_minor, books()) == ("lost", 0, before)
    answer = shop.post(f"/payments/{paid.number}/refunds", {"reason": "torn"})
    assert answer.json()["code"] == "payment_disputed"  # the customer has the money, whatever our books say


def test_what_the_provider_gave_back_before_it_became_a_dispute_is_lost_as_well(shop, sandbox, paid):
    made = decide(sandbox, dispute(sandbox, paid), "prevented")
    assert (made.withdrawn_minor, made.lost_minor) == (PRICE, PRICE)
    assert "disputes" not in books()
    assert "merchant_payable" not in books()
    answer = shop.post(f"/payments/{paid.number}/refunds", {"reason": "torn"})
    assert answer.json()["code"] == "refund_exceeds_captured"


def test_what_no_webhook_brought_is_found_by_the_recheck(shop, sandbox, paid):
    made = dispute(sandbox, paid)
    sandbox.control("POST", "disputes/outcome", {"dispute": made.provider_reference, "status": "lost"})
    Dispute.objects.update(next_check_at=Now())
    services.recheck_due()
    made.refresh_from_db()
    assert made.status == "lost"


def test_a_loss_without_a_sale_is_taken_from_the_customers_account(shop, sandbox):
    payment = Payment.objects.get(reference=shop.bought()["number"])
    made = dispute(sandbox, payment)
    with transaction.atomic():
        services.reverse_sale(payment.number, by="test")
    decide(sandbox, made, "lost")
    assert "customer" not in books()
    assert "merchant_payable" not in books()


def test_history_and_story_tell_of_it(shop, sandbox, paid):
    made = decide(sandbox, dispute(sandbox, paid), "lost")
    assert list(made.history.order_by("pk").values_list("to_state", flat=True)) == ["needs_response", "lost"]
    told = list(OrderHistory.objects.filter(by=made.number).order_by("pk").values_list("why", flat=True))
    assert told == [
        "disputed (fraudulent): the customer's bank takes the money back",
        "the dispute is closed: lost",
    ]


def test_waiting_disputes_are_counted_by_how_soon(shop, sandbox):
    for due_in_s in (-3600, 47 * 3600, 5 * 86400):
        payment = Payment.objects.get(reference=shop.bought()["number"])
        dispute(sandbox, payment, due_in_s=due_in_s)
    waiting = selectors.disputes_waiting()
    assert (waiting.all, waiting.due_soon, waiting.overdue) == (3, 1, 1)


# --- A refund is asked for while the news of the dispute arrive ------------------------------------------


def _refund_meets_dispute(sandbox, race, payment: Payment) -> None:
    made = sandbox.control("POST", "disputes", {"payment_intent": payment.provider_reference})

    def ask() -> str:
        with transaction.atomic():
            return services.request_refund(
                payment=payment.number, amount_minor=None, reason="torn", requested_by="test", policy=None
            )

    race.stop("payments.services.refunds.lock_payment", at="after", actor="a")
    race.stop("payments.services.disputes.lock_payment", at="after", actor="b")
    race.actor("a", ask)
    race.actor("b", lambda: disputes.sync_dispute(made["id"], by="b"))


def asked_after_the_dispute() -> bool:
    """Whether a refund's amount was held when its payment's dispute was in our books already."""
    kinds = list(
        JournalEntry.objects.filter(kind__in=["refund_hold", "dispute_withdrawn"])
        .order_by("pk")
        .values_list("kind", flat=True)
    )
    return kinds == ["dispute_withdrawn", "refund_hold"]


@pytest.mark.guard(10)
@pytest.mark.parametrize("turns", every_order("a", "a", "b", "b"))
def test_a_refund_and_a_dispute_that_meet_never_pay_twice(shop, sandbox, paid, race, turns):
    _refund_meets_dispute(sandbox, race, paid)
    results = race.play(turns)
    assert results["b"] is True
    assert isinstance(results["a"], str | PaymentDisputed)
    assert not asked_after_the_dispute()
    settle()
    assert not Refund.objects.filter(status="succeeded").exists()  # what was asked for before is not sent any more
    paid.refresh_from_db()
    assert (paid.refunds_committed_minor, paid.disputed_at is not None) == (0, True)


def _without_the_lock(monkeypatch) -> None:
    monkeypatch.setattr("payments.services.refunds.lock_payment", lambda pk: Payment.objects.get(pk=pk))


@pytest.mark.guard(10)
def test_where_the_lock_is_missing_postgresql_refuses_the_refund(shop, sandbox, paid, race, monkeypatch):
    _without_the_lock(monkeypatch)
    _refund_meets_dispute(sandbox, race, paid)
    results = race.play("a b b a")
    assert isinstance(results["a"], IntegrityError)
    assert not Refund.objects.exists()


def test_without_lock_and_trigger_a_disputed_payment_is_refunded(sandbox, paid, race, monkeypatch, unguarded):
    _without_the_lock(monkeypatch)
    unguarded.triggers("payments_refund")
    _refund_meets_dispute(sandbox, race, paid)
    race.play("a b b a")
    assert asked_after_the_dispute()  # the damage
