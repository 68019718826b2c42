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
from payments.errors import RefundExceedsCaptured
from payments.locks import lock_payment, lock_refund
from payments.models import Payment, Refund
from payments.selectors import get_payment
from payments.services.payment_news import apply_intent
from payments.services.refund_news import PROVIDER_STATES, apply_refund
from payments.services.refunds_elsewhere import _create
from payments.states import REFUND_OPEN, refund_status
from payments.types import Charge, Intent, ProviderRefund
from tests.factories import make_merchant
from tests.payments.books import assert_books_agree, balance

CAPTURED = 1000
LIMIT = 400
AMOUNTS = st.integers(1, 600)
SAYS = st.sampled_from(["pending", "requires_action", "succeeded", "failed", "canceled"])


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


class History(RuleBasedStateMachine):
    """Runs the services with whatever a provider, customers and staff may say, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.payment = captured_payment()
        self.sold = False

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    def any_of(self, data: Any, **which: Any) -> Refund | None:
        found = list(Refund.objects.filter(payment=self.payment, **which).order_by("pk"))
        return data.draw(st.sampled_from(found)) if found else None

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
        self.payment.refresh_from_db()
        fits = amount <= CAPTURED - self.payment.refunds_committed_minor

        def request() -> None:
            services.request_refund(
                payment=self.payment.number,
                amount_minor=amount,
                reason="x",
                requested_by="maria",
                policy=None,
                automatic=automatic,
            )

        if fits:
            request()
        else:
            with pytest.raises(RefundExceedsCaptured), transaction.atomic():
                request()

    @rule(data=st.data(), yes=st.booleans(), by=st.sampled_from(["maria", "paul"]))
    def decide(self, data: Any, yes: bool, by: str) -> None:
        refund = self.any_of(data, status="awaiting_approval")
        if refund:
            verb = services.approve_refund if yes else services.reject_refund
            done = self.attempt(lambda: verb(number=refund.number, by=by, why="because"))
            assert done or (yes and by == "maria")

    @rule(data=st.data(), says=SAYS)
    def news(self, data: Any, says: str) -> None:
        refund = self.any_of(data, status__in=["processing", "pending", "requires_action", "succeeded", "failed"])
        if refund and not refund.paid_outside:
            reference = refund.provider_reference or f"re_{refund.number}"
            told = ProviderRefund(reference, says, refund.amount_minor, "usd", "", "", {}, database_now(), "")
            apply_refund(*lock_refund(refund.pk), told, by="test")

    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        refund = self.any_of(data, status="processing")
        if refund:
            services.release_refundable(refund.number, by="test")

    @rule(data=st.data(), outside=st.booleans())
    def make_again(self, data: Any, outside: bool) -> None:
        refund = self.any_of(data, status="failed")
        if refund:
            self.attempt(
                lambda: services.refund_again(number=refund.number, by="maria", why="again", paid_outside=outside)
            )

    @rule(amount=AMOUNTS, says=st.sampled_from(["pending", "succeeded"]))
    def made_elsewhere(self, amount: int, says: str) -> None:
        gone = sum(
            one.amount_minor
            for one in Refund.objects.filter(payment=self.payment, provider_reference__isnull=False)
            if one.status in (*REFUND_OPEN, "succeeded")
        )
        if gone + amount <= CAPTURED:  # the provider itself gives back no more than it took
            told = ProviderRefund(f"re_{uuid7()}", says, amount, "usd", "", "", {}, database_now(), "")
            _create(lock_payment(self.payment.pk), told, PROVIDER_STATES[says], by="webhook", why="dashboard")

    @precondition(lambda self: not self.sold)
    @rule()
    def sell(self) -> None:
        services.post_sale(self.payment.number, by="test")
        self.sold = True

    @invariant()
    def the_books_agree(self) -> None:
        assert_books_agree(self.payment)

    @invariant()
    def no_money_is_lost_between_customer_and_merchant(self) -> None:
        holders = balance("customer") + balance("merchant_payable") + balance("refunds_owed")
        assert holders + balance("refunds_in_flight") + balance("provider_clearing") + balance("bank") == 0

    @invariant()
    def the_status_follows(self) -> None:
        refunds = list(Refund.objects.filter(payment=self.payment))
        waiting = any(one.status in REFUND_OPEN for one in refunds)
        paid = sum(one.amount_minor for one in refunds if one.status == "succeeded")
        view = get_payment(self.payment.number)
        if view.refunds_open_minor:
            assert waiting
        if waiting and paid < CAPTURED:
            assert view.refund_status == "refunding"
        if not waiting:
            assert view.refund_status == ("none" if not paid else "refunded" if paid >= CAPTURED else "partial")

    @invariant()
    def nothing_above_the_limit_went_without_a_second_person(self) -> None:
        sent = Refund.objects.filter(payment=self.payment, automatic=False, made_elsewhere=False).exclude(
            status__in=["requested", "awaiting_approval", "cancelled"]
        )
        assert not sent.filter(amount_minor__gt=LIMIT, approved_by="").exists()
        assert not sent.filter(approved_by="maria").exists()


@pytest.mark.guard(10)
@pytest.mark.django_db
def test_whatever_happens_to_its_refunds_the_books_of_a_payment_agree(valkey):
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
