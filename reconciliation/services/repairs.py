"""What each action does to the books, before both sides are compared again. Outside of transactions: most ask the provider.

Each can be repeated after a crash: what it made then is found, not made again. What is posted, or given back, is told and held
to what was agreed in the transaction that posts it, while nobody else matches (`_held`). Raises DomainErrors; answers with a
sentence for the desk.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from foundation.database import database_now
from foundation.errors import InvalidInput, MissingInput
from foundation.ids import derived_id, public_id
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
from payments.types import PaymentView
from reconciliation import books, matching, offers
from reconciliation.bank import legs
from reconciliation.errors import ActionTakenOver, FiguresChanged
from reconciliation.locks import one_run, one_writer
from reconciliation.models import Discrepancy, DiscrepancyAction, ProviderTransaction
from reconciliation.services import bank
from reconciliation.services.importing import can_be_asked_about, import_sources
from reconciliation.services.links import link_row
from reconciliation.states import Outcome
from reconciliation.types import BROKEN_PROMISE, Action, ActionInput, Kind, Proved

WAIT_FOR_RUN_S = 5  # a person is waiting; a run stores its results in seconds
Repair = Callable[[Discrepancy, DiscrepancyAction, ActionInput], str]


def requery(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    if not can_be_asked_about(item.source):
        return (
            f"Stripe cannot be asked about {item.source}: it lists its rows by charge, refund, dispute or payout. What we hold was "
            "compared."
        )
    rows = import_sources([item.source])
    return f"Stripe's books hold {rows} {'row' if rows == 1 else 'rows'} of {item.source}."


def create_missing_payment(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    if _is_an_attempt_of_ours(item, action):
        return "It is an attempt of ours whose answer never reached us: it has what Stripe says now."
    number = _order_number(item, given)
    payment = order_services.attach_payment(order_number=number, charge=item.source, by=action.by, why=action.note)
    _must_be_of(payments_reads.get_payment(payment), number)
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
    with _held(action) as agreed:
        if item.kind == Kind.MISSING_IN_STRIPE:  # what was never taken cost nothing
            _post_fees(item, action, matching.fees_of_nothing(item.payment_number))
        difference_minor = _difference_now(item)
        if difference_minor is None:
            return "There was nothing left to correct."
        agreed(difference_minor)
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
    with _held(action) as agreed:
        difference_minor = _difference_now(item)
        if not difference_minor:
            return "There was nothing left to take over."
        agreed(difference_minor)
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
    with _held(action) as agreed:
        difference_minor = _difference_now(item)
        if not difference_minor:
            return "There was nothing left to correct."
        agreed(difference_minor)
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
    # Of what is posted while it is added up, all parts are seen or none.
    with one_run(wait_s=WAIT_FOR_RUN_S):
        agreed = _hold(action)
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
        agreed(clearing.residual_minor)
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
    total: Counter[str] = Counter()
    with _held(action) as agreed:
        off = matching.fee_differences(item.object_kind, item.source)
        if not off:
            return "There was nothing left to correct."
        for _, currency, difference_minor in off:
            total[currency] += difference_minor
        for difference_minor in total.values():
            agreed(difference_minor)
        _post_fees(item, action, off)
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
    if item.kind in (Kind.MISSING_IN_OUR_SYSTEM, Kind.DUPLICATE_CHARGE) or offers.is_set_apart(item):
        return _refund_apart(item, action, given)
    return _refund_overcharge(item, action, given)


def rows_given_back(charge: str) -> QuerySet[ProviderTransaction]:
    """The provider's bookings of what went back of a charge."""
    return ProviderTransaction.objects.filter(charge=charge, reporting_category="refund", withdrawn_at__isnull=True)


