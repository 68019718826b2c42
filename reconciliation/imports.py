"""Reads statement files: which layout they have, what their lines say, what is wrong with which line.

Streamed: the bytes go to PostgreSQL as they come (COPY into a temporary table of text columns), and are validated there,
all lines at once. Memory stays flat however long the file is. Two layouts, told apart by their header (docs/statement-files.md):

- `stripe`: the itemised CSV of Stripe's activity report, amounts in major units, any choice of columns that holds the
  necessary ones;
- `everycent`: our own, amounts in minor units.

Works in the caller's transaction; the table ends with it.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, BinaryIO, Final

from django.conf import settings
from django.db import connection, transaction

from foundation.money import EXPONENTS
from reconciliation.types import Problem

_CHUNK = 256 * 1024
_LONGEST_HEADER = 64 * 1024
_LONGEST_NAME = 63  # what PostgreSQL calls a column
_MANY = 10_000  # new rows

_LINE: Final = "_line_"  # the column that counts the rows

STRIPE: Final = "stripe"
EVERYCENT: Final = "everycent"

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

    def column(self, what: str) -> str:
        """The column's value as SQL: text without blanks around it, empty where it is not there."""
        if what not in self.named:
            return "''::text"
        name = _quoted(self.named[what]).replace("%", "%%")  # in a statement with parameters
        return f"btrim(coalesce(s.{name}, ''))"


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
    columns = tuple(name.strip() for name in next(csv.reader(io.StringIO(text, newline="")), []))
    if not any(columns):
        raise Unreadable(1, "the file is empty: it has no header")
    for name in columns:
        if columns.count(name) > 1 or name in ("", _LINE):
            raise Unreadable(1, f"the column {name!r} stands in the header {columns.count(name)} times")
        if len(name.encode()) > _LONGEST_NAME:
            raise Unreadable(1, f"the column's name {name!r} is too long")
    return _named(columns, expected, lines=text.count("\n") or 1, offset=end)


def _named(columns: tuple[str, ...], expected: Expected, *, lines: int, offset: int) -> Layout:
    names = [name for name, needs in _NECESSARY.items() if needs["id"] in columns]
    if not names:
        raise Unreadable(
            1,
            "this is no statement that we know: it has neither balance_transaction_id (Stripe) nor transaction (ours)",
        )
    needs = dict(_NECESSARY[names[0]])
    if names[0] == STRIPE and needs["created"] not in columns and "created" in columns:
        if not expected.time_zone:
            raise Unreadable(1, "there is no created_utc: say in which time zone the column created is")
        needs["created"] = "created"
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
    """Copy the rows, as text, into the temporary table `recon_staged`; how many. Raises DataError where they are torn."""
    columns = ", ".join(f"{_quoted(name)} text" for name in layout.columns)
    names = ", ".join(_quoted(name) for name in layout.columns)
    file.seek(layout.offset)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS pg_temp.recon_staged")
        cursor.execute(
            f"CREATE TEMPORARY TABLE recon_staged ({_LINE} bigint GENERATED ALWAYS AS IDENTITY, {columns}) ON COMMIT DROP"
        )
        statement = f"COPY recon_staged ({names}) FROM STDIN (FORMAT csv, ENCODING 'UTF8')"
        with connection.wrap_database_errors, cursor.copy(statement) as copy:
            while chunk := file.read(_CHUNK):
                copy.write(chunk)
        staged: int = cursor.rowcount
        cursor.execute("ANALYZE recon_staged")
    return staged


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
    for raw in file:
        yield raw.decode("utf-8", errors="replace")


# --- What they say ----------------------------------------------------------------------------------

_NUMBER = r"^-?[0-9]{1,15}(\.[0-9]{1,6})?$"
_WHOLE = r"^-?[0-9]{1,18}$"
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_WITH_ZONE = _MOMENT + r"(Z|[+-][0-9]{2}:?[0-9]{2})$"

