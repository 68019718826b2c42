"""Compares both books with SQL alone, both ways, set-based: memory stays flat however many rows a day has.

Works in the caller's transaction on temporary tables, which end with it:

0. `recon_agreed`: the great mass, which agrees at first sight (`agreement`), and is not looked at again;
1. `recon_item`: what is looked at: (object kind, source) of everything else in the day on either side, and of every
   discrepancy that is not settled yet, whatever its day;
2. `recon_pair`: each item with the provider's rows and our movement beside it, and the rule that put them there
   (`types.Rule`): first by id, in any window (a pair around midnight is a match, not two breaks), then what is left by
   weaker rules, one after the other. What fits more than once is never chosen: it becomes candidates for a person
   (`proposals`);
3. `recon_found`: the pairs that differ, each with the kind of difference.

Gross is compared with gross, fees with fees. One charge can have several rows (a partial capture is two, a refund that
fails late is two, a dispute that was won is two): the rows of one source are added up. Amounts in `recon_pair` are positive
for what came from a customer, and for what went to one, to a bank, or to our own.

Every step is a join of whole sets: PostgreSQL hashes both sides of a large day, and looks up the few rows of a small one.
What is asked of leftovers alone is asked after them, in a statement of its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import connection

from durability import selectors as durability
from foundation.ids import parse_public_id, public_id
from payments.selectors import (
    BOOKINGS_VIEW,
    CHARGES_VIEW,
    CLEARING_CORRECTIONS_VIEW,
    CLEARING_LINES_VIEW,
    DISPUTES_VIEW,
    MOVEMENTS_VIEW,
    PAYOUT_MOVEMENTS_VIEW,
    PAYOUTS_VIEW,
    REFUNDS_VIEW,
)
from payments.types import LearntFee
from reconciliation import agreement, proposals, rules
from reconciliation.states import UNRESOLVED_STATES
from reconciliation.types import FUZZY, Finding, Proved, Rule, Rules, Statement

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
MOVEMENT_VIEWS: Final[Mapping[str, str]] = {
    "charge": CHARGES_VIEW,
    "refund": REFUNDS_VIEW,
    "dispute": DISPUTES_VIEW,
    "payout": PAYOUT_MOVEMENTS_VIEW,
}
LINKED: Final = ("charge", "refund")  # what a person or a fuzzy rule can put together
_UNHANDLED_CHUNK = 1000  # intents asked about at once
_FEES_BATCH = 5_000  # fees in memory at once

# A row's object, by its category; rows that stand for themselves are their own source.
_KIND = f"""CASE {
    " ".join(f"WHEN t.reporting_category = ANY(%({kind})s) THEN '{kind}'" for kind in CATEGORIES)
} ELSE 'other' END"""

_TABLES = """
DROP TABLE IF EXISTS pg_temp.recon_item, pg_temp.recon_pair, pg_temp.recon_fee, pg_temp.recon_found;
CREATE TEMPORARY TABLE recon_fee (kind text, source text, key text) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_item (kind text, source text) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_pair (
    kind text, source text,
    -- the provider's rows; null where it has none
    theirs_rows bigint, theirs_minor bigint, theirs_fee_minor bigint, theirs_currency text, theirs_status text,
    theirs_at timestamptz, theirs_day_minor bigint, theirs_day_rows bigint, theirs_order text, theirs_payment text,
    instance text, charge text, intent text, ids text[], paid_out_minor bigint, collected_minor bigint,
    -- our movement; null where we have none. `ours_source` is the id that we know it by
    ours_id uuid, ours_source text, merchant_id uuid, payment_id uuid, reference text, ours_minor bigint,
    expected_minor bigint, ours_currency text, ours_status text, ours_booked boolean, ours_at timestamptz,
    ours_in_day boolean,
    -- why they stand beside each other, and what lets them differ
    rule text, tolerance_minor bigint,
    -- of the provider's alone: another installation's; a second charge for what another one has settled
    is_foreign boolean, is_duplicate boolean,
    candidates jsonb
) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_found (
    fingerprint text, kind text, object_kind text, business_date date, source text, intent text, charge text,
    merchant_id uuid, payment_id uuid, refund_id uuid, order_reference text, ours_amount_minor bigint, ours_currency text,
    ours_status text, ours_at timestamptz, theirs_amount_minor bigint, theirs_currency text, theirs_status text,
    theirs_at timestamptz, difference_minor bigint, evidence jsonb, becomes_break_at timestamptz, timing text
) ON COMMIT DROP;
"""

# Nothing of before the start of the account's books: that is in the opening balance. What a fuzzy rule put together near the
# day is looked at again: what came since may fit as well.
_ITEMS_OF_DAY = f"""
INSERT INTO recon_item
(
    SELECT {_KIND}, t.source FROM reconciliation_providertransaction t
    WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
      AND t.reporting_category = ANY(%(apart_from_sales)s)
    UNION
    SELECT m.kind, m.source FROM {MOVEMENTS_VIEW} m
    WHERE m.booked AND m.source IS NOT NULL AND m.booked_at >= %(first)s AND m.booked_at < %(until)s
      AND m.kind <> ALL(%(linked)s)
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
    UNION
    SELECT split_part(f.object, ':', 1), half.source
    FROM reconciliation_match f
    CROSS JOIN LATERAL (VALUES (substr(f.object, strpos(f.object, ':') + 1)), (f.ours_source)) AS half (source)
    WHERE f.rule = ANY(%(fuzzy)s) AND f.theirs_on BETWEEN %(near_first)s AND %(near_last)s
)
EXCEPT SELECT kind, source FROM recon_item  -- what `agreement` has left
"""  # noqa: S608  the view's name is a constant

# Of what a person linked, one half without the other would look like a break.
_ITEMS_OF_LINKS = """
INSERT INTO recon_item
SELECT l.object_kind, half.source
FROM (
    SELECT l.* FROM reconciliation_link l JOIN recon_item i ON i.kind = l.object_kind AND i.source = l.source
    WHERE l.ended_at IS NULL
    UNION
    SELECT l.* FROM reconciliation_link l JOIN recon_item i ON i.kind = l.object_kind AND i.source = l.ours_source
    WHERE l.ended_at IS NULL
) l CROSS JOIN LATERAL (VALUES (l.source), (l.ours_source)) AS half (source)
EXCEPT SELECT kind, source FROM recon_item
"""


def _pairs(kind: str) -> str:
    """Each item of a kind with the provider's rows and our movement beside it: one row for each of the provider's."""
    sign = "" if kind == "charge" else "-"
    return f"""
    INSERT INTO recon_pair
    SELECT '{kind}', i.source, CASE WHEN t.id IS NOT NULL THEN 1 END, {sign}t.amount_minor, t.fee_minor, t.currency,
           t.source_status, t.created_at,
           CASE WHEN t.created_at >= %(since)s AND t.created_at < %(until)s THEN t.amount_minor ELSE 0 END,
           CASE WHEN t.created_at >= %(since)s AND t.created_at < %(until)s THEN 1 ELSE 0 END,
           coalesce(t.order_reference, ''), coalesce(t.payment_number, ''), coalesce(t.instance, ''), coalesce(t.charge, ''),
           coalesce(t.payment_intent, m.intent, ''), CASE WHEN t.id IS NOT NULL THEN ARRAY[t.id] END,
           -- what left with a payout, whether or not it came back
           CASE WHEN t.reporting_category = 'payout' THEN -t.amount_minor END, NULL,
           m.id, CASE WHEN m.id IS NOT NULL THEN i.source END, m.merchant_id, m.payment_id, m.reference, m.amount_minor,
           m.expected_minor, m.currency, m.status, coalesce(m.booked, false), coalesce(m.booked_at, m.occurred_at),
           coalesce(m.booked AND m.booked_at >= %(since)s AND m.booked_at < %(until)s, false),
           CASE WHEN m.id IS NOT NULL THEN 'id' ELSE '' END, NULL, false, false, NULL
    FROM recon_item i
    LEFT JOIN reconciliation_providertransaction t
        ON t.source = i.source AND t.reporting_category = ANY(%({kind})s) AND t.withdrawn_at IS NULL
    LEFT JOIN {MOVEMENT_VIEWS[kind]} m ON m.source = i.source
    WHERE i.kind = '{kind}'
    """  # noqa: S608  constants


_PAIRS = {kind: _pairs(kind) for kind in PAIRED}

# The few objects of several rows: those are added up, the last one says how it stands.
_ADD_UP = """
WITH several AS (
    SELECT kind, source FROM recon_pair GROUP BY kind, source HAVING count(*) > 1
), each AS (
    DELETE FROM recon_pair p USING several s WHERE p.kind = s.kind AND p.source = s.source RETURNING p.*
)
INSERT INTO recon_pair
SELECT kind, source, count(*), sum(theirs_minor)::bigint, sum(theirs_fee_minor)::bigint, min(theirs_currency),
       (array_agg(theirs_status ORDER BY theirs_at DESC, ids DESC))[1], max(theirs_at), sum(theirs_day_minor)::bigint,
       sum(theirs_day_rows)::bigint, max(theirs_order), max(theirs_payment), max(instance), max(charge), max(intent),
       array_agg(ids[1] ORDER BY theirs_at, ids), sum(paid_out_minor)::bigint, NULL,
       (array_agg(ours_id))[1], min(ours_source), (array_agg(merchant_id))[1], (array_agg(payment_id))[1], min(reference),
       min(ours_minor), min(expected_minor), min(ours_currency), min(ours_status), bool_or(ours_booked), min(ours_at),
       bool_or(ours_in_day), min(rule), NULL, false, false, NULL
