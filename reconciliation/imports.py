"""Reads statement files: which layout they have, what their lines say, what is wrong with which line.

Streamed: the bytes go to PostgreSQL as they come (COPY into a temporary table of text columns), and are validated there,
all lines at once. What came is kept in pages (`pages`), which a row names as its voucher. Memory stays flat however long the file is. Three layouts, told apart by their header (docs/statement-files.md):

- `stripe`: the itemised CSV of Stripe's activity report, amounts in major units, any choice of columns that holds the
  necessary ones. It holds no payouts;
- `stripe_payouts`: that of its payouts report, which holds nothing else;
- `everycent`: our own, amounts in minor units.

Works in the caller's transaction; the table ends with it.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Any, BinaryIO, Final

from django.conf import settings
from django.db import DataError, connection, transaction
from django.db.backends.utils import CursorWrapper

from foundation.money import EXPONENTS
from reconciliation.limits import set_for_long_work
from reconciliation.pages import LONGEST_ROW, Page, pages_of, voucher
from reconciliation.types import Problem, ReadPart

_LONGEST_HEADER = 64 * 1024
_LONGEST_NAME = 63  # what PostgreSQL calls a column
_MOST_COLUMNS = 300  # whose cells PostgreSQL keeps in one row however long they are
_SYSTEM_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}  # those that each of its tables has
_MANY = 10_000  # new rows
_COUNT_FEW = "SET LOCAL default_statistics_target = 10"  # ANALYZE holds 300 rows for each: of long rows, that is memory

_LINE: Final = "_line_"  # the column that counts the rows
_PAGES_AT_ONCE = 16  # in memory
# What is compressed already is not compressed again.
_PAGES = """
CREATE TEMPORARY TABLE recon_page (place int, first bigint, rows int, sha256 bytea, body bytea STORAGE EXTERNAL) ON COMMIT DROP
"""

STRIPE: Final = "stripe"
STRIPE_PAYOUTS: Final = "stripe_payouts"
EVERYCENT: Final = "everycent"

# What each layout's report holds of a day (ProviderRead.part).
PARTS: Final[Mapping[str, str]] = {STRIPE: ReadPart.ACTIVITY, STRIPE_PAYOUTS: ReadPart.PAYOUTS, EVERYCENT: ReadPart.ALL}

# A moment in some zone, where the one in UTC is not in the file.
_LOCAL: Final[Mapping[str, str]] = {"created_utc": "created", "effective_at_utc": "effective_at"}

# What a layout calls what we need; those in parentheses may be left out.
_NECESSARY: Final[Mapping[str, Mapping[str, str]]] = {
    STRIPE: {
        "id": "balance_transaction_id",
        "created": "created_utc",
        "currency": "currency",
        "gross": "gross",
        "fee": "fee",
        "net": "net",
        "category": "reporting_category",
        "source": "source_id",
    },
    STRIPE_PAYOUTS: {
        "id": "balance_transaction_id",
        "created": "effective_at_utc",
        "currency": "currency",
        "gross": "gross",
        "fee": "fee",
        "net": "net",
        "category": "reporting_category",
        "source": "payout_id",
    },
    EVERYCENT: {
        "id": "transaction",
        "created": "created_at",
        "currency": "currency",
        "gross": "gross_minor",
        "fee": "fee_minor",
        "net": "net_minor",
        "category": "category",
        "source": "source",
    },
}
_OBJECTS: Final = ["charge", "refund"]
_OPTIONAL: Final[Mapping[str, Mapping[str, str]]] = {
    STRIPE: {
        "charge": "charge_id",
        "intent": "payment_intent_id",
        "order": "payment_metadata[order]",
        "payment": "payment_metadata[payment]",
        "instance": "payment_metadata[instance]",
    },
    STRIPE_PAYOUTS: {},
    EVERYCENT: {
        "charge": "charge",
        "intent": "payment_intent",
        "order": "order",
        "payment": "payment",
        "instance": "instance",
        "status": "status",
    },
}


class Unreadable(Exception):
    """The file as a whole is not a statement: the problem says why."""

    def __init__(self, line: int, reason: str) -> None:
        self.problem = Problem(line, reason)
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the rows of a file must keep to: days in UTC, both included, and a currency; None: any."""

    first_day: date | None = None
    last_day: date | None = None
    currency: str = ""
    time_zone: str = ""  # of the column `created`, where the file has no `created_utc`


