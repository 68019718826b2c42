"""One run: import, match, store. What it found and that it completed are one transaction: killed, it has found nothing."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import partial
from time import monotonic

from celery import current_app
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.db.models.functions import Now
from kombu.exceptions import OperationalError

from foundation.database import database_now, in_seconds, tried_again
from foundation.errors import DomainError, InvalidInput
from foundation.logs import bound_id
from payments import selectors as payments
from payments import services as payments_services
from payments.errors import ProviderUnavailable
from payments.types import LearntFee
from reconciliation import books, matching, selectors
from reconciliation.bank import legs
from reconciliation.errors import RunInProgress, RunTakenOver, WorkersUnreachable
from reconciliation.locks import one_run
from reconciliation.matching.agreement import Look, look_at_all
from reconciliation.models import ChangedDay, ReconciliationRun
from reconciliation.services import bank, findings, matches, sharing
from reconciliation.services.balances import read_balance
from reconciliation.services.importing import Progress, import_day, read_window
from reconciliation.services.periods import open_periods
from reconciliation.states import RunState
from reconciliation.types import KindCounts, RunReport, Statement

log = logging.getLogger(__name__)

NIGHTLY = "nightly"
_WAIT_FOR_RUN_S = settings.RECONCILE_STATEMENT_TIMEOUT_MS / 1000  # another one that stores what it found


def reconcile_day(
    *, day: date, by: str, dry_run: bool = False, from_files: bool = False, progress: Progress | None = None
) -> RunReport:
    """Compare one UTC day of the provider's books with ours, and store the run's report and discrepancies.

    Earlier days of which something came or changed after their own run are run again before: what they hold, this day's statement
    is proved with. At most RECONCILE_CATCH_UP_DAYS of them; the hourly job does the others.

    A second run of the same day changes nothing. `dry_run` reads the provider's books into our copy of them, and
    stores neither run nor discrepancies. `from_files` asks the provider nothing: its books came as statement files.
    Belongs outside of transactions.

    Raises RunInProgress, RunTakenOver, ProviderUnavailable, InvalidInput (a day that has not begun, or lies before the
    start of the books).
    """
    began = monotonic()
    now = database_now()
    provisional = matching.window(day)[1] > now
    _check(day, now)
    if dry_run:
        imported = 0 if from_files else import_day(day, progress=progress or _silent)
        fields = {"date": day, "provisional": provisional, "by": by, "started_at": now, "lease_until": now}
        return tried_again(lambda: _compare_and_forget(ReconciliationRun(**fields), imported, began))
    run = _begin(day, provisional=provisional, by=by)
    with _failure_recorded(run):
        renewing = _Renewal(run, progress or _silent)
        imported = 0 if from_files else import_day(day, progress=renewing)
        again, _ = _run_again(
            before=day, by=by, asks=not from_files, tick=lambda: renewing(imported, lease_s=_WAIT_FOR_RUN_S)
        )
        report = _look(run, imported, began, asks=not from_files)
    _post_fees_of_matches(day)
    report.run_again = again
    return report


def _look(run: ReconciliationRun, imported: int, began: float, *, asks: bool) -> RunReport:
    """What a run does with the rows that are there."""
    asked = _ask(run.date) if asks else {}
    _post_learnt_fees(run.date)
    return _compare(run, imported, began, asked=asked)


def _run_again(
    *, before: date, by: str, asks: bool, tick: Callable[[], None]
) -> tuple[list[RunReport], Exception | None]:
    """Run again the days of which something came or changed since they were run, then those behind them that this left a
    residual. Their rows are there: they are not read anew. Returns what each run found, and the first failure.

    A day that cannot be run stays due, and does not keep the others from it. Raises ProviderUnavailable.
    """
    look = partial(_look_again, by=by, asks=asks, tick=tick)
    changed = [day for day in selectors.days_changed() if day < before]
    done, failed = _each(_those_that_did_not_fail_first(changed), look)
    if not done:
        return done, failed
    days = {report.date for report in done}
    behind = [day for day in selectors.days_with_a_residual(after=min(days), before=before) if day not in days]
    more, failed_too = _each(behind[: settings.RECONCILE_CATCH_UP_DAYS], look)
    return [*done, *more], failed or failed_too


def _look_again(day: date, *, by: str, asks: bool, tick: Callable[[], None]) -> RunReport:
    tick()
    began = monotonic()
    run = _begin(day, provisional=False, by=by)
    with _failure_recorded(run):
        report = _look(run, 0, began, asks=asks)
    _post_fees_of_matches(day)
    return report


def _each(days: Iterable[date], work: Callable[[date], RunReport]) -> tuple[list[RunReport], Exception | None]:
    """What the runs found, of those days that could be run, and the first failure."""
    done = []
    failed: Exception | None = None
    for day in days:
        try:
            done.append(work(day))
        except RunInProgress:
            continue  # somebody is at it
        except ProviderUnavailable:
            raise  # for all of them
        except Exception as error:
            log.exception("the run of %s failed", day)
            failed = failed or error
    return done, failed


def _those_that_did_not_fail_first(days: Iterable[date]) -> list[date]:
    """As many days as one job runs, oldest first. One that failed waits until all others had their turn: however many cannot be
    run, they do not starve those that can."""
    failures = ReconciliationRun.objects.filter(state=RunState.FAILED, date__in=(due := sorted(days)))
    failed_at = dict(failures.order_by().values_list("date").annotate(Max("finished_at")))
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(sorted(due, key=lambda day: failed_at.get(day, never))[: settings.RECONCILE_CATCH_UP_DAYS])


def _check(day: date, now: datetime) -> None:
    if matching.window(day)[0] > now:
        raise InvalidInput(f"{day} has not begun yet.", param="date")
    starts_on = books.starts_on()
    if starts_on and day < starts_on:
        raise InvalidInput(f"{day} lies before the start of the books: they begin on {starts_on}.", param="date")


def request_run(*, day: date, by: str) -> None:
    """Ask a worker to reconcile a day; the run appears among the runs. Raises InvalidInput, WorkersUnreachable."""
    _check(day, database_now())
    try:
        current_app.send_task(
            "reconciliation.reconcile_day",
            kwargs={"day": day.isoformat(), "by": by},
            headers={"request_id": bound_id("request_id")},
            retry=False,
        )
    except OperationalError as error:
        raise WorkersUnreachable from error


def reconcile_missing_days() -> list[date]:
    """Run every finished day that no completed run covers, oldest first, and again the days on which something was held
    for timing whose time is up, and those of which something came or changed since they were run. Returns the days that were run.

    Asked hourly, so that neither an outage nor a beat that slept through midnight leaves a hole; at most
    RECONCILE_CATCH_UP_DAYS at once, the others an hour later. A day that cannot be run does not keep the others from it.
    """
    due = _those_that_did_not_fail_first({*selectors.days_without_a_run(), *selectors.days_with_ripe_timing()})
    done, failed = _each(due, lambda day: reconcile_day(day=day, by=NIGHTLY))
    again, failed_too = _run_again(before=database_now().date(), by=NIGHTLY, asks=True, tick=lambda: None)
    if failed or failed_too:
        raise failed or failed_too  # type: ignore[misc]
    return [report.date for report in (*done, *again)]


def _begin(day: date, *, provisional: bool, by: str) -> ReconciliationRun:
    """Insert the run, or refuse while another one of this day lives. A dead one is failed first."""
    lease_until = in_seconds(settings.RECONCILE_RUN_LEASE_S)
    try:
        with transaction.atomic():
            ReconciliationRun.objects.filter(date=day, state=RunState.RUNNING, lease_until__lt=Now()).update(
                state=RunState.FAILED, finished_at=Now(), error="Its process was silent for too long; taken over."
            )
            return ReconciliationRun.objects.create(date=day, provisional=provisional, by=by, lease_until=lease_until)
    except IntegrityError as error:
        raise RunInProgress(f"{day} is being reconciled at the moment: wait for that run to end.") from error


class _Renewal:
    """Keeps a run's lease while it goes on, and notices where another run has taken over."""

    def __init__(self, run: ReconciliationRun, progress: Progress) -> None:
        self._run, self._progress = run, progress

    def __call__(self, rows: int, lease_s: float | None = None) -> None:
        renewed = ReconciliationRun.objects.filter(pk=self._run.pk, state=RunState.RUNNING).update(
            lease_until=in_seconds(lease_s or settings.RECONCILE_RUN_LEASE_S), imported=rows
        )
        if not renewed:
            raise RunTakenOver
        self._progress(rows)


