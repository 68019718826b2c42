"""Random histories of store credit and points, against the real services: no cent of credit appears or is lost."""

from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models import Sum
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from durability.types import Accepted, Refused, Succeeded
from foundation.database import database_now
from foundation.errors import DomainError
from payments import ledger, selectors, services
from payments.errors import PaymentNotRefundable, RefundExceedsCaptured, StoreCreditInsufficient
from payments.locks import lock_payment, lock_refund
from payments.models import Account, Payment, Posting, Refund
from payments.services.payment_news import apply_intent
from payments.services.refund_news import apply_refund
from payments.types import Intent, ProviderRefund
from tests.factories import make_merchant

CENTS = st.integers(1, 900)
PICK = st.integers(0, 99)
WHO = "cust-1"


@dataclass
class Paid:
    """What the model knows of a payment: its two parts, and how it stands."""

    number: str
    card: int
    credit: int
    state: str = "live"  # live, over, paid, sold, astray (a success that does not settle)
    refunded_to_card: int = 0  # open or done
    refunded_as_credit: int = 0
    taken_from_held: int = 0  # by refunds that were asked for before the sale was booked
    owed: int = 0  # since refunds to the card came back
    is_booked: bool = False  # whether its sale left anything to post


@dataclass
class Back:
    """What the model knows of a refund."""

    number: str
    payment: Paid
    card: int
    credit: int
    held: int  # of the credit, taken from what the attempt held
    owed: int  # of either, taken from the debt to the customer
    state: str = "open"  # open, done, failed, late


