"""What each action does to the books, before both sides are compared again. Outside of transactions: most ask the provider.

Each can be repeated after a crash: what it made then is found, not made again. Raises DomainErrors; answers with a
sentence for the desk.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime

from django.db import transaction

from foundation.database import database_now
from foundation.errors import InvalidInput, MissingInput
from foundation.money import format_minor
from orders import selectors as orders
from orders import services as order_services
from payments import selectors as payments_reads
from payments import services as payments
from payments.errors import (
    ContradictsProvider,
    ProviderBusy,
    ProviderRefused,
    ProviderUnavailable,
    ProviderUnsure,
    RefundExceedsCaptured,
)
from reconciliation import books, matching
from reconciliation.bank import legs
from reconciliation.locks import one_writer
from reconciliation.models import Discrepancy, DiscrepancyAction
from reconciliation.services import bank
from reconciliation.services.importing import import_sources
from reconciliation.services.links import link_row
from reconciliation.types import Action, ActionInput, Kind, Proved

Repair = Callable[[Discrepancy, DiscrepancyAction, ActionInput], str]


def requery(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    rows = import_sources([item.source])
    return f"Stripe's books hold {rows} {'row' if rows == 1 else 'rows'} of {item.source}."


def create_missing_payment(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    if _is_an_attempt_of_ours(item, action):
        return "It is an attempt of ours whose answer never reached us: it has what Stripe says now."
    number = _order_number(item, given)
    payment = order_services.attach_payment(order_number=number, charge=item.source, by=action.by, why=action.note)
    _made(action, payment)
    return f"Payment {payment} was created from {item.source} and attached to order {number}."


def create_missing_refund(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    refund = payments.adopt_refund(refund=item.source, by=action.by, why=action.note)
    _made(action, refund)
    return f"Refund {refund} was created from {item.source}."


def replay_event(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    names = [item.source, item.charge, item.intent]
    told, new = payments.replay_events_about(names, around=item.theirs_at)
    import_sources([item.source])
    if not told:
        return "Stripe has no event about it, and none has reached us."
    fetched = f", {new} of them fetched just now" if new else ""
    return f"{told} {'event' if told == 1 else 'events'} about it {'was' if told == 1 else 'were'} worked on{fetched}."


def link(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    number = given.number.strip()
    if item.evidence.get("transactions") == [
        item.source
    ]:  # a statement's row that names no object: Stripe is not asked
        link_row(item=item, number=number, by=action.by, why=action.note)
    elif item.object_kind == "refund":
        payments.link_refund(refund=number, theirs=item.source, by=action.by, why=action.note)
    else:
        payments.link_charge(payment=number, charge=item.source, by=action.by, why=action.note)
        import_sources([item.source])
        _post_fees(item, action, matching.fees_of_nothing(number))  # of what it named until now
    _made(action, number)
    return f"{item.source} is {number}."


PartsOf = Callable[[int], Sequence[tuple[str, int]]]  # of a difference: on which account how much of it is posted


def post_correction(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    if item.object_kind == legs.OBJECT:
        return _correct_bank(item, action)
    if item.kind == Kind.FEE_VARIANCE:
        return _correct_fees(item, action)
    if item.refund_id and item.ours_status != "succeeded":
        refund = payments.adopt_refund(refund=item.source, by=action.by, why=action.note, instead_of=item.refund_number)
        _made(action, refund)
        return f"Refund {refund} stands for what Stripe paid; {item.refund_number} ended."
    return _correct(item, action, lambda difference: [(given.account or "write_offs", difference)])


def split(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    return _correct(item, action, lambda difference: given.parts)


def write_off(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    if item.object_kind == "statement":
        return _write_off_residual(item, action)
    return _correct(item, action, lambda difference: [("write_offs", difference)])


def _correct(item: Discrepancy, action: DiscrepancyAction, parts_of: PartsOf) -> str:
    if item.object_kind in ("adjustment", "other"):
        return _take_over(item, action, parts_of)
    if item.ours_status not in ("", "succeeded"):
        raise InvalidInput("Our books hold nothing of this that could be corrected: give the money back, or create it.")
    import_sources([item.source])  # what is corrected is the difference of this minute
    if item.kind == Kind.MISSING_IN_STRIPE:  # what was never taken cost nothing
        _post_fees(item, action, matching.fees_of_nothing(item.payment_number))
    difference_minor = _difference_now(item)
    if difference_minor is None:
        return "There was nothing left to correct."
    payments.post_correction(
        number=item.refund_number or item.payment_number,
        amount_minor=difference_minor,
        cause=f"{item.number}:{item.cycle}",
        by=action.by,
        why=action.note,
        against=parts_of(difference_minor),
    )
    return f"A correcting entry of {format_minor(difference_minor, item.currency)} was posted."


def _take_over(item: Discrepancy, action: DiscrepancyAction, parts_of: PartsOf) -> str:
    """A row that stands for itself: what our books do not hold of it yet."""
    difference_minor = _difference_now(item)
    if not difference_minor:
        return "There was nothing left to take over."
    payments.post_booking(
        transaction_id=item.source,
        currency=item.theirs_currency,
        amount_minor=difference_minor,
        by=action.by,
        why=action.note,
        against=parts_of(difference_minor),
    )
    return f"{format_minor(difference_minor, item.theirs_currency)} of {item.source} was taken over into our books."


def _correct_bank(item: Discrepancy, action: DiscrepancyAction) -> str:
    """What the bank got more, or less, of a payout than our books have there."""
    difference_minor = _difference_now(item)
    if not difference_minor:
        return "There was nothing left to correct."
    payments.correct_bank(
        payout=item.source,
        amount_minor=difference_minor,
        cause=f"{item.number}:{item.cycle}",
        by=action.by,
        why=action.note,
    )
    return f"{format_minor(difference_minor, item.ours_currency)} was posted to the bank's account, against write-offs."


def link_bank_line(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    counterpart = given.counterpart.strip()
    if not counterpart:
        raise MissingInput("Say what it belongs to: the number of a bank line, or of a payout.", param="counterpart")
    of_line = item.kind == Kind.BANK_LINE_UNEXPLAINED
    line, payout = (item.source, counterpart) if of_line else (counterpart, item.source)
    bank.link(line=line, payout=payout, by=action.by, why=action.note)
    _made(action, counterpart[:64])
    return f"{line} is payout {payout}."


def _write_off_residual(item: Discrepancy, action: DiscrepancyAction) -> str:
    """What our clearing account is off by at the end of the day that showed it last. Dated on that day: its statement, and
    those of the days that follow, close with it."""
    if item.evidence.get("proof") != Proved.CLEARING:
        raise InvalidInput(
            "Stripe's own rows do not add up to what it says that it holds: no entry of ours mends that."
        )
    day = date.fromisoformat(item.evidence["day"])
    proofs = [
        proof
        for statement in books.statements(day)
        if statement.currency == item.currency
        for proof in statement.proofs
    ]
    clearing = next(proof for proof in proofs if proof.name == Proved.CLEARING)
    if clearing.residual_minor is None:
        raise InvalidInput(f"The statement of {day} cannot be proved at the moment: {clearing.note}.")
    if not clearing.residual_minor:
        return "There was nothing left to write off."
    payments.write_off_balance(
        currency=item.currency,
        amount_minor=clearing.residual_minor,
        day=day,
        cause=f"{item.number}:{item.cycle}",
        by=action.by,
        why=action.note,
    )
    return f"{format_minor(clearing.residual_minor, item.currency)} of {day} were written off."


def _correct_fees(item: Discrepancy, action: DiscrepancyAction) -> str:
    """Each of its rows has a fee of its own, and so a correction."""
    import_sources([item.source])
    off = matching.fee_differences(item.object_kind, item.source)
    _post_fees(item, action, off)
    if not off:
        return "There was nothing left to correct."
    total: Counter[str] = Counter()
    for _, currency, difference_minor in off:
        total[currency] += difference_minor
    told = " and ".join(format_minor(minor, currency) for currency, minor in sorted(total.items()))
    return f"Fees of {told} more than before were posted."


def _post_fees(item: Discrepancy, action: DiscrepancyAction, off: Sequence[tuple[str, str, int]]) -> None:
    for transaction_id, currency, difference_minor in off:
        payments.correct_fee(
            transaction_id=transaction_id,
            currency=currency,
            amount_minor=difference_minor,
            cause=f"{item.number}:{item.cycle}",
            by=action.by,
            why=action.note,
        )


def take_provider_status(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    if item.object_kind in ("dispute", "payout", legs.OBJECT):
        _read_again(item, action)
        number = item.source
    else:
        number = item.refund_number or item.payment_number
        payments.take_provider_status(number, by=action.by)
    import_sources([item.source])
    return f"{number} has what Stripe says of it."


def _read_again(item: Discrepancy, action: DiscrepancyAction) -> None:
    """A dispute or payout: read at the provider and applied, as if its news had come."""
    sync = payments.sync_dispute if item.object_kind == "dispute" else payments.sync_payout
    try:
        known = sync(item.source, by=action.by)
    except (ProviderUnsure, ProviderBusy) as error:
        raise ProviderUnavailable from error
    except ProviderRefused as refusal:
        raise ContradictsProvider(f"Stripe knows nothing of {item.source}: {refusal.message}") from refusal
    if not known:
        raise InvalidInput(f"{item.source} is about a charge that our books do not hold: settle that one first.")


def refund_customer(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    if item.kind == Kind.REFUND_FAILED_LATE:
        return _refund_again(item, action)
    unknown_to_us = item.kind in (Kind.MISSING_IN_OUR_SYSTEM, Kind.DUPLICATE_CHARGE) or _is_contradicted(item)
    payment = _record_apart(item, action, given) if unknown_to_us else item.payment_number
    amount_minor = given.amount_minor
    if not unknown_to_us and amount_minor is None:
        amount_minor = item.difference_minor or 0  # what was taken too much
        if amount_minor <= 0:
            raise InvalidInput("Stripe did not take too much: say how much to give back.", param="amount_minor")
    with transaction.atomic():
        done = DiscrepancyAction.objects.select_for_update().get(pk=action.pk)
        if done.made:
            return f"Refund {done.made} was requested."
        try:
            with transaction.atomic():
                refund = payments.request_refund(
                    payment=payment, amount_minor=amount_minor, reason=action.note, requested_by=action.by, policy=None
                )
        except RefundExceedsCaptured:
            if given.amount_minor is not None or not unknown_to_us:
                raise
            return f"All of payment {payment} is refunded, or on its way, already."
        _made(action, refund)
    return f"Refund {refund} was requested."


def _refund_again(item: Discrepancy, action: DiscrepancyAction) -> str:
    """What came back is asked for anew, once: the desk of refunds may have been faster."""
    with transaction.atomic():
        done = DiscrepancyAction.objects.select_for_update().get(pk=action.pk)
        if not done.made:
            _made(action, payments.refund_again(number=item.refund_number, by=action.by, why=action.note))
            done.refresh_from_db()
    return f"Refund {done.made} was requested in its place."


def mark_fraud(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    payments.mark_fraud(item.payment_number, by=action.by, why=action.note)
    return f"Payment {item.payment_number} is marked as fraud."


def _record_apart(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    """Our payment for a charge that shall only be given back: under this item's number, so that no order hears of it."""
    order = orders.get_order(_order_number(item, given))
    adopted = payments.adopt_charge(
        charge=item.source,
        merchant_id=order.merchant_id,
        reference=item.number,
        customer=order.customer.id,
        amount_minor=item.theirs_amount_minor or 0,
        currency=item.theirs_currency,
        by=action.by,
        why=action.note,
        instead_of=item.payment_number if _is_contradicted(item) else "",
    )
    return adopted.number