@dataclass(frozen=True, slots=True)
class Layout:
    """A file's header: its columns in order, and which of them say what we need."""

    name: str
    columns: tuple[str, ...]
    named: Mapping[str, str]  # what we need → the column
    lines: int  # of the header itself
    offset: int  # bytes before the first row

    @property
    def is_local(self) -> bool:
        """Whether its moments are in a zone that somebody has to say."""
        return self.named["created"] in _LOCAL.values()

    def column(self, what: str) -> str:
        """The column's value as SQL: text without blanks around it, empty where it is not there."""
        if what not in self.named:
            return "''::text"
        return f"btrim(coalesce(s.{_in_statement(self.named[what])}, ''))"


# --- The header -------------------------------------------------------------------------------------


def read_layout(file: BinaryIO, expected: Expected) -> Layout:
    """Read the header. Raises Unreadable."""
    file.seek(0)
    head = file.read(_LONGEST_HEADER)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable(1, "the file is in UTF-16: save it as UTF-8")
    mark = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    end = _end_of_record(head, mark)
    try:
        text = head[mark:end].decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(1, "the header is not UTF-8") from None
    if len(head) == _LONGEST_HEADER == end:
        raise Unreadable(1, "the header does not end: is this a statement?")
    if "\r" in text.removesuffix("\n").removesuffix("\r"):
        raise Unreadable(1, "lines end in CR alone: save the file with LF or CRLF")
    if "\0" in text:
        raise Unreadable(1, "the header holds a NUL byte")
    records = list(csv.reader(io.StringIO(text, newline="")))
    if len(records) > 1:
        raise Unreadable(1, "a quotation mark in the header does not close: rows would be read as a part of it")
    columns = tuple(name.strip() for name in (records or [[]])[0])
    if len(columns) > _MOST_COLUMNS:
        raise Unreadable(1, f"the header has {len(columns)} columns: {_MOST_COLUMNS} are read at most")
    if not any(columns):
        raise Unreadable(1, "the file is empty: it has no header")
    for name in columns:
        if columns.count(name) > 1 or name in ("", _LINE):
            raise Unreadable(1, f"the column {name!r} stands in the header {columns.count(name)} times")
        if name in _SYSTEM_COLUMNS:
            raise Unreadable(1, f"a column cannot be called {name!r}: rename it, or leave it out")
        if len(name.encode()) > _LONGEST_NAME:
            raise Unreadable(1, f"the column's name {name!r} is too long")
    return _named(columns, expected, lines=text.count("\n") or 1, offset=end)


def _named(columns: tuple[str, ...], expected: Expected, *, lines: int, offset: int) -> Layout:
    names = [name for name, needs in _NECESSARY.items() if needs["id"] in columns]
    if STRIPE_PAYOUTS in names:
        names = [STRIPE_PAYOUTS if "payout_id" in columns and "source_id" not in columns else STRIPE]
    if not names:
        raise Unreadable(
            1,
            "this is no statement that we know: it has neither balance_transaction_id (Stripe) nor transaction (ours)",
        )
    needs = dict(_NECESSARY[names[0]])
    utc, local = needs["created"], _LOCAL.get(needs["created"], "")
    if utc not in columns and local in columns:
        if not expected.time_zone:
            raise Unreadable(1, f"there is no {utc}: say in which time zone the column {local} is")
        needs["created"] = local
    missing = [column for column in needs.values() if column not in columns]
    if missing:
        raise Unreadable(1, f"the column {missing[0]} is missing")
    optional = {what: column for what, column in _OPTIONAL[names[0]].items() if column in columns}
    return Layout(names[0], columns, {**needs, **optional}, lines, offset)


def _end_of_record(head: bytes, start: int) -> int:
    """Behind the line break that ends the first record; one within quotes is part of it."""
    quoted = False
    for place in range(start, len(head)):
        if head[place] == ord('"'):
            quoted = not quoted
        elif head[place] == ord("\n") and not quoted:
            return place + 1
    return len(head)


# --- The rows, as they stand --------------------------------------------------------------------------


