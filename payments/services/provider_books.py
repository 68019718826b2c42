"""What our books take over from the provider's statement alone: fees and adjustments that no payment of ours told of, and
what the provider held for us when we began.

The statement is the only voucher that there is for these. Each is posted once, keyed by its booking (`txn_…`).
"""

from collections.abc import Sequence
from datetime import date

from django.db import transaction

from foundation.errors import InvalidInput, NotFound
from payments import ledger
from payments.models import JournalEntry, Payout
from payments.types import LearntFee

_BATCH = 1_000  # fees a transaction


def post_learnt_fees(fees: Sequence[LearntFee], *, by: str) -> int:
    """Post fees that the provider's books tell of, each once, whoever learns of it first. Returns how many were new.

    Belongs outside of transactions.
    """
    posted = 0
    for start in range(0, len(fees), _BATCH):
        with transaction.atomic(durable=True):
            posted += ledger.post_many(list(map(_movement, fees[start : start + _BATCH])), kind="fee", by=by)
    return posted


def _movement(fee: LearntFee) -> ledger.Movement:
    return ledger.Movement(
        key=f"fee:{fee.transaction}",
        debit=ledger.fees(fee.currency),
        credit=ledger.clearing(fee.currency),
        amount_minor=fee.fee_minor,
        merchant_id=fee.merchant_id,
        subject=fee.subject,
        reference=fee.reference,
    )


def correct_fee(
    *, transaction_id: str, amount_minor: int, cause: str, by: str, why: str, currency: str | None = None
) -> bool:
    """Post what the provider took more (or less, where negative) for a booking than the fee that we had posted.

    `currency` is that of the fee that we had posted, or another one: then that fee is taken back by a correction of its own.
    `cause` posts once in each. Raises InvalidInput where no fee was posted for it.
    """
    posted = JournalEntry.objects.filter(key=f"fee:{transaction_id}").first()
    if posted is None:
        raise InvalidInput(f"No fee of {transaction_id} was posted that could be corrected.")
    currency = currency or posted.currency
    in_another = "" if currency == posted.currency else f":{currency}"
    return ledger.post(
        key=f"fee_correction:{transaction_id}:{cause}{in_another}",
        kind="fee_correction",
        debit=ledger.fees(currency),
        credit=ledger.clearing(currency),
        amount_minor=amount_minor,
        by=by,
        merchant_id=posted.merchant_id,
        subject=posted.subject,
        reference=posted.reference,
        memo=why,
        corrects=posted.pk,
    )


def post_booking(
    *,
    transaction_id: str,
    currency: str,
    amount_minor: int,
    by: str,
    why: str,
    against: Sequence[tuple[str, int]] = (),
) -> bool:
    """Take over a booking of the provider's that nothing of ours stands for: an adjustment, a reserve, a top-up.

    Positive, the provider holds more than our books said. `against` as in `post_correction`. Raises InvalidInput.
    """
    return ledger.post_lines(
        key=f"booking:{transaction_id}",
        kind="provider_booking",
        lines=ledger.against_clearing(currency, amount_minor, against),
        by=by,
        memo=why,
    )


def write_off_balance(*, currency: str, amount_minor: int, day: date, cause: str, by: str, why: str) -> bool:
    """Give up looking for what our clearing account and the provider's statement of a day differ by, once a cause.

    Positive, the provider holds more than our books said.
    """
    return ledger.post(
        key=f"write_off:{day.isoformat()}:{cause}",
        kind="write_off",
        debit=ledger.clearing(currency),
        credit=ledger.write_offs(currency),
        amount_minor=amount_minor,
        by=by,
        memo=why,
    )


def post_opening_balance(*, currency: str, amount_minor: int, by: str, why: str) -> bool:
    """What the provider held for us when our books began, once a currency."""
    return ledger.post(
        key=f"opening:{currency}",
        kind="opening",
        debit=ledger.clearing(currency),
        credit=ledger.unallocated_receipts(currency),
        amount_minor=amount_minor,
        by=by,
        memo=why,
    )


def correct_bank(*, payout: str, amount_minor: int, cause: str, by: str, why: str) -> bool:
    """Post what our bank got more of a payout (`po_…`) than our books say; less, where negative. Against write-offs, whence
    a person can move it on.

    `cause` posts once. Raises NotFound, InvalidInput.
    """
    if not amount_minor:
        raise InvalidInput("A correction of nothing corrects nothing.")
    known = Payout.objects.filter(provider_reference=payout).first()
    if known is None:
        raise NotFound
    return ledger.post(
        key=f"bank_correction:{known.number}:{cause}",
        kind="bank_correction",
        debit=ledger.bank(known.currency),
        credit=ledger.write_offs(known.currency),
        amount_minor=amount_minor,
        by=by,
        subject=known.number,
        memo=why,
    )
