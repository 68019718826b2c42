"""One run: import, match, store. What it found and that it completed are one transaction: killed, it has found nothing."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from time import monotonic

from celery import current_app
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from kombu.exceptions import OperationalError

from foundation.database import database_now, in_seconds
from foundation.errors import DomainError, InvalidInput
from payments import selectors as payments
from reconciliation import matching, selectors
from reconciliation.errors import RunInProgress, RunTakenOver, WorkersUnreachable
from reconciliation.locks import one_writer
from reconciliation.models import ReconciliationRun
from reconciliation.services import findings
from reconciliation.services.importing import Progress, import_day
from reconciliation.states import RunState
from reconciliation.types import KindCounts, RunReport

log = logging.getLogger(__name__)

NIGHTLY = "nightly"


def reconcile_day(*, day: date, by: str, dry_run: bool = False, progress: Progress | None = None) -> RunReport:
    """Compare one UTC day of the provider's books with ours, and store the run's report and discrepancies.

    A second run of the same day changes nothing. `dry_run` reads the provider's books into our copy of them, and
    stores neither run nor discrepancies. Belongs outside of transactions.

    Raises RunInProgress, RunTakenOver, ProviderUnavailable, InvalidInput (a day that has not begun).
    """
    began = monotonic()
    now = database_now()
    provisional = matching.window(day)[1] > now
    if matching.window(day)[0] > now:
        raise InvalidInput(f"{day} has not begun yet.", param="date")
    if dry_run:
        run = ReconciliationRun(date=day, provisional=provisional, by=by, started_at=now, lease_until=now)
        imported = import_day(day, progress=progress or _silent)
        return _compare_and_forget(run, imported, began)
    run = _begin(day, provisional=provisional, by=by)
    with _failure_recorded(run):
        imported = import_day(day, progress=_renewing(run, progress or _silent))
        return _compare(run, imported, began, unbooked=_unbooked(day))


def request_run(*, day: date, by: str) -> None:
    """Ask a worker to reconcile a day; the run appears among the runs. Raises InvalidInput, WorkersUnreachable."""
    if matching.window(day)[0] > database_now():
        raise InvalidInput(f"{day} has not begun yet.", param="date")
    try:
        current_app.send_task("reconciliation.reconcile_day", kwargs={"day": day.isoformat(), "by": by}, retry=False)
    except OperationalError as error:
        raise WorkersUnreachable from error


def reconcile_missing_days() -> list[date]:
    """Run every finished day of the last ones that no completed run covers. Returns the days that were run.

    Asked hourly, so that neither an outage nor a beat that slept through midnight leaves a hole.
    """
    done = []
    for day in selectors.days_without_a_run():
        try:
            reconcile_day(day=day, by=NIGHTLY)
        except RunInProgress:
            continue  # somebody is at it
        done.append(day)
    return done


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


def _renewing(run: ReconciliationRun, progress: Progress) -> Progress:
    def renew(rows: int) -> None:
        renewed = ReconciliationRun.objects.filter(pk=run.pk, state=RunState.RUNNING).update(
            lease_until=in_seconds(settings.RECONCILE_RUN_LEASE_S), imported=rows
        )
        if not renewed:
            raise RunTakenOver
        progress(rows)

    return renew


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


def _unbooked(day: date) -> list[str]:
    """Captures that the provider confirms and has not booked yet: asked one by one, and only the recent ones."""
    return [
        charge
        for intent, charge in matching.awaiting_booking(day, now=database_now())
        if payments.is_awaiting_booking(intent)
    ]


def _compare(run: ReconciliationRun, imported: int, began: float, *, unbooked: list[str]) -> RunReport:
    with one_writer(wait_s=settings.RECONCILE_STATEMENT_TIMEOUT_MS / 1000):
        report = _match_and_store(run, imported, began, unbooked)
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
        )
        if not completed:
            raise RunTakenOver
    if any(report.residual.values()):
        log.error("run of %s: nothing accounts for %s", run.date, report.residual)
    return report


def _compare_and_forget(run: ReconciliationRun, imported: int, began: float) -> RunReport:
    with one_writer(wait_s=settings.RECONCILE_STATEMENT_TIMEOUT_MS / 1000):
        undo = transaction.savepoint()
        run.save(force_insert=True)
        report = _match_and_store(run, imported, began, [])
        transaction.savepoint_rollback(undo)
    report.run_id = None
    return report


def _match_and_store(run: ReconciliationRun, imported: int, began: float, unbooked: list[str]) -> RunReport:
    now = database_now()
    matching.match_day(run.date, now=now, unbooked=unbooked)
    kinds: dict[str, KindCounts] = findings.store(run, now=now)
    totals = matching.day_totals(run.date)
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
        residual=totals.residual,
        duration_ms=int((monotonic() - began) * 1000),
    )


def _silent(rows: int) -> None:
    """Nobody watches."""