@contextmanager
def _failure_recorded(run: ReconciliationRun) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        detail = error.detail if isinstance(error, DomainError) else f"{type(error).__name__}: {error}"
        ReconciliationRun.objects.filter(pk=run.pk, state=RunState.RUNNING).update(
            state=RunState.FAILED, finished_at=Now(), error=detail
        )
        raise


def _ask(day: date) -> dict[str, str]:
    """What the rows alone cannot tell: what the provider holds now, and of captures that its rows do not show, each by its
    charge, whether it books them later (`payments.types.Booked`): asked one by one, and only about recent ones.
    """
    read_balance()
    unseen = matching.awaiting_booking(day, now=database_now())
    return {charge: payments.ask_whether_booked(intent) for intent, charge in unseen}


def _post_learnt_fees(day: date) -> None:
    """Fees of which nobody told us before: the provider's statement is their voucher."""
    since, until = read_window(day)
    for fees in matching.unposted_fees(since, until, starts_on=books.starts_on()):
        payments_services.post_learnt_fees(fees, by="reconciliation")


def _post_fees_of_matches(day: date) -> None:
    """Fees of what was put together by another rule than ids: whose they are is known since the match was stored. A process
    that dies before leaves them to the next run that reads the day.
    """
    for fees in matching.unposted_fees_of_matches(read_window(day)[1], starts_on=books.starts_on()):
        payments_services.post_learnt_fees(fees, by="reconciliation")


