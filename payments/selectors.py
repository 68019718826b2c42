"""Reading payments, refunds and the ledger."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from uuid import UUID

from django.conf import settings
from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Now, TruncHour

from foundation.database import in_seconds
from foundation.errors import NotFound
from payments import books, gateway
from payments.errors import ProviderBusy, ProviderRefused, ProviderUnavailable, ProviderUnsure
from payments.models import (
    Account,
    BooksCheck,
    Dispute,
    InboxEvent,
    JournalEntry,
    LateChange,
    Payment,
    ProviderTry,
    Refund,
)
from payments.states import (
    DISPUTE_NEEDS_RESPONSE,
    DISPUTE_OPEN,
    PAYMENT_CONFIRMABLE,
    PAYMENT_LIVE,
    REFUND_ENDED_UNPAID,
    RefundStatus,
)
from payments.types import (
    BalanceReading,
    BalanceTransaction,
    Booked,
    BooksProof,
    DisputesWaiting,
    DisputeView,
    EntryView,
    Failure,
    Hour,
    KindBalance,
    PaymentView,
    RefundView,
    Total,
)

# The contract with whoever compares our books with the provider's: a view over payments and refunds, one row for each
# movement that the provider should know too. Columns: kind (charge, refund), id, merchant_id, payment_id, reference,
# source (ch_… or re_…), intent (pi_…), amount_minor (positive, with corrections), currency, status, booked (whether
# the provider's books should hold it), occurred_at (the provider's clock), booked_at (the same where money moved, else
# null; indexed, so a day is found without reading all), expected_minor (what we asked for). Kinds of their own are dispute
# (dp_…; amount_minor is what was withdrawn and not given back) and payout (po_…; booked once it has arrived).
MOVEMENTS_VIEW = "payments_movement"
# Its branches, with the same columns: join one of them where it matters that PostgreSQL can choose how.
CHARGES_VIEW = "payments_movement_charge"
REFUNDS_VIEW = "payments_movement_refund"
DISPUTES_VIEW = "payments_movement_dispute"
PAYOUT_MOVEMENTS_VIEW = "payments_movement_payout"
# The same contract for the ledger, each entry that moved what the provider holds for us, by its cause. Columns: id, key
# (`fee:txn_…`, `booking:txn_…`, `capture:pay_…`, …), kind, subject (a number, or empty), currency, clearing_minor (debit
# positive: with its corrections, and theirs, what it added to the clearing account of its currency). Look it up by key or by
# subject.
BOOKINGS_VIEW = "payments_booking"
# The same line by line, to be joined by its key: what an entry moved on the clearing account, and what its corrections did, and
# theirs. Columns: key, currency (of the line: a correction may be in another one than its entry), amount_minor (debit positive).
CLEARING_LINES_VIEW = "payments_clearing_line"
CLEARING_CORRECTIONS_VIEW = "payments_clearing_correction"
# Line by line, by the ledger's own clock: account_id, account_kind, currency, posted_at, amount_minor (debit positive), key,
# kind, subject, and object_id, the row of ours that the subject numbers (null for none). Read it for an account and a time,
# or for a subject.
POSTED_VIEW = "payments_posted"
# What listed payouts collected: source (po_…), collected_minor (Σ net of their bookings but their own), rows.
PAYOUTS_VIEW = "payments_payout_collected"
# Payouts as our bank should see them: id, source (po_…), status, amount_minor, currency, arrives_on, trace_id (of the banks, or
# empty), automatic, made_at (the provider's clock), booked_minor (Σ of what our ledger has on the bank's account for it).
PAYOUTS_AT_BANK_VIEW = "payments_payout_at_bank"
# Which payout paid a booking out, for those that the provider lists: transaction (txn_…), payout_id, payout (po_…), and the
# booking's reporting_category, source, amount_minor, fee_minor, net_minor, currency, booked_at. A payout's own is not there.
PAID_OUT_VIEW = "payments_paid_out"
# The provider's news that reached us, each by the provider's clock (told_at; indexed), with what they name: object_id, intent_id.
NEWS_VIEW = "payments_news"
NUMBER_FUNCTION = "payments_number"  # (prefix, id) → the number that people see
ID_FUNCTION = "payments_id_of"  # and back

_BALANCE_TRIES = 5
_NEWEST_BOOKINGS = 100  # one page of the provider's


def view(payment: Payment) -> PaymentView:
    failure = (
        Failure(payment.failure_code, payment.failure_decline_code, payment.failure_message)
        if payment.failure_code
        else None
    )
    return PaymentView(
        id=payment.id,
        number=payment.number,
        merchant_id=payment.merchant_id,
        reference=payment.reference,
        customer=payment.customer,
        status=payment.status,
        amount_minor=payment.amount_minor + payment.credit_minor,
        credit_minor=payment.credit_minor,
        currency=payment.currency,
        captured_minor=payment.captured_minor + payment.credit_captured_minor,
        refunded_minor=payment.refunded_minor + payment.credit_refunded_minor,
        refunds_open_minor=payment.refunds_committed_minor
        + payment.credit_refunds_committed_minor
        - payment.refunded_minor
        - payment.credit_refunded_minor,
        refunds_owed_minor=payment.refunds_owed_minor,
        settling=payment.settling,
        method=payment.method,
        provider_reference=payment.provider_reference or "",
        charge_reference=payment.charge_reference or "",
        failure=failure,
        sent=payment.first_sent_at is not None,
        contradicted=payment.contradicted_at is not None,
        created_at=payment.created_at,
        paid_at=payment.paid_at,
        disputed=payment.disputed_at is not None,
        disputed_lost_minor=payment.disputed_lost_minor,
    )


def refund_view(refund: Refund) -> RefundView:
    """`refund.payment` is read too: select it."""
    return RefundView(
        number=refund.number,
        payment=refund.payment.number,
        merchant_id=refund.merchant_id,
        status=refund.status,
        amount_minor=refund.amount_minor + refund.credit_minor,
        credit_minor=refund.credit_minor,
        currency=refund.currency,
        reason=refund.reason,
        requested_by=refund.requested_by,
        provider_reference=refund.provider_reference or "",
        created_at=refund.created_at,
        completed_at=refund.completed_at,
    )


def get_payment(number: str, *, merchant_id: UUID | None = None) -> PaymentView:
    """Raises NotFound, also for another merchant's."""
    return view(_payment(Payment.id_of(number), merchant_id))


