"""The tables of states: one line an edge, with who takes it. PostgreSQL refuses every other (`transition_guard`)."""

from typing import Final


class PaymentStatus:
    PENDING: Final = "pending"  # not opened yet, or the customer has still to confirm
    PROCESSING: Final = "processing"
    REQUIRES_ACTION: Final = "requires_action"
    SUCCEEDED: Final = "succeeded"
    FAILED: Final = "failed"
    CANCELLED: Final = "cancelled"
    UNKNOWN: Final = "unknown"  # sent, and nobody can say what became of it; shown to customers as processing


class RefundStatus:
    REQUESTED: Final = "requested"
    AWAITING_APPROVAL: Final = "awaiting_approval"
    PROCESSING: Final = "processing"
    PENDING: Final = "pending"
    REQUIRES_ACTION: Final = "requires_action"
    SUCCEEDED: Final = "succeeded"  # not the end: a bank can send it back for 30 days
    FAILED: Final = "failed"
    CANCELLED: Final = "cancelled"


_P, _R = PaymentStatus, RefundStatus

PAYMENT_EDGES = frozenset(
    {
        (_P.PENDING, _P.PROCESSING),  # provider
        (_P.PENDING, _P.REQUIRES_ACTION),  # provider: 3-D Secure
        (_P.PENDING, _P.SUCCEEDED),  # provider
        (_P.PENDING, _P.FAILED),  # a confirmation of ours was declined, or the provider refused the attempt
        (_P.PENDING, _P.CANCELLED),  # expiry, cancellation, a newer attempt
        (_P.PENDING, _P.UNKNOWN),  # the call that opens it timed out
        (_P.UNKNOWN, _P.PENDING),  # the same call was repeated, or the attempt was looked up
        (_P.UNKNOWN, _P.PROCESSING),
        (_P.UNKNOWN, _P.REQUIRES_ACTION),
        (_P.UNKNOWN, _P.SUCCEEDED),
        (_P.UNKNOWN, _P.FAILED),
        (_P.UNKNOWN, _P.CANCELLED),
        (_P.REQUIRES_ACTION, _P.PENDING),  # the customer failed 3-D Secure and may try another card
        (_P.REQUIRES_ACTION, _P.PROCESSING),
        (_P.REQUIRES_ACTION, _P.SUCCEEDED),
        (_P.REQUIRES_ACTION, _P.FAILED),
        (_P.REQUIRES_ACTION, _P.CANCELLED),
        (_P.PROCESSING, _P.PENDING),  # declined in the browser: still confirmable
        (_P.PROCESSING, _P.REQUIRES_ACTION),
        (_P.PROCESSING, _P.SUCCEEDED),
        (_P.PROCESSING, _P.FAILED),
        (_P.PROCESSING, _P.CANCELLED),
        (_P.FAILED, _P.SUCCEEDED),  # on the provider's word alone: its money is real
        (_P.CANCELLED, _P.SUCCEEDED),  # on the provider's word alone
    }
)
PAYMENT_LIVE = (_P.PENDING, _P.PROCESSING, _P.REQUIRES_ACTION, _P.UNKNOWN)

REFUND_EDGES = frozenset(
    {
        (_R.REQUESTED, _R.AWAITING_APPROVAL),  # above the merchant's limit
        (_R.REQUESTED, _R.PROCESSING),  # the refund saga begins
        (_R.AWAITING_APPROVAL, _R.PROCESSING),  # a second person
        (_R.AWAITING_APPROVAL, _R.CANCELLED),  # a second person
        (_R.PROCESSING, _R.PENDING),  # provider
        (_R.PROCESSING, _R.REQUIRES_ACTION),  # provider
        (_R.PROCESSING, _R.SUCCEEDED),  # provider
        (_R.PROCESSING, _R.FAILED),  # provider
        (_R.PROCESSING, _R.CANCELLED),  # provider
        (_R.PENDING, _R.REQUIRES_ACTION),  # provider
        (_R.PENDING, _R.SUCCEEDED),  # provider
        (_R.PENDING, _R.FAILED),  # provider
        (_R.PENDING, _R.CANCELLED),  # provider
        (_R.REQUIRES_ACTION, _R.PENDING),  # provider
        (_R.REQUIRES_ACTION, _R.SUCCEEDED),  # provider
        (_R.REQUIRES_ACTION, _R.FAILED),  # provider
        (_R.REQUIRES_ACTION, _R.CANCELLED),  # provider
        (_R.SUCCEEDED, _R.FAILED),  # provider: the bank sent it back
        # On the provider's word alone, and only where we gave up without an answer: it had made the refund after all.
        (_R.FAILED, _R.PENDING),
        (_R.FAILED, _R.REQUIRES_ACTION),
        (_R.FAILED, _R.SUCCEEDED),
    }
)
REFUND_OPEN = (_R.REQUESTED, _R.AWAITING_APPROVAL, _R.PROCESSING, _R.PENDING, _R.REQUIRES_ACTION)
REFUND_UNAPPROVED = (_R.REQUESTED, _R.AWAITING_APPROVAL, _R.CANCELLED)  # all that one person alone can make of it
REFUND_ENDED_UNPAID = (_R.FAILED, _R.CANCELLED)


def refund_status(*, captured_minor: int, refunded_minor: int, open_minor: int) -> str:
    """How far the refunds of a payment, or of all that settle an order, have come: none, partial, refunding, refunded."""
    if open_minor > 0:
        return "refunding"
    if not refunded_minor:
        return "none"
    return "refunded" if refunded_minor >= captured_minor else "partial"
