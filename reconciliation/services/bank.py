"""Takes in our bank's statements, matches their lines with payouts, and lets a person say what belongs together."""

from dataclasses import replace
from datetime import datetime
from typing import BinaryIO
from uuid import UUID

from django.db import DataError, IntegrityError, transaction
from django.db.models.functions import Now

from foundation.database import database_now
from foundation.errors import InvalidInput, NotFound
from reconciliation import books
from reconciliation.bank import chain, files, legs, staging
from reconciliation.bank.staging import Expected, Staged
from reconciliation.errors import AlreadyLinked, BooksBusy, NoteMissing, NotLinked
from reconciliation.imports import Unreadable
from reconciliation.locks import one_keeper, one_writer
from reconciliation.models import BankLine, BankMatch, BankStatement, StatementFile
from reconciliation.services import findings
from reconciliation.services.statements import hash_of, note_refused, refused, report
from reconciliation.types import MatchedBy, Problem, StatementReport, Whose

_WAIT_FOR_RUN_S = 600  # a run that stores its results
_WAIT_S = 5  # a person is waiting


def import_bank_statement(*, file: BinaryIO, name: str, by: str, expected: Expected | None = None) -> StatementReport:
    """Take in a bank's statement file: its lines, each as it stood by its hash; then match them with payouts.

    Every line is checked first; with any problem nothing is taken in, and the report lists them. The same file a second time
    changes nothing, and neither does a line that came before. `file` is seekable and binary. Belongs outside of transactions.

    Raises BooksBusy: somebody takes in statements of the same account, and nothing is in. Where a run is under way, the lines are
    in, a note says so, and the next run matches them.
    """
    expected = expected or Expected()
    sha256 = hash_of(file)
    before = StatementFile.objects.filter(sha256=sha256, refused=False).first()
    if before:
        match_bank_lines(by=by, wait_s=_WAIT_FOR_RUN_S)  # where the process that took it in had died before it did
        return report(before, replayed=True)
    try:
        layout = files.layout_of(file)
    except Unreadable as error:
        told = refused(name, sha256, "", [error.problem], 1)
        return note_refused(told, by=by, whose=Whose.BANK)
    try:
        with transaction.atomic(durable=True):
            taken, staged = _import(file, layout, expected, name=name, sha256=sha256, by=by)
    except DataError as error:
        told = refused(name, sha256, layout, [Problem(1, str(error).splitlines()[0])], 1)
        return note_refused(told, by=by, whose=Whose.BANK)
    except IntegrityError:
        before = StatementFile.objects.filter(sha256=sha256, refused=False).first()  # somebody took it in meanwhile
        if before is None:
            raise
        return report(before, replayed=True)
    if taken is None:
        told = refused(name, sha256, layout, staged.problems, staged.problem_count)
        return note_refused(told, by=by, whose=Whose.BANK)
    matched, notes = 0, _notes(taken)
    try:
        matched = match_bank_lines(by=by, wait_s=_WAIT_FOR_RUN_S)
    except BooksBusy:
        notes = (
            *notes,
            "A reconciliation run is under way: what payouts these lines are is looked at by the next one.",
        )
    return replace(report(taken, replayed=False, matched=matched), notes=notes)


def _notes(taken: StatementFile) -> tuple[str, ...]:
    """Of statements that do not follow on what we have. They may come in any order, so that is no reason to refuse one."""
    says = "A statement of {} is missing {}: the balances do not lead from one to the other."
    return tuple(
        says.format(
            one.account,
            f"on {after}" if after == one.first_day else f"between {after} and {one.first_day}",
        )
        for one, after in ((BankStatement.objects.get(pk=pk), after) for pk, after in legs.gaps(taken.pk).items())
    )


