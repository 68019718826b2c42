"""Loyalty points: earned when a sale is posted, taken back as its payment is refunded, or lost to a dispute.

Points are one more currency of the ledger. What a customer holds of a payment is always: earned × (1 − given back /
collected), rounded in the customer's favour; given back is what was refunded and what lost disputes took. A full refund
leaves none, and an appeal that turns a lost dispute brings its points back. In the caller's transaction, under the
payment's lock.
"""

from collections import defaultdict

from catalog import selectors as catalog
from durability import services as durability
from foundation.database import database_now
from foundation.money import BASIS_POINTS, exponent
from payments import ledger
from payments.events import PointsChanged
from payments.models import Payment, Posting

_EARNED, _ADJUSTED, _REVERSED = "points_earned", "points_adjusted", "points_reversed"


def points_for(amount_minor: int, currency: str, rate_bp: int) -> int:
    """Whole points for an amount, never more than the rate: `points_for(1999, "usd", 10_000)` → 19."""
    unit_minor: int = 10 ** exponent(currency)
    return amount_minor * rate_bp // (BASIS_POINTS * unit_minor)


def earn_points(payment: Payment, *, by: str) -> None:
    """The sale is posted: points for all that was collected, less what refunds that were faster take back."""
    rate_bp = catalog.get_merchant(payment.merchant_id).loyalty_rate_bp
    earned = points_for(payment.captured_minor + payment.credit_captured_minor, payment.currency, rate_bp)
    if earned:
        _post(payment, _EARNED, payment.number, earned, by=by)
        adjust_points(payment, cause=payment.number, by=by)


def adjust_points(payment: Payment, *, cause: str, by: str) -> None:
    """Bring a payment's points to what its refunds and lost disputes leave of them, once per cause (the refund's number
    and how it ended; the dispute's, and which reading of it).
    """
    held = _held(payment)
    earned = held[_EARNED]
    if not earned or _REVERSED in held:
        return
    payment.refresh_from_db(fields=["refunded_minor", "credit_refunded_minor", "disputed_lost_minor"])
    collected = payment.captured_minor + payment.credit_captured_minor
    gone = payment.refunded_minor + payment.credit_refunded_minor + payment.disputed_lost_minor
    change = earned - earned * min(gone, collected) // collected - sum(held.values())
    if change:
        _post(payment, _ADJUSTED, cause, change, by=by)


def reverse_points(payment: Payment, *, by: str) -> None:
    """The sale is taken back: none of its points stays."""
    held = sum(_held(payment).values())
    if held:
        _post(payment, _REVERSED, payment.number, -held, by=by)


def _held(payment: Payment) -> defaultdict[str, int]:
    """Kind of entry → what it left of this payment on the customer's account."""
    account = ledger.points(payment.merchant_id, payment.customer)
    held: defaultdict[str, int] = defaultdict(int)
    postings = Posting.objects.filter(entry__subject=payment.number, account_id=account.id)
    for kind, amount in postings.values_list("entry__kind", "amount_minor"):
        held[kind] -= amount
    return held


def _post(payment: Payment, kind: str, cause: str, amount: int, *, by: str) -> None:
    posted = ledger.post(
        key=f"{kind}:{cause}",
        kind=kind,
        debit=ledger.points_issued(payment.merchant_id),
        credit=ledger.points(payment.merchant_id, payment.customer),
        amount_minor=amount,
        by=by,
        merchant_id=payment.merchant_id,
        subject=payment.number,
        reference=payment.reference,
    )
    if posted:
        durability.publish(
            PointsChanged(
                payment=payment.number,
                merchant_id=str(payment.merchant_id),
                reference=payment.reference,
                customer=payment.customer,
                currency=payment.currency,
                points=amount,
                at=database_now().isoformat(),
            )
        )
