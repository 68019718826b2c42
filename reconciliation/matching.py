"""Compares both books with SQL alone, both ways, set-based: memory stays flat however many rows a day has.

Works in the caller's transaction on three temporary tables, which end with it:

1. `recon_item`: what is looked at: (object kind, source) of everything in the day on either side, and of every
   discrepancy that is not settled yet, whatever its day;
2. `recon_pair`: each item with the provider's rows and our movement beside it. Counterparts are found by id, in any
   window: a pair around midnight is a match, not two breaks;
3. `recon_found`: the pairs that differ, each with the kind of difference.

Gross is compared with gross. One charge can have several rows (a partial capture is two, a refund that fails late is
two): the rows of one source are added up. Amounts in `recon_pair` are positive for charges and refunds alike.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import connection

from durability import selectors as durability
from foundation.ids import parse_public_id
from payments.selectors import MOVEMENTS_VIEW
from reconciliation.states import UNRESOLVED_STATES
from reconciliation.types import Finding

# What the provider's reporting categories mean here (https://docs.stripe.com/reports/reporting-categories).
CHARGE_CATEGORIES: Final = ["charge", "charge_failure", "partial_capture_reversal"]
REFUND_CATEGORIES: Final = ["refund", "refund_failure"]
# Known, and not a movement between a customer and us: shown in totals by later versions, compared with nothing yet.
OTHER_CATEGORIES: Final = [
    "advance",
    "advance_funding",
    "anticipation_repayment",
    "climate_order_purchase",
    "climate_order_refund",
    "connect_collection_transfer",
    "connect_reserved_funds",
    "contribution",
    "dispute",
    "dispute_reversal",
    "fee",
    "network_cost",
    "other_adjustment",
    "payout",
    "payout_reversal",
    "platform_earning",
    "platform_earning_refund",
    "risk_reserved_funds",
    "tax",
    "topup",
    "topup_reversal",
    "transfer",
    "transfer_reversal",
]
_UNHANDLED_CHUNK = 1000  # intents asked about at once

_ITEMS_OF_DAY = f"""
INSERT INTO recon_item
SELECT CASE WHEN t.reporting_category = ANY(%(refunds)s) THEN 'refund' ELSE 'charge' END, t.source
FROM reconciliation_providertransaction t
WHERE t.created_at >= %(since)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
  AND t.reporting_category = ANY(%(compared)s)
UNION
SELECT m.kind, m.source FROM {MOVEMENTS_VIEW} m
WHERE m.booked AND m.source IS NOT NULL AND m.booked_at >= %(since)s AND m.booked_at < %(until)s
UNION
SELECT 'other', t.id FROM reconciliation_providertransaction t
WHERE t.created_at >= %(since)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
  AND NOT t.reporting_category = ANY(%(known)s)
