"""A large day is looked at in parts, and whoever is free takes one: the run itself, and workers of any host through Celery.

The run shows its snapshot; a helper looks at its parts with the run's own eyes, so it does not matter who looked when. It writes down
what agreed, adds it up, and leaves what is left to the run. A part is held by an advisory lock of the transaction that looks at
it: a helper that is killed gives it back at once, and somebody else takes it. Helpers are help: none is waited for but for the
part that it holds, and without any the run does all by itself.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from time import monotonic, sleep
from uuid import UUID

from celery import current_app
from django.conf import settings
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from kombu.exceptions import OperationalError as BrokerError

from foundation.database import BECAUSE_OF_OTHERS, LOCK_NOT_AVAILABLE, database_now, delete_in_batches, sqlstate
from foundation.ids import uuid7
from reconciliation import books, matching, rules
from reconciliation.limits import set_for_long_work
from reconciliation.locks import helping
from reconciliation.matching import agreement
from reconciliation.matching.days import Parameters
from reconciliation.models import ReconciliationRun, RunPart, RunPartLeft
from reconciliation.services import matches
from reconciliation.states import RunState

log = logging.getLogger(__name__)

_LOCKED = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
_LOOKED_EVERY_S = 0.05
_FORGOTTEN_AT_ONCE = 10_000
_LEFT = RunPartLeft._meta.db_table


def look(run: ReconciliationRun, parameters: Parameters) -> None:
    """Look at the run's day, in parts where it is large. Belongs inside the run's transaction (`one_run`)."""
    # A part may pass by the whole day: no more of them than may be looked at at once.
    rows = agreement.rows_of_day(parameters)
    of = min(-(-rows // settings.RECONCILE_PART_ROWS), settings.RECONCILE_HELPERS + 1)
    cuts = agreement.where_to_cut(parameters, rows=rows, of=of) if of > 1 else []
    if not cuts:
        agreement.look_at_all(parameters)
        return
    look_id = uuid7()  # a run that has to begin anew looks with other eyes
    _ask_for_help(run, look_id, cuts)
    with _another_connection() as other:
        waiting = list(range(len(cuts) + 1))
        alone_since = None
        while waiting:
            part = _free(look_id, waiting)
            if part is None:
                alone_since = alone_since or monotonic()
                if monotonic() - alone_since > settings.RECONCILE_STATEMENT_TIMEOUT_MS / 1000:
                    raise TimeoutError(f"helpers of run {run.number} still hold its parts {waiting}")
                sleep(_LOOKED_EVERY_S)
                continue
            waiting.remove(part)
            alone_since = None
            if not _take_over(other, look_id, part):
                agreement.look_at(parameters, part=part, cuts=cuts)
                matches.store_agreed(run.pk, now=database_now())
                agreement.settle()


def forget(run: ReconciliationRun) -> None:
    """What helpers wrote down for a run that has ended, and for those whose process died. What cannot go now goes after the next."""
    running = ReconciliationRun.objects.filter(state=RunState.RUNNING).exclude(pk=run.pk).values("pk")
    try:
        for model in (RunPart, RunPartLeft):
            delete_in_batches(model._default_manager.exclude(run_id__in=running), batch=_FORGOTTEN_AT_ONCE)
    except DatabaseError:
        log.exception("run %s: what its helpers left for it is still there", run.number)


def help_run(*, run_id: UUID, look_id: UUID, snapshot: str, cuts: Sequence[str]) -> int:
    """Look at parts of a run's day while there are any; how many. Who comes too late finds none."""
    try:
        with helping():
            run = ReconciliationRun.objects.filter(pk=run_id, state=RunState.RUNNING).first()
            return sum(_help_with(run, look_id, snapshot, part, cuts) for part in range(len(cuts) + 1)) if run else 0
    except OperationalError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        return 0  # another run waits for helpers to end: it was the last one's that we were to help


def _help_with(run: ReconciliationRun, look_id: UUID, snapshot: str, part: int, cuts: Sequence[str]) -> bool:
    """Look at a part, unless somebody else does, or did, or the run has ended."""
    if RunPart.objects.filter(look_id=look_id, part=part).exists():
        return False
    try:
        with transaction.atomic(durable=True):
            return _see(snapshot) and _looked_at(run, look_id, part, cuts)
    except IntegrityError:
        return False  # the other helper was faster by the blink of an eye
    except OperationalError as error:
        if sqlstate(error) not in BECAUSE_OF_OTHERS:
            raise
        return False  # slower than another one


def _ask_for_help(run: ReconciliationRun, look_id: UUID, cuts: Sequence[str]) -> None:
    """The one call out of a transaction: there is no snapshot without one. It waits for nobody, and may fail."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_export_snapshot()")
        snapshot = cursor.fetchone()[0]
    try:
        for _ in cuts:
            current_app.send_task(
                "reconciliation.help_run", args=[str(run.pk), str(look_id), snapshot, cuts], retry=False
            )
    except BrokerError:
        log.warning("run %s: nobody can be asked for help; it goes on alone", run.number)


def _free(look_id: UUID, parts: list[int]) -> int | None:
    """The first of these parts that nobody looks at; from here on we do, to the end of the transaction."""
    with connection.cursor() as cursor:
        for part in parts:
            cursor.execute(_LOCKED, [f"run_part:{look_id}:{part}"])
            if cursor.fetchone()[0]:
                return part
    return None


def _take_over(other: BaseDatabaseWrapper, look_id: UUID, part: int) -> bool:
    """What a helper found of a part, if one did: our own transaction is too old to see it."""
    with other.cursor() as theirs:
        theirs.execute("SELECT sums FROM reconciliation_runpart WHERE look_id = %s AND part = %s", [look_id, part])
        row = theirs.fetchone()
        if row is None:
            return False
        left = f"COPY (SELECT kind, source FROM {_LEFT} WHERE look_id = %s AND part = %s) TO STDOUT"  # noqa: S608  constant
        with (
            connection.cursor() as ours,
            theirs.copy(left, [look_id, part]) as from_them,
            ours.copy("COPY recon_item FROM STDIN") as to_us,
        ):
            for some in from_them:
                to_us.write(some)
    agreement.note_sums([agreement.Sum(**one) for one in json.loads(row[0])])
    return True


def _see(snapshot: str) -> bool:
    """See what the run sees. False: it has ended."""
    try:
        with transaction.atomic(savepoint=False), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SET TRANSACTION SNAPSHOT %s", [snapshot])
            set_for_long_work(cursor)
    except DatabaseError:
        return False  # and the helper's transaction is rolled back
    return True


def _looked_at(run: ReconciliationRun, look_id: UUID, part: int, cuts: Sequence[str]) -> bool:
    """Within the helper's transaction; False where somebody else is at it."""
    if _free(look_id, [part]) is None:
        return False
    matching.start()
    agreement.look_at(matching.parameters_of_day(run.date, books.starts_on(), rules.in_force()), part=part, cuts=cuts)
    matches.store_agreed(run.pk, now=database_now())
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {_LEFT} (run_id, look_id, part, kind, source) SELECT %s, %s, %s, kind, source FROM recon_item",  # noqa: S608
            [run.pk, look_id, part],
        )
    RunPart.objects.create(run_id=run.pk, look_id=look_id, part=part, sums=[asdict(one) for one in agreement.sums()])
    return True


@contextmanager
def _another_connection() -> Iterator[BaseDatabaseWrapper]:
    other: BaseDatabaseWrapper = connection.copy()
    try:
        yield other
    finally:
        other.close()