def get_refund(number: str, *, merchant_id: UUID | None = None) -> RefundView:
    """Raises NotFound, also for another merchant's."""
    refunds = Refund.objects.select_related("payment").filter(pk=Refund.id_of(number))
    refund = refunds.filter(merchant_id=merchant_id).first() if merchant_id else refunds.first()
    if refund is None:
        raise NotFound
    return refund_view(refund)


def refund_statuses(numbers: Sequence[str]) -> dict[str, str]:
    """The state of each of some refunds, by number."""
    found = Refund.objects.filter(pk__in=[Refund.id_of(number) for number in numbers])
    return {refund.number: refund.status for refund in found.only("pk", "status")}


def made_again(number: str) -> str:
    """The refund that was asked for in place of one that failed, and has not failed itself; empty if there is none."""
    again = Refund.objects.filter(again_of=Refund.id_of(number)).exclude(status__in=REFUND_ENDED_UNPAID).first()
    return again.number if again else ""


def given_back_minor(numbers: Sequence[str]) -> int:
    """What some refunds give back, or have given back, in minor units: those that came to nothing left out."""
    found = Refund.objects.filter(pk__in=[Refund.id_of(number) for number in numbers])
    held = found.exclude(status__in=REFUND_ENDED_UNPAID)
    return held.aggregate(total=Sum(F("amount_minor") + F("credit_minor")))["total"] or 0


def find_by_provider_reference(reference: str) -> PaymentView | None:
    """The payment of a PaymentIntent or a charge."""
    payment = Payment.objects.filter(Q(provider_reference=reference) | Q(charge_reference=reference)).first()
    return view(payment) if payment else None


