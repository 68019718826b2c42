"""What a merchant tolerates in a currency: set and ended by people, never changed in silence."""

from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from catalog import selectors as catalog
from foundation.errors import InvalidInput
from foundation.money import format_minor, require_money
from reconciliation.errors import NoteMissing, ToleranceEnded, ToleranceSet
from reconciliation.models import Tolerance
from reconciliation.types import MOST_TOLERATED_MINOR


def set_tolerance(*, merchant_id: UUID, currency: str, amount_minor: int, by: str, note: str) -> UUID:
    """From now on a payment or refund of this merchant matches though it differs by so much. Returns the tolerance's id.

    Raises NotFound (no such merchant), UnknownCurrency, InvalidInput, NoteMissing, ToleranceSet.
    """
    if not note.strip():
        raise NoteMissing(param="note")
    require_money(currency)
    if not 1 <= amount_minor <= MOST_TOLERATED_MINOR:
        most = format_minor(MOST_TOLERATED_MINOR, currency)
        raise InvalidInput(f"A tolerance is more than nothing, and at most {most}.", param="amount")
    catalog.get_merchant(merchant_id)
    try:
        with transaction.atomic():
            made = Tolerance.objects.create(
                merchant_id=merchant_id, currency=currency, amount_minor=amount_minor, by=by, note=note.strip()
            )
    except IntegrityError as error:
        raise ToleranceSet from error
    return made.pk


def end_tolerance(*, tolerance_id: UUID, by: str, note: str) -> None:
    """What it let pass is a difference again, as soon as a run looks at it. Raises NoteMissing, ToleranceEnded."""
    if not note.strip():
        raise NoteMissing(param="note")
    open_ones = Tolerance.objects.filter(pk=tolerance_id, ended_at__isnull=True)
    if not open_ones.update(ended_at=Now(), ended_by=by, ended_why=note.strip()):
        raise ToleranceEnded