def _compare(run: ReconciliationRun, imported: int, began: float, *, asked: dict[str, str]) -> RunReport:
    def once() -> RunReport:
        # Nothing renews it while it compares; and where another run took over, nothing is compared.
        _Renewal(run, _silent)(imported, lease_s=_WAIT_FOR_RUN_S)
        with one_run(wait_s=_WAIT_FOR_RUN_S):
            report = _match_and_store(run, imported, began, asked, look=partial(sharing.look, run))
            completed = ReconciliationRun.objects.filter(pk=run.pk, state=RunState.RUNNING).update(
                state=RunState.COMPLETED,
                finished_at=Now(),
                duration_ms=report.duration_ms,
                imported=imported,
                ours_count=report.ours_count,
                ours_totals=report.ours_totals,
                theirs_count=report.theirs_count,
                theirs_totals=report.theirs_totals,
                matched=report.matched,
                kinds={kind: asdict(counts) for kind, counts in report.kinds.items()},
                residual=report.residual,
                statement=books.as_stored(report.statement.values()),
            )
            if not completed:
                raise RunTakenOver
            _note_compared(run)
            open_periods()
        return report

    try:
        report = tried_again(once)
    finally:
        sharing.forget(run)
    if any(report.residual.values()):
        log.error("run of %s: nothing accounts for %s", run.date, report.residual)
    return report


def _note_compared(run: ReconciliationRun) -> None:
    """What had changed of its day is seen. What changed since the moment that it sees is not, and stays noted."""
    if not run.provisional:
        ChangedDay.objects.filter(day=run.date).delete()
        payments_services.forget_late_changes(run.date)


def _compare_and_forget(run: ReconciliationRun, imported: int, began: float) -> RunReport:
    with one_run(wait_s=_WAIT_FOR_RUN_S):
        undo = transaction.savepoint()
        run.save(force_insert=True)
        report = _match_and_store(run, imported, began, {}, dry_run=True)
        transaction.savepoint_rollback(undo)
    report.run_id = None
    return report


def _match_and_store(
    run: ReconciliationRun,
    imported: int,
    began: float,
    asked: dict[str, str],
    *,
    look: Look = look_at_all,
    dry_run: bool = False,
) -> RunReport:
    now = database_now()
    starts_on = books.starts_on()
    matching.match_day(run.date, now=now, asked=asked, starts_on=starts_on, look=look)
    kinds = findings.store(run, now=now)
    matches.store(run.pk, now=now)
    totals = matching.day_totals(run.date, starts_on=starts_on)
    statements = _close(run, kinds, now=now, dry_run=dry_run)
    _look_at_bank(run, kinds, now=now)
    return RunReport(
        run_id=run.pk,
        date=run.date,
        provisional=run.provisional,
        imported=imported,
        ours_count=totals.ours_count,
        ours_totals=totals.ours,
        theirs_count=totals.theirs_count,
        theirs_totals=totals.theirs,
        matched=totals.matched,
        kinds=kinds,
        residual=_residuals(totals.residual, statements),
        statement={statement.currency: statement for statement in statements},
        duration_ms=int((monotonic() - began) * 1000),
    )


