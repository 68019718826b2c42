"""Store credit that staff give: with a name, a reason, and a second person above the merchant's limit."""

from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from catalog import selectors as catalog
from foundation.errors import IllegalTransition, InvalidInput, NotFound
from foundation.ids import uuid7
from foundation.money import MAX_AMOUNT_MINOR, require_money
from payments import ledger
from payments.errors import SecondPersonNeeded
from payments.models import CreditGrant
from payments.states import GrantStatus


def grant_store_credit(
    *,
    merchant_id: UUID,
    customer: str,
    currency: str,
    amount_minor: int,
    reason: str,
    by: str,
    grant_id: UUID | None = None,
) -> bool:
    """Give a customer store credit at the merchant's expense, in the caller's transaction. `grant_id` names the press of
    the button: the same one gives once. True if it is given, False if it waits for a second person.

    Above the merchant's limit for refunds, and in a currency that the limit is not in, it waits. Raises InvalidInput,
    NotFound.
    """
    require_money(currency)
    if not reason.strip():
        raise InvalidInput("Say why: the reason is kept with the store credit.", param="reason")
    if not 0 < amount_minor <= MAX_AMOUNT_MINOR:
        raise InvalidInput("Store credit is an amount above 0.", param="amount")
    if not customer:
        raise InvalidInput("Say to which customer.", param="customer")
    merchant = catalog.get_merchant(merchant_id)
    limit_minor = merchant.refund_approval_above_minor
    waits = limit_minor is not None and (currency != merchant.currency or amount_minor > limit_minor)
    grant = CreditGrant(
        id=grant_id or uuid7(),
        merchant_id=merchant_id,
        customer=customer,
        currency=currency,
        amount_minor=amount_minor,
        status=GrantStatus.AWAITING_APPROVAL if waits else GrantStatus.GRANTED,
        needs_approval=waits,
        reason=reason.strip(),
        requested_by=by,
    )
    try:
        with transaction.atomic():
            grant.save(force_insert=True)
    except IntegrityError:  # the same press of the button again
        return bool(CreditGrant.objects.get(pk=grant.pk).status == GrantStatus.GRANTED)
    if not waits:
        _post(grant, by=by)
    return not waits


def approve_grant(*, grant_id: UUID, by: str, why: str) -> None:
    """A second person gives what waits. Raises NotFound, IllegalTransition, SecondPersonNeeded."""
    _post(_decide(grant_id, GrantStatus.GRANTED, by=by, why=why), by=by)


def refuse_grant(*, grant_id: UUID, by: str, why: str) -> None:
    """A second person says no. Raises NotFound, IllegalTransition, SecondPersonNeeded."""
    _decide(grant_id, GrantStatus.REFUSED, by=by, why=why)


def _decide(grant_id: UUID, to: str, *, by: str, why: str) -> CreditGrant:
    grant = CreditGrant.objects.select_for_update().filter(pk=grant_id).first()
    if grant is None:
        raise NotFound
    if grant.status != GrantStatus.AWAITING_APPROVAL:
        raise IllegalTransition(f"It is {grant.status}: nothing is left to decide.")
    if grant.requested_by == by:
        raise SecondPersonNeeded
    grant.status, grant.decided_by, grant.decided_why = to, by, why
    CreditGrant.objects.filter(pk=grant.pk).update(status=to, decided_by=by, decided_why=why, decided_at=Now())
    return grant


def _post(grant: CreditGrant, *, by: str) -> None:
    ledger.post(
        key=f"credit_grant:{grant.pk}",
        kind="credit_grant",
        debit=ledger.merchant_payable(grant.merchant_id, grant.currency),
        credit=ledger.store_credit(grant.merchant_id, grant.customer, grant.currency),
        amount_minor=grant.amount_minor,
        by=by,
        merchant_id=grant.merchant_id,
        subject=str(grant.pk),
        memo=grant.reason,
    )