def stage(file: BinaryIO, layout: Layout) -> int:
    """Copy the rows, as text, into the temporary table `recon_staged`, and their pages into `recon_page`; how many rows.

    Raises DataError where they are torn, RowWithoutEnd.
    """
    columns = ", ".join(f"{_quoted(name)} text" for name in layout.columns)
    file.seek(0)
    header = file.read(layout.offset)
    pages = enumerate(pages_of(file), 1)
    staged = 0
    with transaction.atomic(), connection.cursor() as cursor:
        set_for_long_work(cursor)
        cursor.execute("DROP TABLE IF EXISTS pg_temp.recon_staged, pg_temp.recon_page")
        cursor.execute(
            f"CREATE TEMPORARY TABLE recon_staged ({_LINE} bigint GENERATED ALWAYS AS IDENTITY, {columns}) ON COMMIT DROP"
        )
        cursor.execute(_PAGES)
        while some := _copied(cursor, layout, islice(pages, _PAGES_AT_ONCE), header, staged):
            staged += some
        cursor.execute("ANALYZE recon_page (place)")
    return staged


def _copied(
    cursor: CursorWrapper, layout: Layout, pages: Iterator[tuple[int, Page]], header: bytes, before: int
) -> int:
    """Copy some pages behind the rows that were copied before; how many rows."""
    names = ", ".join(_quoted(name) for name in layout.columns)
    rows, kept = 0, []
    with connection.wrap_database_errors:
        with cursor.copy(f"COPY recon_staged ({names}) FROM STDIN (FORMAT csv, ENCODING 'UTF8')") as copy:
            for place, page in pages:
                kept.append((place, before + rows + 1, page.rows, *voucher(header, page)))
                copy.write(page.text)
                rows += page.rows
        if cursor.rowcount != rows:
            raise DataError(f"{rows} rows were read, and {cursor.rowcount} of them understood")
        with cursor.copy("COPY recon_page (place, first, rows, sha256, body) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "int8", "int4", "bytea", "bytea"])
            for one in kept:
                copy.write_row(one)
    return rows


def torn_lines(file: BinaryIO, layout: Layout, error: Exception) -> list[Problem]:
    """Why COPY refused the file: each line that is torn, as far as they can be told apart."""
    found = []
    file.seek(layout.offset)
    for problem in _torn(file, layout):
        found.append(problem)
        if len(found) >= settings.RECONCILE_PROBLEMS_SHOWN:
            break
    return found or [Problem(layout.lines + 1, str(error).splitlines()[0])]


def _torn(file: BinaryIO, layout: Layout) -> Iterator[Problem]:
    csv.field_size_limit(LONGEST_ROW)
    rows = csv.reader(_decoded(file), strict=True)
    line = layout.lines + 1
    try:
        for row in rows:
            broken = [cell for cell in row if "\N{REPLACEMENT CHARACTER}" in cell]
            if broken:
                yield Problem(line, "not UTF-8")
            elif any("\0" in cell for cell in row):
                yield Problem(line, "it holds a NUL byte")
            elif not row:
                yield Problem(line, "an empty line")
            elif len(row) != len(layout.columns):
                yield Problem(line, f"torn: {len(row)} cells, the header has {len(layout.columns)}")
            line = layout.lines + 1 + rows.line_num
    except csv.Error as error:
        yield Problem(line, f"torn: {error}")


def _decoded(file: BinaryIO) -> Iterator[str]:
    while raw := file.readline(LONGEST_ROW):
        yield raw.decode("utf-8", errors="replace")


# --- What they say ----------------------------------------------------------------------------------

_WHOLE = "-?[0-9]+"
_DECIMAL = "-?[0-9]+([.][0-9]+)?"
_LONGEST_NUMBER = 18  # characters
_LARGEST_MINOR = 10**18  # fits a bigint
# Patterns that count (`[0-9]{2}`) cost several times as much. That a day is in the calendar, PostgreSQL says.
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9][0-9]?[0-9]?[0-9]?[0-9]?[0-9]?)?)?"
_MOMENT = f"20[0-9][0-9]-[0-9][0-9]-[0-9][0-9][ T]{_TIME}"
_SHAPES = ["0000-00-00 00:00:00", "0000-00-00T00:00:00"]  # of most moments, digits as 0
_OUR_SHAPES = [moment + zone for moment in _SHAPES for zone in ("Z", "+00:00")]
_ZONE = "([Zz]|[+-][0-9][0-9]:?[0-9][0-9])"