FROM each GROUP BY kind, source
"""

_COLLECTED = f"""
UPDATE recon_pair p SET collected_minor = c.collected_minor FROM {PAYOUTS_VIEW} c
WHERE p.kind = 'payout' AND c.source = p.source
"""  # noqa: S608


def _taken(rule: str) -> str:
    """A movement `m` of ours put beside the provider's rows of a pair, by a rule."""
    return f"""
    ours_id = m.id, ours_source = coalesce(m.source, ''), merchant_id = m.merchant_id, payment_id = m.payment_id,
    reference = m.reference, ours_minor = m.amount_minor, expected_minor = m.expected_minor, ours_currency = m.currency,
    ours_status = m.status, ours_booked = m.booked, ours_at = {{moment}},
    ours_in_day = m.booked AND coalesce(m.booked_at >= %(since)s AND m.booked_at < %(until)s, false), rule = {rule}
    """


# A payment that has not succeeded in our books knows no charge yet: then by its intent.
_BY_INTENT = f"""
UPDATE recon_pair p SET {_taken("'intent'").format(moment="m.occurred_at")}
FROM {CHARGES_VIEW} m
WHERE p.kind = 'charge' AND p.ours_id IS NULL AND p.theirs_rows IS NOT NULL AND p.intent <> ''
  AND m.intent = p.intent AND m.source IS NULL
"""  # noqa: S608

