"""Puts what one cause explains together: each discrepancy that opens finds its incident, or founds one.

The rule, in the order in which it is asked (docs/reconciliation.md has a worked example):

1. a gap of news: the difference is one that the provider's events would have healed, none about its object has reached us
   since it changed, and the events that did reach us leave a gap of RECONCILE_GAP_S or more around that moment. All such
   items of one gap are one incident, whatever their kind;
2. else the same kind at the same endpoint with the same mark (the installation, category or proof that it names), where
   no pause between one item and the next is longer than RECONCILE_INCIDENT_PAUSE_S.

An item stays where it was put, and incidents are never merged: what fills the pause between two later joins the earlier.
Set-based, in the transaction of whoever changed discrepancies and holds `one_writer`: so nobody groups at the same time.
"""

import json
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from payments.selectors import NEWS_VIEW
from reconciliation.matching import PAIRED
from reconciliation.states import OPEN_STATES, UNSETTLED_STATES
from reconciliation.types import ENDPOINTS, HEALED_BY_NEWS, Cause, Kind

_OF_ALL = "true"
_OF_SOME = "d.fingerprint = ANY(%(fingerprints)s)"

# Open items that stand in no incident yet, with what decides where they belong.
_LOOSE = """
CREATE TEMPORARY TABLE recon_loose ON COMMIT DROP AS
SELECT d.id, d.kind, coalesce(%(endpoints)s::jsonb ->> d.object_kind, d.object_kind) AS endpoint,
       CASE WHEN d.kind = %(foreign)s THEN coalesce(d.evidence ->> 'instance', '')
            WHEN d.object_kind IN ('adjustment', 'other') THEN d.theirs_status
            WHEN d.object_kind = 'statement' THEN d.source ELSE '' END AS mark,
       m.moment, g.since AS gap_since, g.until AS gap_until
FROM reconciliation_discrepancy d
CROSS JOIN LATERAL (
    SELECT CASE d.object_kind WHEN 'statement' THEN d.business_date::timestamp AT TIME ZONE 'UTC'
           ELSE coalesce(d.theirs_at, d.ours_at, d.first_seen_at) END AS moment
) m
LEFT JOIN LATERAL (
    SELECT before.at AS since, after.at AS until
    FROM (SELECT max(told_at) AS at FROM {news} WHERE told_at <= m.moment) before,
         (SELECT min(told_at) AS at FROM {news} WHERE told_at > m.moment) after
    WHERE d.kind = ANY(%(healed)s) AND d.object_kind = ANY(%(paired)s) AND d.theirs_at IS NOT NULL
      AND coalesce(after.at, %(now)s) - before.at >= %(gap)s
      AND NOT EXISTS (
          SELECT FROM {news} n WHERE n.told_at >= m.moment - %(skew)s
            AND (n.object_id IN (d.source, nullif(d.charge, '')) OR n.intent_id = nullif(d.intent, '')))
) g ON true
WHERE d.incident_id IS NULL AND d.state = ANY(%(open)s) AND {which}
"""

_FOUND_GAPS = f"""
INSERT INTO reconciliation_incident (id, key, cause, kind, endpoint, mark, gap_since, gap_until, first_at, last_at,
    items, open_items, value, open_value, closed_at)
SELECT uuidv7(), 'gap: ' || to_char(gap_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), '{Cause.WEBHOOK_GAP}',
       '', '', '', gap_since, max(gap_until), min(moment), max(moment), 0, 0, '{{}}', '{{}}', %(now)s
FROM recon_loose WHERE gap_since IS NOT NULL GROUP BY gap_since
ON CONFLICT (key) DO UPDATE SET gap_until = coalesce(excluded.gap_until, reconciliation_incident.gap_until)
"""  # noqa: S608  constants
_JOIN_GAPS = f"""
UPDATE reconciliation_discrepancy d SET incident_id = i.id
FROM recon_loose l JOIN reconciliation_incident i ON i.cause = '{Cause.WEBHOOK_GAP}' AND i.gap_since = l.gap_since
WHERE d.id = l.id
"""  # noqa: S608

# Items and the incidents of their kind, in the order of time: where the pause after all before it is too long, a new chain
# begins. A chain's items join its earliest incident; one without any founds its own.
_CHAIN = f"""
WITH spans AS (
    SELECT kind, endpoint, mark, moment AS first_at, moment AS last_at, NULL::uuid AS incident_id, id AS item
    FROM recon_loose WHERE gap_since IS NULL
    UNION ALL
    SELECT i.kind, i.endpoint, i.mark, i.first_at, i.last_at, i.id, NULL
    FROM (SELECT kind, endpoint, mark, min(moment) AS first_at, max(moment) AS last_at FROM recon_loose
          WHERE gap_since IS NULL GROUP BY 1, 2, 3) l
    JOIN reconciliation_incident i ON (i.kind, i.endpoint, i.mark) = (l.kind, l.endpoint, l.mark)
      AND i.cause = '{Cause.SAME_KIND}' AND i.last_at >= l.first_at - %(pause)s AND i.first_at <= l.last_at + %(pause)s
), parted AS (
    SELECT s.*, first_at - max(last_at) OVER (
        PARTITION BY kind, endpoint, mark ORDER BY first_at, last_at, coalesce(incident_id, item)
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) > %(pause)s AS begins
    FROM spans s
), chained AS (
    SELECT p.*, count(*) FILTER (WHERE begins) OVER (
        PARTITION BY kind, endpoint, mark ORDER BY first_at, last_at, coalesce(incident_id, item)
        ROWS UNBOUNDED PRECEDING) AS chain
    FROM parted p
), owned AS (
    SELECT kind, endpoint, mark, chain, min(first_at) AS first_at, max(last_at) AS last_at,
           (array_agg(incident_id ORDER BY first_at, incident_id) FILTER (WHERE incident_id IS NOT NULL))[1] AS incident_id,
           'first item: ' || (array_agg(item ORDER BY first_at, item) FILTER (WHERE item IS NOT NULL))[1] AS key
    FROM chained GROUP BY kind, endpoint, mark, chain HAVING count(item) > 0
), founded AS (
    INSERT INTO reconciliation_incident (id, key, cause, kind, endpoint, mark, first_at, last_at,
        items, open_items, value, open_value, closed_at)
    SELECT uuidv7(), key, '{Cause.SAME_KIND}', kind, endpoint, mark, first_at, last_at, 0, 0, '{{}}', '{{}}', %(now)s
    FROM owned WHERE incident_id IS NULL
    RETURNING id, key
)
UPDATE reconciliation_discrepancy d SET incident_id = coalesce(o.incident_id, f.id)
FROM chained c
JOIN owned o ON (o.kind, o.endpoint, o.mark, o.chain) = (c.kind, c.endpoint, c.mark, c.chain)
LEFT JOIN founded f ON f.key = o.key
WHERE d.id = c.item
"""  # noqa: S608

