"""Reconciliation of a day: a statement file of a million rows against a million payments of ours, in several ways.

The floor is the server reading the file with COPY into a table that nobody else needs. Every other form starts from the same file
and the same payments, and has to find the differences that the file was made with: else the benchmark stops.

- *staged file → discrepancies*: reads the file, compares, stores what differs, and keeps nothing else of it;
- *the product*: checks every line, keeps every row for ever and by its hash, matches every kind of object, says why, proves the
  statement against the ledger.

Each runs in a process of its own. Its peak memory is how much more anonymous memory it held than when it began; the server's is
that of the largest of its processes, whichever connection or worker that was.
"""

import csv
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise, zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psycopg
from django.db import connection, connections, transaction

from benchmarks.harness import Section, postgres_pids
from foundation.database import database_now
from foundation.ids import public_id, uuid7

# One size, or some, one after the other: how the times grow. Rounds of each; the last number goes for all that follow.
PAYMENTS = [int(size) for size in (os.environ.get("PAYMENTS") or "1000000").split(",")]
ROUNDS = [int(rounds) for rounds in (os.environ.get("ROUNDS") or "3").split(",")]
EVERY = 4000  # one payment in so many is missing in the file, and one has another amount; one row in so many is a stray
PARTS = 16
STREAMS = max(2, os.cpu_count() or 2)  # connections that read the file, and that match, at once
_SAMPLED_EVERY_S = 0.05
_MB = 2**20
_MILLION = 1_000_000

Found = dict[str, int]  # kind → how many
Child = Callable[[Path, datetime], Found | None]  # None: it compares nothing


# --- The ground ---------------------------------------------------------------------------------------

_OURS = """
INSERT INTO payments_payment (id, merchant_id, reference, customer, status, amount_minor, currency, method, payment_method, confirm,
    first_sent_at, provider_reference, charge_reference, captured_minor, corrected_minor, captured_at, settling,
    refunds_committed_minor, refunded_minor, refunds_excess_minor, refunds_owed_minor, disputed_lost_minor, failure_code,
    failure_decline_code, failure_message, paid_at, checks)
SELECT id, '00000000-0000-0000-0000-000000000007', 'ord' || substr(number, 4), 'cust-' || place %% 5000, 'succeeded', amount, 'usd', 'card',
    '', false, at, 'pi_' || lpad(to_hex(place), 24, '0'), 'ch_' || lpad(to_hex(place), 24, '0'), amount, 0, at, true,
    0, 0, 0, 0, 0, '', '', '', at, 0
FROM seed;

INSERT INTO payments_account (id, kind, merchant_id, customer, currency, balance_minor) VALUES
    (%(clearing)s, 'provider_clearing', NULL, '', 'usd', 0), (%(fees)s, 'fees', NULL, '', 'usd', 0),
    (%(others)s, 'unallocated_receipts', NULL, '', 'usd', 0)
ON CONFLICT DO NOTHING;

INSERT INTO payments_journalentry (id, merchant_id, kind, key, subject, reference, currency, lines, memo, by, created_at)
SELECT capture, NULL, 'capture', 'capture:' || number, number, 'ord' || substr(number, 4), 'usd', 2, '', 'benchmark', at FROM seed;
INSERT INTO payments_journalentry (id, merchant_id, kind, key, subject, reference, currency, lines, memo, by, created_at)
SELECT fee_entry, NULL, 'fee', 'fee:txn_' || lpad(to_hex(place), 24, '0'), number, 'ord' || substr(number, 4), 'usd', 2, '',
    'benchmark', at FROM seed;
INSERT INTO payments_posting (entry_id, account_id, amount_minor, posted_at)
SELECT entry, account, minor, at FROM seed, LATERAL (VALUES
    (capture, %(clearing)s::uuid, amount), (capture, %(others)s::uuid, -amount),
    (fee_entry, %(fees)s::uuid, fee), (fee_entry, %(clearing)s::uuid, -fee)) AS line (entry, account, minor);
"""
# The same rows as the provider tells them, but for the differences.
_FILE = f"""
COPY (
    SELECT 'txn_' || hex AS transaction, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS created_at, 'usd' AS currency,
           gross AS gross_minor, fee AS fee_minor, gross - fee AS net_minor, 'charge' AS category, 'ch_' || hex AS source,
           'ch_' || hex AS charge, 'pi_' || hex AS payment_intent, 'succeeded' AS status, CASE WHEN number <> '' THEN 'ord' || substr(number, 4) ELSE '' END AS order, number AS payment
    FROM (
        SELECT lpad(to_hex(place), 24, '0') AS hex, at, fee, number, amount + (place %% {EVERY} = 2)::int AS gross
        FROM seed WHERE place %% {EVERY} <> 1
        UNION ALL
        SELECT 'f' || lpad(to_hex(place), 23, '0'), at, fee, '', amount FROM seed WHERE place %% {EVERY} = 3
    ) row
    ORDER BY hashtext(hex)  -- in no order that anybody could make use of
) TO '%s' (FORMAT csv, HEADER)
"""
_COLUMNS = (
    "transaction text, created_at timestamptz, currency text, gross_minor bigint, fee_minor bigint, net_minor bigint,"
    ' category text, source text, charge text, payment_intent text, status text, "order" text, payment text'
)