# The lines with what is wrong with each: the first thing that is. Casts come after the patterns that make them safe; OFFSET 0
# keeps the steps apart, and lets rows flow from one to the next.
_PROBLEMS = """
WITH read AS NOT MATERIALIZED (
    SELECT s._line_ AS line, {id} AS id, {created} AS created, lower({currency}) AS currency, {gross} AS gross, {fee} AS fee, {net} AS net,
           {category} AS category, {source} AS source
    FROM recon_staged s
), repeated AS (
    SELECT id, min(line) AS first FROM read GROUP BY id HAVING count(*) > 1
), shaped AS (
    SELECT r.*, x.exponent, CASE
        WHEN id = '' THEN 'it has no transaction id'
        WHEN length(id) > 255 OR id !~ '^[[:graph:]]+$' THEN 'the transaction id is not one: ' || left(id, 60)
        WHEN x.exponent IS NULL THEN 'the currency is not known: ' || left(currency, 20)
        WHEN %(currency)s <> '' AND currency <> %(currency)s THEN 'wrong currency: ' || currency || ', not ' || %(currency)s
        WHEN gross !~ %(number)s THEN 'the gross is not an amount: ' || left(gross, 40)
        WHEN fee !~ %(number)s THEN 'the fee is not an amount: ' || left(fee, 40)
        WHEN net !~ %(number)s THEN 'the net is not an amount: ' || left(net, 40)
        WHEN category = '' THEN 'it has no reporting category'
        WHEN length(category) > 64 OR length(source) > 255 THEN 'a name is too long'
        WHEN created !~ %(moment)s THEN 'the moment is not one: ' || left(created, 40)
        WHEN NOT pg_input_is_valid(created, %(moment_type)s) THEN 'the moment is not one: ' || left(created, 40)
    END AS problem
    FROM read r LEFT JOIN unnest(%(currencies)s::text[], %(exponents)s::int[]) AS x (name, exponent) ON x.name = r.currency
    OFFSET 0
), timed AS (
    SELECT *, CASE WHEN problem IS NULL THEN {moment} END AS at,
           CASE WHEN problem IS NULL THEN {to_minor_gross} END AS gross_minor,
           CASE WHEN problem IS NULL THEN {to_minor_fee} END AS fee_minor,
           CASE WHEN problem IS NULL THEN {to_minor_net} END AS net_minor
    FROM shaped OFFSET 0
), judged AS (
    SELECT t.line, coalesce(t.problem, CASE
        WHEN trunc(t.gross_minor) <> t.gross_minor OR trunc(t.fee_minor) <> t.fee_minor OR trunc(t.net_minor) <> t.net_minor
            THEN 'an amount has more decimals than ' || upper(t.currency) || ' counts'
        WHEN t.net_minor <> t.gross_minor - t.fee_minor THEN 'the net is not the gross less the fee'
        WHEN t.at < coalesce(%(since)s::timestamptz, '-infinity') OR t.at >= coalesce(%(until)s::timestamptz, 'infinity')
            THEN 'wrong day: ' || to_char(t.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
        WHEN t.line > d.first THEN 'the transaction ' || t.id || ' stands in the file before'
        WHEN (k.amount_minor, k.fee_minor, k.net_minor, k.currency, k.reporting_category, k.source)
             IS DISTINCT FROM (t.gross_minor, t.fee_minor, t.net_minor, t.currency::varchar, t.category::varchar, t.source::varchar)
             AND k.id IS NOT NULL
            THEN 'it says something else than what we read of ' || t.id || ' before'
        WHEN date_trunc('second', k.created_at) <> date_trunc('second', t.at)
            THEN 'another moment than what we read of ' || t.id || ' before'
    END) AS problem
    FROM timed t
    LEFT JOIN reconciliation_providertransaction k ON k.id = t.id
    LEFT JOIN repeated d ON d.id = t.id
)
"""
_LIST = (
    _PROBLEMS  # noqa: S608  text of ours
    + """
, counted AS (SELECT line, problem, count(*) OVER () AS all_of_them FROM judged WHERE problem IS NOT NULL ORDER BY line
              LIMIT %(shown)s)
SELECT c.line, c.problem, c.all_of_them, (
    -- A line break within quotes makes the lines below it one more.
    SELECT coalesce(sum(length(b.body) - length(replace(b.body, chr(10), ''))), 0)
    FROM (SELECT s.*::text AS body FROM recon_staged s WHERE s._line_ < c.line) b
)::bigint FROM counted c ORDER BY c.line
"""
)