def _refund_apart(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    """All of a charge that is no sale of ours goes back; what went back at Stripe's dashboard is recorded first."""
    payment = _record_apart(item, action, given)
    for refund in sorted(set(rows_given_back(item.source).values_list("source", flat=True))):
        payments.adopt_refund(refund=refund, by=action.by, why=action.note)
    payment = payments_reads.get_payment(payment.number)
    with _held(action) as agreed:
        known = _refund_of(item, action)
        left_minor = payment.captured_minor - payment.refunded_minor - payment.refunds_open_minor
        if not known and given.amount_minor is not None and given.amount_minor < left_minor:
            raise _less_than_all(left_minor, payment.currency)
        agreed(given_back_minor(item) + (given.amount_minor or left_minor))
        try:
            return known or _request(item, action, payment.number, given.amount_minor)
        except RefundExceedsCaptured:
            if given.amount_minor is not None:
                raise
    return f"All of payment {payment.number} is refunded, or on its way, already."


def _refund_overcharge(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    """What was taken too much for a sale of ours comes into our books as its customer's, and goes back: then both sides hold the
    same of the charge."""
    import_sources([item.source])
    with _held(action) as agreed:
        if known := _refund_of(item, action):
            return known
        difference_minor = _difference_now(item)
        # Its refund came to nothing: what was taken too much is in our books, and the customer still waits.
        owed_minor = difference_minor if BROKEN_PROMISE not in item.evidence else item.difference_minor
        if owed_minor is None and not matching.is_found(item.fingerprint):
            return "There was nothing left to give back."
        if owed_minor is None or owed_minor <= 0:
            # Where the figures have changed since the item was seen, its own say no reason.
            why_not = offers.why_not_given_back(item) or "Stripe did not take too much: there is nothing to give back."
            raise InvalidInput(why_not, param="amount_minor")
        if given.amount_minor is not None and given.amount_minor < owed_minor:
            raise _less_than_all(owed_minor, item.currency)
        amount_minor = given.amount_minor or owed_minor
        agreed(given_back_minor(item) + amount_minor)
        if difference_minor:
            payments.record_overcharge(
                number=item.payment_number,
                amount_minor=difference_minor,
                cause=f"{item.number}:{item.cycle}",
                by=action.by,
                why=action.note,
            )
        return _request(item, action, item.payment_number, amount_minor)


def _request(item: Discrepancy, action: DiscrepancyAction, payment: str, amount_minor: int | None) -> str:
    with transaction.atomic():
        refund = payments.request_refund(
            payment=payment,
            amount_minor=amount_minor,
            reason=action.note,
            requested_by=action.by,
            policy=None,
            refund_id=_refund_id(item),
        )
    _made(action, refund)
    return f"Refund {refund} was requested."


def _refund_id(item: Discrepancy) -> UUID:
    """An item is given back once each time that it is opened, whoever presses and how often: PostgreSQL holds it to that, since
    a refund's id is unique."""
    return derived_id(item.pk, f"refund {item.cycle}")


def _refund_of(item: Discrepancy, action: DiscrepancyAction) -> str:
    """What was asked for before, by this press of the button or by another one, told again; empty if nothing was."""
    number = action.made or public_id("ref", _refund_id(item))
    if number not in payments_reads.refund_statuses([number]):
        return ""
    _made(action, number)
    return f"Refund {number} was requested."


def given_back_minor(item: Discrepancy) -> int:
    """What went back, or is to go back, for an item since it was found; but for what this opening of it has asked for."""
    asked = item.actions.filter(action=Action.REFUND_CUSTOMER, made__startswith="ref_").values_list("made", flat=True)
    return payments_reads.given_back_minor(list({*asked} - {public_id("ref", _refund_id(item))}))


def _less_than_all(all_minor: int, currency: str) -> InvalidInput:
    told = format_minor(all_minor, currency)
    return InvalidInput(f"All of it goes back, {told}: what is kept would be nobody's.", param="amount_minor")


def _refund_again(item: Discrepancy, action: DiscrepancyAction) -> str:
    """What came back is asked for anew, once: the desk of refunds may have been faster."""
    with _held(action):
        number = action.made or payments_reads.made_again(item.refund_number)
        if not number:
            number = payments.refund_again(number=item.refund_number, by=action.by, why=action.note)
        _made(action, number)
    return f"Refund {number} was requested in its place."


def mark_fraud(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> str:
    payments.mark_fraud(item.payment_number, by=action.by, why=action.note)
    return f"Payment {item.payment_number} is marked as fraud."


def _record_apart(item: Discrepancy, action: DiscrepancyAction, given: ActionInput) -> PaymentView:
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
        instead_of=item.payment_number if offers.is_set_apart(item) else "",
    )
    _must_be_of(adopted, item.number)
    return adopted


def _must_be_of(payment: PaymentView, reference: str) -> None:
    """A charge that somebody else was faster with is what that one made of it."""
    if payment.reference != reference:
        raise ContradictsProvider(
            f"The charge is payment {payment.number} of {payment.reference} by now: ask Stripe again, and look at that one."
        )


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


@contextmanager
def _held(action: DiscrepancyAction) -> Iterator[Callable[[int], None]]:
    """A transaction in which nobody else matches, or goes on with this action; yields what holds an amount to what was agreed.

    Raises BooksBusy, ActionTakenOver; the yielded function FiguresChanged.
    """
    with one_writer(wait_s=WAIT_FOR_RUN_S):
        yield _hold(action)


def _hold(action: DiscrepancyAction) -> Callable[[int], None]:
    record = DiscrepancyAction.objects.select_for_update().get(pk=action.pk)
    if record.outcome != Outcome.STARTED:
        raise ActionTakenOver
    action.made = record.made

    def agreed(minor: int) -> None:
        if record.amount_minor is not None and abs(minor) > record.amount_minor:
            raise FiguresChanged

    return agreed


def _difference_now(item: Discrepancy) -> int | None:
    """Under `_held`."""
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