def expected(payments: int) -> Found:
    kinds = ("missing_in_stripe", "amount_mismatch", "missing_in_our_system")
    return {kind: len(range(first, payments + 1, EVERY)) for first, kind in enumerate(kinds, 1)}


def make_ground(file: Path, payments: int) -> datetime:
    """So many payments of ours with their entries in the ledger, and nothing else; and the file. Returns the day's first moment."""
    from payments import ledger

    day = datetime.combine(database_now().date() - timedelta(days=1), datetime.min.time(), UTC)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica; SET LOCAL statement_timeout = 0")
        cursor.execute(f"TRUNCATE {_tables_of('payments')} CASCADE")
        cursor.execute(
            "CREATE TABLE seed (place bigint, id uuid, number text, at timestamptz, amount bigint, fee bigint,"
            " capture uuid, fee_entry uuid)"
        )
        step = timedelta(hours=22) / payments  # from 01:00 on: nothing is near midnight
        with cursor.copy("COPY seed FROM STDIN") as copy:
            for place in range(1, payments + 1):
                payment, amount = uuid7(), 500 + place * 7919 % 20_000
                at = (day + timedelta(hours=1) + place * step).replace(microsecond=0)
                fee = amount * 29 // 1000 + 30
                copy.write_row((place, payment, public_id("pay", payment), at, amount, fee, uuid7(), uuid7()))
        accounts = {
            "clearing": ledger.clearing("usd").id,
            "fees": ledger.fees("usd").id,
            "others": ledger.unallocated_receipts("usd").id,
        }
        cursor.execute(_OURS, accounts)
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        cursor.execute(_FILE % file)
        cursor.execute("DROP TABLE seed")
        cursor.execute("VACUUM (ANALYZE)")
        cursor.execute("CHECKPOINT")
        cursor.execute("RESET statement_timeout")
    return day


def forget() -> None:
    """What the round before has left."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(f"TRUNCATE {_tables_of('reconciliation')} CASCADE")
        cursor.execute("DROP TABLE IF EXISTS bench_theirs, bench_ours, bench_found")
    with connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")


def _tables_of(app: str) -> str:
    from django.apps import apps

    return ", ".join(sorted(model._meta.db_table for model in apps.get_app_config(app).get_models()))


# --- The forms ----------------------------------------------------------------------------------------

_STORE = "CREATE TABLE bench_found (kind text, source text, ours_minor bigint, theirs_minor bigint)"
_COMPARED = """
SELECT CASE WHEN o.source IS NULL THEN 'missing_in_our_system' WHEN t.source IS NULL THEN 'missing_in_stripe'
            ELSE 'amount_mismatch' END AS kind,
       coalesce(t.source, o.source) AS source, o.minor AS ours_minor, t.gross_minor AS theirs_minor
FROM {theirs} t FULL JOIN {ours} o ON o.source = t.source
WHERE t.gross_minor IS DISTINCT FROM o.minor
"""
_COMPARE = "INSERT INTO bench_found" + _COMPARED
_OUR_DAY = """
SELECT charge_reference AS source, captured_minor + corrected_minor AS minor FROM payments_payment
WHERE captured_at >= '{since}' AND captured_at < '{until}' AND status = 'succeeded'
"""


def floor(file: Path, day: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE UNLOGGED TABLE bench_theirs ({_COLUMNS})")
        cursor.execute(f"COPY bench_theirs FROM '{file}' (FORMAT csv, HEADER)")


_KEPT = ("reconciliation_rawpage", "reconciliation_providertransaction", "reconciliation_match")


def kept_rows(file: Path, day: datetime) -> None:
    """The rows that the product keeps for ever, with their keys, written by the server as fast as it can: nothing is checked."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # the run that matches name is not there
        for table in _KEPT:
            cursor.execute(f"COPY {table} FROM '{file.with_name(table)}'")