def problems(layout: Layout, expected: Expected) -> tuple[list[Problem], int]:
    """What is wrong with which line of what was staged: the first ones, and how many there are."""
    with connection.cursor() as cursor:
        cursor.execute(_LIST.format(**_expressions(layout)), _parameters(layout, expected))
        rows = cursor.fetchall()
    found = [Problem(layout.lines + line + within, problem) for line, problem, _, within in rows]
    return found, rows[0][2] if rows else 0


_KEEP = """
WITH fresh AS MATERIALIZED (
    SELECT *, sha256(convert_to(body, 'UTF8')) AS sha256 FROM (
        SELECT {id} AS id, lower({currency}) AS currency, {category} AS category, {source} AS source, {charge} AS charge,
               {intent} AS intent, {status} AS status, {order} AS order_reference, {payment} AS payment_number,
               {instance} AS instance, (SELECT row_to_json(kept.*)::text FROM (SELECT {cells}) kept) AS body, {moment_of_row} AS at,
               {minor_gross}::bigint AS gross_minor, {minor_fee}::bigint AS fee_minor, {minor_net}::bigint AS net_minor
        FROM recon_staged s
        JOIN unnest(%(currencies)s::text[], %(exponents)s::int[]) AS x (name, exponent) ON x.name = lower({currency})
        WHERE NOT EXISTS (SELECT FROM reconciliation_providertransaction k WHERE k.id = {id})
        OFFSET 0  -- the text of a row is made once
    ) read
), raw AS (
    INSERT INTO reconciliation_rawrow (sha256, body) SELECT sha256, body FROM fresh
    ON CONFLICT (sha256) DO NOTHING
)
INSERT INTO reconciliation_providertransaction
    (id, type, reporting_category, source, amount_minor, fee_minor, net_minor, currency, status, created_at, available_at,
     payment_intent, charge, source_status, order_reference, payment_number, instance, sha256)
SELECT id, category, category, source, gross_minor, fee_minor, net_minor, currency, '', at, at, left(intent, 255),
       left(CASE WHEN charge = '' AND category = ANY(%(charge)s) THEN source ELSE charge END, 255), left(status, 32),
       left(order_reference, 500), left(payment_number, 500), left(instance, 500), sha256
FROM fresh
ON CONFLICT (id) DO NOTHING
"""
_DAYS = """
SELECT min(({moment_of_row} AT TIME ZONE 'UTC')::date), max(({moment_of_row} AT TIME ZONE 'UTC')::date) FROM recon_staged s
"""


def keep(layout: Layout, expected: Expected, charge_categories: list[str]) -> int:
    """Write what was staged, and has no problem, into our copy of the provider's books; how many rows are new.

    A row that we know stays as it is: what the API tells of it is more.
    """
    parameters = _parameters(layout, expected) | {"charge": charge_categories}
    with connection.cursor() as cursor:
        cursor.execute(_KEEP.format(**_expressions(layout)), parameters)
        return int(cursor.rowcount)


def count_anew(added: int) -> None:
    """Have PostgreSQL count its rows after many are new. Belongs outside of transactions: it holds a lock to the end of one.

    A run may follow before autovacuum has, and would look up row after row. Whoever counts at the moment does so for us.
    """
    if added >= _MANY:
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE (SKIP_LOCKED) reconciliation_providertransaction")


