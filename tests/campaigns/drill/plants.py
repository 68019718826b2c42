"""The ways in which books come to differ, each planted in copies that a seed chose, with the answer that a run must find.

The provider's books change in silence, as when webhooks are lost; ours change as when a backup was restored, a row was edited past
the product, or an entry was posted twice. What each plant returns is computed by hand from what it did, never from matching.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from payments import ledger
from payments.models import Account as LedgerAccount
from payments.models import JournalEntry
from payments.sandbox import balance, events, payouts, plant
from payments.sandbox.account import Account
from payments.sandbox.store import Json
from reconciliation.types import Action, Kind
from tests.campaigns.drill.copies import Copy, without_triggers

NOT_COMPARABLE = None  # a difference of two currencies


@dataclass(frozen=True)
class Expected:
    """What a run must find: the object it is about, and what the provider holds more than our books say, minor units."""

    source: str
    difference_minor: int | None
    order: str = ""  # what a person chooses where the charge does not say
    payment: str = ""  # ours, with which a person links it


@dataclass
class Ground:
    """Where things are planted. `account`: the provider's books, open and silent."""

    account: Account
    choose: random.Random
    noon: datetime
    real_offset_s: int  # the provider's clock to noon of the day

    def at_random_moment(self) -> None:
        """What the provider books next, it books at some moment of the day, away from midnight."""
        away = timedelta(seconds=self.choose.randrange(-10 * 3600, 10 * 3600))
        self.account.clock_offset_s = self.real_offset_s + int(away.total_seconds())

    def get(self, object_id: str) -> Json:
        found = self.account.store.find(object_id)
        assert found is not None, object_id
        return found


@dataclass(frozen=True)
class Way:
    """One way to differ. `shape`: of which transactions; empty: of none. `action` closes it."""

    kind: str
    shape: str
    text: str
    action: str
    do: Callable[[Ground, Copy], Expected]


# --- The provider's books -----------------------------------------------------------------------------


def _lose_charge(ground: Ground, copy: Copy) -> Expected:
    charge = ground.get(copy.charge)
    plant._lose_charge(ground.account, charge)
    return Expected(copy.charge, -charge["amount"])


def _stray_charge(ground: Ground, copy: Copy) -> Expected:
    charge = plant._stray_charge(ground.account, ground.get(copy.payment_intent))
    return Expected(charge["id"], charge["amount"])


def _charge_in_its_place(ground: Ground, copy: Copy) -> Expected:
    """Paid at a terminal, which opened an intent of its own and told it nothing of ours."""
    asked = ground.get(copy.payment_intent)
    charge = plant._new_payment(
        ground.account, "missing_in_our_system", amount=asked["amount"], currency=asked["currency"], metadata={}
    )
    return Expected(charge["id"], charge["amount"], payment=copy.payment)


def _stray_charge_of_nobody(ground: Ground, copy: Copy) -> Expected:
    charge = plant._stray_charge(ground.account, {})
    return Expected(charge["id"], charge["amount"], order=copy.order)


def _misstate_charge(ground: Ground, copy: Copy) -> Expected:
    before = ground.get(copy.charge)["amount"]
    charge = plant._misstate_charge(ground.account, ground.get(copy.charge))
    return Expected(copy.charge, charge["amount"] - before)


def _pay_in_silence(ground: Ground, copy: Copy) -> Expected:
    charge = plant._pay_in_silence(ground.account, ground.get(copy.payment_intent))
    return Expected(charge["id"], charge["amount"])


def _pay_unheard(ground: Ground, copy: Copy) -> Expected:
    """The event is in Stripe's list of them; no webhook brought it."""
    expected = _pay_in_silence(ground, copy)
    ground.account.silent = False
    events.emit(ground.account, "payment_intent.succeeded", ground.get(copy.payment_intent))
    ground.account.silent = True
    return expected


def _lose_refund(ground: Ground, copy: Copy) -> Expected:
    refund = plant._lose_refund(ground.account, ground.get(copy.provider_refund))
    return Expected(copy.provider_refund, refund["amount"])


def _stray_refund(ground: Ground, copy: Copy) -> Expected:
    refund = plant._stray_refund(ground.account, ground.get(copy.charge))
    return Expected(refund["id"], -refund["amount"])