# Not where the provider's books hold the object that ours name after all: then that is what it is.
_BY_PERSON = {
    kind: f"""
    UPDATE recon_pair p SET {_taken("'person'").format(moment="coalesce(m.booked_at, m.occurred_at)")}
    FROM reconciliation_link l JOIN {MOVEMENT_VIEWS[kind]} m ON m.id = l.ours_id AND m.source = l.ours_source
    WHERE l.object_kind = '{kind}' AND l.ended_at IS NULL AND p.kind = '{kind}' AND p.source = l.source
      AND p.ours_id IS NULL AND p.theirs_rows IS NOT NULL
      AND NOT EXISTS (SELECT FROM recon_pair q WHERE q.kind = '{kind}' AND q.source = l.ours_source
                      AND q.theirs_rows IS NOT NULL)
    """  # noqa: S608
    for kind in LINKED
}
_BY_FUZZY_RULE = {
    kind: f"""
    UPDATE recon_pair p SET {_taken("f.rule").format(moment="coalesce(m.booked_at, m.occurred_at)")}
    FROM recon_fuzzy f JOIN {MOVEMENT_VIEWS[kind]} m ON m.source = f.ours_source
    WHERE f.kind = '{kind}' AND p.kind = '{kind}' AND p.source = f.source
    """  # noqa: S608
    for kind in LINKED
}
# Both halves stand in one pair now.
_ABSORB = """
DELETE FROM recon_pair p USING recon_pair q
WHERE q.rule = ANY(%(joins)s) AND p.kind = q.kind AND p.source = q.ours_source AND p.source <> q.source
  AND p.theirs_rows IS NULL
"""

# A refund or dispute that only the provider knows still belongs to the order of its charge.
_ORDER_OF_ITS_CHARGE = f"""
UPDATE recon_pair p SET reference = m.reference FROM {CHARGES_VIEW} m
WHERE p.kind IN ('refund', 'dispute') AND p.ours_id IS NULL AND p.intent <> '' AND m.intent = p.intent
"""  # noqa: S608

