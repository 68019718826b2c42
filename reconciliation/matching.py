"""Compares both books with SQL alone, both ways, set-based: memory stays flat however many rows a day has.

Works in the caller's transaction on three temporary tables, which end with it:

1. `recon_item`: what is looked at: (object kind, source) of everything in the day on either side, and of every
   discrepancy that is not settled yet, whatever its day;
2. `recon_pair`: each item with the provider's rows and our movement beside it. Counterparts are found by id, in any
   window: a pair around midnight is a match, not two breaks;
3. `recon_found`: the pairs that differ, each with the kind of difference.

Gross is compared with gross, fees with fees. One charge can have several rows (a partial capture is two, a refund that
fails late is two, a dispute that was won is two): the rows of one source are added up. Amounts in `recon_pair` are positive
for what came from a customer, and for what went to one, to a bank, or to our own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import connection

from durability import selectors as durability
from foundation.ids import parse_public_id, public_id
from payments.selectors import BOOKINGS_VIEW, MOVEMENTS_VIEW, PAYOUTS_VIEW
from payments.types import LearntFee
from reconciliation.states import UNRESOLVED_STATES
from reconciliation.types import Finding, Proved, Statement

# What the provider's reporting categories mean here (https://docs.stripe.com/reports/reporting-categories). `type` is not
# asked: an `adjustment` may be a dispute, its reversal, or a refund that failed.
CATEGORIES: Final[Mapping[str, Sequence[str]]] = {
    "charge": ["charge", "charge_failure", "partial_capture_reversal"],
    "refund": ["refund", "refund_failure"],
    "dispute": ["dispute", "dispute_reversal"],
    "payout": ["payout", "payout_reversal"],
    # What the provider takes for its services, apart from a movement: posted from its statement, the only voucher.
    "cost": ["fee", "network_cost", "tax"],
    # Rows that stand for themselves: nothing of ours moves such money, so a person takes each over.
    "adjustment": [
        "advance",
        "advance_funding",
        "anticipation_repayment",
        "climate_order_purchase",
        "climate_order_refund",
        "connect_collection_transfer",
        "connect_reserved_funds",
        "contribution",
        "other_adjustment",
        "platform_earning",
        "platform_earning_refund",
        "risk_reserved_funds",
        "topup",
        "topup_reversal",
        "transfer",
        "transfer_reversal",
    ],
}
PAIRED: Final = ("charge", "refund", "dispute", "payout")  # a row of theirs, and one of ours, by the object's id
KNOWN: Final = [category for of_kind in CATEGORIES.values() for category in of_kind]
_UNHANDLED_CHUNK = 1000  # intents asked about at once

# A row's object, by its category; rows that stand for themselves are their own source.
_KIND = f"""CASE {
    " ".join(f"WHEN t.reporting_category = ANY(%({kind})s) THEN '{kind}'" for kind in CATEGORIES)
} ELSE 'other' END"""
_THEIRS = " OR ".join(f"i.kind = '{kind}' AND t.reporting_category = ANY(%({kind})s)" for kind in PAIRED)

# Nothing of before the start of the account's books: that is in the opening balance.
_ITEMS_OF_DAY = f"""
INSERT INTO recon_item
SELECT {_KIND}, t.source FROM reconciliation_providertransaction t
WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
  AND t.reporting_category = ANY(%(paired)s)
UNION
SELECT m.kind, m.source FROM {MOVEMENTS_VIEW} m
WHERE m.booked AND m.source IS NOT NULL AND m.booked_at >= %(first)s AND m.booked_at < %(until)s
UNION
SELECT {_KIND}, t.id FROM reconciliation_providertransaction t
WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
  AND NOT t.reporting_category = ANY(%(stand_beside)s)
