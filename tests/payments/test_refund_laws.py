"""Random histories of refunds: sums, states and the ledger always tell the same story, and `refund_status` follows."""

from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from foundation.database import database_now
from foundation.errors import DomainError
from foundation.ids import uuid7
from payments import services
from payments.locks import lock_payment, lock_refund
from payments.models import Payment, Refund
from payments.selectors import view
from payments.services.payment_news import apply_intent
from payments.services.refund_news import PROVIDER_STATES, apply_refund
from payments.services.refunds_elsewhere import _create
from payments.states import REFUND_OPEN, REFUND_UNAPPROVED, refund_status
from payments.types import Charge, Intent, ProviderRefund
from tests.factories import make_merchant
from tests.payments.books import assert_books_agree, balance

CAPTURED = 1000
LIMIT = 400
AMOUNTS = st.integers(1, 600)
TOLD = ("processing", "pending", "requires_action", "succeeded", "failed")  # of which the provider may speak
HELD = (*REFUND_OPEN, "succeeded")
SAYS = st.sampled_from(["succeeded", "failed", "pending", "requires_action", "canceled"])


# --- The derivation itself --------------------------------------------------------------------------


@given(captured=st.integers(1, 10**6), paid=st.integers(0, 10**6), waiting=st.integers(0, 10**6))
def test_refund_status_is_one_of_four_and_says_what_its_name_says(captured, paid, waiting):
    paid = min(paid, captured)
    waiting = min(waiting, captured - paid)
    status = refund_status(captured_minor=captured, refunded_minor=paid, open_minor=waiting)
    assert (status == "refunding") == (waiting > 0)
    assert (status == "none") == (waiting == 0 and paid == 0)
    assert (status == "refunded") == (waiting == 0 and paid == captured)
    assert (status == "partial") == (waiting == 0 and 0 < paid < captured)


# --- Histories --------------------------------------------------------------------------------------


def captured_payment() -> Payment:
    """A payment of 10.00, captured on the provider's word, in a shop with a limit of 4.00."""
    merchant = make_merchant(refund_approval_above_minor=LIMIT)
    number = services.begin_payment(
        merchant_id=merchant.id, reference="ord_x", customer="c", amount_minor=CAPTURED, currency="usd", method="card"
    )
    payment = lock_payment(Payment.id_of(number))
    charge = Charge(f"ch_{number}", "succeeded", CAPTURED, CAPTURED, "usd", database_now(), False, None)
    apply_intent(
        payment,
        Intent(
            id=f"pi_{number}",
            status="succeeded",
            amount_minor=CAPTURED,
            amount_received_minor=CAPTURED,
            currency="usd",
            livemode=False,
            metadata={},
            created_at=database_now(),
            failure=None,
            charge=charge,
            client_secret="",
        ),
        by="test",
    )
    return Payment.objects.get(pk=payment.pk)


def some(*statuses: str) -> Any:
    """A rule that needs a refund in one of these states."""
    return precondition(lambda self: any(one.status in statuses for one in self.refunds))