def _is_contradicted(item: Discrepancy) -> bool:
    """Stripe took what we never asked for, under an attempt of ours that has not succeeded."""
    if item.kind not in (Kind.AMOUNT_MISMATCH, Kind.CURRENCY_MISMATCH) or not item.payment_id:
        return False
    payment = payments_reads.get_payment(item.payment_number)
    return payment.contradicted and payment.status != "succeeded"


def _is_an_attempt_of_ours(item: Discrepancy, action: DiscrepancyAction) -> bool:
    """Whether our number in the charge's metadata leads to an attempt whose opening we never learnt of."""
    if "payment_in_metadata" not in item.evidence:
        return False
    try:
        return payments.sync_payment(item.intent, by=action.by)
    except (ProviderUnsure, ProviderBusy) as error:
        raise ProviderUnavailable from error
    except ProviderRefused as refusal:
        raise ContradictsProvider(f"Stripe knows nothing of {item.intent}: {refusal.message}") from refusal


def _order_number(item: Discrepancy, given: ActionInput) -> str:
    number = given.order_number.strip() or item.order_reference
    if not number:
        raise MissingInput("Say which order it belongs to: the charge does not.", param="order_number")
    return number


def _difference_now(item: Discrepancy) -> int | None:
    with one_writer(wait_s=5):
        compare(item, now=database_now(), by="reconciliation")
        return matching.difference_of(item.fingerprint)


