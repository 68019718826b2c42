"""What tests of money look up: balances of the ledger, and what the provider's dashboard does."""

from collections import defaultdict
from typing import Any

import requests
from django.db.models import Sum

from payments.models import Payment, Posting, Refund
from payments.states import REFUND_OPEN


def balance(kind: str) -> int:
    """Σ of a kind of account: debit positive."""
    return Posting.objects.filter(account__kind=kind).aggregate(total=Sum("amount_minor"))["total"] or 0


def refund_in_the_dashboard(sandbox: Any, intent: str, amount: int | None = None) -> dict[str, Any]:
    """Somebody refunds at the provider, without us: no metadata of ours, its webhook is on its way."""
    answer = requests.post(
        f"{sandbox.url}/v1/refunds",
        data={"payment_intent": intent, **({} if amount is None else {"amount": amount})},
        auth=("sk_test_sandbox", ""),
        timeout=10,
    )
    answer.raise_for_status()
    made: dict[str, Any] = answer.json()
    return made


def balances() -> dict[str, int]:
    """Kind of account → Σ of its postings, debit positive; 0 for every other kind."""
    rows = Posting.objects.values_list("account__kind").annotate(total=Sum("amount_minor"))
    return defaultdict(int, rows)


def assert_books_agree(payment: Payment) -> None:
    """The sums on the only payment are those of its refunds, and the ledger's accounts hold exactly what they say."""
    payment.refresh_from_db()
    refunds = list(Refund.objects.filter(payment=payment))
    paid = sum(one.amount_minor for one in refunds if one.status == "succeeded")
    held = paid + sum(one.amount_minor for one in refunds if one.status in REFUND_OPEN)
    outside = sum(one.amount_minor for one in refunds if one.status == "succeeded" and one.paid_outside)
    captured = payment.captured_minor
    assert payment.refunded_minor == min(paid, captured)
    assert payment.refunds_committed_minor == min(held, captured)
    assert payment.refunds_excess_minor == max(0, held - captured)
    books = balances()
    assert books["refunds_in_flight"] == paid - held
    assert books["refunds_owed"] == -payment.refunds_owed_minor
    assert books["bank"] == -outside
    assert books["provider_clearing"] + books["fees"] == captured - paid + outside
    assert sum(books.values()) == 0