def _misstate_refund(ground: Ground, copy: Copy) -> Expected:
    before = ground.get(copy.provider_refund)["amount"]
    refund = plant._misstate_refund(ground.account, ground.get(copy.provider_refund))
    return Expected(copy.provider_refund, before - refund["amount"])


def _fail_refund(ground: Ground, copy: Copy) -> Expected:
    refund = plant._fail_refund(ground.account, ground.get(copy.provider_refund))
    return Expected(copy.provider_refund, refund["amount"])


def _change_currency(ground: Ground, copy: Copy) -> Expected:
    plant._change_currency(ground.account, ground.get(copy.charge))
    return Expected(copy.charge, NOT_COMPARABLE)


def _double_charge(ground: Ground, copy: Copy) -> Expected:
    charge = plant._double_charge(ground.account, ground.get(copy.charge))
    return Expected(charge["id"], charge["amount"])


def _change_fee(ground: Ground, copy: Copy) -> Expected:
    before = ground.get(copy.balance_transaction)["fee"]
    plant._change_fee(ground.account, ground.get(copy.charge))
    return Expected(copy.charge, before - ground.get(copy.balance_transaction)["fee"])


def _dispute(ground: Ground, copy: Copy) -> Expected:
    dispute = plant._dispute_in_silence(ground.account, ground.get(copy.charge))
    return Expected(dispute["id"], -dispute["amount"])


def _win_dispute(ground: Ground, copy: Copy) -> Expected:
    dispute = plant._give_back_in_silence(ground.account, ground.get(copy.provider_dispute))
    return Expected(dispute["id"], dispute["amount"])


def _send_payout_back(ground: Ground, copy: Copy) -> Expected:
    payout = payouts.decide(ground.account, ground.get(copy.provider_payout), "failed")
    return Expected(payout["id"], payout["amount"])


def _charge_of_another(ground: Ground, copy: Copy) -> Expected:
    charge = plant._charge_of_another(ground.account, {})
    return Expected(charge["id"], charge["amount"])


def _row_of_no_known_category(ground: Ground, copy: Copy) -> Expected:
    row = plant._row_of_no_known_category(ground.account, {})
    return Expected(row["id"], row["net"])


def _reserve(ground: Ground, copy: Copy) -> Expected:
    minor = ground.choose.randrange(100, 90_000)
    row = balance.record(
        ground.account, kind="adjustment", source="", amount=-minor, currency="usd", category="risk_reserved_funds"
    )
    return Expected(row["id"], -minor)


# --- Our books ----------------------------------------------------------------------------------------

_SCALE = """
UPDATE payments_posting p SET amount_minor = p.amount_minor - sign(p.amount_minor) * %s
FROM payments_journalentry e WHERE e.id = p.entry_id AND e.subject = %s AND e.kind = ANY(%s)
"""
_FORGET_ENTRIES = [
    "DELETE FROM payments_posting WHERE entry_id IN (SELECT id FROM payments_journalentry WHERE subject = %(subject)s)",
    "DELETE FROM payments_journalentry WHERE subject = %(subject)s",
]


def _book_too_little(ground: Ground, copy: Copy) -> Expected:
    """A typing error past the product: the payment and its entries say less than was taken."""
    return _book_less(ground, copy, ground.choose.randrange(1, 400))


def _book_far_too_little(ground: Ground, copy: Copy) -> Expected:
    return _book_less(ground, copy, ground.choose.randrange(400, 900))  # the cheapest sale is of 980


def _book_less(ground: Ground, copy: Copy, minor: int) -> Expected:
    with without_triggers() as cursor:
        cursor.execute(
            "UPDATE payments_payment SET captured_minor = captured_minor - %s WHERE id = %s", [minor, copy.payment_id]
        )
        cursor.execute(_SCALE, [minor, copy.payment, ["capture", "sale"]])
    return Expected(copy.charge, minor)


def _book_another_fee(ground: Ground, copy: Copy) -> Expected:
    minor = ground.choose.randrange(1, 20)
    with without_triggers() as cursor:
        cursor.execute(_SCALE, [minor, copy.payment, ["fee"]])
    return Expected(copy.charge, -minor)