_FOREIGN = """
UPDATE recon_pair p SET is_foreign = true
WHERE p.ours_id IS NULL AND p.theirs_rows IS NOT NULL AND (
    p.instance NOT IN ('', %(instance)s)
    OR p.kind IN ('refund', 'dispute') AND p.charge IN (
        SELECT c.source FROM recon_pair q JOIN reconciliation_providertransaction c ON c.source = q.charge
        WHERE q.kind IN ('refund', 'dispute') AND q.ours_id IS NULL AND q.charge <> ''
          AND c.instance NOT IN ('', %(instance)s)))
"""

# The same payment of ours is settled by another charge: same intent, or our own number in its metadata.
_DUPLICATES = f"""
UPDATE recon_pair p SET is_duplicate = true
FROM (
    SELECT q.source FROM recon_pair q JOIN {CHARGES_VIEW} w ON w.intent = q.intent
    WHERE q.kind = 'charge' AND q.ours_id IS NULL AND q.theirs_rows IS NOT NULL AND q.intent <> ''
      AND w.source <> q.source
    UNION
    SELECT q.source FROM recon_pair q
    JOIN reconciliation_providertransaction s ON s.payment_number = q.theirs_payment AND s.source <> q.source
    JOIN {CHARGES_VIEW} w ON w.source = s.source AND w.booked
    WHERE q.kind = 'charge' AND q.ours_id IS NULL AND q.theirs_rows IS NOT NULL AND q.theirs_payment <> ''
      AND s.payment_number <> '' AND s.reporting_category = 'charge' AND s.withdrawn_at IS NULL
) twin
WHERE p.kind = 'charge' AND p.source = twin.source
"""  # noqa: S608

# What a merchant tolerates in a currency; its own word goes before what is said of all merchants.
_TOLERATED = """
UPDATE recon_pair p SET tolerance_minor = t.minor
FROM (
    SELECT q.kind, q.source, coalesce(max(a.minor) FILTER (WHERE a.merchant_id IS NOT NULL), max(a.minor)) AS minor
    FROM recon_pair q
    JOIN unnest(%(tolerant)s::uuid[], %(of_currency)s::text[], %(tolerated)s::bigint[]) AS a (merchant_id, currency, minor)
      ON a.currency = q.ours_currency AND (a.merchant_id = q.merchant_id OR a.merchant_id IS NULL)
    WHERE q.kind IN ('charge', 'refund') AND q.ours_currency = q.theirs_currency AND q.ours_minor <> q.theirs_minor
      AND q.ours_status = 'succeeded'
    GROUP BY q.kind, q.source
) t
WHERE p.kind = t.kind AND p.source = t.source AND abs(p.theirs_minor - p.ours_minor) <= t.minor
"""

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
LEFT JOIN {BOOKINGS_VIEW} b ON b.key = 'booking:' || t.id
WHERE i.kind IN ('adjustment', 'other') AND t.withdrawn_at IS NULL AND i.kind = {_KIND}
  AND (b.currency, b.clearing_minor) IS DISTINCT FROM (t.currency::varchar, t.net_minor) AND t.net_minor <> 0
"""  # noqa: S608

# The fee that the provider's rows take beside the one that we posted when we learnt of it (`fee:txn_…`). What was never
# posted is posted by the run itself, before it compares: the statement is its voucher.
# The keys are a table of their own, and counted: no statistics tell how many pairs agree in their currency.
_FEE_KEYS = """
INSERT INTO recon_fee SELECT p.kind, p.source, 'fee:' || id FROM recon_pair p CROSS JOIN LATERAL unnest(p.ids) AS id
WHERE p.ours_id IS NOT NULL AND p.ours_currency = p.theirs_currency
"""
_FEES = f"""
INSERT INTO recon_found
WITH posted AS (
    SELECT a.kind, a.source, -l.amount_minor AS fee_minor FROM recon_fee a JOIN {CLEARING_LINES_VIEW} l ON l.key = a.key
    UNION ALL
    SELECT a.kind, a.source, -l.amount_minor FROM recon_fee a JOIN {CLEARING_CORRECTIONS_VIEW} l ON l.key = a.key
), fee AS (
    SELECT kind, source, sum(fee_minor)::bigint AS ours_minor FROM posted GROUP BY kind, source
)
SELECT 'fee_variance:' || p.source, 'fee_variance', p.kind, (p.theirs_at AT TIME ZONE 'UTC')::date, p.source, p.intent,
       p.charge, p.merchant_id, p.payment_id, CASE p.kind WHEN 'refund' THEN p.ours_id END,
       coalesce(p.reference, p.theirs_order), fee.ours_minor, p.ours_currency, p.ours_status, p.ours_at, p.theirs_fee_minor,
       p.theirs_currency, p.theirs_status, p.theirs_at, fee.ours_minor - p.theirs_fee_minor,
       jsonb_build_object('transactions', to_jsonb(p.ids)), NULL, ''
