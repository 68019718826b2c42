"""Go-live: since when our books answer for the provider's account, and what it held for us then."""

from collections.abc import Mapping
from datetime import date

from django.db import IntegrityError, transaction

from foundation.database import database_now
from foundation.errors import InvalidInput
from foundation.money import require_money
from payments import services as payments
from reconciliation.errors import BooksStarted, NoteMissing
from reconciliation.models import BooksStart


def start_books(*, starts_on: date, balances: Mapping[str, int], by: str, note: str) -> None:
    """Write down the first day (UTC) that our books answer for, and the provider's balances (minor units by currency) at its
    first moment; our clearing account opens with them. Once: what begins twice has no beginning.

    Raises InvalidInput, UnknownCurrency, NoteMissing, BooksStarted.
    """
    if not note.strip():
        raise NoteMissing(param="note")
    for currency in balances:
        require_money(currency)
    if starts_on > database_now().date():
        raise InvalidInput(f"{starts_on} has not begun yet.", param="starts_on")
    try:
        with transaction.atomic(durable=True):
            BooksStart.objects.create(starts_on=starts_on, balances=dict(balances), by=by, note=note.strip())
            for currency, minor in sorted(balances.items()):
                if minor:
                    payments.post_opening_balance(currency=currency, amount_minor=minor, by=by, why=note.strip())
    except IntegrityError as error:
        raise BooksStarted from error