UNION
SELECT d.object_kind, d.source FROM reconciliation_discrepancy d WHERE d.state = ANY(%(unresolved)s)
UNION
SELECT d.object_kind, d.source FROM reconciliation_discrepancy d
WHERE d.closed_as = 'fixed' AND d.verified_at IS NULL
"""  # noqa: S608  the view's name is a constant

# By source first. A payment that has not succeeded in our books knows no charge yet: then by its intent. OFFSET 0 keeps
# each look-up a look-up: the view is a union, and joined as a whole it would be read from end to end, day after day.
_PAIRS = f"""
CREATE TEMPORARY TABLE recon_pair ON COMMIT DROP AS
WITH theirs AS (
    SELECT i.kind, i.source, count(*) AS rows, min(t.currency) AS currency, max(t.created_at) AS at,
           sum(CASE i.kind WHEN 'refund' THEN -t.amount_minor ELSE t.amount_minor END)::bigint AS amount_minor,
           coalesce(sum(t.amount_minor) FILTER (WHERE t.created_at >= %(since)s AND t.created_at < %(until)s), 0)::bigint
               AS day_minor,
           count(*) FILTER (WHERE t.created_at >= %(since)s AND t.created_at < %(until)s) AS day_rows,
           (array_agg(t.source_status ORDER BY t.created_at DESC))[1] AS status,
           max(t.payment_intent) AS intent, max(t.charge) AS charge, max(t.order_reference) AS order_reference,
           max(t.payment_number) AS payment_number, max(t.instance) AS instance,
           array_agg(t.id ORDER BY t.created_at, t.id) AS ids
    FROM recon_item i
    JOIN reconciliation_providertransaction t ON t.source = i.source
    WHERE t.withdrawn_at IS NULL
      AND (i.kind = 'charge' AND t.reporting_category = ANY(%(charges)s)
           OR i.kind = 'refund' AND t.reporting_category = ANY(%(refunds)s))
    GROUP BY i.kind, i.source
)
SELECT i.kind, i.source, t.rows AS theirs_rows, t.amount_minor AS theirs_minor, t.currency AS theirs_currency,
       t.status AS theirs_status, t.at AS theirs_at, coalesce(t.day_minor, 0) AS theirs_day_minor,
       coalesce(t.day_rows, 0) AS theirs_day_rows, coalesce(t.order_reference, '') AS theirs_order,
       coalesce(t.payment_number, '') AS theirs_payment, coalesce(t.instance, '') AS instance,
       coalesce(t.charge, '') AS charge, t.ids,
       coalesce(o.id, n.id) AS ours_id, coalesce(o.merchant_id, n.merchant_id) AS merchant_id,
       coalesce(o.payment_id, n.payment_id) AS payment_id,
       -- a refund that only the provider knows still belongs to the order of its charge
       coalesce(o.reference, n.reference, (
           SELECT m.reference FROM {MOVEMENTS_VIEW} m
           WHERE i.kind = 'refund' AND m.kind = 'charge' AND m.intent = t.intent AND t.intent <> '' LIMIT 1
       )) AS reference,
       coalesce(o.amount_minor, n.amount_minor) AS ours_minor,
       coalesce(o.expected_minor, n.expected_minor) AS expected_minor,
       coalesce(o.currency, n.currency) AS ours_currency, coalesce(o.status, n.status) AS ours_status,
       coalesce(o.booked, n.booked, false) AS ours_booked,
       coalesce(o.booked_at, n.occurred_at, o.occurred_at) AS ours_at,
       coalesce(o.booked AND o.booked_at >= %(since)s AND o.booked_at < %(until)s, false) AS ours_in_day,
       coalesce(t.intent, o.intent, '') AS intent,
       CASE WHEN o.id IS NOT NULL THEN 'source' WHEN n.id IS NOT NULL THEN 'intent' ELSE '' END AS matched_by