# Counts, sums and the state follow the items. A statement of its own: it must see what the ones before it wrote.
_COUNT = """
WITH touched AS (
    {touched}
), summed AS (
    SELECT d.incident_id, coalesce(nullif(d.theirs_currency, ''), d.ours_currency) AS currency, count(*) AS items,
           count(*) FILTER (WHERE d.state = ANY(%(unsettled)s)) AS open_items,
           sum(v.minor) AS value, coalesce(sum(v.minor) FILTER (WHERE d.state = ANY(%(unsettled)s)), 0) AS open_value,
           min(m.moment) AS first_at, max(m.moment) AS last_at
    FROM touched t
    JOIN reconciliation_discrepancy d ON d.incident_id = t.id
    CROSS JOIN LATERAL (
        SELECT coalesce(abs(d.difference_minor), abs(d.theirs_amount_minor), abs(d.ours_amount_minor), 0) AS minor
    ) v
    CROSS JOIN LATERAL (
        SELECT CASE d.object_kind WHEN 'statement' THEN d.business_date::timestamp AT TIME ZONE 'UTC'
               ELSE coalesce(d.theirs_at, d.ours_at, d.first_seen_at) END AS moment
    ) m
    GROUP BY 1, 2
), counted AS (
    SELECT incident_id, sum(items)::int AS items, sum(open_items)::int AS open_items,
           jsonb_object_agg(currency, value) AS value,
           coalesce(jsonb_object_agg(currency, open_value) FILTER (WHERE open_items > 0), '{{}}') AS open_value,
           min(first_at) AS first_at, max(last_at) AS last_at
    FROM summed GROUP BY 1
)
UPDATE reconciliation_incident i
SET items = c.items, open_items = c.open_items, value = c.value, open_value = c.open_value, first_at = c.first_at,
    last_at = c.last_at,
    opened_at = CASE WHEN i.closed_at IS NOT NULL AND c.open_items > 0 THEN clock_timestamp() ELSE i.opened_at END,
    closed_at = CASE WHEN c.open_items = 0 THEN coalesce(i.closed_at, clock_timestamp()) END
FROM counted c
WHERE i.id = c.incident_id
  AND (i.items, i.open_items, i.value, i.open_value, i.first_at, i.last_at)
      IS DISTINCT FROM (c.items, c.open_items, c.value, c.open_value, c.first_at, c.last_at)
"""
_TOUCHED_BY_ALL = """
    SELECT id FROM reconciliation_incident WHERE closed_at IS NULL
    UNION SELECT d.incident_id FROM reconciliation_discrepancy d WHERE d.incident_id IS NOT NULL AND d.state = ANY(%(unsettled)s)
"""
_TOUCHED_BY_SOME = """
    SELECT DISTINCT d.incident_id AS id FROM reconciliation_discrepancy d
    WHERE d.incident_id IS NOT NULL AND d.fingerprint = ANY(%(fingerprints)s)
"""


def group(*, now: datetime, fingerprints: Collection[str] | None = None) -> None:
    """Put open items that stand in no incident where they belong, and count what has changed. All of them, or those of a
    few fingerprints. Belongs inside `one_writer`, after the discrepancies were written.
    """
    parameters: dict[str, Any] = {
        "now": now,
        "open": list(OPEN_STATES),
        "unsettled": list(UNSETTLED_STATES),
        "healed": list(HEALED_BY_NEWS),
        "paired": list(PAIRED),
        "foreign": Kind.FOREIGN_INSTANCE,
        "endpoints": json.dumps(ENDPOINTS),
        "gap": timedelta(seconds=settings.RECONCILE_GAP_S),
        "pause": timedelta(seconds=settings.RECONCILE_INCIDENT_PAUSE_S),
        "skew": timedelta(seconds=settings.RECONCILE_NEWS_SKEW_S),
        "fingerprints": list(fingerprints or ()),
    }
    some = fingerprints is not None
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS pg_temp.recon_loose")
        cursor.execute(_LOOSE.format(news=NEWS_VIEW, which=_OF_SOME if some else _OF_ALL), parameters)
        if cursor.rowcount:
            cursor.execute(_FOUND_GAPS, parameters)
            cursor.execute(_JOIN_GAPS, parameters)
            cursor.execute(_CHAIN, parameters)
        cursor.execute(_COUNT.format(touched=_TOUCHED_BY_SOME if some else _TOUCHED_BY_ALL), parameters)
