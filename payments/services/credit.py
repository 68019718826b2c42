"""Store credit: what a merchant owes a customer in goods. Held for an attempt, spent by its sale, released if it ends.

Everything here runs in the caller's transaction, under the lock of the payment or refund that it is for. What cannot be
overspent is the customer's account: its balance falls in the same statement that asks whether it suffices.
"""

from django.db.models import F, Sum

from payments import ledger
from payments.errors import AccountOverdrawn, PaymentNotRefundable, StoreCreditInsufficient
from payments.models import Account, Dispute, Payment, Posting, Refund

_ENDS_A_HOLD = ("refund_credit", "refund_credit_release", "refund_credit_release_owed")


def hold_credit(payment: Payment, *, by: str) -> None:
    """Set the attempt's part aside, so that no other can spend it. Raises StoreCreditInsufficient."""
    try:
        _post(payment, "credit_hold", _free(payment), _held(payment), payment.credit_minor, by=by)
    except AccountOverdrawn as error:
        available_minor = balance_minor(_free(payment))
        raise StoreCreditInsufficient(
            f"The customer has {available_minor} {payment.currency} (minor units) of store credit, not "
            f"{payment.credit_minor}.",
            param="store_credit",
            members={"available": available_minor},
        ) from error


def release_credit(payment: Payment, *, by: str) -> None:
    """The attempt failed or was cancelled, or another one paid: what it had set aside is the customer's again."""
    if payment.credit_minor:
        _post(payment, "credit_release", _held(payment), _free(payment), payment.credit_minor, by=by)


def spend_credit(payment: Payment, *, by: str) -> None:
    """The sale is posted: what was set aside, less what refunds took of it before, becomes the merchant's."""
    left_minor = payment.credit_captured_minor - taken_before(payment, _held(payment))
    if left_minor:
        _post(payment, "credit_spent", _held(payment), _merchant(payment), left_minor, by=by)


def unspend_credit(payment: Payment, *, by: str) -> None:
    """Take `spend_credit` back, if it happened."""
    spent = Posting.objects.filter(entry__key=f"credit_spent:{payment.number}", account_id=_held(payment).id).first()
    if spent:
        _post(payment, "credit_unspent", _merchant(payment), _held(payment), spent.amount_minor, by=by)


def is_sold(payment: Payment) -> bool:
    """Whether the sale is in the books: then a refund is the merchant's to pay, before it the customer's own accounts'."""
    number = payment.number
    posted = ledger.was_posted(f"sale:{number}") or ledger.was_posted(f"credit_spent:{number}")
    return posted and not (
        ledger.was_posted(f"sale_reversed:{number}") or ledger.was_posted(f"credit_unspent:{number}")
    )


# --- Refunds ----------------------------------------------------------------------------------------


def became_credit_minor(payment: Payment) -> int:
    """What of the capture was, or is to be, given back as store credit: no card can get it any more."""
    return max(0, payment.credit_refunds_committed_minor - payment.credit_captured_minor)


def refundable_in_all_minor(payment: Payment) -> int:
    """What can still be given back, by the provider and as store credit together."""
    collected_minor = payment.captured_minor - payment.disputed_lost_minor + payment.credit_captured_minor
    return collected_minor - payment.refunds_committed_minor - payment.credit_refunds_committed_minor


def split_refund(payment: Payment, amount_minor: int, *, as_credit: bool) -> tuple[int, int]:
    """(by the provider, as store credit): the card first, then the credit that the customer paid with.

    `as_credit`: all of it as store credit. Raises PaymentNotRefundable while neither the sale is in the books nor the
    amount owed.
    """
    if as_credit:
        if not is_sold(payment) and amount_minor > payment.refunds_owed_minor:
            raise PaymentNotRefundable("The sale is not posted yet: it becomes store credit a moment later, or never.")
        return 0, amount_minor
    captured_minor = payment.captured_minor - payment.disputed_lost_minor - payment.refunds_committed_minor
    card_minor = min(amount_minor, captured_minor - became_credit_minor(payment))
    return card_minor, amount_minor - card_minor


def hold_credit_refund(refund: Refund, payment: Payment, *, owed_minor: int, by: str) -> None:
    """Take the refund's credit part, `owed_minor` of it from what is owed, the rest from whoever holds it: the merchant
    once the sale is posted, the attempt before.
    """
    in_flight = _in_flight(payment)
    rest_minor = refund.credit_minor - owed_minor
    _post_refund(refund, payment, "refund_credit_hold", (_source(payment), in_flight), rest_minor, by=by)
    _post_refund(refund, payment, "refund_credit_hold_owed", (_owed(payment), in_flight), owed_minor, by=by)


