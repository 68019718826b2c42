"""The provider's fees beside those that we posted: what nobody posted yet, and what differs."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from uuid import UUID

from django.db import connection

from foundation.ids import public_id
from payments.selectors import BOOKINGS_VIEW, CHARGES_VIEW, CLEARING_CORRECTIONS_VIEW, CLEARING_LINES_VIEW
from payments.types import LearntFee
from reconciliation.matching.categories import COMES_BACK, KIND, LINKED, MOVEMENT_VIEWS
from reconciliation.matching.days import Parameters, parameters_of, window

_FEES_BATCH = 5_000  # fees in memory at once

# What their fees are more than what stands on our clearing account for them, in each currency.
_MORE_THAN_POSTED = f"""
SELECT id, currency, sum(minor)::bigint FROM (
    SELECT id, currency, fee_minor AS minor FROM theirs
    UNION ALL
    SELECT o.id, l.currency, l.amount_minor FROM theirs o JOIN {CLEARING_LINES_VIEW} l ON l.key = 'fee:' || o.id
    UNION ALL
    SELECT o.id, l.currency, l.amount_minor FROM theirs o JOIN {CLEARING_CORRECTIONS_VIEW} l ON l.key = 'fee:' || o.id
) each
GROUP BY id, currency HAVING sum(minor) <> 0 ORDER BY id, currency
"""  # noqa: S608

# Of rows whose fees were posted, in whatever currency.
_FEE_DIFFERENCES = f"""
WITH theirs AS (
    SELECT t.id, t.currency, t.fee_minor FROM reconciliation_providertransaction t
    WHERE t.source = %(source)s AND t.withdrawn_at IS NULL AND {KIND} = %(kind)s
      AND EXISTS (SELECT FROM {BOOKINGS_VIEW} b WHERE b.key = 'fee:' || t.id)
)
{_MORE_THAN_POSTED}
"""  # noqa: S608

# Fees that we posted for a payment, of rows that the provider's books do not hold: those are nothing now.
_FEES_OF_NOTHING = f"""
WITH theirs AS (
    SELECT split_part(b.key, ':', 2) AS id, b.currency, 0 AS fee_minor FROM {BOOKINGS_VIEW} b
    WHERE b.subject = %s AND b.kind = 'fee' AND NOT EXISTS (
        SELECT FROM reconciliation_providertransaction t WHERE t.id = split_part(b.key, ':', 2) AND t.withdrawn_at IS NULL)
)
{_MORE_THAN_POSTED}
"""  # noqa: S608

# Fees that nobody posted yet: of movements that our books hold, and of the account itself; and of what came back in these days, which
# may have been booked long before.
_DUE = f"""
    SELECT t.id, t.source, t.payment_intent, t.instance, t.currency, t.created_at, {KIND} AS kind,
           CASE {KIND} WHEN 'cost' THEN -t.net_minor ELSE t.fee_minor END AS fee_minor
    FROM reconciliation_providertransaction t
    WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
      AND (t.fee_minor <> 0 AND t.reporting_category = ANY(%(paired)s)
           OR t.net_minor <> 0 AND t.reporting_category = ANY(%(cost)s))
      AND NOT EXISTS (SELECT FROM {BOOKINGS_VIEW} b WHERE b.key = 'fee:' || t.id)
    UNION
    SELECT t.id, t.source, t.payment_intent, t.instance, t.currency, t.created_at, {KIND}, t.fee_minor
    FROM reconciliation_providertransaction back
    JOIN reconciliation_providertransaction t ON t.source = back.source
    WHERE back.created_at >= %(first)s AND back.created_at < %(until)s AND back.withdrawn_at IS NULL
      AND back.reporting_category = ANY(%(comes_back)s)
      AND t.fee_minor <> 0 AND t.created_at >= %(begun)s AND t.reporting_category = ANY(%(paired)s) AND t.withdrawn_at IS NULL
      AND NOT EXISTS (SELECT FROM {BOOKINGS_VIEW} b WHERE b.key = 'fee:' || t.id)