# Whether all cells of a line are right, told at a glance: a pattern for each cell, below, costs several times as much. So does one for a
# moment: PostgreSQL makes a pattern's states anew for each text, and there each character is one.
_SEEN_RIGHT = """
length(id) <= 255 AND length(category) <= 64 AND length(source) <= 255 AND greatest(length(gross), length(fee), length(net)) <= %(longest)s
AND x.scale IS NOT NULL AND (%(currency)s = '' OR currency = %(currency)s) AND NOT ({thousands})
AND concat_ws(' ', id, category, gross, fee, net, source) ~ %(names_and_amounts)s
AND translate(created, '123456789', '000000000') = ANY(%(shapes)s) AND left(created, 2) = '20'
AND substr(created, 12, 2) < '24' COLLATE "C" AND substr(created, 18, 2) < '60' COLLATE "C" AND pg_input_is_valid(created, %(moment_type)s)
"""

# Each line as what it says, and what is wrong with it: the first thing that is. Casts come after the checks that make them safe:
# OFFSET 0 keeps the steps apart.
_READ = """
CREATE TEMPORARY TABLE recon_read ON COMMIT DROP AS
WITH cells AS NOT MATERIALIZED (
    SELECT s._line_ AS line, {id} AS id, {created} AS created, lower({currency}) AS currency, {gross} AS gross, {fee} AS fee,
           {net} AS net, {category} AS category, {source} AS source, {named} AS named, {charge} AS charge, {intent} AS intent, {status} AS status,
           {order} AS order_reference, {payment} AS payment_number, {instance} AS instance
    FROM recon_staged s OFFSET 0
), shaped AS (
    SELECT c.*, x.scale, CASE
        WHEN {seen_right} THEN NULL
        WHEN id = '' THEN 'it has no transaction id'
        WHEN length(id) > 255 OR id !~ '^[[:graph:]]+$' THEN 'the transaction id is not one: ' || left(id, 60)
        WHEN x.scale IS NULL THEN 'the currency is not known: ' || left(currency, 20)
        WHEN %(currency)s <> '' AND currency <> %(currency)s THEN 'wrong currency: ' || currency || ', not ' || %(currency)s
        WHEN length(gross) > %(longest)s OR gross !~ %(number)s THEN 'the gross is not an amount: ' || left(gross, 40)
        WHEN length(fee) > %(longest)s OR fee !~ %(number)s THEN 'the fee is not an amount: ' || left(fee, 40)
        WHEN length(net) > %(longest)s OR net !~ %(number)s THEN 'the net is not an amount: ' || left(net, 40)
        WHEN {thousands} THEN 'an amount with three decimals: 1.000 may mean a thousand. Write two, or none'
        WHEN category = '' THEN 'it has no reporting category'
        WHEN length(category) > 64 OR length(source) > 255 THEN 'a name is too long'
        WHEN category !~ '^[[:graph:]]+$' OR source !~ '^[[:graph:]]*$' THEN 'the category or the source is not a name'
        WHEN created !~ %(moment)s OR NOT pg_input_is_valid(created, %(moment_type)s)
            THEN 'the moment is not one: ' || left(created, 40)
    END AS problem
    FROM cells c LEFT JOIN unnest(%(currencies)s::text[], %(scales)s::numeric[]) AS x (name, scale) ON x.name = c.currency
    OFFSET 0
), timed AS (
    SELECT *, CASE WHEN problem IS NULL THEN {moment} END AS at, CASE WHEN problem IS NULL THEN {minor_gross} END AS gross_minor,
           CASE WHEN problem IS NULL THEN {minor_fee} END AS fee_minor, CASE WHEN problem IS NULL THEN {minor_net} END AS net_minor
    FROM shaped OFFSET 0
), judged AS (
    SELECT *, coalesce(problem, CASE
        WHEN {too_fine} THEN 'an amount has more decimals than ' || upper(currency) || ' counts'
        WHEN net_minor <> gross_minor - fee_minor THEN 'the net is not the gross less the fee'
        WHEN greatest(abs(gross_minor), abs(fee_minor), abs(net_minor)) >= %(largest)s THEN 'an amount is too large'
        WHEN at < coalesce(%(since)s::timestamptz, '-infinity') OR at >= coalesce(%(until)s::timestamptz, 'infinity')
            THEN 'wrong day: ' || to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
    END) AS found
    FROM timed OFFSET 0
)
SELECT line, id, currency, category, source, named, intent, status, order_reference, payment_number, instance, at, found AS problem,
       CASE WHEN charge = '' AND category = ANY(%(charge_categories)s) THEN source ELSE charge END AS charge,
       CASE WHEN found IS NULL THEN gross_minor END::bigint AS gross_minor,
       CASE WHEN found IS NULL THEN fee_minor END::bigint AS fee_minor,
       CASE WHEN found IS NULL THEN net_minor END::bigint AS net_minor
FROM judged
"""
# Those that our copy of the provider's books holds already.
_KNOWN = """
CREATE TEMPORARY TABLE recon_known ON COMMIT DROP AS
SELECT k.id, k.amount_minor, k.fee_minor, k.net_minor, k.currency, k.reporting_category, k.source, k.created_at
FROM recon_read r JOIN reconciliation_providertransaction k ON k.id = r.id
"""
# An hour that a zone has twice may be either; and the report of payouts tells another moment than the API: when they left the
# balance, not when they were made. What we know of it is the moment then.
_ADOPT = """
UPDATE recon_read r SET at = k.created_at FROM recon_known k
WHERE k.id = r.id AND r.problem IS NULL AND (%(any)s
    OR date_trunc('second', k.created_at AT TIME ZONE %(zone)s) = date_trunc('second', r.at AT TIME ZONE %(zone)s))
"""


