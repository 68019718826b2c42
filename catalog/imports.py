"""Books from a CSV file: rows are checked one by one as they are read, and land set-wise.

A row is staged in a temporary table with its problem or none, so that memory stays flat however long the file is.
The desk's export of products (`catalog.types.EXPORT_COLUMNS`) is such a file: brought back as it is, it changes nothing.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import connection

from catalog import isbn as isbns
from catalog import search
from catalog.errors import InvalidIsbn, UnreadableFile
from catalog.types import PRODUCT_ID_PATTERN, ImportReport, Refusal
from foundation.errors import InvalidInput
from foundation.exports import plain
from foundation.money import EXPONENTS, MAX_AMOUNT_MINOR
from foundation.parsers import read_object

REQUIRED = ("id", "isbn", "title", "author")
OPTIONAL = ("year", "language", "price", "currency", "published", "description", "image_url", "metadata")
_LONGEST_TITLE = 500
_LONGEST_AUTHOR = 1000
_LONGEST_DESCRIPTION = 20_000
_PUBLISHED = {"": None, "true": True, "false": False}
_LONGEST_ADDRESS = 500
_is_web_address = URLValidator(schemes=["http", "https"])
_READ_AT_ONCE = 1_000  # refused rows fetched at once
_WHOLE_NUMBER = re.compile(r"[0-9]{1,11}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the file. `line` is where it begins, the header being line 1; `problem` is empty for a good one."""

    line: int
    problem: str = ""
    product: str = ""
    isbn: str | None = None
    title: str = ""
    author: str = ""
    price_minor: int | None = None  # None: the file names none
    currency: str | None = None
    published: bool | None = None
    description: str | None = None
    image_url: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read(lines: Iterable[str]) -> Iterator[Row]:
    """The rows of a file with a header. Raises UnreadableFile where the file as a whole cannot be imported."""
    reader = csv.reader(_decoded(lines), strict=True)
    header = _header(reader)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = f" (up to line {reader.line_num})" if reader.line_num > line else ""
            yield Row(line, problem=f"is not CSV{end}: {error}")
            continue
        if cells:
            yield _row(line, header, cells)


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise UnreadableFile(
            f"the file is not UTF-8 (byte 0x{error.object[error.start]:02x}): save it as UTF-8"
        ) from None


def _header(reader: Any) -> list[str]:
    try:
        header = [name.strip().lower() for name in next(reader)]
    except (StopIteration, csv.Error):
        header = []
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise UnreadableFile(f"the first line names no column {', '.join(missing)}; needed are {', '.join(REQUIRED)}")
    repeated = [name for name in (*REQUIRED, *OPTIONAL) if header.count(name) > 1]
    if repeated:
        raise UnreadableFile(f"the first line names {', '.join(repeated)} more than once")
    return header