FROM fee JOIN recon_pair p ON p.kind = fee.kind AND p.source = fee.source
WHERE fee.ours_minor <> p.theirs_fee_minor
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
_DUE = f"""
    SELECT t.id, t.source, t.currency, t.created_at, {_KIND} AS kind,
           CASE {_KIND} WHEN 'cost' THEN -t.net_minor ELSE t.fee_minor END AS fee_minor
    FROM reconciliation_providertransaction t
    WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
      AND (t.fee_minor <> 0 AND t.reporting_category = ANY(%(paired)s)
           OR t.net_minor <> 0 AND t.reporting_category = ANY(%(cost)s))
      AND NOT EXISTS (SELECT FROM {BOOKINGS_VIEW} b WHERE b.key = 'fee:' || t.id)
"""  # noqa: S608
_UNPOSTED_FEES = f"""
WITH due AS MATERIALIZED ({_DUE})
{
    " UNION ALL ".join(
        f"SELECT d.created_at, d.id, d.currency, d.fee_minor, d.kind, m.id, m.payment_id, m.merchant_id, m.reference"
        f" FROM due d JOIN {view} m ON m.source = d.source AND m.currency = d.currency WHERE d.kind = '{kind}'"
        + ("" if kind == "dispute" else " AND m.booked")
        for kind, view in MOVEMENT_VIEWS.items()
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

_NOTED = """
INSERT INTO recon_found
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


def match_day(
    day: date,
    *,
    now: datetime,
    unbooked: Sequence[str] = (),
    starts_on: date | None = None,
    look: agreement.Look = agreement.look_at_all,
) -> None:
    """Fill `recon_pair` and `recon_found` for a day and for everything that is not settled yet.

    `unbooked`: charges that the provider told us it has not booked yet. `look`: sees to what agrees at first sight. Belongs
    inside a transaction.
    """
    start()
    fill(day, now=now, unbooked=unbooked, starts_on=starts_on, by=rules.in_force(), look=look)


def start() -> None:
    """Make the tables, empty. Belongs inside a transaction, and ends with it."""
    _run(_TABLES, {})
    agreement.start()
    proposals.start()


def fill(
    day: date,
    *,
    now: datetime,
    unbooked: Sequence[str],
    starts_on: date | None,
    by: Rules,
    look: agreement.Look = agreement.look_at_all,
) -> None:
    """Fill the tables, which may hold an earlier look. Writes nothing else: a read-only transaction will do."""
    for table in ("recon_item", "recon_pair", "recon_found"):
        _run(f"DELETE FROM {table}", {})  # noqa: S608  constants
    agreement.clear()
    parameters = parameters_of_day(day, starts_on, by)
    look(parameters)
    agreement.note_sums(agreement.sums())
    _run("ANALYZE recon_item", {})
    _run(_ITEMS_OF_DAY, parameters)
    _pair(parameters, by)
    proposals.propose(by, join=lambda: _join_fuzzy(parameters))
    _judge(parameters, now=now, unbooked=unbooked)


def parameters_of_day(day: date, starts_on: date | None, by: Rules) -> agreement.Parameters:
    """What the statements about a day name."""
    since, until = window(day)
    near = {"near_first": (since - by.apart).date(), "near_last": (until + by.apart).date()}
    return _parameters((since, until), starts_on, by) | near


def unposted_fees(since: datetime, until: datetime, *, starts_on: date | None = None) -> Iterator[list[LearntFee]]:
    """Fees in the provider's books of a window that ours do not hold yet, in batches."""
    return _unposted(_UNPOSTED_FEES, _parameters((since, until), starts_on))