def compare(item: Discrepancy, *, now: datetime, by: str) -> None:
    """Look at both sides of an item again, and leave what differs to `findings`. Under `one_writer`."""
    if item.object_kind == legs.OBJECT:
        bank.look(now=now, by=by)
    else:
        matching.match_objects([(item.object_kind, item.source)], now=now)


def _made(action: DiscrepancyAction, number: str) -> None:
    DiscrepancyAction.objects.filter(pk=action.pk).update(made=number)


def asks_nobody(item: Discrepancy, action: str) -> bool:
    """Whether PostgreSQL alone is asked: the bank's leg is compared with payouts that we know."""
    return item.object_kind == legs.OBJECT and action != Action.TAKE_PROVIDER_STATUS


REPAIRS: Mapping[str, Repair] = {
    Action.REQUERY: requery,
    Action.REPLAY_EVENT: replay_event,
    Action.LINK: link,
    Action.SPLIT: split,
    Action.WRITE_OFF: write_off,
    Action.CREATE_MISSING_PAYMENT: create_missing_payment,
    Action.CREATE_MISSING_REFUND: create_missing_refund,
    Action.POST_CORRECTION: post_correction,
    Action.TAKE_PROVIDER_STATUS: take_provider_status,
    Action.REFUND_CUSTOMER: refund_customer,
    Action.MARK_FRAUD: mark_fraud,
    Action.LINK_BANK_LINE: link_bank_line,
}
