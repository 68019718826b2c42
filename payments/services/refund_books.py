"""What a refund does to the books and to its payment's sums: held when it is asked for, paid, taken back, owed.

All in the caller's transaction, under the payment's lock. An amount is taken first from what the payment owes to its
customer since an earlier refund came back, then from whoever holds the money: the merchant once the sale is posted,
the customer's account before. It goes back the way it came, unless it had succeeded, or nobody may keep it: then it is
a debt to the customer, on an account that says so until it is paid.
"""

from dataclasses import dataclass

from django.db.models import Q, Sum

from payments import ledger
from payments.models import Dispute, Payment, Posting, Refund, RefundHistory
from payments.services import credit
from payments.states import REFUND_OPEN, RefundStatus

Part = tuple[str, ledger.AccountKey, int]  # what its key is called by, the account, minor units


@dataclass(frozen=True, slots=True)
class Lines:
    """The two lines of an entry."""

    debit: ledger.AccountKey
    credit: ledger.AccountKey
    amount_minor: int


def recount(payment: Payment) -> None:
    """Derive a payment's sums from its refunds, as they stand now."""
    held = Q(status__in=(*REFUND_OPEN, RefundStatus.SUCCEEDED))
    sums = Refund.objects.filter(payment_id=payment.pk).aggregate(
        paid=Sum("amount_minor", filter=Q(status=RefundStatus.SUCCEEDED)), held=Sum("amount_minor", filter=held)
    )
    paid_minor, held_minor = sums["paid"] or 0, sums["held"] or 0
    most_minor = payment.captured_minor - credit.became_credit_minor(payment)
    set_sums(
        payment,
        refunded_minor=min(paid_minor, most_minor),
        refunds_committed_minor=min(held_minor, most_minor),
        refunds_excess_minor=max(0, held_minor - most_minor),
    )


def set_sums(payment: Payment, **sums: int) -> None:
    Payment.objects.filter(pk=payment.pk).update(**sums)
    for name, value in sums.items():
        setattr(payment, name, value)


def hold_refund(refund: Refund, payment: Payment, *, owed_minor: int, excess_minor: int = 0, by: str) -> None:
    """Take a refund's amount, `owed_minor` of it from the debt to the customer.

    `excess_minor`: what was given back beyond the capture, behind our back: no account of this sale holds it, so the
    merchant's does.
    """
    parts: list[Part] = [
        ("", refund_source(payment), refund.amount_minor - owed_minor - excess_minor),
        ("_owed", _owed(payment), owed_minor),
        ("_excess", _merchant(payment), excess_minor),
    ]
    if not refund.amount_minor:
        return
    in_flight = ledger.refunds_in_flight(refund.currency)
    for part, source, amount_minor in parts:
        lines = Lines(debit=source, credit=in_flight, amount_minor=amount_minor)
        _post(refund, payment, f"hold{part}", kind="refund_hold", lines=lines, by=by)


def post_refund_paid(refund: Refund, payment: Payment, *, by: str) -> None:
    """It was paid: out of what the provider holds for us, or by our bank."""
    if not refund.amount_minor:
        return  # as store credit alone
    payer = ledger.bank if refund.paid_outside else ledger.clearing
    in_flight = ledger.refunds_in_flight(refund.currency)
    ledger.post(
        key=f"refund:{refund.number}",
        kind="refund",
        debit=in_flight,
        credit=payer(refund.currency),
        amount_minor=refund.amount_minor,
        by=by,
        merchant_id=refund.merchant_id,
        subject=refund.number,
        reference=payment.reference,
    )