FROM recon_item i
LEFT JOIN theirs t ON t.kind = i.kind AND t.source = i.source
LEFT JOIN LATERAL (
    SELECT m.* FROM {MOVEMENTS_VIEW} m WHERE m.kind = i.kind AND m.source = i.source OFFSET 0
) o ON true
LEFT JOIN LATERAL (
    SELECT m.* FROM {MOVEMENTS_VIEW} m WHERE o.id IS NULL AND i.kind = 'charge' AND m.kind = 'charge'
      AND m.intent = t.intent AND t.intent <> '' AND m.source IS NULL OFFSET 0
) n ON true
WHERE i.kind <> 'other'
"""  # noqa: S608

_FOUND = f"""
CREATE TEMPORARY TABLE recon_found ON COMMIT DROP AS
WITH judged AS (
    SELECT p.*, CASE p.kind WHEN 'refund' THEN '_refund' ELSE '' END AS form,
           CASE WHEN p.ours_id IS NULL THEN 'none'
                WHEN p.ours_status = 'succeeded' THEN 'settled'
                WHEN p.ours_status IN ('failed', 'cancelled') THEN 'dead'
                ELSE 'open' END AS ours,
           CASE WHEN p.theirs_rows IS NULL THEN 'none'
                WHEN p.theirs_minor = 0 OR p.theirs_status IN ('failed', 'canceled') THEN 'dead'
                WHEN p.theirs_status IN ('', 'succeeded') THEN 'settled'
                ELSE 'open' END AS theirs
    FROM recon_pair p
), named AS (
    SELECT j.*, CASE
        WHEN ours = 'none' AND coalesce(theirs_minor, 0) = 0 THEN NULL
        WHEN ours = 'none' AND (
            instance NOT IN ('', %(instance)s) OR kind = 'refund' AND EXISTS (
                SELECT FROM reconciliation_providertransaction c
                WHERE c.source = j.charge AND c.instance NOT IN ('', %(instance)s))
        ) THEN 'foreign_instance'
        -- The same payment of ours is settled by another charge: same intent, or our own number in its metadata.
        WHEN ours = 'none' AND kind = 'charge' AND (
            EXISTS (SELECT FROM {MOVEMENTS_VIEW} w
                    WHERE w.kind = 'charge' AND w.intent = j.intent AND w.source <> j.source)
            OR theirs_payment <> '' AND EXISTS (
                SELECT FROM reconciliation_providertransaction s
                WHERE s.payment_number = j.theirs_payment AND s.source <> j.source AND s.payment_number <> ''
                  AND s.reporting_category = 'charge' AND s.withdrawn_at IS NULL
                  AND EXISTS (SELECT FROM {MOVEMENTS_VIEW} w
                              WHERE w.kind = 'charge' AND w.source = s.source AND w.booked OFFSET 0))
        ) THEN 'duplicate_charge'
        WHEN ours = 'none' THEN 'missing_in_our_system' || form
        WHEN theirs = 'none' AND ours_booked THEN 'missing_in_stripe' || form
        WHEN theirs = 'none' THEN NULL
        -- A payment that failed asynchronously at the provider can be tried again: ours stays open.
        WHEN kind = 'charge' AND ours = 'open' AND theirs = 'dead' THEN NULL
        -- Money was taken, or given back, that is not what we asked for: nothing was marked paid for it.
        WHEN theirs = 'settled' AND ours <> 'settled' AND ours_currency <> theirs_currency THEN 'currency_mismatch'
        WHEN theirs = 'settled' AND ours <> 'settled'
            AND theirs_minor <> CASE kind WHEN 'refund' THEN ours_minor ELSE expected_minor END
            THEN 'amount_mismatch' || form
        WHEN ours <> theirs THEN 'status_mismatch' || form
        WHEN ours = 'settled' AND ours_currency <> theirs_currency THEN 'currency_mismatch'
        WHEN ours = 'settled' AND ours_minor <> theirs_minor THEN 'amount_mismatch' || form
    END AS found
    FROM judged j
), timed AS (
    SELECT n.*, coalesce(theirs_at, ours_at) AS moment,
           date_trunc('day', coalesce(theirs_at, ours_at), 'UTC') + interval '1 day' AS day_end
    FROM named n WHERE found IS NOT NULL
)
SELECT found || ':' || source AS fingerprint, found AS kind, kind AS object_kind, (moment AT TIME ZONE 'UTC')::date
           AS business_date, source, intent, charge, merchant_id, payment_id,
       CASE kind WHEN 'refund' THEN ours_id END AS refund_id, coalesce(reference, theirs_order) AS order_reference,
       CASE WHEN ours = 'settled' THEN ours_minor ELSE expected_minor END AS ours_amount_minor,
       coalesce(ours_currency, '') AS ours_currency, coalesce(ours_status, '') AS ours_status, ours_at,
       theirs_minor AS theirs_amount_minor, coalesce(theirs_currency, '') AS theirs_currency,
       CASE WHEN theirs = 'dead' AND theirs_status = 'succeeded' THEN 'reversed' ELSE coalesce(theirs_status, '') END
           AS theirs_status, theirs_at,
       CASE WHEN ours_currency <> theirs_currency THEN NULL ELSE
           (CASE kind WHEN 'refund' THEN -1 ELSE 1 END)
           * (coalesce(theirs_minor, 0) - CASE WHEN ours_booked THEN ours_minor ELSE 0 END) END AS difference_minor,
       jsonb_strip_nulls(jsonb_build_object(
           'matched_by', nullif(matched_by, ''), 'transactions', to_jsonb(ids), 'instance', nullif(instance, ''),
           'payment_in_metadata', nullif(theirs_payment, ''))) AS evidence,
       -- Timing needs evidence: so near to midnight that the other side may still book it on the next day…
       CASE WHEN found LIKE ANY(%(may_be_timing)s) THEN CASE
           WHEN source = ANY(%(unbooked)s) AND %(now)s < moment + %(unbooked_after)s THEN moment + %(unbooked_after)s
           WHEN moment >= day_end - %(window)s AND %(now)s < day_end + %(window)s THEN day_end + %(window)s
       END END AS becomes_break_at,
       CASE WHEN source = ANY(%(unbooked)s) THEN 'not booked by the provider yet' ELSE 'near midnight' END AS timing
FROM timed
UNION ALL
SELECT 'unknown_type:' || t.id, 'unknown_type', 'other', (t.created_at AT TIME ZONE 'UTC')::date, t.id,
       t.payment_intent, t.charge, NULL, NULL, NULL, t.order_reference, NULL, '', '', NULL, t.amount_minor, t.currency,
       t.reporting_category, t.created_at, t.amount_minor,
       jsonb_build_object('transactions', jsonb_build_array(t.id), 'type', t.type, 'source', t.source), NULL, ''