def _import(
    file: BinaryIO, layout: str, expected: Expected, *, name: str, sha256: str, by: str
) -> tuple[StatementFile | None, Staged]:
    staged = staging.stage(file, layout, expected)
    if staged.problem_count:
        return None, staged  # what was staged is a temporary table
    days = [day for one in staged.statements for day in (one.first_day, one.last_day) if day]
    taken = StatementFile(
        sha256=sha256,
        name=name[:255],
        layout=layout,
        whose=Whose.BANK,
        rows=staged.lines,
        added=0,
        first_day=min(days, default=None),
        last_day=max(days, default=None),
        by=by,
    )
    one_keeper((one.account for one in staged.statements), wait_s=_WAIT_FOR_RUN_S)
    added = staging.keep(staged, taken)
    if added is None:
        transaction.set_rollback(True)
        return None, staged
    taken.added = added
    taken.save(force_insert=True)
    return taken, staged


def match_bank_lines(*, by: str, wait_s: float = _WAIT_S) -> int:
    """Look at all payouts and bank lines that are not settled; how many lines were matched. Raises BooksBusy.

    What differs becomes a discrepancy, and one that does not differ any more is closed. Done by each run, too.
    """
    if not legs.has_statements():
        return 0
    with one_writer(wait_s=wait_s):
        return _look_and_store(by=by)


def _look_and_store(*, by: str) -> int:
    now = database_now()
    matched = look(now=now, by=by)
    findings.look_again(None, by=by, now=now)
    return matched


def look(*, now: datetime, by: str) -> int:
    """Match, and leave what differs to `findings`; how many lines were matched. Under `one_writer`."""
    return legs.look(now=now, starts_on=books.starts_on(), by=by)


def link_bank_line(*, line: str, payout: str, by: str, why: str) -> None:
    """A person says that a line of the bank is a payout; what agrees now is closed. Belongs outside of transactions.

    Raises as `link`, and BooksBusy.
    """
    with one_writer(wait_s=_WAIT_S):
        link(line=line, payout=payout, by=by, why=why)
        _look_and_store(by=by)


def link(*, line: str, payout: str, by: str, why: str) -> None:
    """Write down that a line of the bank (`bnk_…`) is a payout (`pot_…` or `po_…`). Again, it changes nothing.

    Raises NotFound, NoteMissing, AlreadyLinked, InvalidInput.
    """
    if not why.strip():
        raise NoteMissing(param="note")
    known = chain.find_payout(payout)
    if known is None:
        raise NotFound(f"No payout is called {payout}.")
    with transaction.atomic():
        row = BankLine.objects.select_for_update().filter(pk=BankLine.id_of(line)).first()
        if row is None:
            raise NotFound(f"No bank line is called {line}.")
        live = BankMatch.objects.filter(line=row, ended_at=None).first()
        if live is not None:
            if live.payout_id == known.id:
                return
            raise AlreadyLinked(f"{line} is linked to another payout: take that back first.")
        if not row.amount_minor:
            raise InvalidInput("A line of nothing is no payout.")
        try:
            with transaction.atomic():
                BankMatch.objects.create(
                    line=row,
                    payout_id=known.id,
                    leg=legs.leg_for(known.id, row.amount_minor),
                    how=MatchedBy.PERSON,
                    why=why.strip(),
                    by=by,
                )
        except IntegrityError as error:
            raise AlreadyLinked(f"{payout} is linked to another line of the bank: take that back first.") from error


def unlink_bank_line(*, line: UUID, by: str, why: str) -> None:
    """A person takes back that a line is a payout: the two are not put together again by themselves. What then differs is
    found at once. Belongs outside of transactions. Raises NoteMissing, NotLinked, BooksBusy.
    """
    if not why.strip():
        raise NoteMissing(param="note")
    live = BankMatch.objects.filter(line_id=line, ended_at=None)
    with one_writer(wait_s=_WAIT_S):
        if not live.update(ended_at=Now(), ended_by=by, ended_why=why.strip()):
            raise NotLinked
        _look_and_store(by=by)