def payments_of(references: Sequence[str], *, merchant_id: UUID | None = None) -> dict[str, list[PaymentView]]:
    """reference → its payments, oldest first. One query for any number of references."""
    found: dict[str, list[PaymentView]] = {reference: [] for reference in references}
    rows = Payment.objects.filter(reference__in=references).order_by("id")
    for payment in rows.filter(merchant_id=merchant_id) if merchant_id else rows:
        found[payment.reference].append(view(payment))
    return found


def refunds_of(references: Sequence[str]) -> list[RefundView]:
    """All refunds for some references, oldest first."""
    rows = Refund.objects.select_related("payment").filter(payment__reference__in=references).order_by("id")
    return [refund_view(refund) for refund in rows]


def disputes_of(references: Sequence[str]) -> list[DisputeView]:
    """All disputes for some references, oldest first."""
    rows = Dispute.objects.select_related("payment").filter(payment__reference__in=references).order_by("id")
    return [
        DisputeView(
            id=row.id,
            number=row.number,
            payment=row.payment.number,
            status=row.status,
            amount_minor=row.amount_minor,
            withdrawn_minor=row.withdrawn_minor,
            lost_minor=row.lost_minor,
            currency=row.currency,
            reason=row.reason,
            provider_reference=row.provider_reference,
            evidence_due_at=row.evidence_due_at,
            opened_at=row.opened_at,
            closed_at=row.closed_at,
        )
        for row in rows
    ]


def disputed_references() -> list[str]:
    """What is paid for by payments with an open dispute. Read from the disputes, which are few."""
    blocking = Dispute.objects.filter(status__in=DISPUTE_OPEN, refundable=False)
    return list(blocking.values_list("payment__reference", flat=True).distinct())


def disputes_waiting() -> DisputesWaiting:
    """How many disputes wait for our answer."""
    due = Q(evidence_due_at__lt=Now())
    soon = ~due & Q(evidence_due_at__lt=in_seconds(settings.DISPUTE_DUE_SOON_S))
    counts = Dispute.objects.filter(status__in=DISPUTE_NEEDS_RESPONSE).aggregate(
        all=Count("pk"), due_soon=Count("pk", filter=soon), overdue=Count("pk", filter=due)
    )
    return DisputesWaiting(**counts)


def open_attempts(references: Sequence[str]) -> dict[str, PaymentView]:
    """reference → its live attempt, where there is one."""
    rows = Payment.objects.filter(reference__in=references, status__in=PAYMENT_LIVE)
    return {payment.reference: view(payment) for payment in rows}


def store_credit_of(*, merchant_id: UUID, customer: str, currency: str) -> int:
    """What a customer can spend of their store credit, in minor units."""
    found = Account.objects.filter(
        kind=Account.Kind.STORE_CREDIT, customer=customer, merchant_id=merchant_id, currency=currency
    )
    return found.values_list("balance_minor", flat=True).first() or 0


def accounts_of(*, merchant_id: UUID, customer: str) -> list[Account]:
    """Every account of one customer at one merchant: balances, store credit free and held, points."""
    found = Account.objects.filter(customer=customer, merchant_id=merchant_id)
    return list(found.order_by("currency", "kind"))


def journal_of(references: Sequence[str]) -> list[EntryView]:
    """The journal entries of some references, oldest first, with their lines."""
    rows = JournalEntry.objects.filter(reference__in=references).order_by("id").prefetch_related("postings__account")
    return [
        EntryView(
            id=entry.id,
            kind=entry.kind,
            memo=entry.memo,
            currency=entry.currency,
            at=entry.created_at,
            lines=[(str(posting.account), posting.amount_minor) for posting in entry.postings.all()],
        )
        for entry in rows
    ]


def inbox_of(provider_references: Sequence[str]) -> list[InboxEvent]:
    """Webhooks that told of some PaymentIntents, oldest first."""
    return list(
        InboxEvent.objects.filter(Q(object_id__in=provider_references) | Q(intent_id__in=provider_references)).order_by(
            "received_at"
        )
    )


def news_between(since: datetime, until: datetime) -> int:
    """How many of the provider's events of a time, by its clock and both ends included, have reached us."""
    return InboxEvent.objects.filter(provider_created_at__range=(since, until)).count()