FROM recon_item i
JOIN reconciliation_providertransaction t ON t.id = i.source
WHERE i.kind = 'other' AND t.withdrawn_at IS NULL AND NOT t.reporting_category = ANY(%(known)s)
"""  # noqa: S608

_NOTED = """
CREATE TEMPORARY TABLE recon_found ON COMMIT DROP AS
SELECT %(kind)s::text || ':' || %(source)s::text AS fingerprint, %(kind)s::text AS kind, %(object_kind)s::text AS object_kind,
       (coalesce(%(theirs_at)s::timestamptz, %(now)s::timestamptz) AT TIME ZONE 'UTC')::date AS business_date,
       %(source)s::text AS source, %(intent)s::text AS intent, %(charge)s::text AS charge,
       %(merchant_id)s::uuid AS merchant_id, %(payment_id)s::uuid AS payment_id, %(refund_id)s::uuid AS refund_id,
       %(order_reference)s::text AS order_reference, %(ours_amount_minor)s::bigint AS ours_amount_minor,
       %(ours_currency)s::text AS ours_currency, %(ours_status)s::text AS ours_status, NULL::timestamptz AS ours_at,
       %(theirs_amount_minor)s::bigint AS theirs_amount_minor, %(theirs_currency)s::text AS theirs_currency,
       %(theirs_status)s::text AS theirs_status, %(theirs_at)s::timestamptz AS theirs_at,
       %(difference_minor)s::bigint AS difference_minor, jsonb_build_object('told', %(detail)s::text) AS evidence,
       NULL::timestamptz AS becomes_break_at, ''::text AS timing
"""

_MAY_BE_TIMING = ["missing_in%", "status_mismatch%"]

# …or a message about it that nobody has worked on yet.
_UNHANDLED_ROWS = """
SELECT DISTINCT intent FROM recon_found
WHERE intent <> '' AND becomes_break_at IS NULL AND theirs_at IS NOT NULL AND kind LIKE ANY(%s)
"""
_MARK_UNHANDLED = """
UPDATE recon_found SET becomes_break_at = %s, timing = 'a message about it is not handled yet'
WHERE intent = ANY(%s) AND becomes_break_at IS NULL AND theirs_at IS NOT NULL AND kind LIKE ANY(%s)
"""

# Straight from both tables, not from the pairs: what matching lost or doubled shows as a residual.
_DAY_TOTALS = f"""
SELECT 'theirs', currency, count(*), sum(amount_minor)::bigint FROM reconciliation_providertransaction
WHERE created_at >= %(since)s AND created_at < %(until)s AND withdrawn_at IS NULL
  AND reporting_category = ANY(%(compared)s) GROUP BY currency
UNION ALL
SELECT 'ours', currency, count(*), sum(CASE kind WHEN 'refund' THEN -amount_minor ELSE amount_minor END)::bigint
FROM {MOVEMENTS_VIEW} WHERE booked AND booked_at >= %(since)s AND booked_at < %(until)s GROUP BY currency
UNION ALL
SELECT 'theirs paired', theirs_currency, sum(theirs_day_rows), sum(theirs_day_minor)::bigint FROM recon_pair
WHERE theirs_day_rows > 0 GROUP BY theirs_currency
UNION ALL
SELECT 'ours paired', ours_currency, count(*),
       sum(CASE kind WHEN 'refund' THEN -ours_minor ELSE ours_minor END)::bigint
FROM recon_pair WHERE ours_in_day GROUP BY ours_currency
"""  # noqa: S608

_MATCHED = """
SELECT count(*) FROM recon_pair p
WHERE p.theirs_day_rows > 0 AND p.ours_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM recon_found f WHERE f.object_kind = p.kind AND f.source = p.source)
"""

_AWAITING_BOOKING = f"""
SELECT m.intent, m.source FROM {MOVEMENTS_VIEW} m
WHERE m.kind = 'charge' AND m.booked AND m.booked_at >= greatest(%(since)s, %(recent)s) AND m.booked_at < %(until)s
  AND NOT EXISTS (SELECT FROM reconciliation_providertransaction t WHERE t.source = m.source AND t.withdrawn_at IS NULL)
ORDER BY m.booked_at LIMIT %(limit)s
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class DayTotals:
    """Both sides of a day: counts, and by currency net gross amounts and what matching does not account for."""

    ours_count: int
    ours: dict[str, int]
    theirs_count: int
    theirs: dict[str, int]
    matched: int
    residual: dict[str, int]


def window(day: date) -> tuple[datetime, datetime]:
    """[00:00, 24:00) UTC."""
    since = datetime.combine(day, time.min, UTC)
    return since, since + timedelta(days=1)


