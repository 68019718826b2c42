"""What the provider was asked about a payment or refund without a clear answer; and who must look when nothing helps.

A doubt is written down where it arises, in its own short transaction, one row an answer: an hour without a provider is
one line that says how often, not a thousand. Clear answers leave no row: a sale costs nothing here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from foundation.database import in_seconds
from payments.errors import ProviderBusy, ProviderRefused, ProviderUnsure
from payments.models import Payment, Refund

# What is asked, as an operator reads it.
SEND: Final = "sent it under its own number"
LOOK_UP: Final = "looked it up by its number"
READ: Final = "read it"
CANCEL: Final = "cancelled it"
NOTHING_LISTED: Final = "the provider lists nothing under this number"

_LONGEST = 300

_NOTE = """
INSERT INTO payments_providertry (subject, asked, answer, times, first_at, last_at)
VALUES (%s, %s, %s, 1, clock_timestamp(), clock_timestamp())
ON CONFLICT (subject, asked, answer) DO UPDATE
SET times = payments_providertry.times + 1, last_at = clock_timestamp()
"""


def note_try(subject: str, asked: str, answer: str) -> None:
    """Write down that asking led nowhere."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_NOTE, [subject, asked[:100], answer[:_LONGEST]])


class LostTrack(Exception):
    """Sent longer ago than the provider keeps our key, and not to be found there: a person must look."""


def lost_track(subject: str) -> LostTrack:
    """Write down the look-up that found nothing; the error to raise."""
    note_try(subject, LOOK_UP, NOTHING_LISTED)
    hours = settings.PROVIDER_KEY_SAFE_FOR_S // 3600
    return LostTrack(f"sent more than {hours} hours ago, and the provider lists nothing under this number")


@contextmanager
def asking(subject: str, what: str) -> Iterator[None]:
    """Around a call to the provider, outside of transactions: a doubt or a refusal is written down, and goes on."""
    try:
        yield
    except (ProviderUnsure, ProviderBusy, ProviderRefused) as error:
        note_try(subject, what, str(error))
        raise


def need_person(row: Payment | Refund, why: str) -> None:
    """Put a payment or refund onto the operators' list. Once: the first reason and time stay until it is settled."""
    marked = type(row).objects.filter(pk=row.pk, person_needed_at__isnull=True)
    if marked.update(person_needed_at=Now(), person_needed_why=why):
        row.person_needed_why = why


def need_nobody(row: Payment | Refund) -> None:
    """Take it off the list: the provider has spoken, or a person has decided."""
    type(row).objects.filter(pk=row.pk, person_needed_at__isnull=False).update(
        person_needed_at=None, person_needed_why=""
    )


def read_again_later(row: Payment | Refund) -> dict[str, Any]:
    """Columns of one that ends now: it is read again all the same, as news of what has ended can be lost, too."""
    if row.first_sent_at is None:
        return {"next_check_at": None}  # the provider never heard of it
    return {"next_check_at": in_seconds(settings.SETTLED_RECHECK_FIRST_S), "checks": 0}
