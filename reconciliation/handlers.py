"""What reconciliation does about news: what cannot wait for the night is a discrepancy at once."""

from durability.registry import handles
from durability.types import Since
from payments.events import DisputeContradicted, OverRefunded, PaymentContradicted, RefundContradicted, RefundFailed
from reconciliation import services


@handles(RefundFailed, name="reconciliation.note_late_failure", since=Since.OLDEST_KEPT)
def note_late_failure(event: RefundFailed) -> None:
    services.note_late_failure(refund=event.refund, late=event.late)


@handles(PaymentContradicted, name="reconciliation.note_contradiction", since=Since.OLDEST_KEPT)
def note_contradiction(event: PaymentContradicted) -> None:
    services.note_contradiction(event)


@handles(RefundContradicted, name="reconciliation.note_refund_contradiction", since=Since.OLDEST_KEPT)
def note_refund_contradiction(event: RefundContradicted) -> None:
    services.note_refund_contradiction(event)


@handles(DisputeContradicted, name="reconciliation.note_dispute_contradiction", since=Since.OLDEST_KEPT)
def note_dispute_contradiction(event: DisputeContradicted) -> None:
    services.note_dispute_contradiction(event)


@handles(OverRefunded, name="reconciliation.note_over_refunded", since=Since.OLDEST_KEPT)
def note_over_refunded(event: OverRefunded) -> None:
    services.note_over_refunded(refund=event.refund, excess_minor=event.excess_minor)
