"""Puts the provider's rows and our movements beside each other, by the rules that need no choice.

`recon_item` is what is looked at, `recon_pair` each item with both sides, and the rule that put them there (`types.Rule`).
"""

from payments.selectors import CHARGES_VIEW, MOVEMENTS_VIEW, PAYOUTS_VIEW
from reconciliation.matching.categories import KIND, LINKED, MOVEMENT_VIEWS, PAIRED
from reconciliation.matching.days import Parameters, run
from reconciliation.types import FUZZY, Kind, Rule, Rules

TABLES = """
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
ITEMS_OF_DAY = f"""
INSERT INTO recon_item
(
    SELECT {KIND}, t.source FROM reconciliation_providertransaction t
    WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
      AND t.reporting_category = ANY(%(apart_from_sales)s)
    UNION
    SELECT m.kind, m.source FROM {MOVEMENTS_VIEW} m
    WHERE m.booked AND m.source IS NOT NULL AND m.booked_at >= %(first)s AND m.booked_at < %(until)s
      AND m.kind <> ALL(%(linked)s)
    UNION
    SELECT {KIND}, t.id FROM reconciliation_providertransaction t
    WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
      AND NOT t.reporting_category = ANY(%(stand_beside)s)
    UNION
    SELECT d.object_kind, d.source FROM reconciliation_discrepancy d
    WHERE d.state = ANY(%(unresolved)s) AND d.object_kind NOT IN ('statement', 'bank')
      -- Told by news of a later day, and no run has seen it yet: that its rows are not there proves nothing.
      AND (d.last_seen_run_id IS NOT NULL OR d.business_date < (%(until)s AT TIME ZONE 'UTC')::date)
    UNION
    SELECT d.object_kind, d.source FROM reconciliation_discrepancy d
    WHERE d.closed_as = 'fixed' AND d.verified_at IS NULL AND d.object_kind NOT IN ('statement', 'bank')
    UNION
    -- Accepted, and since then one of both books came to say something else of it.
    SELECT d.object_kind, d.source FROM reconciliation_discrepancy d
    JOIN reconciliation_providertransaction t ON t.source = d.source
    WHERE d.closed_as = 'accepted' AND greatest(t.seen_at, t.withdrawn_at) > d.resolved_at
    UNION
    SELECT d.object_kind, d.source FROM reconciliation_discrepancy d
    JOIN {MOVEMENTS_VIEW} m ON m.kind = d.object_kind AND m.source = d.source
    WHERE d.closed_as = 'accepted' AND (m.status <> d.ours_status OR d.kind <> '{Kind.FEE_VARIANCE}' AND d.ours_amount_minor
        IS DISTINCT FROM CASE WHEN m.status = 'succeeded' OR m.kind = 'dispute' THEN m.amount_minor ELSE m.expected_minor END)
    UNION
    SELECT split_part(f.object, ':', 1), half.source
    FROM reconciliation_match f
    CROSS JOIN LATERAL (VALUES (substr(f.object, strpos(f.object, ':') + 1)), (f.ours_source)) AS half (source)
    WHERE f.rule = ANY(%(fuzzy)s) AND f.theirs_on BETWEEN %(near_first)s AND %(near_last)s
    UNION
    -- Accepted, and near enough to the day, or to an open item of whatever day, to fit what is left there: a look that does not
    -- see it would choose where there is no choice.
    SELECT a.object_kind, a.source FROM reconciliation_discrepancy a
    WHERE a.closed_as = 'accepted' AND a.object_kind = ANY(%(linked)s) AND a.kind LIKE 'missing_in%%' AND (
        a.business_date BETWEEN %(around_first)s AND %(around_last)s
        OR (a.object_kind, a.business_date) IN (
            SELECT DISTINCT d.object_kind, d.business_date + around
            FROM reconciliation_discrepancy d CROSS JOIN generate_series(-%(around_days)s, %(around_days)s) around
            WHERE d.state = ANY(%(unresolved)s) AND d.object_kind = ANY(%(linked)s) AND d.kind LIKE 'missing_in%%'))
      AND (a.last_seen_run_id IS NOT NULL OR a.business_date < (%(until)s AT TIME ZONE 'UTC')::date)
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

# The same of what is stored as put together; and where one half has a counterpart of its own by now, the other one has to be told,
# on whatever day it stands.
_ITEMS_OF_MATCHES = """
INSERT INTO recon_item
SELECT split_part(m.object, ':', 1), half.source
FROM (
    SELECT m.object, m.ours_source FROM reconciliation_match m JOIN recon_item i ON m.object = i.kind || ':' || i.source
    WHERE m.ours_source <> ''
    UNION
    SELECT m.object, m.ours_source FROM reconciliation_match m
    JOIN recon_item i ON m.ours_source = i.source AND split_part(m.object, ':', 1) = i.kind
    WHERE m.ours_source <> ''
) m CROSS JOIN LATERAL (VALUES (substr(m.object, strpos(m.object, ':') + 1)), (m.ours_source)) AS half (source)
EXCEPT SELECT kind, source FROM recon_item
"""


# Among a few objects nothing can be called unique. What a run has put together stays together, as long as each half is alone still,
# and says what it said then.
_STORED_FUZZY = """
INSERT INTO recon_fuzzy
SELECT t.kind, t.source, o.source, m.rule
FROM recon_pair t
JOIN reconciliation_match m ON m.object = t.kind || ':' || t.source AND m.rule = ANY(%(fuzzy)s)
JOIN recon_pair o ON o.kind = t.kind AND o.source = m.ours_source
WHERE t.ours_id IS NULL AND NOT t.is_foreign AND NOT t.is_duplicate AND t.theirs_status IN ('', 'succeeded')
  AND o.theirs_rows IS NULL AND o.ours_booked AND o.ours_id = m.ours_id
  AND (t.theirs_currency, t.theirs_minor, (t.theirs_at AT TIME ZONE 'UTC')::date) = (m.currency, m.theirs_minor, m.theirs_on)
  AND (o.ours_currency, o.ours_minor, (o.ours_at AT TIME ZONE 'UTC')::date)
    = (m.currency, m.theirs_minor - CASE t.kind WHEN 'charge' THEN 1 ELSE -1 END * m.difference_minor, m.ours_on)
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

# The same payment of ours is settled by another charge: same intent, or our own number in its metadata. Only where the provider holds
# that other one as well: else this is the only one, under another id than ours.
_DUPLICATES = f"""
UPDATE recon_pair p SET is_duplicate = true
FROM (
    SELECT q.source FROM recon_pair q JOIN {CHARGES_VIEW} w ON w.intent = q.intent AND w.source <> q.source
    JOIN reconciliation_providertransaction s ON s.source = w.source
    WHERE q.kind = 'charge' AND q.ours_id IS NULL AND q.theirs_rows IS NOT NULL AND q.intent <> ''
      AND s.reporting_category = 'charge' AND s.withdrawn_at IS NULL
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


def pair(parameters: Parameters, by: Rules) -> None:
    """`recon_pair`, but for what fuzzy rules say."""
    while run(_ITEMS_OF_LINKS) + run(_ITEMS_OF_MATCHES):  # one's half may be the other's
        pass
    run("ANALYZE recon_item")
    for statement in _PAIRS.values():
        run(statement, parameters)
    run("ANALYZE recon_pair")
    run(_ADD_UP)
    run(_COLLECTED)
    if by.intent:
        run(_BY_INTENT, parameters)
    for statement in _BY_PERSON.values():
        run(statement, parameters)
    run(_ABSORB, {"joins": [Rule.PERSON]})
    run(_ORDER_OF_ITS_CHARGE)
    run(_FOREIGN, parameters)
    run(_DUPLICATES, parameters)
    _tolerate(parameters)


def keep_stored(parameters: Parameters) -> None:
    """Put together again what fuzzy rules have put together before, unless one half has changed."""
    run(_STORED_FUZZY, parameters)
    join_fuzzy(parameters)


def join_fuzzy(parameters: Parameters) -> None:
    """Put together what `recon_fuzzy` says."""
    for statement in _BY_FUZZY_RULE.values():
        run(statement, parameters)
    run(_ABSORB, {"joins": list(FUZZY)})
    _tolerate(parameters)


def _tolerate(parameters: Parameters) -> None:
    if parameters["tolerated"]:
        run(_TOLERATED, parameters)
