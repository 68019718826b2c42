"""Turns what matching found into discrepancies: the same difference is the same row, whoever sees it how often.

Set-based, in the caller's transaction, after `matching.match_day`. Each change of state writes its history row in the
same statement.
"""

import json
from datetime import date, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from payments import selectors as payments
from payments.states import REFUND_ENDED_UNPAID, RefundStatus
from reconciliation import matching
from reconciliation.models import ReconciliationRun
from reconciliation.services import incidents
from reconciliation.states import UNRESOLVED_STATES
from reconciliation.types import (
    ACTIONS,
    BROKEN_PROMISE,
    KINDS,
    NEVER_TAKEN,
    NOT_BOOKED_YET,
    NOT_JUDGED_BY_RUNS,
    Action,
    Finding,
    KindCounts,
)

_COLUMNS = (
    "kind, object_kind, business_date, source, intent, charge, merchant_id, payment_id, refund_id, order_reference,"
    " ours_amount_minor, ours_currency, ours_status, ours_at, theirs_amount_minor, theirs_currency, theirs_status,"
    " theirs_at, difference_minor"
)
_FIGURES = [name.strip() for name in _COLUMNS.split(",")]
_COUNTED = (
    "business_date = %(day)s OR object_kind = 'statement'"  # whether a run counts it among what persists of its day
)
_REPAIRS = sorted({info.name for offered in ACTIONS.values() for info in offered if info.repairs})
_HISTORY = "INSERT INTO reconciliation_discrepancyhistory (subject_id, from_state, to_state, by, why)"


def _refreshed(name: str) -> str:
    """A balance that is off belongs to the first day that showed it, in whatever order days are run."""
    if name == "business_date":
        return (
            "business_date = CASE d.object_kind WHEN 'statement' THEN least(d.business_date, f.business_date)"
            " ELSE f.business_date END"
        )
    return f"{name} = f.{name}"


# Told while the intent had no charge; now it has one: the same item, under the charge's name.
_RENAME = """
UPDATE reconciliation_discrepancy d SET fingerprint = f.fingerprint, source = f.source
FROM recon_found f
WHERE d.fingerprint = f.kind || ':' || f.intent AND f.intent <> f.source
  AND NOT EXISTS (SELECT FROM reconciliation_discrepancy known WHERE known.fingerprint = f.fingerprint)
"""

_INSERT = f"""
WITH opened AS (
    INSERT INTO reconciliation_discrepancy (id, fingerprint, {_COLUMNS}, severity, state, evidence, becomes_break_at,
        owner, cycle, closed_as, resolved_by, first_seen_run_id, last_seen_run_id)
    SELECT uuidv7(), f.fingerprint, {_COLUMNS}, %(severities)s::jsonb ->> f.kind,
           CASE WHEN f.becomes_break_at IS NULL THEN 'open' ELSE 'timing' END,
           f.evidence || CASE WHEN f.becomes_break_at IS NULL THEN '{{}}' ELSE jsonb_build_object('timing', f.timing) END,
           f.becomes_break_at, '', 1, '', '', %(run)s, %(run)s
    FROM recon_found f
    WHERE NOT EXISTS (SELECT FROM reconciliation_discrepancy d WHERE d.fingerprint = f.fingerprint)
    RETURNING id, kind, object_kind, business_date, state
), told AS (
    {_HISTORY} SELECT id, '', state, %(by)s, %(why)s FROM opened
)
SELECT kind, {_COUNTED}, count(*) FROM opened WHERE state = 'open' GROUP BY 1, 2
"""  # noqa: S608

# Other figures than those that somebody accepted, or put aside; what the rows of a payout add up to is one. A balance moves every
# day: what is accepted of it is by how much it is off.
_CHANGED = """CASE d.object_kind WHEN 'statement' THEN d.difference_minor IS DISTINCT FROM f.difference_minor ELSE
    (d.ours_amount_minor, d.ours_currency, d.ours_status, d.theirs_amount_minor, d.theirs_currency, d.theirs_status,
     d.evidence -> 'collected_minor')
    IS DISTINCT FROM (f.ours_amount_minor, f.ours_currency, f.ours_status, f.theirs_amount_minor, f.theirs_currency,
                      f.theirs_status, f.evidence -> 'collected_minor') END"""