def read(layout: Layout, expected: Expected, *, charge_categories: list[str]) -> None:
    """Read what was staged into the temporary table `recon_read`: a row each, typed, with what is wrong with it."""
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS pg_temp.recon_read, pg_temp.recon_known")
        written = _expressions(layout)
        statement = _READ.format(**written, seen_right=_SEEN_RIGHT.format(**written))
        cursor.execute(statement, _parameters(layout, expected, charge_categories))
        cursor.execute(_COUNT_FEW)
        cursor.execute("ANALYZE recon_read (id)")
        cursor.execute(_KNOWN)
        cursor.execute("ANALYZE recon_known (id)")
        if layout.is_local or layout.name == STRIPE_PAYOUTS:
            zone = expected.time_zone if layout.is_local else "UTC"
            cursor.execute(_ADOPT, {"zone": zone, "any": layout.name == STRIPE_PAYOUTS})


_PROBLEMS = """
WITH repeated AS (
    SELECT id, min(line) AS first FROM recon_read WHERE id <> '' GROUP BY id HAVING count(*) > 1
), judged AS (
    SELECT line, 1 AS rank, problem FROM recon_read WHERE problem IS NOT NULL
    UNION ALL
    SELECT r.line, 2, 'the transaction ' || r.id || ' stands in the file before'
    FROM repeated d JOIN recon_read r ON r.id = d.id WHERE r.line > d.first
    UNION ALL
    SELECT r.line, 3, CASE
        WHEN (k.amount_minor, k.fee_minor, k.net_minor, k.currency, k.reporting_category) IS DISTINCT FROM
             (r.gross_minor, r.fee_minor, r.net_minor, r.currency::varchar, r.category::varchar)
             OR r.named AND k.source <> r.source -- of what the file does not name we may know more
            THEN 'it says something else than what we read of ' || r.id || ' before'
        WHEN date_trunc('second', k.created_at) <> date_trunc('second', r.at)
            THEN 'another moment than what we read of ' || r.id || ' before'
    END
    FROM recon_known k JOIN recon_read r ON r.id = k.id
), told AS (
    SELECT DISTINCT ON (line) line, problem FROM judged WHERE problem IS NOT NULL ORDER BY line, rank
), counted AS (
    SELECT line, problem, count(*) OVER () AS all_of_them FROM told ORDER BY line LIMIT %(shown)s
), above AS (
    -- A line break within quotes makes the lines below it one more.
    SELECT b.line, sum(b.breaks) OVER (ORDER BY b.line ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS breaks
    FROM (
        SELECT s._line_ AS line, length(s.*::text) - length(replace(s.*::text, chr(10), '')) AS breaks
        FROM recon_staged s WHERE s._line_ <= (SELECT max(line) FROM counted)
    ) b
)
SELECT c.line, c.problem, c.all_of_them, coalesce(a.breaks, 0)::bigint
FROM counted c JOIN above a ON a.line = c.line ORDER BY c.line
"""


def problems(layout: Layout) -> tuple[list[Problem], int]:
    """What is wrong with which line of what was read: the first ones, and how many there are."""
    with connection.cursor() as cursor:
        cursor.execute(_PROBLEMS, {"shown": settings.RECONCILE_PROBLEMS_SHOWN})
        rows = cursor.fetchall()
    found = [Problem(layout.lines + line + breaks, problem) for line, problem, _, breaks in rows]
    return found, rows[0][2] if rows else 0


