"""A person says that a row of the provider's and a movement of ours are one: every later match honours it.

For rows that the provider's API does not know as objects (a statement file that names none): our books have no id of theirs
to take over.
"""

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from foundation.errors import InvalidInput, NotFound
from foundation.ids import parse_public_id
from payments import selectors as payments
from reconciliation.errors import NoteMissing, RowLinked
from reconciliation.models import Discrepancy, Link
from reconciliation.types import NUMBER_PREFIXES


def link_row(*, item: Discrepancy, number: str, by: str, why: str) -> str:
    """Link the row that a discrepancy is about with a payment or refund of ours. Answers with a sentence.

    Closes nothing: whoever calls compares again. Done twice, it is done once. Raises NoteMissing, NotFound, InvalidInput,
    RowLinked.
    """
    if not why.strip():
        raise NoteMissing(param="note")
    ours_source = _known_as(item.object_kind, number)
    if not ours_source or ours_source == item.source:
        raise InvalidInput(f"{number} has no movement at Stripe that this could be.", param="number")
    asked = {
        "object_kind": item.object_kind,
        "source": item.source,
        "ours_id": parse_public_id(NUMBER_PREFIXES[item.object_kind], number),
        "ours_source": ours_source,
    }
    try:
        with transaction.atomic():
            Link.objects.create(**asked, by=by, why=why.strip())
    except IntegrityError as error:
        if not Link.objects.filter(**asked, ended_at__isnull=True).exists():
            raise RowLinked from error
    return f"{item.source} is {number} from now on."


def _known_as(object_kind: str, number: str) -> str:
    """The id that our books know a payment or refund by. Raises NotFound."""
    if object_kind == "refund":
        return payments.get_refund(number).provider_reference
    return payments.get_payment(number).charge_reference


def end_link(*, object_kind: str, source: str, by: str, why: str) -> None:
    """What a person linked is not one movement after all: the next run sees two. Raises NoteMissing, NotFound."""
    if not why.strip():
        raise NoteMissing(param="note")
    ended = Link.objects.filter(object_kind=object_kind, source=source, ended_at__isnull=True).update(
        ended_at=Now(), ended_by=by, ended_why=why.strip()
    )
    if not ended:
        raise NotFound