"""  # noqa: S608  constants

# What was taken, or given back, and came back as a whole: no book holds it, and the provider keeps its fee.
_CAME_TO_NOTHING = """0 = (
    SELECT sum(r.amount_minor) FROM reconciliation_providertransaction r
    WHERE r.source = d.source AND r.reporting_category = ANY(%({kind})s) AND r.withdrawn_at IS NULL
)"""

_UNPOSTED_FEES = f"""
WITH due AS MATERIALIZED ({_DUE})
{
    " UNION ALL ".join(
        f"SELECT d.created_at, d.id, d.currency, d.fee_minor, d.kind, m.id, m.payment_id, m.merchant_id, m.reference"
        f" FROM due d JOIN {view} m ON m.source = d.source AND m.currency = d.currency WHERE d.kind = '{kind}'"
        + ("" if kind == "dispute" else f" AND (m.booked OR {_CAME_TO_NOTHING.format(kind=kind)})")
        for kind, view in MOVEMENT_VIEWS.items()
    )
}
UNION ALL
-- No movement of ours bears its id: then, by its intent, its payment's, or nobody's.
{
    " UNION ALL ".join(
        f"SELECT d.created_at, d.id, d.currency, d.fee_minor, d.kind, p.id, p.payment_id, p.merchant_id, coalesce(p.reference, '')"
        f" FROM due d LEFT JOIN {CHARGES_VIEW} p ON p.intent = d.payment_intent AND d.payment_intent <> ''"
        f" WHERE d.kind = '{kind}' AND d.instance IN ('', %(instance)s) AND {_CAME_TO_NOTHING.format(kind=kind)}"
        f" AND NOT EXISTS (SELECT FROM {MOVEMENT_VIEWS[kind]} m WHERE m.source = d.source)"
        for kind in LINKED
    )
}
UNION ALL
SELECT d.created_at, d.id, d.currency, d.fee_minor, d.kind, NULL, NULL, NULL, '' FROM due d WHERE d.kind = 'cost'
ORDER BY 1, 2
"""  # noqa: S608

# The same of what stands beside one of ours by another rule than their ids: nobody knew whose fee it was before.
_UNPOSTED_FEES_OF_MATCHES = (  # constants
    " UNION ALL ".join(  # noqa: S608
        f"SELECT t.created_at, t.id, t.currency, t.fee_minor, m.kind, m.id, m.payment_id, m.merchant_id, m.reference"  # noqa: S608
        f" FROM reconciliation_match x"
        f" JOIN reconciliation_providertransaction t ON t.source = substr(x.object, {len(kind) + 2})"
        f" AND t.reporting_category = ANY(%({kind})s) AND t.withdrawn_at IS NULL AND t.fee_minor <> 0"
        f" AND t.created_at >= %(first)s AND t.created_at < %(until)s"
        f" JOIN {MOVEMENT_VIEWS[kind]} m ON m.id = x.ours_id AND m.currency = t.currency AND m.booked"
        f" WHERE x.rule = ANY(%(joins)s) AND x.object LIKE '{kind}:%%'"
        f" AND NOT EXISTS (SELECT FROM {BOOKINGS_VIEW} b WHERE b.key = 'fee:' || t.id)"
        for kind in LINKED
    )
    + " ORDER BY 1, 2"
)


def unposted_fees(since: datetime, until: datetime, *, starts_on: date | None = None) -> Iterator[list[LearntFee]]:
    """Fees in the provider's books of a window that ours do not hold yet, in batches."""
    begun = window(starts_on)[0] if starts_on else datetime.min.replace(tzinfo=UTC)
    parameters = parameters_of((since, until), starts_on) | {"begun": begun, "comes_back": list(COMES_BACK)}
    return _unposted(_UNPOSTED_FEES, parameters)


def unposted_fees_of_matches(until: datetime, *, starts_on: date | None = None) -> Iterator[list[LearntFee]]:
    """The same of all rows so far that a person or a fuzzy rule put beside a movement of ours, as matches were last stored."""
    bounds = datetime.min.replace(tzinfo=UTC), until
    return _unposted(_UNPOSTED_FEES_OF_MATCHES, parameters_of(bounds, starts_on))


def _unposted(statement: str, parameters: Parameters) -> Iterator[list[LearntFee]]:
    with connection.chunked_cursor() as cursor:
        cursor.execute(statement, parameters)
        while rows := cursor.fetchmany(_FEES_BATCH):
            yield [
                LearntFee(
                    transaction=row_id,
                    currency=currency,
                    fee_minor=fee_minor,
                    merchant_id=merchant_id,
                    subject=_subject(kind, ours_id, payment_id),
                    reference=reference,
                )
                for _, row_id, currency, fee_minor, kind, ours_id, payment_id, merchant_id, reference in rows
            ]


def _subject(kind: str, ours_id: UUID | None, payment_id: UUID | None) -> str:
    """Whose fee it is: a dispute's, else its payment's, else nobody's."""
    if kind == "dispute" and ours_id:
        return public_id("dsp", ours_id)
    return public_id("pay", payment_id) if payment_id else ""


def fee_differences(object_kind: str, source: str) -> list[tuple[str, str, int]]:
    """(row, currency, what its fee is more than what we posted for it) of an object's rows whose fees differ. What we posted in
    another currency than the row's is one more of its own.
    """
    parameters = parameters_of((datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)), None)
    with connection.cursor() as cursor:
        cursor.execute(_FEE_DIFFERENCES, parameters | {"kind": object_kind, "source": source})
        return list(cursor.fetchall())


def fees_of_nothing(payment: str) -> list[tuple[str, str, int]]:
    """(row, currency, what its fee is more than what we posted: negative) of a payment's fees whose rows are not there."""
    with connection.cursor() as cursor:
        cursor.execute(_FEES_OF_NOTHING, [payment])
        return list(cursor.fetchall())