def take_back(refund: Refund, payment: Payment, *, late: bool, by: str) -> None:
    """The refund failed, `late` after it had succeeded. Its payment's sums are recounted, and what is owed grows."""
    if not late:
        credit.take_credit_back(refund, payment, by=by)
    owed_key = f"refund_hold_owed:{refund.number}{_round(refund)}"
    excess_before_minor = payment.refunds_excess_minor
    recount(payment)
    debt_minor = refund.amount_minor if late or refund.automatic else ledger.amounts_of([owed_key])[owed_key]
    debt_minor = max(0, min(debt_minor, free_minor(payment)))  # what the customer got another way is no debt
    # What the merchant's account covered beyond the capture comes back to it first, whichever refund it was.
    covered_minor = max(0, excess_before_minor - payment.refunds_excess_minor)
    excess_minor = min(covered_minor, refund.amount_minor - debt_minor)
    parts: list[Part] = [
        ("", refund_source(payment), refund.amount_minor - debt_minor - excess_minor),
        ("_owed", _owed(payment), debt_minor),
        ("_excess", _merchant(payment), excess_minor),
    ]
    name, kind = ("failed_late", "refund_failed_late") if late else ("release", "refund_release")
    source = ledger.clearing(refund.currency) if late else ledger.refunds_in_flight(refund.currency)
    for part, account, amount_minor in parts:
        lines = Lines(debit=source, credit=account, amount_minor=amount_minor)
        _post(refund, payment, f"{name}{part}", kind=kind, lines=lines, by=by)
    set_sums(payment, refunds_owed_minor=payment.refunds_owed_minor + debt_minor)


def settle_debt_by_loss(payment: Payment, dispute: Dispute, *, by: str) -> None:
    """A lost dispute gave the customer what was owed: the merchant, who bears the loss, has no debt beside it. What an
    appeal takes back from the customer again is owed again.
    """
    free = free_minor(payment)
    settled_minor = min(payment.refunds_owed_minor, -free) if free < 0 else -min(free, _settled_by_losses(payment))
    if not settled_minor:
        return
    ledger.post(
        key=f"refund_owed_lost:{dispute.number}:{dispute.readings}",
        kind="refund_owed_lost",
        debit=_owed(payment),
        credit=refund_source(payment),
        amount_minor=settled_minor,
        by=by,
        merchant_id=payment.merchant_id,
        subject=dispute.number,
        reference=payment.reference,
    )
    set_sums(payment, refunds_owed_minor=payment.refunds_owed_minor - settled_minor)


def _settled_by_losses(payment: Payment) -> int:
    """How much of the debt to the customer this payment's lost disputes have settled so far."""
    disputes = [dispute.number for dispute in Dispute.objects.filter(payment=payment)]
    settled = Posting.objects.filter(
        account_id=_owed(payment).id, entry__subject__in=disputes, entry__kind="refund_owed_lost"
    )
    return settled.aggregate(total=Sum("amount_minor"))["total"] or 0


def free_minor(payment: Payment) -> int:
    """What of a payment is neither given back, nor on its way, nor lost to a dispute, nor owed: may be negative."""
    committed_minor = payment.refunds_committed_minor + payment.refunds_owed_minor
    committed_minor += credit.became_credit_minor(payment)
    return payment.captured_minor - payment.disputed_lost_minor - committed_minor


def refund_source(payment: Payment) -> ledger.AccountKey:
    """Whose account pays a refund of this payment."""
    if credit.is_sold(payment):
        return _merchant(payment)
    return ledger.customer_account(payment.merchant_id, payment.customer, payment.currency)


def _merchant(payment: Payment) -> ledger.AccountKey:
    return ledger.merchant_payable(payment.merchant_id, payment.currency)


def _owed(payment: Payment) -> ledger.AccountKey:
    return ledger.refunds_owed(payment.merchant_id, payment.customer, payment.currency)


def _post(refund: Refund, payment: Payment, cause: str, *, kind: str, lines: Lines, by: str) -> None:
    if not lines.amount_minor:
        return
    ledger.post(
        key=f"refund_{cause}:{refund.number}{_round(refund)}",
        kind=kind,
        debit=lines.debit,
        credit=lines.credit,
        amount_minor=lines.amount_minor,
        by=by,
        merchant_id=refund.merchant_id,
        subject=refund.number,
        reference=payment.reference,
        memo=refund.reason if kind == "refund_hold" else "",
    )


def _round(refund: Refund) -> str:
    """Tells causes apart where a refund that we had given up turned out to be made: it is held a second time."""
    if refund.status == RefundStatus.REQUESTED:
        return ""
    times = RefundHistory.objects.filter(subject=refund, from_state=RefundStatus.FAILED).count()
    return f":{times + 1}" if times else ""