UNION
SELECT d.object_kind, d.source FROM reconciliation_discrepancy d
WHERE d.state = ANY(%(unresolved)s) AND d.object_kind NOT IN ('statement', 'bank')
UNION
SELECT d.object_kind, d.source FROM reconciliation_discrepancy d
WHERE d.closed_as = 'fixed' AND d.verified_at IS NULL AND d.object_kind NOT IN ('statement', 'bank')
"""  # noqa: S608  the view's name is a constant

# By source first. A payment that has not succeeded in our books knows no charge yet: then by its intent. OFFSET 0 keeps
# each look-up a look-up: the view is a union, and joined as a whole it would be read from end to end, day after day.
_PAIRS = f"""
CREATE TEMPORARY TABLE recon_pair ON COMMIT DROP AS
WITH theirs AS (
    SELECT i.kind, i.source, count(*) AS rows, min(t.currency) AS currency, max(t.created_at) AS at,
           sum(CASE i.kind WHEN 'charge' THEN t.amount_minor ELSE -t.amount_minor END)::bigint AS amount_minor,
           -- what left with a payout, whether or not it came back
           -(sum(t.amount_minor) FILTER (WHERE t.reporting_category = 'payout'))::bigint AS paid_out_minor,
           coalesce(sum(t.amount_minor) FILTER (WHERE t.created_at >= %(since)s AND t.created_at < %(until)s), 0)::bigint
               AS day_minor,
           count(*) FILTER (WHERE t.created_at >= %(since)s AND t.created_at < %(until)s) AS day_rows,
           (array_agg(t.source_status ORDER BY t.created_at DESC))[1] AS status,
           max(t.payment_intent) AS intent, max(t.charge) AS charge, max(t.order_reference) AS order_reference,
           max(t.payment_number) AS payment_number, max(t.instance) AS instance,
           array_agg(t.id ORDER BY t.created_at, t.id) AS ids
    FROM recon_item i
    JOIN reconciliation_providertransaction t ON t.source = i.source
    WHERE t.withdrawn_at IS NULL AND ({_THEIRS})
    GROUP BY i.kind, i.source
)
SELECT i.kind, i.source, t.rows AS theirs_rows, t.amount_minor AS theirs_minor, t.currency AS theirs_currency,
       t.status AS theirs_status, t.at AS theirs_at, coalesce(t.day_minor, 0) AS theirs_day_minor,
       coalesce(t.day_rows, 0) AS theirs_day_rows, coalesce(t.order_reference, '') AS theirs_order,
       coalesce(t.payment_number, '') AS theirs_payment, coalesce(t.instance, '') AS instance,
       coalesce(t.charge, '') AS charge, t.ids, t.paid_out_minor, c.collected_minor,
       coalesce(o.id, n.id) AS ours_id, coalesce(o.merchant_id, n.merchant_id) AS merchant_id,
       coalesce(o.payment_id, n.payment_id) AS payment_id,
       -- a refund or dispute that only the provider knows still belongs to the order of its charge
       coalesce(o.reference, n.reference, (
           SELECT m.reference FROM {MOVEMENTS_VIEW} m
           WHERE i.kind IN ('refund', 'dispute') AND m.kind = 'charge' AND m.intent = t.intent AND t.intent <> '' LIMIT 1
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
LEFT JOIN LATERAL (
    SELECT p.collected_minor FROM {PAYOUTS_VIEW} p WHERE i.kind = 'payout' AND p.source = i.source OFFSET 0
) c ON true
WHERE i.kind = ANY(%(paired_kinds)s)
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
                WHEN p.theirs_minor = 0 OR p.kind IN ('charge', 'refund') AND p.theirs_status IN ('failed', 'canceled') THEN 'dead'
                WHEN p.theirs_status IN ('', 'succeeded') THEN 'settled'
                ELSE 'open' END AS theirs
    FROM recon_pair p
), named AS (
    SELECT j.*, CASE
        -- A dispute that was won moved nothing in the end, but for its fee; a payout that came back was on its way.
        WHEN ours = 'none' AND (theirs = 'none' OR theirs_minor = 0 AND kind IN ('charge', 'refund')) THEN NULL
        WHEN ours = 'none' AND (
            instance NOT IN ('', %(instance)s) OR kind IN ('refund', 'dispute') AND EXISTS (
                SELECT FROM reconciliation_providertransaction c
                WHERE c.source = j.charge AND c.instance NOT IN ('', %(instance)s))
        ) THEN 'foreign_instance'
        WHEN kind = 'payout' THEN CASE
            WHEN ours = 'none' THEN 'payout_difference'
            WHEN theirs = 'none' THEN CASE WHEN ours_booked THEN 'payout_difference' END
            WHEN ours_currency <> theirs_currency OR ours_minor <> paid_out_minor THEN 'payout_difference'
            -- It came back in one book alone. On its way, our books wait for it to arrive: no difference.
            WHEN (theirs_minor = 0) <> (ours_status IN ('failed', 'cancelled')) THEN 'payout_difference'
            WHEN collected_minor <> ours_minor THEN 'payout_difference'
        END
        WHEN kind = 'dispute' THEN CASE
            WHEN ours = 'none' THEN 'dispute_unexpected'
            WHEN theirs = 'none' THEN CASE WHEN ours_booked THEN 'dispute_missing' END
            WHEN ours_currency <> theirs_currency THEN 'currency_mismatch'
            WHEN theirs_minor > ours_minor THEN 'dispute_unexpected'
            WHEN theirs_minor < ours_minor THEN 'dispute_missing'
        END
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
       CASE WHEN ours = 'settled' OR kind = 'dispute' THEN ours_minor ELSE expected_minor END AS ours_amount_minor,
       coalesce(ours_currency, '') AS ours_currency, coalesce(ours_status, '') AS ours_status, ours_at,
       theirs_minor AS theirs_amount_minor, coalesce(theirs_currency, '') AS theirs_currency,
       CASE WHEN theirs = 'dead' AND (theirs_status = 'succeeded' OR kind = 'payout') THEN 'reversed' ELSE coalesce(theirs_status, '') END
           AS theirs_status, theirs_at,
       CASE WHEN ours_currency <> theirs_currency THEN NULL ELSE
           (CASE kind WHEN 'charge' THEN 1 ELSE -1 END)
           * (coalesce(theirs_minor, 0) - CASE WHEN ours_booked THEN ours_minor ELSE 0 END) END AS difference_minor,
       jsonb_strip_nulls(jsonb_build_object(
           'matched_by', nullif(matched_by, ''), 'transactions', to_jsonb(ids), 'instance', nullif(instance, ''),
           'payment_in_metadata', nullif(theirs_payment, ''), 'collected_minor', collected_minor,
           'ours_id', CASE WHEN kind IN ('dispute', 'payout') THEN ours_id END)) AS evidence,
       -- Timing needs evidence: so near to midnight that the other side may still book it on the next day…
       CASE WHEN found LIKE ANY(%(may_be_timing)s) THEN CASE
           WHEN source = ANY(%(unbooked)s) AND %(now)s < moment + %(unbooked_after)s THEN moment + %(unbooked_after)s
           WHEN moment >= day_end - %(window)s AND %(now)s < day_end + %(window)s THEN day_end + %(window)s
       END END AS becomes_break_at,
       CASE WHEN source = ANY(%(unbooked)s) THEN 'not booked by the provider yet' ELSE 'near midnight' END AS timing
FROM timed
UNION ALL
SELECT own.kind || ':' || t.id, own.kind, i.kind, (t.created_at AT TIME ZONE 'UTC')::date, t.id, t.payment_intent, t.charge,
       NULL, NULL, NULL, t.order_reference, b.clearing_minor, CASE WHEN b.id IS NULL THEN '' ELSE b.currency END, '', NULL,
       t.net_minor, t.currency, t.reporting_category, t.created_at,
       CASE WHEN b.id IS NULL OR b.currency = t.currency THEN t.net_minor - coalesce(b.clearing_minor, 0) END,
       jsonb_build_object('transactions', jsonb_build_array(t.id), 'type', t.type, 'source', t.source), NULL, ''
FROM recon_item i
JOIN reconciliation_providertransaction t ON t.id = i.source
CROSS JOIN LATERAL (
    SELECT CASE i.kind WHEN 'other' THEN 'unknown_type' ELSE 'missing_in_our_system' END AS kind
) own
LEFT JOIN LATERAL (SELECT k.* FROM {BOOKINGS_VIEW} k WHERE k.key = 'booking:' || t.id OFFSET 0) b ON true
WHERE i.kind IN ('adjustment', 'other') AND t.withdrawn_at IS NULL AND i.kind = {_KIND}
  AND (b.currency, b.clearing_minor) IS DISTINCT FROM (t.currency::varchar, t.net_minor) AND t.net_minor <> 0
"""  # noqa: S608

# The fee that the provider's rows take beside the one that we posted when we learnt of it (`fee:txn_…`). What was never
# posted is posted by the run itself, before it compares: the statement is its voucher.
_FEES = f"""
INSERT INTO recon_found
SELECT 'fee_variance:' || p.source, 'fee_variance', p.kind, (p.theirs_at AT TIME ZONE 'UTC')::date, p.source, p.intent,
       p.charge, p.merchant_id, p.payment_id, CASE p.kind WHEN 'refund' THEN p.ours_id END,
       coalesce(p.reference, p.theirs_order), fee.ours_minor, p.ours_currency, p.ours_status, p.ours_at, fee.theirs_minor,
       p.theirs_currency, p.theirs_status, p.theirs_at, fee.ours_minor - fee.theirs_minor,
       jsonb_build_object('transactions', to_jsonb(p.ids)), NULL, ''
FROM recon_pair p
CROSS JOIN LATERAL (
    SELECT sum(t.fee_minor)::bigint AS theirs_minor, coalesce(-sum(b.clearing_minor), 0)::bigint AS ours_minor,
           count(b.id) AS posted
    FROM unnest(p.ids) AS row (id)
    JOIN reconciliation_providertransaction t ON t.id = row.id
    LEFT JOIN LATERAL (SELECT k.* FROM {BOOKINGS_VIEW} k WHERE k.key = 'fee:' || t.id OFFSET 0) b ON true
) fee
WHERE p.ours_id IS NOT NULL AND p.ours_currency = p.theirs_currency AND fee.posted > 0
  AND fee.ours_minor <> fee.theirs_minor
"""  # noqa: S608

_FEE_DIFFERENCES = f"""
SELECT t.id, (t.fee_minor + b.clearing_minor)::bigint
FROM reconciliation_providertransaction t JOIN {BOOKINGS_VIEW} b ON b.key = 'fee:' || t.id AND b.currency = t.currency
WHERE t.source = %(source)s AND t.withdrawn_at IS NULL AND {_KIND} = %(kind)s AND t.fee_minor + b.clearing_minor <> 0
ORDER BY t.id
"""  # noqa: S608

# Fees that we posted for a payment, of rows that the provider's books do not hold.
_FEES_OF_NOTHING = f"""
SELECT split_part(b.key, ':', 2), b.clearing_minor FROM {BOOKINGS_VIEW} b
WHERE b.subject = %s AND b.kind = 'fee' AND b.clearing_minor <> 0 AND NOT EXISTS (
    SELECT FROM reconciliation_providertransaction t WHERE t.id = split_part(b.key, ':', 2) AND t.withdrawn_at IS NULL)
ORDER BY 1
"""  # noqa: S608

# Fees that nobody posted yet: of movements that our books hold, and of the account itself.
_UNPOSTED_FEES = f"""
SELECT t.id, t.currency, CASE {_KIND} WHEN 'cost' THEN -t.net_minor ELSE t.fee_minor END AS fee_minor, {_KIND} AS kind,
       m.id AS ours_id, m.payment_id, m.merchant_id, coalesce(m.reference, '')
FROM (
    SELECT t.* FROM reconciliation_providertransaction t
    WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
      AND (t.fee_minor <> 0 AND t.reporting_category = ANY(%(paired)s)
           OR t.net_minor <> 0 AND t.reporting_category = ANY(%(cost)s))
      AND NOT EXISTS (SELECT FROM {BOOKINGS_VIEW} b WHERE b.key = 'fee:' || t.id)
    OFFSET 0
) t
LEFT JOIN LATERAL (
    SELECT o.* FROM {MOVEMENTS_VIEW} o
    WHERE o.kind = {_KIND} AND o.source = t.source AND o.currency = t.currency
      AND (o.booked OR o.kind = 'dispute') OFFSET 0
) m ON true
WHERE m.id IS NOT NULL OR t.reporting_category = ANY(%(cost)s)
ORDER BY t.created_at, t.id
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

# One item for each currency and proof: a balance that is off stays off on the days that follow. What the rows add up to is
# theirs; the clearing account is ours, and so is what the provider held if they are right.
_RESIDUAL = """
INSERT INTO recon_found
SELECT 'statement_residual:' || %(source)s::text, 'statement_residual', 'statement', %(day)s::date, %(source)s::text, '', '',
       NULL, NULL, NULL, '', %(says)s::bigint - CASE %(proof)s::text WHEN 'balance' THEN 0 ELSE -%(explained)s::bigint END,
       %(currency)s::text, '', NULL, %(closing)s::bigint, %(currency)s::text, '', %(now)s::timestamptz, %(residual)s::bigint,
       jsonb_build_object('proof', %(proof)s::text, 'day', %(day)s::date), NULL, ''
"""

_MAY_BE_TIMING = ["missing_in%", "status_mismatch%", "dispute_%", "payout_difference"]

# …or a message about it that nobody has worked on yet.
_UNHANDLED_ROWS = """
SELECT DISTINCT key FROM recon_found, LATERAL (VALUES (intent), (source)) AS known (key)
WHERE key <> '' AND becomes_break_at IS NULL AND theirs_at IS NOT NULL AND kind LIKE ANY(%s)
"""
_MARK_UNHANDLED = """
UPDATE recon_found SET becomes_break_at = %s, timing = 'a message about it is not handled yet'
WHERE ARRAY[intent, source]::text[] && %s::text[] AND becomes_break_at IS NULL AND theirs_at IS NOT NULL AND kind LIKE ANY(%s)
"""

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
SELECT 'theirs paired', theirs_currency, sum(theirs_day_rows), sum(theirs_day_minor)::bigint FROM recon_pair
WHERE kind IN ('charge', 'refund') AND theirs_day_rows > 0 GROUP BY theirs_currency
UNION ALL
SELECT 'ours paired', ours_currency, count(*),
       sum(CASE kind WHEN 'refund' THEN -ours_minor ELSE ours_minor END)::bigint
FROM recon_pair WHERE kind IN ('charge', 'refund') AND ours_in_day GROUP BY ours_currency
"""  # noqa: S608

_MATCHED = """
SELECT count(*) FROM recon_pair p
WHERE p.kind IN ('charge', 'refund') AND p.theirs_day_rows > 0 AND p.ours_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM recon_found f
                  WHERE f.object_kind = p.kind AND f.source = p.source AND f.kind <> 'fee_variance')
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


def match_day(day: date, *, now: datetime, unbooked: Sequence[str] = (), starts_on: date | None = None) -> None:
    """Fill `recon_pair` and `recon_found` for a day and for everything that is not settled yet.

    `unbooked`: charges that the provider told us it has not booked yet. Belongs inside a transaction.
    """
    _start()
    parameters = _parameters(window(day), starts_on)
    _run(_ITEMS_OF_DAY, parameters)
    _match(parameters, now=now, unbooked=unbooked)


def unposted_fees(since: datetime, until: datetime, *, starts_on: date | None = None) -> list[LearntFee]:
    """Fees in the provider's books of a window that ours do not hold yet."""
    with connection.cursor() as cursor:
        cursor.execute(_UNPOSTED_FEES, _parameters((since, until), starts_on))
        rows = cursor.fetchall()
    return [
        LearntFee(
            transaction=row_id,
            currency=currency,
            fee_minor=fee_minor,
            merchant_id=merchant_id,
            subject=_subject(kind, ours_id, payment_id),
            reference=reference,
        )
        for row_id, currency, fee_minor, kind, ours_id, payment_id, merchant_id, reference in rows
    ]


def _subject(kind: str, ours_id: UUID | None, payment_id: UUID | None) -> str:
    """Whose fee it is: a dispute's, else its payment's, else nobody's."""
    if kind == "dispute" and ours_id:
        return public_id("dsp", ours_id)
    return public_id("pay", payment_id) if payment_id else ""


def match_objects(objects: Sequence[tuple[str, str]], *, now: datetime) -> None:
    """The same for a few (object kind, source). Belongs inside a transaction."""
    _start()
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO recon_item VALUES (%s, %s)", objects)
    _match(_parameters((now, now), None), now=now, unbooked=())


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


def add_residuals(statements: Iterable[Statement], *, now: datetime) -> None:
    """Put what statements leave unexplained beside what was found, and every proof that was made beside what was looked at.
    Belongs inside a transaction, after `match_day`.
    """
    proved = [
        (statement, proof)
        for statement in statements
        for proof in statement.proofs
        if proof.residual_minor is not None and proof.name != Proved.PAYOUTS
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO recon_item VALUES ('statement', %s)",
            [[f"{statement.currency}:{proof.name}"] for statement, proof in proved],
        )
        cursor.executemany(
            _RESIDUAL,
            [
                {
                    "source": f"{statement.currency}:{proof.name}",
                    "day": statement.day,
                    "currency": statement.currency,
                    "proof": proof.name,
                    "closing": statement.closing_minor,
                    "says": proof.says_minor,
                    "explained": proof.explained_minor,
                    "residual": proof.residual_minor,
                    "now": now,
                }
                for statement, proof in proved
                if proof.residual_minor
            ],
        )


def day_totals(day: date, *, starts_on: date | None = None) -> DayTotals:
    """Count and add up both sides of the day that `match_day` has matched."""
    totals: dict[str, dict[str, int]] = {}
    counts: dict[str, int] = {}
    with connection.cursor() as cursor:
        cursor.execute(_DAY_TOTALS, _parameters(window(day), starts_on))
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
    parameters = _parameters(window(day), None) | {"recent": recent, "limit": settings.RECONCILE_UNBOOKED_LOOKUPS}
    with connection.cursor() as cursor:
        cursor.execute(_AWAITING_BOOKING, parameters)
        return list(cursor.fetchall())


def fee_differences(object_kind: str, source: str) -> list[tuple[str, int]]:
    """(row, what its fee is more than what we posted for it) of an object's rows whose fees differ."""
    parameters = _parameters((datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)), None)
    with connection.cursor() as cursor:
        cursor.execute(_FEE_DIFFERENCES, parameters | {"kind": object_kind, "source": source})
        return list(cursor.fetchall())


def fees_of_nothing(payment: str) -> list[tuple[str, int]]:
    """(row, what its fee is more than what we posted: negative) of a payment's fees whose rows are not there."""
    with connection.cursor() as cursor:
        cursor.execute(_FEES_OF_NOTHING, [payment])
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


def clear() -> None:
    """Forget what was looked at and found: the next thing that is stored stands alone. Belongs inside a transaction."""
    _run("TRUNCATE recon_item, recon_found", {})


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
    _run(_FEES, parameters)
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


def _parameters(bounds: tuple[datetime, datetime], starts_on: date | None) -> dict[str, Any]:
    return {
        "since": bounds[0],
        "first": max(bounds[0], window(starts_on)[0]) if starts_on else bounds[0],
        "until": bounds[1],
        **{kind: list(categories) for kind, categories in CATEGORIES.items()},
        "paired_kinds": list(PAIRED),
        "paired": [category for kind in PAIRED for category in CATEGORIES[kind]],
        "compared": [*CATEGORIES["charge"], *CATEGORIES["refund"]],
        "stand_beside": [category for kind in (*PAIRED, "cost") for category in CATEGORIES[kind]],
        "unresolved": list(UNRESOLVED_STATES),
    }


def _run(statement: str, parameters: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