def take_credit_back(refund: Refund, payment: Payment, *, by: str) -> None:
    """The refund failed. Its credit part goes back to where it was taken from, unless the customer has it, or has a right
    to it: nobody decided on an automatic refund, so nothing of it waits for a person.
    """
    if not _is_held(refund):
        return
    if refund.automatic:
        pay_credit_refund(refund, payment, by=by)
        return
    owed_key = f"refund_credit_hold_owed:{refund.number}"
    owed_minor = ledger.amounts_of([owed_key])[owed_key]
    in_flight, rest_minor = _in_flight(payment), refund.credit_minor - owed_minor
    _post_refund(refund, payment, "refund_credit_release", (in_flight, _source(payment)), rest_minor, by=by)
    _post_refund(refund, payment, "refund_credit_release_owed", (in_flight, _owed(payment)), owed_minor, by=by)
    _add(
        payment,
        credit_refunds_committed_minor=-refund.credit_minor,
        refunds_owed_minor=owed_minor,
    )


def pay_credit_refund(refund: Refund, payment: Payment, *, by: str) -> None:
    """The refund succeeded: its credit part is the customer's to spend. It stays so whatever the bank does later."""
    if _is_held(refund):
        _post_refund(
            refund, payment, "refund_credit", (_in_flight(payment), _free(payment)), refund.credit_minor, by=by
        )
        _add(payment, credit_refunded_minor=refund.credit_minor)


def was_given(refund: Refund) -> bool:
    """Whether the customer has the refund's credit part."""
    return ledger.was_posted(f"refund_credit:{refund.number}")


def _is_held(refund: Refund) -> bool:
    """Neither given nor released. What was released is not given later, should the card's part turn out to be made."""
    if not refund.credit_minor:
        return False
    ended = [f"{kind}:{refund.number}" for kind in _ENDS_A_HOLD]
    return not any(ledger.amounts_of(ended).values())


def _add(payment: Payment, **changes: int) -> None:
    Payment.objects.filter(pk=payment.pk).update(**{name: F(name) + change for name, change in changes.items()})
    for name, change in changes.items():
        setattr(payment, name, getattr(payment, name) + change)


def taken_before(payment: Payment, account: ledger.AccountKey) -> int:
    """What refunds and disputes of this payment took from a customer's account, less what they gave back to it."""
    takers = [row.number for kind in (Refund, Dispute) for row in kind.objects.filter(payment=payment)]
    postings = Posting.objects.filter(account_id=account.id, entry__subject__in=takers)
    return postings.aggregate(total=Sum("amount_minor"))["total"] or 0


# --- Underneath -------------------------------------------------------------------------------------


def balance_minor(account: ledger.AccountKey) -> int:
    """What a customer's account holds; 0 for one that was never used."""
    return Account.objects.filter(pk=account.id).values_list("balance_minor", flat=True).first() or 0


def _free(payment: Payment) -> ledger.AccountKey:
    return ledger.store_credit(payment.merchant_id, payment.customer, payment.currency)


def _held(payment: Payment) -> ledger.AccountKey:
    return ledger.store_credit_held(payment.merchant_id, payment.customer, payment.currency)


def _merchant(payment: Payment) -> ledger.AccountKey:
    return ledger.merchant_payable(payment.merchant_id, payment.currency)


def _in_flight(payment: Payment) -> ledger.AccountKey:
    return ledger.refunds_in_flight(payment.currency)


def _owed(payment: Payment) -> ledger.AccountKey:
    return ledger.refunds_owed(payment.merchant_id, payment.customer, payment.currency)


def _source(payment: Payment) -> ledger.AccountKey:
    return _merchant(payment) if is_sold(payment) else _held(payment)


def _post(
    payment: Payment, kind: str, debit: ledger.AccountKey, credit: ledger.AccountKey, amount_minor: int, *, by: str
) -> None:
    ledger.post(
        key=f"{kind}:{payment.number}",
        kind=kind,
        debit=debit,
        credit=credit,
        amount_minor=amount_minor,
        by=by,
        merchant_id=payment.merchant_id,
        subject=payment.number,
        reference=payment.reference,
    )


def _post_refund(
    refund: Refund,
    payment: Payment,
    kind: str,
    way: tuple[ledger.AccountKey, ledger.AccountKey],
    amount_minor: int,
    *,
    by: str,
) -> None:
    if not amount_minor:
        return
    ledger.post(
        key=f"{kind}:{refund.number}",
        kind=kind,
        debit=way[0],
        credit=way[1],
        amount_minor=amount_minor,
        by=by,
        merchant_id=refund.merchant_id,
        subject=refund.number,
        reference=payment.reference,
        memo=refund.reason if kind.startswith("refund_credit_hold") else "",
    )
