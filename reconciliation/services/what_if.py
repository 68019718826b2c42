"""Tries other rules on past days, over the rows that are there, and tells which matches they would change.

PostgreSQL itself sees to it that nothing is written: but for temporary tables, the transaction is read-only. Both looks see
the same snapshot, and nobody waits for them.
"""

from collections.abc import Sequence
from datetime import date, timedelta

from django.conf import settings
from django.db import connection, transaction

from foundation.database import database_now
from foundation.errors import InvalidInput
from foundation.ids import public_id
from reconciliation import books, matching, rules
from reconciliation.limits import set_for_long_work
from reconciliation.types import NUMBER_PREFIXES, Rules, WhatIf, WhatIfChange

_TABLE = """
CREATE TEMPORARY TABLE recon_before (
    kind text, source text, in_day boolean, matched boolean, why text, ours_id uuid, difference_minor bigint,
    currency text, theirs_minor bigint
) ON COMMIT DROP
"""
# What the provider booked: is it matched, why, and if not, how does it differ?
_VERDICTS = """
SELECT p.kind, p.source, p.theirs_day_rows > 0 OR coalesce(p.ours_in_day, false) AS in_day,
       p.ours_id IS NOT NULL AND f.kind IS NULL AS matched,
       coalesce(f.kind, p.rule || CASE WHEN p.tolerance_minor IS NULL THEN '' ELSE ', within tolerance' END) AS why,
       p.ours_id,
       CASE WHEN p.tolerance_minor IS NULL THEN 0 ELSE
           (CASE p.kind WHEN 'charge' THEN 1 ELSE -1 END) * (p.theirs_minor - p.ours_minor) END AS difference_minor,
       p.theirs_currency AS currency, p.theirs_minor
FROM recon_pair p
LEFT JOIN recon_found f ON f.object_kind = p.kind AND f.source = p.source AND f.kind <> 'fee_variance'
WHERE p.theirs_rows IS NOT NULL
UNION ALL
SELECT kind, source, true, true, 'id', ours_id, 0, currency, abs(theirs_day_minor) FROM recon_agreed
"""
_KEEP = f"INSERT INTO recon_before {_VERDICTS}"
_COMPARED = f"""
WITH after AS ({_VERDICTS}), compared AS (
    SELECT kind, source, coalesce(b.matched, false) AS was_matched, coalesce(b.why, '') AS was, b.ours_id AS was_ours_id,
           coalesce(a.matched, false) AS matched, coalesce(a.why, '') AS why, a.ours_id,
           coalesce(a.difference_minor, 0) AS difference_minor, coalesce(a.currency, b.currency) AS currency,
           coalesce(a.theirs_minor, b.theirs_minor) AS theirs_minor
    FROM after a FULL JOIN recon_before b USING (kind, source)
    WHERE coalesce(a.in_day, false) OR coalesce(b.in_day, false)
), judged AS (
    SELECT c.*, CASE
        WHEN matched AND NOT was_matched THEN 'gained'
        WHEN was_matched AND NOT matched THEN 'lost'
        WHEN why <> was OR ours_id IS DISTINCT FROM was_ours_id THEN 'flipped'
    END AS change
    FROM compared c
)
"""  # noqa: S608
_COUNTS = (
    _COMPARED
    + """
SELECT count(*) FILTER (WHERE change = 'gained'), count(*) FILTER (WHERE change = 'lost'),
       count(*) FILTER (WHERE change = 'flipped'), count(*) FILTER (WHERE was_matched), count(*) FILTER (WHERE matched)
FROM judged
"""
)
_CHANGES = (
    _COMPARED
    + """
SELECT change, kind, source, was, why, CASE WHEN was_matched THEN was_ours_id END, CASE WHEN matched THEN ours_id END,
       currency, theirs_minor, difference_minor
FROM judged WHERE change IS NOT NULL
ORDER BY array_position(ARRAY['lost', 'flipped', 'gained'], change), kind, source LIMIT %(shown)s
"""
)
# Accepted, or put off by a person, it would stay so.
_OPEN = """
SELECT count(*) FROM recon_found f
WHERE f.business_date = %(day)s AND f.becomes_break_at IS NULL AND NOT EXISTS (
    SELECT FROM reconciliation_discrepancy d
    WHERE d.fingerprint = f.fingerprint AND (d.closed_as = 'accepted' OR d.state = 'ignored'))
"""


def try_rules(*, days: Sequence[date], by: Rules) -> list[WhatIf]:
    """What other rules than those in force would have matched on some days, as both books stand now. Writes nothing.

    Belongs outside of transactions. Raises InvalidInput (a day before the start of the books, or one that has not begun).
    """
    starts_on, now = books.starts_on(), database_now()
    for day in days:
        if matching.window(day)[0] > now or (starts_on and day < starts_on):
            raise InvalidInput(f"{day} is no day of these books.", param="date")
    return [_try(day, by, starts_on) for day in days]


def _try(day: date, by: Rules, starts_on: date | None) -> WhatIf:
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            set_for_long_work(cursor)
            cursor.execute(_TABLE)
            matching.start()
            cursor.execute("SET TRANSACTION READ ONLY")
        now = database_now()
        for_ever = now + timedelta(days=36_500)  # nothing waits: what matters is what would be matched in the end
        matching.fill(day, now=for_ever, asked={}, starts_on=starts_on, by=rules.in_force())
        with connection.cursor() as cursor:
            cursor.execute(_KEEP)
            cursor.execute("ANALYZE recon_before")
        matching.fill(day, now=for_ever, asked={}, starts_on=starts_on, by=by)
        found = _compare(day)
        transaction.set_rollback(True)
    return found


def _compare(day: date) -> WhatIf:
    with connection.cursor() as cursor:
        cursor.execute(_COUNTS)
        gained, lost, flipped, before, after = cursor.fetchone()
        cursor.execute(_OPEN, {"day": day})
        open_after = cursor.fetchone()[0]
        cursor.execute(_CHANGES, {"shown": settings.RECONCILE_WHAT_IF_SHOWN})
        rows = cursor.fetchall()
    changes = tuple(
        WhatIfChange(
            change=change,
            object_kind=kind,
            source=source,
            before=was,
            after=why,
            ours_before=public_id(NUMBER_PREFIXES[kind], was_ours) if was_ours else "",
            ours_after=public_id(NUMBER_PREFIXES[kind], ours) if ours else "",
            currency=currency,
            theirs_minor=theirs_minor,
            difference_minor=difference_minor,
        )
        for change, kind, source, was, why, was_ours, ours, currency, theirs_minor, difference_minor in rows
    )
    return WhatIf(day, gained, lost, flipped, before, after, open_after, changes)