class Till(RuleBasedStateMachine):
    """Runs the services beside a plain model of what they promise."""

    merchant: ClassVar

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.granted = self.free = 0
        self.payments: list[Paid] = []
        self.refunds: list[Back] = []

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    # --- What happens -------------------------------------------------------------------------------

    def refused(self, refusal: type[DomainError] | None, call: Any) -> Any:
        """The service refuses exactly when the model does, and then changes nothing."""
        if refusal is None:
            with transaction.atomic():
                return call()
        with pytest.raises(refusal), transaction.atomic():
            call()
        return None

    def some(self, rows: list[Any], pick: int, *states: str) -> Any:
        found = [row for row in rows if row.state in states]
        return found[pick % len(found)] if found else None

    @property
    def held(self) -> int:
        """By live attempts, and by successes that are not booked: what refunds have not taken of it."""
        return sum(
            one.credit - one.taken_from_held
            for one in self.payments
            if one.state == "live" or (one.state in ("paid", "sold") and not one.is_booked)
        )

    @rule(amount=CENTS)
    def grant(self, amount):
        press = uuid4()
        for _ in range(2):  # the same press of the button again
            services.grant_store_credit(
                grant_id=press,
                merchant_id=self.merchant.id,
                customer=WHO,
                currency="usd",
                amount_minor=amount,
                reason="an apology",
                by="clara",
            )
        self.granted += amount
        self.free += amount

    @rule(card=st.integers(0, 900), credit=CENTS)
    def check_out(self, card, credit):
        def begin() -> str:
            number = services.begin_payment(
                merchant_id=self.merchant.id,
                reference=f"ref-{uuid4()}",
                customer=WHO,
                amount_minor=card + credit,
                credit_minor=credit,
                currency="usd",
                method="card",
            )
            services.take_credit(number, by="test")
            services.take_credit(number, by="test")
            return number

        number = self.refused(StoreCreditInsufficient if credit > self.free else None, begin)
        if number:
            self.payments.append(Paid(number, card, credit, "live" if card else "paid"))
            self.free -= credit

    @rule(pick=PICK)
    def cancel(self, pick):
        one = self.some(self.payments, pick, "live")
        if one:
            for _ in range(2):
                services.record_cancelling(one.number, Accepted(None), by="test")
            one.state = "over"
            self.free += one.credit

    @rule(pick=PICK)
    def refuse_to_open(self, pick):
        one = self.some(self.payments, pick, "live")
        if one:
            for _ in range(2):
                services.record_opening(one.number, Refused("amount_too_small", "too small"))
            one.state = "over"
            self.free += one.credit

    @rule(pick=PICK, late=st.booleans())
    def capture(self, pick, late):
        """`late`: of an attempt that had ended here. The same news come twice."""
        one = self.some(self.payments, pick, "over" if late else "live")
        if one:
            intent = Intent(
                id=f"pi_{one.number}",
                status="succeeded",
                amount_minor=one.card,
                amount_received_minor=one.card,
                currency="usd",
                livemode=False,
                metadata={},
                created_at=database_now(),
                failure=None,
                charge=None,
                client_secret="",
            )
            for _ in range(2):
                assert apply_intent(lock_payment(Payment.id_of(one.number)), intent, by="test")
            one.state = "astray" if late else "paid"

    @rule(pick=PICK)
    def post_sale(self, pick):
        one = self.some(self.payments, pick, "paid")
        if one:
            for _ in range(2):
                services.post_sale(one.number, by="test")
            taken = sum(
                b.card - b.owed for b in self.refunds if b.payment is one and b.state in ("open", "done", "late")
            )
            one.is_booked = one.card > taken or one.credit > one.taken_from_held
            one.state = "sold"

    @rule(pick=PICK, amount=st.integers(1, 1200), as_credit=st.booleans())
    def refund(self, pick, amount, as_credit):
        one = self.some(self.payments, pick, "paid", "sold", "astray")
        if not one:
            return
        credit_part = 0 if one.state == "astray" else one.credit
        left = one.card + credit_part - one.refunded_to_card - one.refunded_as_credit
        refusal: type[DomainError] | None = None
        if amount > left:
            refusal = RefundExceedsCaptured
        elif as_credit and not one.is_booked and amount > one.owed:
            refusal = PaymentNotRefundable
        number = self.refused(
            refusal,
            lambda: services.request_refund(
                payment=one.number,
                amount_minor=amount,
                reason="a torn page",
                requested_by="test",
                policy=None,
                as_credit=as_credit,
            ),
        )
        if number:
            card = 0 if as_credit else min(amount, one.card - one.refunded_to_card, left)
            owed = min(one.owed, amount if as_credit else card)
            held = 0 if one.is_booked or as_credit else amount - card
            self.refunds.append(Back(number, one, card, amount - card, held, owed))
            one.owed -= owed
            one.taken_from_held += held
            one.refunded_to_card += card
            one.refunded_as_credit += amount - card

    def news(self, back: Back, status: str) -> ProviderRefund:
        return ProviderRefund(
            id=f"re_{back.number}",
            status=status,
            amount_minor=back.card,
            currency="usd",
            charge="",
            payment_intent=f"pi_{back.payment.number}",
            metadata={},
            created_at=database_now(),
            failure_reason="",
        )

    @rule(pick=PICK, fails=st.booleans())
    def end_refund(self, pick, fails):
        one = self.some(self.refunds, pick, "open")
        if not one:
            return
        fails = fails and one.card > 0
        for _ in range(2):
            if fails:
                services.release_refundable(one.number, by="test")
            else:
                services.record_refund(one.number, Succeeded(self.news(one, "succeeded") if one.card else None))
        one.state = "failed" if fails else "done"
        if fails:
            one.payment.refunded_to_card -= one.card
            one.payment.refunded_as_credit -= one.credit
            one.payment.owed += one.owed
            if not one.payment.is_booked:
                one.payment.taken_from_held -= one.held
        else:
            self.free += one.credit

    @rule(pick=PICK)
    def fail_late(self, pick):
        one = self.some([back for back in self.refunds if back.card], pick, "done")
        if one:
            for _ in range(2):
                apply_refund(*lock_refund(Refund.id_of(one.number)), self.news(one, "failed"), by="test")
            one.state = "late"
            one.payment.refunded_to_card -= one.card
            one.payment.owed += one.card

    # --- What always holds --------------------------------------------------------------------------

    def kept(self, account: ledger.AccountKey) -> int:
        balance = Account.objects.filter(pk=account.id).values_list("balance_minor", flat=True).first() or 0
        lines = Posting.objects.filter(account_id=account.id).aggregate(total=Sum("amount_minor"))["total"] or 0
        assert balance == -lines  # the balance is the sum of its lines
        return balance

    def entries(self, kind: str, account: ledger.AccountKey) -> int:
        """What entries of a kind took from an account."""
        lines = Posting.objects.filter(account_id=account.id, entry__kind=kind)
        return lines.aggregate(total=Sum("amount_minor"))["total"] or 0

    @invariant()
    def no_credit_appears_or_is_lost(self):
        free = ledger.store_credit(self.merchant.id, WHO, "usd")
        held = ledger.store_credit_held(self.merchant.id, WHO, "usd")
        granted, spent = -self.entries("credit_grant", free), self.entries("credit_spent", held)
        refunded = -self.entries("refund_credit", free)
        taken = self.entries("refund_credit_hold", held) + self.entries("refund_credit_release", held)
        assert granted - spent - taken + refunded == self.kept(free) + self.kept(held)
        assert granted == self.granted
        assert refunded == sum(one.credit for one in self.refunds if one.state in ("done", "late"))
        assert (self.kept(free), self.kept(held)) == (self.free, self.held)
        assert Posting.objects.aggregate(total=Sum("amount_minor"))["total"] in (0, None)

    @invariant()
    def what_a_customer_holds_of_points_follows_the_money(self):
        for one in self.payments:
            payment = Payment.objects.get(pk=Payment.id_of(one.number))
            account = ledger.points(self.merchant.id, WHO)
            lines = Posting.objects.filter(account_id=account.id, entry__subject=one.number)
            held = -(lines.aggregate(total=Sum("amount_minor"))["total"] or 0)
            earned = (one.card + one.credit) * 2 // 100 if one.state == "sold" else 0
            back = payment.refunded_minor + payment.credit_refunded_minor
            assert held == (earned - earned * back // (one.card + one.credit) if earned else 0)

    @invariant()
    def the_columns_say_what_the_refunds_say(self):
        for one in self.payments:
            view = selectors.get_payment(one.number)
            mine = [back for back in self.refunds if back.payment is one]
            done = sum(back.card for back in mine if back.state == "done") + sum(
                back.credit for back in mine if back.state in ("done", "late")
            )
            assert view.refunded_minor == done
            assert view.refunds_open_minor == sum(back.card + back.credit for back in mine if back.state == "open")


@pytest.mark.django_db
def test_random_histories_keep_the_laws():
    Till.merchant = make_merchant(loyalty_rate_bp=20_000)  # two points for each dollar
    run_state_machine_as_test(
        Till,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