def kept_rows_by_several(file: Path, day: datetime) -> None:
    """The same by some connections at once, each a piece of a table."""
    parts = [(file.with_name(table), table) for table in _KEPT]
    _shared(
        [
            lambda own, path=path, table=table, piece=piece: _write_kept(own, path, table, *piece)  # type: ignore[misc]
            for path, table in parts
            for piece in _pieces(path, STREAMS, header=False)
        ]
    )


def _write_kept(own: psycopg.Connection[Any], file: Path, table: str, begin: int, end: int) -> None:
    own.execute("SET LOCAL session_replication_role = replica")
    _copy_piece(own, f"COPY {table} FROM STDIN", file, begin, end)


def note_kept_rows(file: Path) -> None:
    """Note what the product has kept a moment ago."""
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        for table in _KEPT:
            cursor.execute(f"COPY {table} TO '{file.with_name(table)}'")
        cursor.execute("RESET statement_timeout")


def dictionaries(file: Path, day: datetime) -> Found:
    """Both sides as tuples in dictionaries, as most programs would do it."""
    with file.open(newline="") as lines:
        rows = csv.DictReader(lines)
        theirs = {row["source"]: (row["transaction"], int(row["gross_minor"]), row["currency"]) for row in rows}
    found = []
    with psycopg.connect(os.environ["DATABASE_URL"]) as own, own.cursor(name="ours") as cursor:
        cursor.itersize = 10_000
        cursor.execute(_between(day))
        ours = {source: (source, minor, "usd") for source, minor in cursor}
    for source in ours.keys() | theirs.keys():
        mine, other = ours.get(source), theirs.get(source)
        if mine is None:
            found.append(("missing_in_our_system", source, None, other[1] if other else None))
        elif other is None:
            found.append(("missing_in_stripe", source, mine[1], None))
        elif mine[1:] != other[1:]:
            found.append(("amount_mismatch", source, mine[1], other[1]))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_STORE)
        with cursor.copy("COPY bench_found FROM STDIN") as copy:
            for row in found:
                copy.write_row(row)
    return _counted()


def plain_sql(file: Path, day: datetime) -> Found:
    """The file in one table, one full join, as most would write it."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"CREATE UNLOGGED TABLE bench_theirs ({_COLUMNS})")
        with cursor.copy("COPY bench_theirs FROM STDIN (FORMAT csv, HEADER)") as copy, file.open("rb") as lines:
            while chunk := lines.read(256 * 1024):
                copy.write(chunk)
        cursor.execute("ANALYZE bench_theirs")
        cursor.execute(_STORE)
        cursor.execute(_COMPARE.format(theirs="bench_theirs", ours=f"({_between(day)})"))
    return _counted()


def duckdb(file: Path, day: datetime) -> Found:
    """Both sides read by DuckDB, ours as a file that PostgreSQL writes for it."""
    import duckdb as engine

    ours = file.with_name("ours.csv")
    with connection.cursor() as cursor:
        cursor.execute(f"COPY ({_between(day)}) TO '{ours}' (FORMAT csv, HEADER)")
    found = engine.sql(
        f"""SELECT CASE WHEN o.source IS NULL THEN 'missing_in_our_system' WHEN t.source IS NULL THEN 'missing_in_stripe'
                        ELSE 'amount_mismatch' END AS kind, coalesce(t.source, o.source), o.minor, t.gross_minor
            FROM read_csv('{file}') t FULL JOIN read_csv('{ours}') o ON o.source = t.source
            WHERE t.gross_minor IS DISTINCT FROM o.minor"""
    ).fetchall()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_STORE)
        with cursor.copy("COPY bench_found FROM STDIN") as copy:
            for row in found:
                copy.write_row(row)
    return _counted()


def partitioned(file: Path, day: datetime) -> Found:
    """Hash partitions by the object's id on both sides; some connections stage, then match pair by pair."""
    with connection.cursor() as cursor:
        cursor.execute(_STORE)
        for name, columns in (("bench_theirs", _COLUMNS), ("bench_ours", "source text, minor bigint")):
            cursor.execute(f"CREATE TABLE {name} ({columns}) PARTITION BY HASH (source)")
            for part in range(PARTS):
                cursor.execute(
                    f"CREATE UNLOGGED TABLE {name}_{part} PARTITION OF {name}"
                    f" FOR VALUES WITH (MODULUS {PARTS}, REMAINDER {part})"
                )
    pieces = _pieces(file, STREAMS)
    hours = timedelta(days=1) / STREAMS
    jobs: list[Callable[[psycopg.Connection[Any]], None]] = [
        *(lambda own, one=one: _stage(own, file, *one) for one in pieces),
        *(lambda own, n=n: _stage_ours(own, day + n * hours, day + (n + 1) * hours) for n in range(STREAMS)),
    ]
    _shared(jobs)
    _shared([lambda own, part=part: _match_part(own, part) for part in range(PARTS)])
    return _counted()