def _forget_refund(ground: Ground, copy: Copy) -> Expected:
    """A backup from before the refund was restored."""
    refund = ground.get(copy.provider_refund)
    about = {"subject": copy.refund, "id": copy.refund_id, "payment": copy.payment_id}
    with without_triggers() as cursor:
        for statement in (
            *_FORGET_ENTRIES,
            "DELETE FROM payments_refundhistory WHERE subject_id = %(id)s",
            "DELETE FROM payments_refund WHERE id = %(id)s",
            "UPDATE payments_payment SET refunded_minor = 0, refunds_committed_minor = 0 WHERE id = %(payment)s",
        ):
            cursor.execute(statement, about)
    return Expected(refund["id"], -refund["amount"])


def _forget_dispute(ground: Ground, copy: Copy) -> Expected:
    dispute = ground.get(copy.provider_dispute)
    about = {"subject": copy.dispute, "id": copy.dispute_id, "payment": copy.payment_id}
    with without_triggers() as cursor:
        for statement in (
            *_FORGET_ENTRIES,
            "DELETE FROM payments_disputehistory WHERE subject_id = %(id)s",
            "DELETE FROM payments_dispute WHERE id = %(id)s",
            "UPDATE payments_payment SET disputed_at = NULL WHERE id = %(payment)s",
        ):
            cursor.execute(statement, about)
    return Expected(dispute["id"], -dispute["amount"])


def _forget_payout(ground: Ground, copy: Copy) -> Expected:
    payout = ground.get(copy.provider_payout)
    with without_triggers() as cursor:
        for statement in (
            "DELETE FROM payments_payouthistory WHERE subject_id = %(id)s",
            "DELETE FROM payments_payouttransaction WHERE payout_id = %(id)s",
            "DELETE FROM payments_payout WHERE id = %(id)s",
        ):
            cursor.execute(statement, {"id": copy.payout_id})
    return Expected(payout["id"], -payout["amount"])


def _post_what_never_was(ground: Ground, copy: Copy) -> Expected:
    """An entry on the clearing account that no payment, refund or booking stands behind."""
    minor = ground.choose.randrange(1, 5000)
    capture = JournalEntry.objects.get(key=f"capture:{copy.payment}")
    ledger.post(
        key=f"adjustment:drill:{copy.payment}",
        kind="adjustment",
        debit=ledger.clearing(capture.currency),
        credit=ledger.AccountKey(LedgerAccount.Kind.ROUNDING, capture.currency),
        amount_minor=minor,
        by="drill",
        merchant_id=capture.merchant_id,
        subject=capture.subject,
        reference=capture.reference,
        corrects=capture.pk,
    )
    return Expected(f"{capture.currency}:clearing", -minor)


ACCEPTED = (Action.ACCEPT,)  # what no action can make equal

_OPEN, _SALE, _REFUNDED = "open order", "sale", "refunded in part"