# Seen again: what was closed as equal or repaired is open again; what was accepted only if its figures have changed.
_REOPEN = f"""
WITH moved AS (
    UPDATE reconciliation_discrepancy d
    SET state = 'open', cycle = d.cycle + 1, closed_as = '', resolved_at = NULL, resolved_by = '', verified_at = NULL,
        verified_by_run_id = NULL, ignored_until = NULL, becomes_break_at = NULL
    FROM recon_found f
    WHERE f.fingerprint = d.fingerprint AND d.state = 'resolved' AND (d.closed_as <> 'accepted' OR {_CHANGED})
    RETURNING d.id, d.kind, d.object_kind, d.business_date, old.closed_as AS was
), told AS (
    {_HISTORY} SELECT id, 'resolved', 'open', %(by)s, 'seen again, after it was closed as ' || was FROM moved
)
SELECT kind, {_COUNTED}, count(*) FROM moved GROUP BY 1, 2
"""  # noqa: S608

# Its time is up, or what spoke for waiting is gone; or the date until which it was ignored has passed, or its figures have
# changed. That the provider books it later it told us itself: only its own word, or the date, ends that. A look that did not ask about it again proves nothing.
_RIPEN = f"""
WITH moved AS (
    UPDATE reconciliation_discrepancy d
    SET state = 'open', becomes_break_at = NULL, ignored_until = NULL
    FROM recon_found f
    WHERE f.fingerprint = d.fingerprint AND (
        d.state = 'timing' AND (
            f.timing = '{NEVER_TAKEN}'
            OR d.becomes_break_at <= %(now)s AND NOT coalesce(f.timing = '{NOT_BOOKED_YET}' AND f.becomes_break_at > %(now)s, false)
            OR f.becomes_break_at IS NULL AND d.evidence ->> 'timing' IS DISTINCT FROM '{NOT_BOOKED_YET}')
        OR d.state = 'ignored' AND (d.ignored_until <= (%(now)s AT TIME ZONE 'UTC')::date OR {_CHANGED}))
    RETURNING d.id, d.kind, d.object_kind, d.business_date, old.state AS was, f.timing, old.ignored_until
), told AS (
    {_HISTORY} SELECT id, was, 'open', %(by)s, CASE
        WHEN was <> 'timing' AND ignored_until > (%(now)s AT TIME ZONE 'UTC')::date THEN 'its figures have changed'
        WHEN was <> 'timing' THEN 'ignored until now'
        WHEN timing = '{NEVER_TAKEN}' THEN timing ELSE 'its time is up: a break' END FROM moved
)
SELECT kind, {_COUNTED}, count(*) FROM moved GROUP BY 1, 2
"""  # noqa: S608

# What waits because the provider said so waits for that, also where it is near midnight as well.
_REFRESH = f"""
UPDATE reconciliation_discrepancy d
SET {", ".join(_refreshed(name) for name in _FIGURES)}, last_seen_run_id = coalesce(%(run)s, d.last_seen_run_id),
    becomes_break_at = CASE WHEN d.state = 'timing' AND f.timing = '{NOT_BOOKED_YET}'
        THEN coalesce(f.becomes_break_at, d.becomes_break_at) ELSE d.becomes_break_at END,
    evidence = CASE WHEN %(run)s::uuid IS NULL AND d.evidence ? 'candidates' -- only a run looks for candidates
        THEN jsonb_build_object('candidates', d.evidence -> 'candidates') ELSE '{{}}' END
        || f.evidence || CASE WHEN d.state = 'timing' THEN jsonb_build_object('timing',
            CASE WHEN f.becomes_break_at IS NULL OR d.evidence ->> 'timing' = '{NOT_BOOKED_YET}' THEN d.evidence ->> 'timing'
            ELSE f.timing END) ELSE '{{}}' END
FROM recon_found f
WHERE f.fingerprint = d.fingerprint AND d.closed_as <> 'accepted'
"""  # noqa: S608

# Looked at, and both sides agree now. What only news tell of (an intent without a charge, a refund that came back) is not
# in the provider's books: finding nothing there proves nothing. Nor does it where the customer still waits for a refund.
_CLOSE = f"""
WITH moved AS (
    UPDATE reconciliation_discrepancy d
    SET state = 'resolved', closed_as = 'auto', resolved_at = clock_timestamp(), resolved_by = %(by)s,
        verified_at = clock_timestamp(), verified_by_run_id = %(run)s, ignored_until = NULL, becomes_break_at = NULL
    FROM recon_item i
    WHERE i.kind = d.object_kind AND i.source = d.source AND d.state = ANY(%(unresolved)s)
      AND NOT d.kind = ANY(%(told)s) AND left(d.source, 3) <> 'pi_' AND NOT jsonb_exists(d.evidence, '{BROKEN_PROMISE}')
      AND NOT EXISTS (SELECT FROM recon_found f WHERE f.fingerprint = d.fingerprint)
    RETURNING d.id, d.kind, old.state AS was
), told AS (
    {_HISTORY} SELECT id, was, 'resolved', %(by)s, 'both sides agree' FROM moved
)
SELECT kind, count(*) FROM moved GROUP BY 1
"""  # noqa: S608