def in_parallel(file: Path, day: datetime) -> Found:
    """Some connections read the file into one table; one statement joins it with ours, in as many processes."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE UNLOGGED TABLE bench_theirs ({_COLUMNS}) WITH (parallel_workers = {STREAMS})")
    _shared([lambda own, one=one: _stage(own, file, *one) for one in _pieces(file, STREAMS)])  # type: ignore[misc]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL work_mem = '4MB'; SET LOCAL hash_mem_multiplier = 1")  # for each process
        cursor.execute(f"SET LOCAL max_parallel_workers_per_gather = {STREAMS - 1}")  # and the one that asks
        # PostgreSQL takes each row for a difference that has to be handed over, and would rather do all in one process.
        cursor.execute("SET LOCAL parallel_tuple_cost = 0; SET LOCAL parallel_setup_cost = 0")
        cursor.execute("SET LOCAL default_statistics_target = 10; ANALYZE bench_theirs (source)")
        theirs = _COMPARED.format(theirs="bench_theirs", ours=f"({_between(day)})")
        cursor.execute(f"CREATE TABLE bench_found AS {theirs}")
    return _counted()


def _stage(own: psycopg.Connection[Any], file: Path, begin: int, end: int) -> None:
    """A piece of the file, each row into the partition of its object."""
    _copy_piece(own, "COPY bench_theirs FROM STDIN (FORMAT csv)", file, begin, end)


def _copy_piece(own: psycopg.Connection[Any], statement: str, file: Path, begin: int, end: int) -> None:
    with own.cursor().copy(statement) as copy, file.open("rb") as lines:
        lines.seek(begin)
        while begin < end and (chunk := lines.read(min(256 * 1024, end - begin))):
            begin += len(chunk)
            copy.write(chunk)


def _stage_ours(own: psycopg.Connection[Any], since: datetime, until: datetime) -> None:
    own.execute(f"INSERT INTO bench_ours {_between(since, until)}")


def _match_part(own: psycopg.Connection[Any], part: int) -> None:
    own.execute("SET LOCAL work_mem = '4MB'")
    own.execute(_COMPARE.format(theirs=f"bench_theirs_{part}", ours=f"bench_ours_{part}"))


def _shared(jobs: Sequence[Callable[[psycopg.Connection[Any]], None]]) -> None:
    """Some connections do them all, each the next one that nobody has begun; each job is a transaction."""
    left: SimpleQueue[Callable[[psycopg.Connection[Any]], None]] = SimpleQueue()
    for job in jobs:
        left.put(job)

    def work(_number: int) -> None:
        with psycopg.connect(os.environ["DATABASE_URL"]) as own:
            while True:
                try:
                    job = left.get_nowait()
                except Empty:
                    return
                with own.transaction():
                    job(own)

    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(work, range(STREAMS)))


def _pieces(file: Path, count: int, *, header: bool = True) -> list[tuple[int, int]]:
    """(first byte, byte after the last) of pieces of whole lines, without the header. No line of ours has a break within."""
    size = file.stat().st_size
    with file.open("rb") as lines:
        if header:
            lines.readline()
        cuts = [lines.tell()]
        for number in range(1, count):
            lines.seek(size * number // count)
            lines.readline()
            cuts.append(lines.tell())
    return list(zip(cuts, [*cuts[1:], size], strict=True))


def product(file: Path, day: datetime) -> Found:
    """What `manage.py reconcile --statement FILE` does."""
    from reconciliation import services
    from reconciliation.imports import Expected
    from reconciliation.models import Discrepancy

    with file.open("rb") as statement:
        took_in = services.import_statement(
            file=statement, name=file.name, by="benchmark", expected=Expected(day.date(), day.date())
        )
    if took_in.problems:
        raise SystemExit(f"error: {took_in.problems[:3]}")
    _note("taken in")
    report = services.reconcile_day(day=day.date(), by="benchmark", from_files=True)
    _note("compared")
    if any(report.residual.values()):
        raise SystemExit(f"error: the statement does not close: {report.residual}")
    found = Discrepancy.objects.values_list("kind", flat=True)
    return {kind: found.filter(kind=kind).count() for kind in sorted(set(found))}


def _between(since: datetime, until: datetime | None = None) -> str:
    return _OUR_DAY.format(since=since.isoformat(), until=(until or since + timedelta(days=1)).isoformat())


def _counted() -> Found:
    with connection.cursor() as cursor:
        cursor.execute("SELECT kind, count(*) FROM bench_found GROUP BY 1")
        return dict(cursor.fetchall())


# --- Measuring ----------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the rounds of one form showed."""

    name: str
    wall_s: list[float] = field(default_factory=list)
    client_mb: list[float] = field(default_factory=list)
    server_mb: list[float] = field(default_factory=list)
    parts_s: dict[str, list[float]] = field(default_factory=dict)  # of one run

    def times(self, base: "Seen") -> float:
        return statistics.median(mine / other for mine, other in zip(self.wall_s, base.wall_s, strict=False))