WAYS: tuple[Way, ...] = (
    Way(Kind.MISSING_IN_STRIPE, _SALE, "the charge is not in Stripe's books", Action.POST_CORRECTION, _lose_charge),
    Way(Kind.MISSING_IN_STRIPE, _SALE, "the charge is gone, and given up as a loss", Action.WRITE_OFF, _lose_charge),
    Way(Kind.MISSING_IN_STRIPE, _SALE, "the charge is gone: it was fraud", Action.MARK_FRAUD, _lose_charge),
    Way(
        Kind.MISSING_IN_OUR_SYSTEM,
        _OPEN,
        "a charge for an open order of ours, of which nobody told us",
        Action.CREATE_MISSING_PAYMENT,
        _stray_charge,
    ),
    Way(
        Kind.MISSING_IN_OUR_SYSTEM,
        _OPEN,
        "an order paid at a terminal: another intent, which names nothing",
        Action.LINK,
        _charge_in_its_place,
    ),
    Way(
        Kind.MISSING_IN_OUR_SYSTEM,
        "cancelled order",
        "a charge that names no order",
        Action.REFUND_CUSTOMER,
        _stray_charge_of_nobody,
    ),
    Way(
        Kind.MISSING_IN_OUR_SYSTEM,
        "",
        "a reserve: a row that stands for itself",
        Action.POST_CORRECTION,
        _reserve,
    ),
    Way(Kind.AMOUNT_MISMATCH, _SALE, "Stripe took some cents more, or less", Action.POST_CORRECTION, _misstate_charge),
    Way(Kind.AMOUNT_MISMATCH, _SALE, "our books say less than was taken", Action.POST_CORRECTION, _book_too_little),
    Way(Kind.AMOUNT_MISMATCH, _SALE, "our books say far less than was taken", Action.SPLIT, _book_far_too_little),
    Way(Kind.STATUS_MISMATCH, _OPEN, "an open payment succeeded", Action.TAKE_PROVIDER_STATUS, _pay_in_silence),
    Way(Kind.STATUS_MISMATCH, _OPEN, "it succeeded, and its webhook was lost", Action.REPLAY_EVENT, _pay_unheard),
    Way(
        Kind.STATUS_MISMATCH,
        "cancelled order",
        "a cancelled payment succeeded",
        Action.TAKE_PROVIDER_STATUS,
        _pay_in_silence,
    ),
    Way(
        Kind.MISSING_IN_STRIPE_REFUND,
        _REFUNDED,
        "the refund is not in Stripe's books",
        Action.POST_CORRECTION,
        _lose_refund,
    ),
    Way(
        Kind.MISSING_IN_OUR_SYSTEM_REFUND,
        _SALE,
        "refunded in Stripe's dashboard",
        Action.CREATE_MISSING_REFUND,
        _stray_refund,
    ),
    Way(
        Kind.MISSING_IN_OUR_SYSTEM_REFUND,
        _REFUNDED,
        "our refund is gone: an old backup",
        Action.CREATE_MISSING_REFUND,
        _forget_refund,
    ),
    Way(
        Kind.AMOUNT_MISMATCH_REFUND,
        _REFUNDED,
        "Stripe gave some cents less back",
        Action.POST_CORRECTION,
        _misstate_refund,
    ),
    Way(Kind.STATUS_MISMATCH_REFUND, _REFUNDED, "the bank sent it back", Action.TAKE_PROVIDER_STATUS, _fail_refund),
    Way(Kind.CURRENCY_MISMATCH, _SALE, "taken in another currency", Action.ACCEPT, _change_currency),
    Way(Kind.DUPLICATE_CHARGE, _SALE, "charged a second time", Action.REFUND_CUSTOMER, _double_charge),
    Way(Kind.FOREIGN_INSTANCE, "", "another installation's charge", Action.ACCEPT, _charge_of_another),
    Way(Kind.UNKNOWN_TYPE, "", "a category that did not exist yet", Action.POST_CORRECTION, _row_of_no_known_category),
    Way(Kind.FEE_VARIANCE, _SALE, "Stripe took another fee", Action.POST_CORRECTION, _change_fee),
    Way(Kind.FEE_VARIANCE, _SALE, "we had posted another fee", Action.POST_CORRECTION, _book_another_fee),
    Way(Kind.DISPUTE_UNEXPECTED, _SALE, "disputed, and nobody told us", Action.TAKE_PROVIDER_STATUS, _dispute),
    Way(
        Kind.DISPUTE_UNEXPECTED,
        "disputed",
        "our dispute is gone: an old backup",
        Action.TAKE_PROVIDER_STATUS,
        _forget_dispute,
    ),
    Way(Kind.DISPUTE_MISSING, "disputed", "won, and nobody told us", Action.TAKE_PROVIDER_STATUS, _win_dispute),
    Way(
        Kind.PAYOUT_DIFFERENCE,
        "payout under way",
        "a payout of which nobody told us",
        Action.TAKE_PROVIDER_STATUS,
        _forget_payout,
    ),
    Way(
        Kind.PAYOUT_DIFFERENCE,
        "paid out",
        "it came back, and nobody told us",
        Action.TAKE_PROVIDER_STATUS,
        _send_payout_back,
    ),
)
RESIDUALS = Way(
    Kind.STATEMENT_RESIDUAL,
    "sale in {currency}",
    "an entry that nothing stands behind",
    Action.WRITE_OFF,
    _post_what_never_was,
)


def wanted(count: int) -> Mapping[str, int]:
    """Shape → how many transactions of it are needed for so many of each way."""
    shapes: dict[str, int] = {}
    for way in WAYS:
        if way.shape:
            shapes[way.shape] = shapes.get(way.shape, 0) + count
    return shapes