def unposted_fees_of_matches(until: datetime, *, starts_on: date | None = None) -> Iterator[list[LearntFee]]:
    """The same of all rows so far that a person or a fuzzy rule put beside a movement of ours, as matches were last stored."""
    bounds = datetime.min.replace(tzinfo=UTC), until
    return _unposted(_UNPOSTED_FEES_OF_MATCHES, _parameters(bounds, starts_on))


def _unposted(statement: str, parameters: dict[str, Any]) -> Iterator[list[LearntFee]]:
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


def match_objects(objects: Sequence[tuple[str, str]], *, now: datetime) -> None:
    """The same for a few (object kind, source). Belongs inside a transaction.

    Among so few nothing can be called unique: what a fuzzy rule would put together waits for a run.
    """
    start()
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO recon_item VALUES (%s, %s)", sorted(set(objects)))
    by = rules.in_force()
    parameters = _parameters((now, now), None, by)
    _pair(parameters, by)
    _judge(parameters, now=now, unbooked=())


def note_found(found: Finding, *, now: datetime) -> None:
    """Fill `recon_found` with what news told, as if it had been matched. Belongs inside a transaction."""
    start()
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


def _pair(parameters: dict[str, Any], by: Rules) -> None:
    """`recon_pair`, but for what fuzzy rules say."""
    _run(_ITEMS_OF_LINKS, {})
    _run("ANALYZE recon_item", {})
    for statement in _PAIRS.values():
        _run(statement, parameters)
    _run("ANALYZE recon_pair", {})
    _run(_ADD_UP, {})
    _run(_COLLECTED, {})
    if by.intent:
        _run(_BY_INTENT, parameters)
    for statement in _BY_PERSON.values():
        _run(statement, parameters)
    _run(_ABSORB, {"joins": [Rule.PERSON]})
    _run(_ORDER_OF_ITS_CHARGE, {})
    _run(_FOREIGN, parameters)
    _run(_DUPLICATES, parameters)
    _tolerate(parameters)


def _join_fuzzy(parameters: dict[str, Any]) -> None:
    """Put together what `recon_fuzzy` says."""
    for statement in _BY_FUZZY_RULE.values():
        _run(statement, parameters)
    _run(_ABSORB, {"joins": list(FUZZY)})
    _tolerate(parameters)


def _tolerate(parameters: dict[str, Any]) -> None:
    if parameters["tolerated"]:
        _run(_TOLERATED, parameters)


def _judge(parameters: dict[str, Any], *, now: datetime, unbooked: Sequence[str]) -> None:
    """`recon_found`."""
    _run(
        _FOUND,
        parameters
        | {
            "now": now,
            "window": timedelta(seconds=settings.RECONCILE_TIMING_WINDOW_S),
            "unbooked": list(unbooked),
            "unbooked_after": timedelta(seconds=settings.RECONCILE_UNBOOKED_AFTER_S),
            "may_be_timing": _MAY_BE_TIMING,
        },
    )
    _run("DELETE FROM recon_fee", {})
    _run(_FEE_KEYS, {})
    _run("ANALYZE recon_fee", {})
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


def _parameters(bounds: tuple[datetime, datetime], starts_on: date | None, by: Rules | None = None) -> dict[str, Any]:
    by = by or Rules()
    return {
        "since": bounds[0],
        "first": max(bounds[0], window(starts_on)[0]) if starts_on else bounds[0],
        "until": bounds[1],
        "instance": settings.INSTANCE_ID,
        **{kind: list(categories) for kind, categories in CATEGORIES.items()},
        "paired": [category for kind in PAIRED for category in CATEGORIES[kind]],
        "apart_from_sales": [category for kind in PAIRED if kind not in LINKED for category in CATEGORIES[kind]],
        "linked": list(LINKED),
        "compared": [*CATEGORIES["charge"], *CATEGORIES["refund"]],
        "stand_beside": [category for kind in (*PAIRED, "cost") for category in CATEGORIES[kind]],
        "unresolved": list(UNRESOLVED_STATES),
        "fuzzy": list(FUZZY),
        "joins": [Rule.PERSON, *FUZZY],
        "tolerant": [one.merchant_id for one in by.tolerances],
        "of_currency": [one.currency for one in by.tolerances],
        "tolerated": [one.amount_minor for one in by.tolerances],
    }


def _run(statement: str, parameters: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