class _Watch:
    """The peak anonymous memory of a process, and of the largest process of the server's, until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid, self._stop = pid, threading.Event()
        self._base = _anonymous_mb(pid)
        self.client_mb = self.server_mb = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        looks, servers = 0, postgres_pids()
        while not self._stop.wait(_SAMPLED_EVERY_S):
            looks += 1
            if looks % 5 == 0:  # who is new; the sampling itself must cost next to nothing
                servers = postgres_pids()
            self.client_mb = max(self.client_mb, _anonymous_mb(self._pid) - self._base)
            self.server_mb = max([self.server_mb, *map(_anonymous_mb, servers)])

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _anonymous_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024 / _MB
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0.0


_noted: list[tuple[str, float]] = []


def _note(part: str) -> None:
    _noted.append((part, time.perf_counter()))


def _in_child(run: Child, file: Path, day: datetime, begin: Connection, told: Connection) -> None:
    connections.close_all()
    with connection.cursor() as cursor:  # connecting is not measured
        if run is not product:
            cursor.execute("SET statement_timeout = 0")
    if run is duckdb:
        import duckdb as _engine  # noqa: F401  neither is loading it
    told.send("ready")
    begin.recv()
    _noted.clear()
    _note("")
    began = time.perf_counter()
    found = run(file, day)
    took = time.perf_counter() - began
    parts = {name: at - before for (_, before), (name, at) in pairwise(_noted)}
    told.send((took, found, parts))


def one_round(seen: Seen, run: Child, file: Path, day: datetime, payments: int) -> None:
    forget()
    connections.close_all()
    context = multiprocessing.get_context("fork")
    theirs, begin = context.Pipe(duplex=False)
    told, ours = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(run, file, day, theirs, ours))
    child.start()
    told.recv()
    watch = _Watch(child.pid or 0)
    begin.send("go")
    try:
        took, found, parts = told.recv()
    except EOFError:
        raise SystemExit(f"error: {seen.name} died") from None
    finally:
        watch.stop()
        child.join(10)
    if found is not None and found != expected(payments):
        raise SystemExit(f"error: {seen.name} found {found}, not {expected(payments)}")
    seen.wall_s.append(took)
    seen.client_mb.append(watch.client_mb)
    seen.server_mb.append(watch.server_mb)
    for name, seconds in parts.items():
        seen.parts_s.setdefault(name, []).append(seconds)


# --- Telling ------------------------------------------------------------------------------------------

_FLOOR = "floor: server-side COPY of the file"
_KEPT_ROWS = "server-side COPY of the rows that the product keeps, with their keys"
_KEPT_BY_SEVERAL = f"COPY of the same rows by {STREAMS} connections"
_PARTITIONED = f"{PARTS} hash partitions, {STREAMS} connections"
_PARALLEL = f"one table, {STREAMS} connections, one full join in {STREAMS} processes"
_PRODUCT = "the product: checked, kept by hash, matched with reasons, proved"


def run() -> None:
    from benchmarks.worker import running

    if sum(payments <= _MILLION for payments in PAYMENTS) > 1 or sum(payments > _MILLION for payments in PAYMENTS) > 1:
        raise SystemExit("error: PAYMENTS: name one size up to a million, one above it, or both")
    folder = Path(tempfile.mkdtemp(prefix="everycent-statement-"))
    folder.chmod(0o777)  # the server reads and writes here as well, as whom it is
    before: tuple[int, dict[str, Seen]] | None = None
    try:
        with running("long", concurrency=STREAMS - 1):  # helps the product with its large days
            for payments, rounds in zip_longest(PAYMENTS, ROUNDS[: len(PAYMENTS)], fillvalue=ROUNDS[-1]):
                section = Section(
                    "reconciliation" if payments <= _MILLION else "reconciliation-large",
                    f"Reconciliation of {payments:,} payments with {payments:,} rows of a statement file",
                )
                seen = _measure(folder / "statement.csv", payments, rounds)
                _tell(section, seen, payments, rounds)
                if before:
                    _tell_growth(section, before[1], seen, payments / before[0])
                section.close()
                before = payments, seen
    finally:
        shutil.rmtree(folder)


def _measure(file: Path, payments: int, rounds: int) -> dict[str, Seen]:
    """Each form once a round, in turn."""
    forms: dict[str, Child] = {
        _FLOOR: floor,
        "tuples in dictionaries": dictionaries,
        "plain SQL: one table, one full join": plain_sql,
        **({"DuckDB": duckdb} if _has_duckdb() else {}),
        _PARTITIONED: partitioned,
        _PARALLEL: in_parallel,
        _PRODUCT: product,
        _KEPT_ROWS: kept_rows,
        _KEPT_BY_SEVERAL: kept_rows_by_several,
    }
    day = make_ground(file, payments)
    seen = {name: Seen(name) for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            one_round(seen[name], form, file, day, payments)
            if form is product:
                note_kept_rows(file)
    return seen


def _tell(section: Section, seen: dict[str, Seen], payments: int, rounds: int) -> None:
    from tests.campaigns import report

    base = seen[_FLOOR]
    if not _has_duckdb():
        section.say("DuckDB is not installed here: its row is left out.")
    rows = [
        [
            one.name,
            f"{statistics.median(one.wall_s):.2f}",
            f"{one.times(base):.2f}",
            f"{max(one.client_mb):.0f}",
            f"{max(one.server_mb):.0f}",
        ]
        for one in seen.values()
    ]
    header = [f"{payments:,} × {payments:,}, {rounds} rounds", "s", "÷ floor", "our peak MB", "PostgreSQL's peak MB"]
    section.say(report.table(header, rows))
    whole = seen[_PRODUCT]
    took = ", ".join(f"{name} {statistics.median(some):.1f} s" for name, some in whole.parts_s.items())
    found = sum(expected(payments).values())
    section.say(f"The product, step by step: {took}. All forms found the same {found:,} differences.")
    most_mb = 20 if payments <= _MILLION else 70
    for aim, one in (
        ("staged file → discrepancies ≤ 1.2 ×", seen[_PARALLEL]),
        ("all that the product does ≤ 5 ×", whole),
    ):
        ratio, peak = one.times(base), max(*one.client_mb, *one.server_mb)
        section.aim(
            f"{aim} the floor's time, ≤ {most_mb} MB in each process",
            met=ratio <= (5 if one is whole else 1.2) and peak <= most_mb,
            measured=f"{ratio:.2f} ×, {peak:.0f} MB",
        )
    times = whole.times(seen[_KEPT_ROWS])
    section.aim(
        "and ≤ 5 × the time in which the server writes the rows that it keeps",
        met=times <= 5,
        measured=f"{times:.2f} ×",
    )


def _tell_growth(section: Section, before: dict[str, Seen], now: dict[str, Seen], rows: float) -> None:
    """How the times have grown with the rows."""
    for name in (_FLOOR, _KEPT_ROWS, _PARALLEL, _PRODUCT):
        grew = statistics.median(now[name].wall_s) / statistics.median(before[name].wall_s)
        if name in (_FLOOR, _KEPT_ROWS):
            section.say(f"{rows:g} × the rows, {name}: {grew:.1f} × the time.")
        else:
            section.aim(
                f"{rows:g} × the rows in ≤ {rows * 1.1:g} × the time, {name}",
                met=grew <= rows * 1.1,
                measured=f"{grew:.1f} ×",
            )


def _has_duckdb() -> bool:
    from importlib.util import find_spec

    return find_spec("duckdb") is not None