def _row(line: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        return Row(line, problem=f"has {len(cells)} fields where the header names {len(header)}")
    values = {name: plain(cell).strip() for name, cell in zip(header, cells, strict=True)}
    if any("\x00" in value for value in values.values()):
        return Row(line, problem="holds a NUL character")
    price, currency = values.get("price", ""), values.get("currency", "")
    metadata = _metadata(values.get("metadata", ""))
    problem = _problem(values, price, currency) or ("" if metadata is not None else "metadata is not a JSON object")
    try:
        isbn = isbns.normalise(values["isbn"]) if values["isbn"] else None
    except InvalidIsbn:
        isbn = None
        problem = problem or f"ISBN {_shown(values['isbn'])} is not valid: wrong length or check digit"
    if problem:
        return Row(line, problem=problem)
    return Row(
        line,
        product=values["id"],
        isbn=isbn,
        title=values["title"],
        author=values["author"],
        price_minor=int(price) if price else None,
        currency=currency or None,
        published=_PUBLISHED[values.get("published", "").lower()],
        description=values.get("description") or None,
        image_url=values.get("image_url") or None,
        metadata={**(metadata or {}), **{name: values[name] for name in ("year", "language") if values.get(name)}},
    )


def _metadata(text: str) -> dict[str, Any] | None:
    """None for what is no JSON object, or one that no database stores."""
    try:
        return read_object(text) if text else {}
    except InvalidInput:
        return None


def _problem(values: dict[str, str], price: str, currency: str) -> str:
    if not values["id"]:
        return "has no id"
    if not PRODUCT_ID_PATTERN.fullmatch(values["id"]):
        return f"id {_shown(values['id'])} is not 1 to 64 letters, digits and . _ ~ : -"
    if not values["title"]:
        return "has no title"
    if len(values["title"]) > _LONGEST_TITLE:
        return f"title is longer than {_LONGEST_TITLE} characters"
    if len(values["author"]) > _LONGEST_AUTHOR:
        return f"author is longer than {_LONGEST_AUTHOR} characters"
    if price and (not _WHOLE_NUMBER.fullmatch(price) or int(price) > MAX_AMOUNT_MINOR):
        return f"price {_shown(price)} is not a whole number of minor units"
    if currency and currency not in EXPONENTS:
        return f"currency {_shown(currency)} is not a lower-case ISO 4217 code"
    if values.get("published", "").lower() not in _PUBLISHED:
        return f"published {_shown(values['published'])} is neither true nor false"
    if len(values.get("description", "")) > _LONGEST_DESCRIPTION:
        return f"description is longer than {_LONGEST_DESCRIPTION} characters"
    return _problem_of_address(values.get("image_url", ""))


def _problem_of_address(image_url: str) -> str:
    if len(image_url) > _LONGEST_ADDRESS:
        return f"image_url is longer than {_LONGEST_ADDRESS} characters"
    try:
        if image_url:
            _is_web_address(image_url)
    except ValidationError:
        return f"image_url {_shown(image_url)} is not a web address"
    return ""


def _shown(text: str) -> str:
    """At most one short line, whatever the file holds."""
    return ascii(text[:40])[1:-1] if not text[:40].isprintable() else text[:40]


# --- Landing ----------------------------------------------------------------------------------------

_STAGE = """
DROP TABLE IF EXISTS catalog_incoming;
CREATE TEMPORARY TABLE catalog_incoming (
    line integer PRIMARY KEY, problem text, product_id text, isbn text, title text, author text,
    price_minor bigint, currency text, published boolean, description text, image_url text,
    metadata jsonb, search tsvector
) ON COMMIT DROP
"""

_COPY = """
COPY catalog_incoming (
    line, problem, product_id, isbn, title, author, price_minor, currency, published, description, image_url,
    metadata, search
) FROM STDIN
"""

# The first of several rows wins; the others are told where it stands.
_REFUSE_REPEATS = """
UPDATE catalog_incoming row SET problem = format('%%s %%s is already on line %%s', '{name}', row.{column}, seen.first)
FROM (
    SELECT line, first_value(line) OVER (PARTITION BY {column} ORDER BY line) AS first
    FROM catalog_incoming WHERE problem IS NULL AND {column} IS NOT NULL
) seen
WHERE row.line = seen.line AND seen.first < seen.line
"""

_REFUSE_TAKEN_ISBNS = """
UPDATE catalog_incoming row SET problem = format('ISBN %%s belongs to product %%s', row.isbn, product.product_id)
FROM catalog_product product
WHERE product.merchant_id = %(merchant_id)s AND product.isbn = row.isbn AND product.product_id <> row.product_id
  AND row.problem IS NULL
"""

# What a file does not say stays as it is: a price that was changed by hand survives a file without prices.
_UPDATE = """
UPDATE catalog_product product
SET isbn = row.isbn, title = row.title, author = row.author, search = row.search, updated_at = now(),
    version = product.version + 1,
    price_minor = coalesce(row.price_minor, product.price_minor),
    currency = coalesce(row.currency, product.currency),
    published = coalesce(row.published, product.published),
    description = coalesce(row.description, product.description),
    image_url = coalesce(row.image_url, product.image_url),
    metadata = product.metadata || row.metadata
FROM catalog_incoming row
WHERE product.merchant_id = %(merchant_id)s AND product.product_id = row.product_id AND row.problem IS NULL
  AND (product.isbn, product.title, product.author, product.search, product.price_minor, product.currency,
       product.published, product.description, product.image_url, product.metadata)
      IS DISTINCT FROM
      (row.isbn, row.title, row.author, row.search, coalesce(row.price_minor, product.price_minor),
       coalesce(row.currency, product.currency), coalesce(row.published, product.published),
       coalesce(row.description, product.description), coalesce(row.image_url, product.image_url),
       product.metadata || row.metadata)
"""

_INSERT = """
INSERT INTO catalog_product (
    id, merchant_id, product_id, isbn, title, author, price_minor, currency, metadata, search,
    description, image_url, published
)
SELECT uuidv7(), %(merchant_id)s, row.product_id, row.isbn, row.title, row.author,
       coalesce(row.price_minor, %(price_minor)s), coalesce(row.currency, %(currency)s), row.metadata, row.search,
       coalesce(row.description, ''), coalesce(row.image_url, ''), coalesce(row.published, true)
FROM catalog_incoming row
WHERE row.problem IS NULL
  AND NOT EXISTS (
      SELECT FROM catalog_product product
      WHERE product.merchant_id = %(merchant_id)s AND product.product_id = row.product_id
  )
ORDER BY row.line
ON CONFLICT (merchant_id, product_id) DO NOTHING
"""


def stage(rows: Iterable[Row]) -> None:
    """Fill the temporary table of this transaction."""
    with connection.cursor() as cursor:
        cursor.execute(_STAGE)
        with cursor.copy(_COPY) as copy:
            for row in rows:
                copy.write_row(_staged(row))
        cursor.execute("ANALYZE catalog_incoming")


def _staged(row: Row) -> tuple[Any, ...]:
    if row.problem:
        return (row.line, row.problem, *[None] * 11)
    return (
        row.line,
        None,
        row.product,
        row.isbn,
        row.title,
        row.author,
        row.price_minor,
        row.currency,
        row.published,
        row.description,
        row.image_url,
        json.dumps(row.metadata),
        search.document(title=row.title, author=row.author, isbn=row.isbn),
    )


def land(*, merchant_id: UUID, currency: str, price_minor: int) -> ImportReport:
    """Bring the staged rows into the catalogue; the price and currency are those of new products that name none."""
    values: dict[str, Any] = {"merchant_id": merchant_id, "currency": currency, "price_minor": price_minor}
    with connection.cursor() as cursor:
        for name, column in (("id", "product_id"), ("ISBN", "isbn")):
            cursor.execute(_REFUSE_REPEATS.format(name=name, column=column), {})
        cursor.execute(_REFUSE_TAKEN_ISBNS, values)
        cursor.execute(_UPDATE, values)
        changed = cursor.rowcount
        cursor.execute(_INSERT, values)
        created = cursor.rowcount
        cursor.execute("SELECT count(*), count(problem) FROM catalog_incoming")
        total, refused = cursor.fetchone()
    return ImportReport(created, changed, total - refused - changed - created, refused)


def refusals() -> Iterator[Refusal]:
    """The staged rows that did not land, in the order of the file, while the transaction lasts."""
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT line, problem FROM catalog_incoming WHERE problem IS NOT NULL ORDER BY line")
        while rows := cursor.fetchmany(_READ_AT_ONCE):
            yield from (Refusal(line, problem) for line, problem in rows)