# Of days of which the file is said to hold all that its report holds.
_LACKING = """
SELECT id, created_at, count(*) OVER () FROM reconciliation_providertransaction t
WHERE created_at >= %(since)s AND created_at < %(until)s AND withdrawn_at IS NULL
  AND NOT reporting_category = ANY(%(elsewhere)s) AND (%(currency)s = '' OR currency = %(currency)s)
  AND NOT EXISTS (SELECT FROM recon_known k WHERE k.id = t.id)
ORDER BY created_at, id LIMIT %(shown)s
"""


def lacking(
    layout: Layout, window: tuple[datetime, datetime], currency: str, *, payouts: list[str]
) -> tuple[list[Problem], int]:
    """Rows of a window that we read before and the file does not hold: the first ones, and how many there are.

    The provider takes no row back: either the file is not whole, or its days are other ones. `payouts`: their categories.
    """
    if layout.name == STRIPE_PAYOUTS:
        return [], 0  # its days are those on which payouts left the balance, and ours may be others
    parameters: dict[str, Any] = {
        "since": window[0],
        "until": window[1],
        "elsewhere": payouts if layout.name == STRIPE else [],
        "currency": currency.lower(),
        "shown": settings.RECONCILE_PROBLEMS_SHOWN,
    }
    with connection.cursor() as cursor:
        cursor.execute(_LACKING, parameters)
        rows = cursor.fetchall()
    found = [
        Problem(layout.lines, f"the file lacks {id} of {at:%Y-%m-%d}, which we read before: it is not all of its days")
        for id, at, _ in rows
    ]
    return found, rows[0][2] if rows else 0


_NEW = "NOT EXISTS (SELECT FROM recon_known k WHERE k.id = r.id)"
# In the order of their ids: an index that is written from one end to the other costs half of one that is written all over.
_KEEP = f"""
INSERT INTO reconciliation_providertransaction
    (id, type, reporting_category, source, amount_minor, fee_minor, net_minor, currency, status, created_at, available_at,
     payment_intent, charge, source_status, order_reference, payment_number, instance, sha256, page_row)
SELECT id, category, category, source, gross_minor, fee_minor, net_minor, currency, '', at, at, left(intent, 255),
       left(charge, 255), left(status, 32), left(order_reference, 500), left(payment_number, 500), left(instance, 500),
       p.sha256, r.line - p.first + 1
FROM recon_read r JOIN recon_page p ON p.place = width_bucket(r.line, (SELECT array_agg(first ORDER BY place) FROM recon_page))
WHERE {_NEW} ORDER BY id
"""  # noqa: S608  constants
# Also of rows that we know: what this file says of them is a voucher of its own.
_KEEP_PAGES = """
INSERT INTO reconciliation_rawpage (sha256, rows, body) SELECT sha256, rows, body FROM recon_page ORDER BY sha256
ON CONFLICT DO NOTHING
"""
_COME_BACK = """
UPDATE reconciliation_providertransaction t SET withdrawn_at = NULL, seen_at = now()
FROM recon_known k WHERE k.id = t.id AND t.withdrawn_at IS NOT NULL
"""


def keep() -> int:
    """Write what was read, and has no problem, into our copy of the provider's books; how many rows are new.

    A row that we know stays as it is: what the API tells of it is more. One that a reading did not bring any more is there again.
    Raises IntegrityError where somebody wrote one of them meanwhile: read again, it is known. (ON CONFLICT would make each row a
    quarter dearer, for what next to never happens.)
    """
    with connection.cursor() as cursor:
        cursor.execute(_KEEP)
        added = int(cursor.rowcount)
        for statement in (_KEEP_PAGES, _COME_BACK):
            cursor.execute(statement)
    return added


def count_anew(added: int) -> None:
    """Have PostgreSQL count its rows after many are new. Belongs outside of transactions: it holds a lock to the end of one.

    A run may follow before autovacuum has, and would look up row after row. Whoever counts at the moment does so for us.
    """
    if added >= _MANY:
        with transaction.atomic(durable=True), connection.cursor() as cursor:
            cursor.execute(_COUNT_FEW)
            cursor.execute("ANALYZE (SKIP_LOCKED) reconciliation_providertransaction")


