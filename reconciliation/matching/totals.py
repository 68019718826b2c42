"""Counts and adds up both sides of a day that was matched; what neither side explains is the residual."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.conf import settings
from django.db import connection

from payments.selectors import CHARGES_VIEW, MOVEMENTS_VIEW
from reconciliation.matching.days import parameters_of, window
from reconciliation.types import NOT_BOOKED_YET

# Straight from both tables, not from the pairs: what matching lost or doubled shows as a residual.
_DAY_TOTALS = f"""
SELECT 'theirs', currency, count(*), sum(amount_minor)::bigint FROM reconciliation_providertransaction
WHERE created_at >= %(first)s AND created_at < %(until)s AND withdrawn_at IS NULL
  AND reporting_category = ANY(%(compared)s) GROUP BY currency
UNION ALL
SELECT 'ours', currency, count(*), sum(CASE kind WHEN 'refund' THEN -amount_minor ELSE amount_minor END)::bigint
FROM {MOVEMENTS_VIEW} WHERE kind IN ('charge', 'refund') AND booked AND booked_at >= %(first)s AND booked_at < %(until)s
GROUP BY currency
UNION ALL
SELECT 'theirs paired', currency, sum(theirs_rows), sum(theirs_minor)::bigint FROM recon_sum GROUP BY currency
UNION ALL
SELECT 'ours paired', currency, sum(ours_rows), sum(ours_minor)::bigint FROM recon_sum GROUP BY currency
UNION ALL
SELECT 'theirs paired', theirs_currency, sum(theirs_day_rows), sum(theirs_day_minor)::bigint FROM recon_pair
WHERE kind IN ('charge', 'refund') AND theirs_day_rows > 0 GROUP BY theirs_currency
UNION ALL
SELECT 'ours paired', ours_currency, count(*),
       sum(CASE kind WHEN 'refund' THEN -ours_minor ELSE ours_minor END)::bigint
FROM recon_pair WHERE kind IN ('charge', 'refund') AND ours_in_day GROUP BY ours_currency
"""  # noqa: S608

_MATCHED = """
SELECT (SELECT coalesce(sum(theirs_rows), 0) FROM recon_sum)::bigint + count(*) FROM recon_pair p
WHERE p.kind IN ('charge', 'refund') AND p.theirs_day_rows > 0 AND p.ours_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM recon_found f
                  WHERE f.object_kind = p.kind AND f.source = p.source AND f.kind <> 'fee_variance')
"""


@dataclass(frozen=True, slots=True)
class DayTotals:
    """Both sides of a day: counts, and by currency net gross amounts and what matching does not account for."""

    ours_count: int
    ours: dict[str, int]
    theirs_count: int
    theirs: dict[str, int]
    matched: int
    residual: dict[str, int]


def day_totals(day: date, *, starts_on: date | None = None) -> DayTotals:
    """Count and add up both sides of the day that `match_day` has matched."""
    totals: dict[str, dict[str, int]] = {}
    counts: dict[str, int] = {}
    with connection.cursor() as cursor:
        cursor.execute(_DAY_TOTALS, parameters_of(window(day), starts_on))
        for side, currency, count, total in cursor.fetchall():
            of_side = totals.setdefault(side, {})
            of_side[currency] = of_side.get(currency, 0) + total
            counts[side] = counts.get(side, 0) + int(count)
        cursor.execute(_MATCHED)
        matched = cursor.fetchone()[0]
    ours, theirs = totals.get("ours", {}), totals.get("theirs", {})
    paired_ours, paired_theirs = totals.get("ours paired", {}), totals.get("theirs paired", {})
    residual = {
        currency: (theirs.get(currency, 0) - ours.get(currency, 0))
        - (paired_theirs.get(currency, 0) - paired_ours.get(currency, 0))
        for currency in sorted({*ours, *theirs, *paired_ours, *paired_theirs})
    }
    return DayTotals(counts.get("ours", 0), ours, counts.get("theirs", 0), theirs, matched, residual)


_AWAITING_BOOKING = f"""
SELECT m.intent, m.source FROM (
    SELECT m.intent, m.source, m.booked_at, false AS waits FROM {MOVEMENTS_VIEW} m
    WHERE m.kind = 'charge' AND m.booked AND m.booked_at >= greatest(%(since)s, %(recent)s) AND m.booked_at < %(until)s
    UNION ALL
    -- What waits already, of whatever day: each run looks at it again. Last, since it waits on where nobody asks.
    SELECT c.intent, c.source, c.booked_at, d.evidence ->> 'timing' = '{NOT_BOOKED_YET}' FROM reconciliation_discrepancy d
    JOIN {CHARGES_VIEW} c ON c.source = d.source
    WHERE d.kind = 'missing_in_stripe' AND d.state = 'timing' AND c.booked AND c.booked_at >= %(recent)s
) m
WHERE NOT EXISTS (SELECT FROM reconciliation_providertransaction t WHERE t.source = m.source AND t.withdrawn_at IS NULL)
GROUP BY m.intent, m.source, m.booked_at ORDER BY bool_or(m.waits), m.booked_at LIMIT %(limit)s
"""  # noqa: S608


def awaiting_booking(day: date, *, now: datetime) -> list[tuple[str, str]]:
    """(intent, charge) of recent captures of ours that the provider's books do not hold: ask it about them. No more than
    RECONCILE_UNBOOKED_LOOKUPS.
    """
    recent = now - timedelta(seconds=settings.RECONCILE_UNBOOKED_AFTER_S)
    parameters = parameters_of(window(day), None) | {"recent": recent, "limit": settings.RECONCILE_UNBOOKED_LOOKUPS}
    with connection.cursor() as cursor:
        cursor.execute(_AWAITING_BOOKING, parameters)
        return list(cursor.fetchall())