# Independent of the rows' order: how many there are, and the sum of a hash of what each says.
_SAYS = "count(*), coalesce(sum(hash_record_extended(ROW({row}), 0)::numeric), 0)"
_STAGED_SAYS = (
    "SELECT "
    + _SAYS.format(
        row="""{id}, ({minor_gross})::bigint, ({minor_fee})::bigint, ({minor_net})::bigint, lower({currency}), {category}, {source},
        date_trunc('second', {moment_of_row})"""
    )
    + """
FROM recon_staged s JOIN unnest(%(currencies)s::text[], %(exponents)s::int[]) AS x (name, exponent) ON x.name = lower({currency})
"""
)
_KEPT_SAYS = (
    "SELECT "
    + _SAYS.format(
        row="""k.id::text, k.amount_minor, k.fee_minor, k.net_minor, k.currency::text, k.reporting_category::text,
        k.source::text, date_trunc('second', k.created_at)"""
    )
    + """
FROM reconciliation_providertransaction k JOIN recon_staged s ON k.id = {id}
"""
)


def is_kept(layout: Layout, expected: Expected, rows: int) -> bool:
    """Whether our copy of the provider's books says of so many rows what was staged of them: by count and hash."""
    parameters, expressions = _parameters(layout, expected), _expressions(layout)
    said = []
    with connection.cursor() as cursor:
        for statement in (_STAGED_SAYS, _KEPT_SAYS):
            cursor.execute(statement.format(**expressions), parameters)
            said.append(cursor.fetchone())
    staged, kept = said
    return bool(staged == kept and staged[0] == rows)


def days(layout: Layout, expected: Expected) -> tuple[date | None, date | None]:
    """The first and the last day (UTC) of what was staged and has no problem."""
    with connection.cursor() as cursor:
        cursor.execute(_DAYS.format(**_expressions(layout)), _parameters(layout, expected))
        first, last = cursor.fetchone()
    return first, last


def _expressions(layout: Layout) -> dict[str, str]:
    """What a layout writes for what the statements above ask for."""
    named = {what: layout.column(what) for what in (*_NECESSARY[layout.name], *_OPTIONAL[EVERYCENT])}
    # A charge or refund whose statement names no object stands under its row's own id: each is one of its own.
    named["source"] = (
        f"coalesce(nullif({named['source']}, ''),"
        f" CASE WHEN {named['category']} = ANY(%(objects)s) THEN {named['id']} ELSE '' END)"
    )
    local = layout.named["created"] == "created"
    utc = layout.named["created"] == "created_utc"

    def moment(text: str) -> str:
        if local:
            return f"({text})::timestamp AT TIME ZONE %(time_zone)s"
        return f"({text})::timestamp AT TIME ZONE 'UTC'" if utc else f"({text})::timestamptz"

    def minor(text: str) -> str:
        return f"({text})::numeric" if layout.name == EVERYCENT else f"({text})::numeric * 10::numeric ^ x.exponent"

    return {
        **named,
        "cells": ", ".join("s." + _quoted(name).replace("%", "%%") for name in layout.columns),
        "moment": moment("created"),
        "moment_of_row": moment(named["created"]),
        **{f"to_minor_{part}": minor(part).replace("x.exponent", "exponent") for part in ("gross", "fee", "net")},
        **{f"minor_{part}": minor(named[part]) for part in ("gross", "fee", "net")},
    }


def _parameters(layout: Layout, expected: Expected) -> dict[str, Any]:
    has_zone = layout.named["created"] == _NECESSARY[EVERYCENT]["created"] and layout.name == EVERYCENT
    return {
        "currency": expected.currency.lower(),
        "since": f"{expected.first_day}T00:00:00Z" if expected.first_day else None,
        "until": _day_after(expected.last_day),
        "time_zone": expected.time_zone,
        "number": _WHOLE if layout.name == EVERYCENT else _NUMBER,
        "moment": _WITH_ZONE if has_zone else _MOMENT + "$",
        "moment_type": "timestamptz" if has_zone else "timestamp",
        "currencies": list(EXPONENTS),
        "exponents": list(EXPONENTS.values()),
        "shown": settings.RECONCILE_PROBLEMS_SHOWN,
        "objects": _OBJECTS,
    }


def _day_after(day: date | None) -> str | None:
    return f"{date.fromordinal(day.toordinal() + 1)}T00:00:00Z" if day else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