# Accepted, and since then both books came to say the same of it: nothing is left that is accepted.
_HEALED = f"""
WITH moved AS (
    UPDATE reconciliation_discrepancy d
    SET closed_as = 'auto', verified_at = clock_timestamp(), verified_by_run_id = %(run)s
    FROM recon_item i
    WHERE i.kind = d.object_kind AND i.source = d.source AND d.closed_as = 'accepted'
      AND NOT d.kind = ANY(%(told)s) AND left(d.source, 3) <> 'pi_' AND NOT jsonb_exists(d.evidence, '{BROKEN_PROMISE}')
      AND NOT EXISTS (SELECT FROM recon_found f WHERE f.fingerprint = d.fingerprint)
    RETURNING d.id
)
{_HISTORY} SELECT id, 'resolved', 'resolved', %(by)s, 'both sides agree; until now the difference was accepted' FROM moved
"""  # noqa: S608  constants

# The action that repaired an item: the last one of those that can.
_REPAIRED_BY = """(
    SELECT a.{column} FROM reconciliation_discrepancyaction a
    WHERE a.discrepancy_id = d.id AND a.outcome = 'ok' AND a.action = ANY(%(repairs)s) ORDER BY a.id DESC LIMIT 1
)"""

# A refund that was asked for is a promise: until it has arrived, that both sides agree proves nothing.
_VERIFY = f"""
UPDATE reconciliation_discrepancy d SET verified_at = clock_timestamp(), verified_by_run_id = %(run)s
FROM recon_item i
WHERE i.kind = d.object_kind AND i.source = d.source AND d.closed_as = 'fixed' AND d.verified_at IS NULL
  AND NOT EXISTS (SELECT FROM recon_found f WHERE f.fingerprint = d.fingerprint)
  AND coalesce({_REPAIRED_BY.format(column="action")}, '') <> %(refund)s
"""  # noqa: S608  constants
_PROMISED = f"""
SELECT d.id, coalesce({_REPAIRED_BY.format(column="made")}, '')
FROM recon_item i JOIN reconciliation_discrepancy d ON d.object_kind = i.kind AND d.source = i.source
WHERE d.closed_as = 'fixed' AND d.verified_at IS NULL AND {_REPAIRED_BY.format(column="action")} = %(refund)s
"""  # noqa: S608
_KEPT = """
UPDATE reconciliation_discrepancy SET verified_at = clock_timestamp(), verified_by_run_id = %(run)s WHERE id = ANY(%(kept)s)
"""
_BROKEN = f"""
WITH moved AS (
    UPDATE reconciliation_discrepancy d
    SET state = 'open', cycle = d.cycle + 1, closed_as = '', resolved_at = NULL, resolved_by = '', verified_at = NULL,
        verified_by_run_id = NULL, evidence = d.evidence || '{{"{BROKEN_PROMISE}": true}}'
    WHERE d.id = ANY(%(broken)s)
    RETURNING d.id, d.kind, d.object_kind, d.business_date
), told AS (
    {_HISTORY} SELECT id, 'resolved', 'open', %(by)s, 'the refund that was to settle it came to nothing' FROM moved
)
SELECT kind, {_COUNTED}, count(*) FROM moved GROUP BY 1, 2
"""  # noqa: S608

# Its date has come. What has healed meanwhile was closed by a run; what no run judges comes back all the same.
_WAKE = f"""
WITH moved AS (
    UPDATE reconciliation_discrepancy d SET state = 'open', ignored_until = NULL
    WHERE d.state = 'ignored' AND d.ignored_until <= (%(now)s AT TIME ZONE 'UTC')::date
    RETURNING d.id
), told AS (
    {_HISTORY} SELECT id, 'ignored', 'open', %(by)s, 'ignored until now' FROM moved
)
SELECT count(*) FROM moved
"""  # noqa: S608

_STANDING = """
SELECT d.kind, d.state = 'timing', count(*) FROM reconciliation_discrepancy d
JOIN recon_found f ON f.fingerprint = d.fingerprint
WHERE (d.business_date = %(day)s OR d.object_kind = 'statement') AND d.state IN ('timing', 'open', 'investigating', 'awaiting_approval')
GROUP BY 1, 2
"""