class History(RuleBasedStateMachine):
    """Runs the services with whatever a provider, customers and staff may say, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.payment = captured_payment()
        self.refunds: list[Refund] = []  # in the order of their making: ids of one moment have none
        self.sold = False

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    def draw(self, data: Any, *statuses: str) -> Refund:
        refund: Refund = data.draw(st.sampled_from([one for one in self.refunds if one.status in statuses]))
        return refund

    def attempt(self, work: Any) -> bool:
        """A refusal changes nothing."""
        try:
            with transaction.atomic():
                work()
        except DomainError:
            return False
        return True

    @rule(amount=AMOUNTS, automatic=st.booleans())
    def ask(self, amount: int, automatic: bool) -> None:
        fits = amount <= CAPTURED - self.payment.refunds_committed_minor
        asked = self.attempt(
            lambda: services.request_refund(
                payment=self.payment.number,
                amount_minor=amount,
                reason="x",
                requested_by="maria",
                policy=None,
                automatic=automatic,
            )
        )
        assert asked == fits

    @some("awaiting_approval")
    @rule(data=st.data(), yes=st.booleans(), by=st.sampled_from(["maria", "paul"]))
    def decide(self, data: Any, yes: bool, by: str) -> None:
        refund = self.draw(data, "awaiting_approval")
        verb = services.approve_refund if yes else services.reject_refund
        done = self.attempt(lambda: verb(number=refund.number, by=by, why="because"))
        assert done == (not yes or by != "maria")

    @some(*TOLD)
    @rule(data=st.data(), says=SAYS)
    def news(self, data: Any, says: str) -> None:
        refund = self.draw(data, *TOLD)
        if not refund.paid_outside:
            reference = refund.provider_reference or f"re_{refund.number}"
            told = ProviderRefund(reference, says, refund.amount_minor, "usd", "", "", {}, database_now(), "")
            apply_refund(*lock_refund(refund.pk), told, by="test")

    @some("succeeded")
    @rule(data=st.data())
    def come_back(self, data: Any) -> None:
        refund = self.draw(data, "succeeded")
        if not refund.paid_outside:
            told = ProviderRefund(
                refund.provider_reference or "", "failed", refund.amount_minor, "usd", "", "", {}, database_now(), ""
            )
            apply_refund(*lock_refund(refund.pk), told, by="test")

    @some("processing")
    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        services.release_refundable(self.draw(data, "processing").number, by="test")

    @some("failed")
    @rule(data=st.data(), outside=st.booleans())
    def make_again(self, data: Any, outside: bool) -> None:
        number = self.draw(data, "failed").number
        self.attempt(lambda: services.refund_again(number=number, by="maria", why="again", paid_outside=outside))

    @rule(amount=AMOUNTS, says=st.sampled_from(["pending", "succeeded"]))
    def made_elsewhere(self, amount: int, says: str) -> None:
        gone = sum(one.amount_minor for one in self.refunds if one.provider_reference and one.status in HELD)
        if gone + amount <= CAPTURED:  # the provider itself gives back no more than it took
            told = ProviderRefund(f"re_{uuid7()}", says, amount, "usd", "", "", {}, database_now(), "")
            _create(lock_payment(self.payment.pk), told, PROVIDER_STATES[says], by="webhook", why="dashboard")

    @precondition(lambda self: not self.sold)
    @rule()
    def sell(self) -> None:
        services.post_sale(self.payment.number, by="test")
        self.sold = True

    @invariant()
    def books_agree(self) -> None:
        assert_books_agree(self.payment)
        rows = {one.pk: one for one in Refund.objects.filter(payment=self.payment)}
        order = [one.pk for one in self.refunds]
        self.refunds = [rows[pk] for pk in [*order, *(pk for pk in rows if pk not in order)]]

    @invariant()
    def who_holds_the_money(self) -> None:
        """The customer's account until the sale is posted, the merchant's from then on."""
        payment = self.payment
        if not payment.refunds_excess_minor:
            free = payment.captured_minor - payment.refunds_committed_minor - payment.refunds_owed_minor
            held = (0, free) if self.sold else (free, 0)
            assert (-balance("customer"), -balance("merchant_payable")) == held

    @invariant()
    def the_status_follows(self) -> None:
        waiting = any(one.status in REFUND_OPEN for one in self.refunds)
        paid = sum(one.amount_minor for one in self.refunds if one.status == "succeeded")
        status = view(self.payment).refund_status
        if waiting and paid < CAPTURED:
            assert status == "refunding"
        else:
            assert status == ("none" if not paid else "refunded" if paid >= CAPTURED else "partial")

    @invariant()
    def nothing_above_the_limit_went_without_a_second_person(self) -> None:
        for one in self.refunds:
            if not (one.automatic or one.made_elsewhere or one.status in REFUND_UNAPPROVED):
                assert one.amount_minor <= LIMIT or one.approved_by == "paul"


@pytest.mark.django_db
def test_whatever_happens_to_its_refunds_the_books_of_a_payment_agree(valkey):
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=30,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