def match_day(day: date, *, now: datetime, unbooked: Sequence[str] = ()) -> None:
    """Fill `recon_pair` and `recon_found` for a day and for everything that is not settled yet.

    `unbooked`: charges that the provider told us it has not booked yet. Belongs inside a transaction.
    """
    _start()
    parameters = _parameters(window(day))
    _run(_ITEMS_OF_DAY, parameters)
    _match(parameters, now=now, unbooked=unbooked)


def match_objects(objects: Sequence[tuple[str, str]], *, now: datetime) -> None:
    """The same for a few (object kind, source). Belongs inside a transaction."""
    _start()
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO recon_item VALUES (%s, %s)", objects)
    _match(_parameters((now, now)), now=now, unbooked=())


def note_found(found: Finding, *, now: datetime) -> None:
    """Fill `recon_found` with what news told, as if it had been matched. Belongs inside a transaction."""
    _start()
    _run(
        _NOTED,
        {
            **asdict(found),
            "payment_id": parse_public_id("pay", found.payment) if found.payment else None,
            "refund_id": parse_public_id("ref", found.refund) if found.refund else None,
            "now": now,
        },
    )


def day_totals(day: date) -> DayTotals:
    """Count and add up both sides of the day that `match_day` has matched."""
    totals: dict[str, dict[str, int]] = {}
    counts: dict[str, int] = {}
    with connection.cursor() as cursor:
        cursor.execute(_DAY_TOTALS, _parameters(window(day)))
        for side, currency, count, total in cursor.fetchall():
            totals.setdefault(side, {})[currency] = total
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


def awaiting_booking(day: date, *, now: datetime) -> list[tuple[str, str]]:
    """(intent, charge) of recent captures of ours that the provider's books do not hold: ask it about them."""
    recent = now - timedelta(seconds=settings.RECONCILE_UNBOOKED_AFTER_S)
    parameters = _parameters(window(day)) | {"recent": recent, "limit": settings.RECONCILE_UNBOOKED_LOOKUPS}
    with connection.cursor() as cursor:
        cursor.execute(_AWAITING_BOOKING, parameters)
        return list(cursor.fetchall())


def is_found(fingerprint: str) -> bool:
    """Whether the last match still saw this difference."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM recon_found WHERE fingerprint = %s)", [fingerprint])
        return bool(cursor.fetchone()[0])


def difference_of(fingerprint: str) -> int | None:
    """What the provider holds more than our books say, by the last match; None if it saw no such difference."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT difference_minor FROM recon_found WHERE fingerprint = %s", [fingerprint])
        row = cursor.fetchone()
    return row[0] if row else None


def _start() -> None:
    _run("DROP TABLE IF EXISTS pg_temp.recon_item, pg_temp.recon_pair, pg_temp.recon_found", {})
    _run("CREATE TEMPORARY TABLE recon_item (kind text, source text) ON COMMIT DROP", {})


def _match(parameters: dict[str, Any], *, now: datetime, unbooked: Sequence[str]) -> None:
    _run("ANALYZE recon_item", {})
    _run(_PAIRS, parameters)
    _run(
        _FOUND,
        parameters
        | {
            "now": now,
            "instance": settings.INSTANCE_ID,
            "window": timedelta(seconds=settings.RECONCILE_TIMING_WINDOW_S),
            "unbooked": list(unbooked),
            "unbooked_after": timedelta(seconds=settings.RECONCILE_UNBOOKED_AFTER_S),
            "may_be_timing": _MAY_BE_TIMING,
        },
    )
    _mark_unhandled(now)


def _mark_unhandled(now: datetime) -> None:
    break_at = now + timedelta(seconds=settings.RECONCILE_TIMING_WINDOW_S)
    with connection.cursor() as cursor:
        cursor.execute(_UNHANDLED_ROWS, [_MAY_BE_TIMING])
        intents = [intent for (intent,) in cursor.fetchall()]
        for start in range(0, len(intents), _UNHANDLED_CHUNK):
            unhandled = durability.unhandled_keys(intents[start : start + _UNHANDLED_CHUNK])
            if unhandled:
                cursor.execute(_MARK_UNHANDLED, [break_at, list(unhandled), _MAY_BE_TIMING])


def _parameters(bounds: tuple[datetime, datetime]) -> dict[str, Any]:
    compared = [*CHARGE_CATEGORIES, *REFUND_CATEGORIES]
    return {
        "since": bounds[0],
        "until": bounds[1],
        "charges": CHARGE_CATEGORIES,
        "refunds": REFUND_CATEGORIES,
        "compared": compared,
        "known": [*compared, *OTHER_CATEGORIES],
        "unresolved": list(UNRESOLVED_STATES),
    }


def _run(statement: str, parameters: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