def store(run: ReconciliationRun, *, now: datetime) -> dict[str, KindCounts]:
    """Write what a run found, and count by kind what that changed: what is new or resolved whatever its day (a run looks
    again at all that is not settled), what persists or waits of the run's own day.
    """
    counts = {kind: KindCounts() for kind in KINDS}
    parameters = _parameters(run.pk, run.date, by=run.number, now=now)
    with connection.cursor() as cursor:
        for statement in (_INSERT, _REOPEN, _RIPEN):
            cursor.execute(statement, parameters)
            for kind, is_of_this_day, count in cursor.fetchall():
                counts[kind].new += count
                counts[kind].persisting -= count if is_of_this_day else 0
        cursor.execute(_REFRESH, parameters)
        cursor.execute(_CLOSE, parameters)
        for kind, count in cursor.fetchall():
            counts[kind].resolved += count
        cursor.execute(_HEALED, parameters)
        cursor.execute(_VERIFY, parameters)
        for kind, _, count in _hold_to_promises(cursor, parameters):
            counts[kind].new += count  # looked at before it was reopened: it does not count as persisting
        cursor.execute(_STANDING, parameters)
        for kind, is_timing, count in cursor.fetchall():
            if is_timing:
                counts[kind].timing += count
            else:
                counts[kind].persisting += count
    incidents.group(now=now)
    return {kind: of_kind for kind, of_kind in counts.items() if of_kind != KindCounts()}


def _hold_to_promises(cursor: Any, parameters: dict[str, Any]) -> list[tuple[str, bool, int]]:
    """Confirm what a refund has settled by now, and open again what it has not: (kind, of this day, how many) of those."""
    cursor.execute(_PROMISED, parameters)
    promised = dict(cursor.fetchall())
    if not promised:
        return []
    statuses = payments.refund_statuses([made for made in promised.values() if made])
    # Nothing was made: all of it was refunded, or on its way, already.
    ended = {pk: statuses.get(made, RefundStatus.SUCCEEDED) for pk, made in promised.items()}
    cursor.execute(
        _KEPT, parameters | {"kept": [pk for pk, status in ended.items() if status == RefundStatus.SUCCEEDED]}
    )
    broken = [pk for pk, status in ended.items() if status in REFUND_ENDED_UNPAID]
    cursor.execute(_BROKEN, parameters | {"broken": broken})
    found: list[tuple[str, bool, int]] = cursor.fetchall()
    return found


def wake_ignored(*, by: str, now: datetime) -> int:
    """Open again what was ignored until a date that has come. Returns how many. Belongs inside `one_writer`."""
    with connection.cursor() as cursor:
        cursor.execute(_WAKE, _parameters(None, None, by=by, now=now))
        (woken,) = cursor.fetchone()
    if woken:
        incidents.group(now=now)
    return int(woken)


def look_again(first_run: UUID | None, *, by: str, now: datetime) -> None:
    """Write what a second look at a few objects found. What is new stands under the run that led to it."""
    with connection.cursor() as cursor:
        parameters = _parameters(None, None, by=by, now=now)
        cursor.execute(_INSERT, parameters | {"run": first_run})
        for statement in (_REOPEN, _RIPEN, _REFRESH, _CLOSE, _HEALED):
            cursor.execute(statement, parameters)
        cursor.execute("SELECT DISTINCT source FROM recon_item")
        sources = [source for (source,) in cursor.fetchall()]
    incidents.group(now=now, fingerprints=[f"{kind}:{source}" for kind in KINDS for source in sources])


def tell(found: Finding, *, by: str, now: datetime) -> None:
    """Write what news told, under the fingerprint that a run would give it: seen again, it is the same row."""
    matching.note_found(found, now=now)
    with connection.cursor() as cursor:
        parameters = _parameters(None, None, by=by, now=now, why=found.detail or "told by the provider's news")
        for statement in (_RENAME, _INSERT, _REOPEN, _RIPEN, _REFRESH):
            cursor.execute(statement, parameters)
    incidents.group(now=now, fingerprints=[f"{found.kind}:{found.source}"])


def _parameters(run: UUID | None, day: date | None, *, by: str, now: datetime, why: str = "") -> dict[str, Any]:
    return {
        "run": run,
        "day": day,
        "by": by,
        "why": why or ("a run found it" if run else "found when it was looked at again"),
        "told": list(NOT_JUDGED_BY_RUNS),
        "repairs": _REPAIRS,
        "refund": Action.REFUND_CUSTOMER,
        "now": now,
        "unresolved": list(UNRESOLVED_STATES),
        "severities": json.dumps({kind: info.severity for kind, info in KINDS.items()}),
    }