def _close(run: ReconciliationRun, kinds: dict[str, KindCounts], *, now: datetime, dry_run: bool) -> list[Statement]:
    """The day's statements. What they leave unexplained is found like any other difference, once all else was stored.

    A balance that is off stays off: the newest finished day tells for all before it. A run of an older one proves that day again, since
    it may have been the one that was missing for it.
    """
    since, until = read_window(run.date)
    books.recount(since.date(), (until - timedelta(microseconds=1)).date())
    to_post = _fees_to_post(run.date, run, dry_run=dry_run)
    statements = books.statements(run.date, to_post=to_post, completing=run.date)
    newest = selectors.last_reconciled_on()
    if run.provisional:
        return statements
    if newest is None or run.date >= newest:
        _store_residuals(run, kinds, statements, now=now)
    elif not _changes_behind(run, newest):
        again = books.statements(newest, to_post=_fees_to_post(newest, run, dry_run=dry_run), completing=run.date)
        _store_residuals(run, kinds, again, now=now, earlier=statements)
        _note_proved_again(newest, again)
    return statements


def _fees_to_post(day: date, run: ReconciliationRun, *, dry_run: bool) -> list[LearntFee]:
    """Fees up to the end of a day that our ledger is about to learn of, by the run that asks or after it."""
    starts_on = books.starts_on()
    cut = matching.window(day)[1]
    to_post = [fee for fees in matching.unposted_fees_of_matches(cut, starts_on=starts_on) for fee in fees]
    if dry_run:
        since, until = read_window(run.date)[0], matching.window(run.date)[1]
        to_post += [fee for fees in matching.unposted_fees(since, until, starts_on=starts_on) for fee in fees]
    return to_post


def _store_residuals(
    run: ReconciliationRun,
    kinds: dict[str, KindCounts],
    statements: Iterable[Statement],
    *,
    now: datetime,
    earlier: Iterable[Statement] = (),
) -> None:
    matching.clear()
    matching.add_residuals(statements, now=now, earlier=earlier)
    for kind, counts in findings.store(run, now=now).items():
        kinds[kind] = counts


def _changes_behind(run: ReconciliationRun, newest: date) -> bool:
    """Whether something changed, up to the newest day, that no run has seen yet: as long as that is no item it would look like a
    residual. The last of the runs that see it proves the newest day.
    """
    return any(day <= newest for day in selectors.days_changed() if day != run.date)


def _note_proved_again(day: date, statements: Sequence[Statement]) -> None:
    """The newest run of a day says what its statement says now. What weighed more in its matching stays."""
    completed = ReconciliationRun.objects.filter(date=day, state=RunState.COMPLETED, provisional=False)
    last = completed.latest("id")
    matched = {
        currency: minor
        for currency, minor in last.residual.items()
        if minor != books.stored_residual(last.statement.get(currency, {}))
    }
    ReconciliationRun.objects.filter(pk=last.pk).update(
        residual=_residuals(matched, statements), statement=books.as_stored(statements)
    )


def _look_at_bank(run: ReconciliationRun, kinds: dict[str, KindCounts], *, now: datetime) -> None:
    """The third leg: what our bank got, beside what was paid out to it. It knows no days of its own: any run looks at it all."""
    if legs.has_statements():
        bank.look(now=now, by=run.number)
        for kind, counts in findings.store(run, now=now).items():
            kinds[kind] = counts


def _residuals(matched: dict[str, int], statements: Iterable[Statement]) -> dict[str, int]:
    """By currency what weighs most of what nothing accounts for, in matching or in the statement."""
    worst = dict(matched)
    for statement in statements:
        worst[statement.currency] = max(worst.get(statement.currency, 0), statement.residual_minor, key=abs)
    return worst


def _silent(rows: int) -> None:
    """Nobody watches."""
