"""What the commands of the books are asked with: moments, days, accounts; and how they say that they could not run."""

from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from uuid import UUID

from django.core.management.base import CommandError
from django.db import DatabaseError

from foundation.errors import DomainError, NotFound
from payments.ledger import AccountKey
from payments.models import Account
from payments.tables import day_end

COULD_NOT_RUN = 2


@contextmanager
def could_not_run() -> Iterator[None]:
    """Refusals and a database that does not answer become exit code 2 and one line."""
    try:
        yield
    except (DomainError, DatabaseError) as error:
        detail = error.detail if isinstance(error, DomainError) else f"the database does not answer: {error}"
        raise CommandError(f"Could not run: {detail}", returncode=COULD_NOT_RUN) from error


def day(text: str) -> date:
    """`2026-11-19`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a day: write it as 2026-11-19") from None


def moment(text: str) -> datetime:
    """`2026-11-19T08:00Z`, or a day: its end."""
    if len(text) == 10:
        return day_end(day(text))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a moment: write it as 2026-11-19T08:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def find_account(text: str) -> Account:
    """By its id, or by what names it: kind:currency, kind:currency:merchant, customer:currency:merchant:customer.

    Raises NotFound.
    """
    try:
        key = UUID(text)
    except ValueError:
        kind, _, rest = text.partition(":")
        currency, _, rest = rest.partition(":")
        merchant, _, customer = rest.partition(":")
        try:
            key = AccountKey(kind, currency, UUID(merchant) if merchant else None, customer).id
        except ValueError:
            raise NotFound(f"{merchant!r} is not the id of a merchant.") from None
    account = Account.objects.filter(pk=key).first()
    if account is None:
        raise NotFound(f"There is no account {text}: write it as provider_clearing:usd, or take its id from the desk.")
    return account
