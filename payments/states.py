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


class DisputeStatus:
    # The customer's bank only asks: nothing is withdrawn, and a refund settles it.
    INQUIRY_NEEDS_RESPONSE: Final = "inquiry_needs_response"
    INQUIRY_UNDER_REVIEW: Final = "inquiry_under_review"
    INQUIRY_CLOSED: Final = "inquiry_closed"
    NEEDS_RESPONSE: Final = "needs_response"
    UNDER_REVIEW: Final = "under_review"
    WON: Final = "won"  # not the end: an appeal can open it again, as it can a lost one
    LOST: Final = "lost"
    PREVENTED: Final = "prevented"  # the provider settled it before it became one


class PayoutStatus:
    PENDING: Final = "pending"
    IN_TRANSIT: Final = "in_transit"
    PAID: Final = "paid"  # not the end: the bank can send it back
    FAILED: Final = "failed"
    CANCELLED: Final = "cancelled"


_P, _R, _D, _O = PaymentStatus, RefundStatus, DisputeStatus, PayoutStatus

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
PAYMENT_CONFIRMABLE = (_P.PENDING, _P.REQUIRES_ACTION)  # the buyer's browser may still confirm it
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
REFUND_STARTED = (_R.REQUESTED, _R.AWAITING_APPROVAL, _R.PROCESSING)  # by us; from here on the provider tells

DISPUTE_NEEDS_RESPONSE = (_D.INQUIRY_NEEDS_RESPONSE, _D.NEEDS_RESPONSE)
DISPUTE_OPEN = (*DISPUTE_NEEDS_RESPONSE, _D.INQUIRY_UNDER_REVIEW, _D.UNDER_REVIEW)
DISPUTE_CLOSED = (_D.INQUIRY_CLOSED, _D.WON, _D.LOST, _D.PREVENTED)
# All of them on the provider's word: we answer a dispute, its bank decides it. An inquiry can become a dispute, never the
# other way round.
DISPUTE_EDGES = frozenset(
    {
        (_D.INQUIRY_NEEDS_RESPONSE, _D.INQUIRY_UNDER_REVIEW),
        (_D.INQUIRY_UNDER_REVIEW, _D.INQUIRY_NEEDS_RESPONSE),
        *((before, _D.INQUIRY_CLOSED) for before in (_D.INQUIRY_NEEDS_RESPONSE, _D.INQUIRY_UNDER_REVIEW)),
        *(
            (before, after)
            for before in (_D.INQUIRY_NEEDS_RESPONSE, _D.INQUIRY_UNDER_REVIEW, _D.INQUIRY_CLOSED)
            for after in (_D.NEEDS_RESPONSE, _D.UNDER_REVIEW, _D.WON, _D.LOST, _D.PREVENTED)
        ),
        (_D.NEEDS_RESPONSE, _D.UNDER_REVIEW),
        (_D.UNDER_REVIEW, _D.NEEDS_RESPONSE),
        *((before, after) for before in (_D.NEEDS_RESPONSE, _D.UNDER_REVIEW) for after in (_D.WON, _D.LOST)),
        *((before, _D.PREVENTED) for before in (_D.NEEDS_RESPONSE, _D.UNDER_REVIEW)),
        *((before, after) for before in (_D.WON, _D.LOST) for after in (_D.NEEDS_RESPONSE, _D.UNDER_REVIEW)),  # appeal
        (_D.LOST, _D.WON),
        (_D.WON, _D.LOST),
    }
)

PAYOUT_EDGES = frozenset(
    {
        (_O.PENDING, _O.IN_TRANSIT),  # provider
        (_O.PENDING, _O.PAID),  # provider
        (_O.PENDING, _O.FAILED),  # provider
        (_O.PENDING, _O.CANCELLED),  # provider
        (_O.IN_TRANSIT, _O.PAID),  # provider
        (_O.IN_TRANSIT, _O.FAILED),  # provider
        (_O.IN_TRANSIT, _O.CANCELLED),  # provider
        (_O.PAID, _O.FAILED),  # provider: the bank sent it back some days later
    }
)
PAYOUT_UNDER_WAY = (_O.PENDING, _O.IN_TRANSIT)


def refund_status(*, captured_minor: int, refunded_minor: int, open_minor: int) -> str:
    """How far the refunds of a payment, or of all that settle an order, have come: none, partial, refunding, refunded."""
    if open_minor > 0:
        return "refunding"
    if not refunded_minor:
        return "none"
    return "refunded" if refunded_minor >= captured_minor else "partial"


class GrantStatus:
    AWAITING_APPROVAL: Final = "awaiting_approval"
    GRANTED: Final = "granted"
    REFUSED: Final = "refused"


_G = GrantStatus

# Store credit that staff give. What is not above the merchant's limit is granted as it is written.
GRANT_EDGES = frozenset(
    {
        (_G.AWAITING_APPROVAL, _G.GRANTED),  # a second person
        (_G.AWAITING_APPROVAL, _G.REFUSED),  # a second person
    }
)