# Independent of the rows' order: how many there are, and the sum of a hash of what each says.
_SAYS = "SELECT count(*), coalesce(sum(hash_record_extended(ROW({row}), 0)::numeric), 0) FROM recon_read r"
_READ_SAYS = _SAYS.format(
    row="r.id, r.gross_minor, r.fee_minor, r.net_minor, r.currency, r.category, CASE WHEN r.named THEN r.source END,"
    " date_trunc('second', r.at)"
)
_KEPT_SAYS = (
    _SAYS.format(
        row="""k.id::text, k.amount_minor, k.fee_minor, k.net_minor, k.currency::text, k.reporting_category::text,
        CASE WHEN r.named THEN k.source::text END, date_trunc('second', k.created_at)"""
    )
    + " JOIN reconciliation_providertransaction k ON k.id = r.id WHERE k.withdrawn_at IS NULL"
)


def is_kept(rows: int) -> bool:
    """Whether our copy of the provider's books says of so many rows what was read of them: by count and hash."""
    said = []
    with connection.cursor() as cursor:
        for statement in (_READ_SAYS, _KEPT_SAYS):
            cursor.execute(statement)
            said.append(cursor.fetchone())
    staged, kept = said
    return bool(staged == kept and staged[0] == rows)


def moments() -> tuple[datetime | None, datetime | None]:
    """The oldest and the newest moment (UTC) of what was read and has no problem."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT min(at), max(at) FROM recon_read")
        oldest, newest = cursor.fetchone()
    return oldest, newest


def _expressions(layout: Layout) -> dict[str, str]:
    """What a layout writes for what `_READ` asks for: cells of `recon_staged`, then what they say, by their names there."""
    cells = {what: layout.column(what) for what in (*_NECESSARY[layout.name], *_OPTIONAL[EVERYCENT])}
    # A charge or refund whose statement names no object stands under its row's own id: each is one of its own.
    cells["named"] = f"{cells['source']} <> ''"
    cells["source"] = (
        f"coalesce(nullif({cells['source']}, ''),"
        f" CASE WHEN {cells['category']} = ANY(%(objects)s) THEN {cells['id']} ELSE '' END)"
    )
    if layout.is_local:
        moment = "created::timestamp AT TIME ZONE %(time_zone)s"
    elif layout.name == EVERYCENT:
        moment = "created::timestamptz"
    else:
        moment = "created::timestamp AT TIME ZONE 'UTC'"
    if layout.name == EVERYCENT:
        minor = {part: f"{part}::bigint" for part in ("gross", "fee", "net")}
        too_fine = thousands = "false"
    else:
        minor = {part: f"{part}::numeric * scale" for part in ("gross", "fee", "net")}
        too_fine = " OR ".join(f"trunc({part}_minor) <> {part}_minor" for part in minor)
        three = " OR ".join(f"left(right({part}, 4), 1) = '.'" for part in minor)
        thousands = f"x.scale <> 1000 AND ({three})"
    return {
        **cells,
        "moment": moment,
        **{f"minor_{part}": expression for part, expression in minor.items()},
        "too_fine": too_fine,
        "thousands": thousands,
    }


def _parameters(layout: Layout, expected: Expected, charge_categories: list[str]) -> dict[str, Any]:
    is_ours = layout.name == EVERYCENT
    number = _WHOLE if is_ours else _DECIMAL
    moment = f"{_MOMENT}{_ZONE if is_ours else ''}"
    return {
        "currency": expected.currency.lower(),
        "since": f"{expected.first_day}T00:00:00Z" if expected.first_day else None,
        "until": _day_after(expected.last_day),
        "time_zone": expected.time_zone,
        "number": f"^{number}$",
        "longest": _LONGEST_NUMBER,
        "largest": _LARGEST_MINOR,
        "moment": f"^{moment}$",
        "names_and_amounts": f"^[[:graph:]]+ [[:graph:]]+ {number} {number} {number} [[:graph:]]*$",
        "shapes": _OUR_SHAPES if is_ours else _SHAPES,
        "moment_type": "timestamptz" if is_ours else "timestamp",
        "currencies": list(EXPONENTS),
        "scales": [10**exponent for exponent in EXPONENTS.values()],
        "objects": _OBJECTS,
        "charge_categories": charge_categories,
    }


def _day_after(day: date | None) -> str | None:
    return f"{date.fromordinal(day.toordinal() + 1)}T00:00:00Z" if day else None


def _in_statement(name: str) -> str:
    """A column, in a statement with parameters."""
    return _quoted(name).replace("%", "%%")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
