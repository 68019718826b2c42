"""Judges pairs: which differ, how, and whether there is evidence that a difference heals by itself. Fills `recon_found`."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection

from durability import selectors as durability
from payments.selectors import BOOKINGS_VIEW, CLEARING_CORRECTIONS_VIEW, CLEARING_LINES_VIEW
from payments.types import Booked
from reconciliation.matching.categories import KIND
from reconciliation.matching.days import Parameters, run
from reconciliation.types import NEVER_TAKEN, NOT_BOOKED_YET

_MAY_BE_TIMING = ["missing_in%", "status_mismatch%", "dispute_%", "payout_difference"]

_UNHANDLED_CHUNK = 1000  # intents asked about at once

_FOUND = f"""
INSERT INTO recon_found
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
        WHEN ours = 'none' AND is_foreign THEN 'foreign_instance'
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
        WHEN ours = 'none' AND is_duplicate THEN 'duplicate_charge'
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
        WHEN ours = 'settled' AND ours_minor <> theirs_minor AND tolerance_minor IS NULL THEN 'amount_mismatch' || form
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
           'matched_by', nullif(rule, ''), 'candidates', candidates, 'transactions', to_jsonb(ids), 'instance', nullif(instance, ''),
           'payment_in_metadata', nullif(theirs_payment, ''), 'collected_minor', collected_minor,
           'ours_id', CASE WHEN kind IN ('dispute', 'payout') THEN ours_id END)) AS evidence,
       -- Timing needs evidence: so near to midnight that the other side may still book it on the next day…
       CASE WHEN found LIKE ANY(%(may_be_timing)s) AND NOT source = ANY(%(never)s) THEN CASE
           WHEN source = ANY(%(unbooked)s) AND %(now)s < moment + %(unbooked_after)s THEN moment + %(unbooked_after)s
           WHEN moment >= day_end - %(window)s AND %(now)s < day_end + %(window)s THEN day_end + %(window)s
       END END AS becomes_break_at,
       CASE WHEN source = ANY(%(unbooked)s) THEN '{NOT_BOOKED_YET}' WHEN source = ANY(%(never)s) THEN '{NEVER_TAKEN}'
            ELSE 'near midnight' END AS timing
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
LEFT JOIN {BOOKINGS_VIEW} b ON b.key = 'booking:' || t.id
WHERE i.kind IN ('adjustment', 'other') AND t.withdrawn_at IS NULL AND i.kind = {KIND}
  AND (b.currency, b.clearing_minor) IS DISTINCT FROM (t.currency::varchar, t.net_minor) AND t.net_minor <> 0
"""  # noqa: S608

# The fee that the provider's rows take beside the one that we posted when we learnt of it (`fee:txn_…`). What was never
# posted is posted by the run itself, before it compares: the statement is its voucher.
# The keys are a table of their own, and counted: no statistics tell how many pairs agree in their currency.
_FEE_KEYS = """
INSERT INTO recon_fee SELECT p.kind, p.source, 'fee:' || id FROM recon_pair p CROSS JOIN LATERAL unnest(p.ids) AS id
WHERE p.ours_id IS NOT NULL AND p.ours_currency = p.theirs_currency
"""

# What was posted in another currency is no part of their fee, and does not belong where it stands: then ours is that, and there is
# no difference to be told.
_FEES = f"""
INSERT INTO recon_found
WITH posted AS (
    SELECT a.kind, a.source, l.currency, -l.amount_minor AS minor
    FROM recon_fee a JOIN {CLEARING_LINES_VIEW} l ON l.key = a.key
    UNION ALL
    SELECT a.kind, a.source, l.currency, -l.amount_minor
    FROM recon_fee a JOIN {CLEARING_CORRECTIONS_VIEW} l ON l.key = a.key
), held AS (
    SELECT kind, source, currency, sum(minor)::bigint AS minor FROM posted GROUP BY kind, source, currency
), fee AS (
    SELECT h.kind, h.source, coalesce(sum(h.minor) FILTER (WHERE h.currency = q.theirs_currency), 0)::bigint AS ours_minor,
           array_agg(h.currency ORDER BY h.currency) FILTER (WHERE h.currency <> q.theirs_currency AND h.minor <> 0) AS others,
           array_agg(h.minor ORDER BY h.currency) FILTER (WHERE h.currency <> q.theirs_currency AND h.minor <> 0) AS others_minor,
           jsonb_object_agg(h.currency, h.minor) FILTER (WHERE h.minor <> 0) AS posted
    FROM held h JOIN recon_pair q ON q.kind = h.kind AND q.source = h.source
    GROUP BY h.kind, h.source
)
SELECT 'fee_variance:' || p.source, 'fee_variance', p.kind, (p.theirs_at AT TIME ZONE 'UTC')::date, p.source, p.intent,
       p.charge, p.merchant_id, p.payment_id, CASE p.kind WHEN 'refund' THEN p.ours_id END,
       coalesce(p.reference, p.theirs_order), coalesce(fee.others_minor[1], fee.ours_minor), coalesce(fee.others[1], p.ours_currency),
       p.ours_status, p.ours_at, p.theirs_fee_minor, p.theirs_currency, p.theirs_status, p.theirs_at,
       CASE WHEN fee.others IS NULL THEN fee.ours_minor - p.theirs_fee_minor END,
       jsonb_build_object('transactions', to_jsonb(p.ids)) || CASE WHEN fee.others IS NULL THEN '{{}}' ELSE jsonb_build_object(
           'fees', jsonb_build_object('posted', fee.posted, 'taken', jsonb_build_object(p.theirs_currency, p.theirs_fee_minor)))
       END, NULL, ''
FROM fee JOIN recon_pair p ON p.kind = fee.kind AND p.source = fee.source
WHERE fee.ours_minor <> p.theirs_fee_minor OR fee.others IS NOT NULL
"""  # noqa: S608

# …or a message about it that nobody has worked on yet.
_UNHANDLED_ROWS = """
SELECT DISTINCT key FROM recon_found, LATERAL (VALUES (intent), (source)) AS known (key)
WHERE key <> '' AND becomes_break_at IS NULL AND theirs_at IS NOT NULL AND kind LIKE ANY(%s)
"""

_MARK_UNHANDLED = """
UPDATE recon_found SET becomes_break_at = %s, timing = 'a message about it is not handled yet'
WHERE ARRAY[intent, source]::text[] && %s::text[] AND becomes_break_at IS NULL AND theirs_at IS NOT NULL AND kind LIKE ANY(%s)
"""


def judge(parameters: Parameters, *, now: datetime, asked: Mapping[str, str]) -> None:
    """`recon_found`. `asked` as in `match_day`."""
    run(
        _FOUND,
        parameters
        | {
            "now": now,
            "window": timedelta(seconds=settings.RECONCILE_TIMING_WINDOW_S),
            "unbooked": [charge for charge, booked in asked.items() if booked == Booked.NOT_YET],
            "never": [charge for charge, booked in asked.items() if booked == Booked.NEVER],
            "unbooked_after": timedelta(seconds=settings.RECONCILE_UNBOOKED_AFTER_S),
            "may_be_timing": _MAY_BE_TIMING,
        },
    )
    run("DELETE FROM recon_fee")
    run(_FEE_KEYS)
    run("ANALYZE recon_fee")
    run(_FEES, parameters)
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