def tries_of(number: str) -> list[ProviderTry]:
    """What the provider was asked about a payment or refund without a clear answer, the latest first."""
    return list(ProviderTry.objects.filter(subject=number).order_by("-last_at"))


def needing_a_person() -> dict[str, int]:
    """`payment` and `refund` → how many nobody but a person can settle."""
    return {
        name: model.objects.filter(person_needed_at__isnull=False).count()
        for name, model in (("payment", Payment), ("refund", Refund))
    }


def captured_between(since: datetime, until: datetime) -> list[Total]:
    """What was captured in [since, until) by the provider's clock, one total a currency."""
    captured = Payment.objects.filter(captured_at__gte=since, captured_at__lt=until)
    rows = captured.values_list("currency").annotate(Count("pk"), Sum("captured_minor")).order_by("currency")
    return [Total(*row) for row in rows]


def refunded_between(since: datetime, until: datetime) -> list[Total]:
    """What was refunded in [since, until) by the provider's clock, one total a currency."""
    paid = Refund.objects.filter(
        provider_created_at__gte=since, provider_created_at__lt=until, status=RefundStatus.SUCCEEDED
    )
    rows = paid.values_list("currency").annotate(Count("pk"), Sum("amount_minor")).order_by("currency")
    return [Total(*row) for row in rows]


def refunds_owed() -> dict[str, int]:
    """currency → minor units that refunds which failed left as a debt to customers."""
    owing = Payment.objects.filter(refunds_owed_minor__gt=0)
    return dict(owing.values_list("currency").annotate(Sum("refunds_owed_minor")).order_by("currency"))


def traded_by_hour(since: datetime, until: datetime) -> list[Hour]:
    """What moved in [since, until) by the provider's clock, hour by hour, oldest first; hours of rest are left out."""
    captured = Payment.objects.filter(captured_at__gte=since, captured_at__lt=until)
    refunded = Refund.objects.filter(
        provider_created_at__gte=since, provider_created_at__lt=until, status=RefundStatus.SUCCEEDED
    )
    sales = captured.values_list(TruncHour("captured_at"), "currency").annotate(total=Sum("captured_minor"))
    refunds = refunded.values_list(TruncHour("provider_created_at"), "currency").annotate(total=Sum("amount_minor"))
    ins = {(at, currency): amount for at, currency, amount in sales}
    outs = {(at, currency): amount for at, currency, amount in refunds}
    return [Hour(*key, ins.get(key, 0), outs.get(key, 0)) for key in sorted({*ins, *outs})]


def read_client_secret(number: str) -> str:
    """The secret that the customer's browser confirms with; asked from the provider each time, stored nowhere.

    Empty while the payment is not opened or not confirmable. Raises NotFound.
    """
    payment = _payment(Payment.id_of(number), None)
    if not payment.provider_reference or payment.status not in PAYMENT_CONFIRMABLE:
        return ""
    try:
        return gateway.retrieve_intent(payment.provider_reference).client_secret
    except (ProviderBusy, ProviderUnsure, ProviderRefused) as error:
        raise ProviderUnavailable from error


def check_provider(*, timeout_s: float) -> None:
    """Raises an error if the provider does not answer."""
    gateway.ping(timeout_s=timeout_s)


def read_balance_transactions(*, since: datetime, until: datetime, after: str = "") -> Iterator[BalanceTransaction]:
    """The provider's books for [since, until), newest first, page by page; `after` goes on behind a row that an earlier
    reading had reached. Raises ProviderUnavailable."""
    return _or_unavailable(gateway.list_balance_transactions(since=since, until=until, after=after))


def read_balance_transactions_of(source: str) -> list[BalanceTransaction]:
    """The provider's books for one charge (`ch_…`), refund (`re_…`), dispute or payout. Raises ProviderUnavailable."""
    return list(_or_unavailable(gateway.list_balance_transactions(source=source)))


def read_provider_balance() -> BalanceReading:
    """What the provider holds for us, and which bookings that includes. Raises ProviderUnavailable.

    The newest bookings are listed before and after: while both are the same, nothing was booked in between. A shop that
    never rests is asked some times; what is left in doubt then is named.
    """
    try:
        for _ in range(_BALANCE_TRIES):
            before = _newest_bookings()
            through_at = max(before.values(), default=None)
            balances = gateway.retrieve_balance()
            after = _newest_bookings(back_to=through_at)
            if before == after:
                break
    except (ProviderBusy, ProviderUnsure, ProviderRefused) as error:
        raise ProviderUnavailable(f"The payment provider does not tell its balance ({error}).") from error
    return BalanceReading(
        balances=balances,
        through_at=through_at,
        edge=sorted(row_id for row_id, made_at in before.items() if made_at == through_at),
        unsure=sorted(after.keys() - before.keys()),
    )


def _newest_bookings(*, back_to: datetime | None = None) -> dict[str, datetime]:
    """id → moment of the newest ones: one page of the provider's, and whatever else was booked in its newest second or
    since `back_to`: a run of captures books hundreds in one."""
    newest: dict[str, datetime] = {}
    for row in gateway.list_balance_transactions():
        back_to = back_to or row.created_at
        if len(newest) >= _NEWEST_BOOKINGS and row.created_at < back_to:
            break
        newest[row.id] = row.created_at
    return newest


def clearing_accounts() -> dict[str, UUID]:
    """currency → the account that says what the provider holds for us, where anything was ever posted to it. A few rows: an
    account opens with its first posting."""
    return dict(Account.objects.filter(kind=Account.Kind.PROVIDER_CLEARING).values_list("currency", "pk"))


def clearing_balances(currencies: Sequence[str], *, at: datetime) -> dict[str, int]:
    """currency → what our ledger said before a moment, by its own clock, that the provider holds for us."""
    accounts = {currency: pk for currency, pk in clearing_accounts().items() if currency in currencies}
    held = books.balances(list(accounts.values()), at=at)
    return {currency: held[accounts[currency]] if currency in accounts else 0 for currency in currencies}


def trial_balance(*, at: datetime) -> list[KindBalance]:
    """The trial balance of all that was posted before a moment, by currency and kind of account."""
    lines = books.trial_balance(at=at).lines
    return [KindBalance(one.kind, one.currency, one.debit_minor, one.credit_minor) for one in lines]


def ask_whether_booked(intent: str) -> str:
    """Whether the provider wrote what it captured of an intent into its books: one of `Booked`. Raises ProviderUnavailable."""
    try:
        charge = gateway.retrieve_intent(intent).charge
    except ProviderRefused:
        return Booked.NEVER
    except (ProviderBusy, ProviderUnsure) as error:
        raise ProviderUnavailable from error
    if charge is None or charge.status != "succeeded":
        return Booked.NEVER
    return Booked.YES if charge.balance_transaction else Booked.NOT_YET


def last_books_check() -> BooksProof | None:
    """The newest proof of the books that finished."""
    check = BooksCheck.objects.filter(finished_at__isnull=False).order_by("-day").first()
    return BooksProof(check.day, check.finished_at, check.found) if check and check.finished_at else None


def days_changed_late() -> set[date]:
    """Days (UTC) of which a movement came, or changed, after they were over, and which nobody has forgotten since."""
    return set(LateChange.objects.values_list("day", flat=True).distinct())


def first_capture_at() -> datetime | None:
    """When we first took money."""
    captured = Payment.objects.filter(captured_at__isnull=False).order_by("captured_at")
    return captured.values_list("captured_at", flat=True).first()


def _or_unavailable(rows: Iterator[BalanceTransaction]) -> Iterator[BalanceTransaction]:
    try:
        yield from rows
    except (ProviderBusy, ProviderUnsure, ProviderRefused) as error:
        raise ProviderUnavailable(f"The payment provider does not give its books ({error}).") from error


def _payment(payment_id: UUID, merchant_id: UUID | None) -> Payment:
    payments = Payment.objects.filter(pk=payment_id)
    payment = payments.filter(merchant_id=merchant_id).first() if merchant_id else payments.first()
    if payment is None:
        raise NotFound
    return payment
