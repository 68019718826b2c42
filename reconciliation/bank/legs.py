"""Matches lines of our bank with payouts, and finds what differs, in SQL alone.

A line is a payout's money when it bears the trace id that the banks gave it (or the payout's own id), else when amount,
currency and date fit and nothing else fits, on either side: a line of the provider's that could be two payouts, and a payout that could
be two lines, are proposed to a person. A payout that failed after its money had come has a second line: its return.

Works in the caller's transaction, under `reconciliation.locks.one_writer`. What differs goes into the temporary tables
`recon_item` and `recon_found`, as `reconciliation.matching` leaves them for `findings`.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.backends.utils import CursorWrapper

from payments.selectors import NUMBER_FUNCTION, PAYOUTS_AT_BANK_VIEW
from reconciliation.models import BankStatement
from reconciliation.states import UNRESOLVED_STATES
from reconciliation.types import Kind, Leg, MatchedBy

OBJECT: Final = "bank"  # the object kind of all that is found here

_LIVE = "m.ended_at IS NULL"

# Where a statement does not begin with the balance with which one before it ended: what is between both we do not know. Their days
# may touch: an opening balance bears the day of the booking before (MT940). The first statement of an account has none before it.
GAPS = """
WITH placed AS (
    SELECT s.*, (
        SELECT max(p.last_day) FROM reconciliation_bankstatement p
        WHERE p.account = s.account AND p.currency = s.currency AND p.first_day < s.first_day AND p.last_day <= s.first_day) AS after
    FROM reconciliation_bankstatement s WHERE s.opening_minor IS NOT NULL
), alone AS (
    SELECT s.* FROM placed s
    WHERE NOT EXISTS (  -- one ends where it begins
        SELECT FROM reconciliation_bankstatement p
        WHERE p.account = s.account AND p.currency = s.currency AND p.id <> s.id
          AND p.first_day <= s.first_day AND p.last_day >= coalesce(s.after, '-infinity')
          AND (p.closing_minor IS NULL OR p.closing_minor = s.opening_minor AND p.last_day <= s.last_day)
    ) AND NOT EXISTS (  -- nothing was booked on days of which another one tells as well
        SELECT FROM reconciliation_bankstatement p
        WHERE s.lines = 0 AND p.account = s.account AND p.currency = s.currency AND p.lines > 0
          AND p.first_day <= s.first_day AND p.last_day >= s.last_day
    ) AND NOT EXISTS (  -- it begins within another one, or where one begins that is looked at itself
        SELECT FROM reconciliation_bankstatementline m
        JOIN reconciliation_bankstatementline t ON t.line_id = m.line_id AND t.statement_id <> m.statement_id
        JOIN reconciliation_bankstatement p ON p.id = t.statement_id
        WHERE m.statement_id = s.id
          AND m.place = (SELECT min(f.place) FROM reconciliation_bankstatementline f WHERE f.statement_id = s.id)
          AND (t.place > (SELECT min(f.place) FROM reconciliation_bankstatementline f WHERE f.statement_id = p.id)
               OR (p.first_day, p.last_day, p.id) < (s.first_day, s.last_day, s.id)))
)
SELECT s.id, s.account, s.currency, coalesce(s.after, s.first_day) AS after, s.first_day AS before FROM alone s
WHERE EXISTS (
    SELECT FROM reconciliation_bankstatement p
    WHERE p.account = s.account AND p.currency = s.currency AND (p.first_day, p.last_day) < (s.first_day, s.last_day)
) OR EXISTS (
    SELECT FROM alone p
    WHERE p.account = s.account AND p.currency = s.currency AND (p.first_day, p.last_day) = (s.first_day, s.last_day)
      AND (p.number, p.id) < (s.number, s.id))
"""

# Legs of payouts that have no line yet, from the first day on that a statement in their currency tells of: the recent ones, and
# those that our books have at the bank, unless a person has accepted that they are lost.
_DUE = f"""
CREATE TEMPORARY TABLE bank_due ON COMMIT DROP AS
WITH paid_to AS (
    SELECT account, currency FROM reconciliation_bankline WHERE of_provider
    UNION
    SELECT l.account, l.currency FROM reconciliation_bankmatch m JOIN reconciliation_bankline l ON l.id = m.line_id WHERE {_LIVE}
), told AS (  -- of the accounts that payouts come to: what another one's statements hold proves nothing
    SELECT s.currency, s.account, min(s.first_day) AS first_day, max(s.last_day) AS last_day
    FROM reconciliation_bankstatement s
    WHERE EXISTS (SELECT FROM paid_to t WHERE t.currency = s.currency AND t.account = s.account)
       OR NOT EXISTS (SELECT FROM paid_to t WHERE t.currency = s.currency)
    GROUP BY s.currency, s.account
), newest AS (
    SELECT currency, max(last_day) AS last_day FROM told GROUP BY currency
), reach AS (  -- as far as all of them reach, but for one that was given up
    SELECT t.currency, min(t.first_day) AS first_day,
           min(t.last_day) FILTER (WHERE t.last_day > n.last_day - %(search)s) AS last_day
    FROM told t JOIN newest n ON n.currency = t.currency GROUP BY t.currency
), gap AS ({GAPS}), payout AS (
    SELECT p.*, least(r.last_day, (
               SELECT min(g.after) FROM gap g JOIN told t ON t.currency = g.currency AND t.account = g.account
               WHERE g.currency = p.currency AND g.after < p.arrives_on + %(late)s AND g.before > p.arrives_on - %(early)s)) AS reach,
           a.line_id AS arrived, b.booked_on AS arrived_on, t.line_id AS returned
    FROM {PAYOUTS_AT_BANK_VIEW} p
    JOIN reach r ON r.currency = p.currency AND p.arrives_on >= r.first_day - %(early)s
    LEFT JOIN reconciliation_bankmatch a ON a.payout_id = p.id AND a.leg = 'arrival' AND a.ended_at IS NULL
    LEFT JOIN reconciliation_bankline b ON b.id = a.line_id
    LEFT JOIN reconciliation_bankmatch t ON t.payout_id = p.id AND t.leg = 'return' AND t.ended_at IS NULL
)
SELECT p.id, p.source, p.status, p.currency, p.arrives_on, p.trace_id, p.booked_minor, p.reach, leg.name AS leg,
       leg.expected_minor, leg.due_on, leg.until_on
FROM payout p
CROSS JOIN LATERAL (
    SELECT 'arrival' AS name, p.amount_minor AS expected_minor, p.arrives_on AS due_on, p.arrives_on + %(late)s AS until_on
    WHERE p.arrived IS NULL AND p.status <> 'cancelled'
    UNION ALL
    SELECT 'return', -p.amount_minor, p.arrived_on, p.arrived_on + %(search)s WHERE p.arrived IS NOT NULL AND p.returned IS NULL AND p.status = 'failed'
) leg
WHERE leg.due_on + %(search)s >= %(today)s OR leg.name = 'arrival' AND p.booked_minor <> 0 AND NOT EXISTS (
    SELECT FROM reconciliation_discrepancy d
    WHERE d.fingerprint = '{Kind.PAYOUT_NOT_AT_BANK}:' || p.source AND d.closed_as = 'accepted')
"""  # noqa: S608

# Lines that are no payout's yet, of the days on which those that are due may have come.
_FREE = """
CREATE TEMPORARY TABLE bank_free ON COMMIT DROP AS
SELECT l.id, l.booked_on, l.amount_minor, l.currency, l.of_provider, l.reference, l."references" AS refs, l.text AS said
FROM reconciliation_bankline l
WHERE l.booked_on >= (SELECT min(due_on) FROM bank_due) - %(early)s
  AND l.booked_on <= (SELECT max(due_on) FROM bank_due) + %(search)s
  AND NOT EXISTS (SELECT FROM reconciliation_bankmatch m WHERE m.line_id = l.id AND m.ended_at IS NULL)
"""

# What a person took apart is not put together again by itself.
_NOT_TAKEN_APART = """NOT EXISTS (
    SELECT FROM reconciliation_bankmatch m WHERE m.line_id = l.id AND m.payout_id = d.id AND m.ended_at IS NOT NULL)"""

_MATCH = """
INSERT INTO reconciliation_bankmatch (id, line_id, payout_id, leg, how, why, by, ended_by, ended_why)
SELECT uuidv7(), line_id, payout_id, leg, %(how)s, why, %(by)s, '', ''
FROM (
    SELECT p.*, count(*) OVER (PARTITION BY line_id) AS of_line, count(*) OVER (PARTITION BY payout_id, leg) AS of_leg FROM pairs p
) counted
WHERE of_line = 1 AND of_leg = 1
ON CONFLICT DO NOTHING
"""

_SHORTEST_NAME = 6  # characters of a trace id that is looked for at all
_PROVES_ALONE = 8  # with fewer, a month or an invoice's number may read the same: there the amount has to agree as well

# Words of a line, compared without regard to case and punctuation: banks write both as they like.
_BY_TRACE = f"""
WITH wanted AS (
    SELECT d.*, w.word, name
    FROM bank_due d, LATERAL (VALUES (d.trace_id), (d.source)) AS names (name),
         LATERAL (SELECT upper(regexp_replace(name, '[^[:alnum:]]', '', 'g')) AS word) w
    WHERE length(w.word) >= {_SHORTEST_NAME}
), words AS (
    SELECT DISTINCT l.id, upper(regexp_replace(part, '[^[:alnum:]]', '', 'g')) AS word
    FROM bank_free l, LATERAL (
        SELECT regexp_split_to_table(concat_ws(' ', l.reference, l.refs, l.said), '\\s+') AS part
        UNION SELECT regexp_split_to_table(concat_ws(' ', l.reference, l.refs, l.said), '[^[:alnum:]_-]+')
    ) parts
), pairs AS (
    SELECT l.id AS line_id, d.id AS payout_id, d.leg, min('it bears ' || d.name) AS why
    FROM wanted d JOIN words w ON w.word = d.word JOIN bank_free l ON l.id = w.id
    WHERE sign(l.amount_minor) = sign(d.expected_minor)
      AND (length(d.word) >= {_PROVES_ALONE} OR (l.amount_minor, l.currency) = (d.expected_minor, d.currency))
      AND l.booked_on BETWEEN d.due_on - %(early)s AND d.due_on + %(search)s AND {_NOT_TAKEN_APART}
    GROUP BY 1, 2, 3
)
{_MATCH}
"""  # noqa: S608

_BY_AMOUNT = f"""
WITH pairs AS (
    SELECT l.id AS line_id, d.id AS payout_id, d.leg,
           'amount, currency and date fit, and nothing else does: due ' || d.due_on || ', booked ' || l.booked_on AS why
    FROM bank_due d JOIN bank_free l
      ON l.currency = d.currency AND l.amount_minor = d.expected_minor
     AND l.booked_on BETWEEN d.due_on - %(early)s AND d.until_on
    WHERE l.of_provider AND {_NOT_TAKEN_APART}
      AND NOT EXISTS (SELECT FROM reconciliation_bankmatch m WHERE {_LIVE} AND m.line_id = l.id)
      AND NOT EXISTS (SELECT FROM reconciliation_bankmatch m WHERE {_LIVE} AND m.payout_id = d.id AND m.leg = d.leg)
)
{_MATCH}
"""  # noqa: S608

# What may be it, best first, each with what speaks against it.
_DIFFERS = """array_remove(ARRAY[
    CASE WHEN l.currency <> d.currency THEN 'currency' END,
    CASE WHEN l.amount_minor <> d.expected_minor THEN 'amount' END,
    CASE WHEN l.booked_on NOT BETWEEN d.due_on - %(early)s AND d.until_on THEN 'date' END,
    CASE WHEN NOT l.of_provider THEN 'does not name the provider' END
], NULL)"""
_MAY_BE_IT = """(l.of_provider AND l.booked_on BETWEEN d.due_on - %(early)s AND d.until_on
    OR l.currency = d.currency AND l.amount_minor = d.expected_minor AND l.booked_on BETWEEN d.due_on - %(early)s AND d.due_on + %(search)s)
    AND sign(l.amount_minor) = sign(d.expected_minor)"""
_CLOSEST = "l.amount_minor <> d.expected_minor, l.currency <> d.currency, abs(l.booked_on - d.due_on)"

_LINES_FOR = f"""
SELECT jsonb_agg(c.candidate ORDER BY c.place) FROM (
    SELECT row_number() OVER (ORDER BY {_CLOSEST}, l.id) AS place, jsonb_build_object(
        'number', {NUMBER_FUNCTION}('bnk', l.id), 'amount_minor', l.amount_minor, 'currency', l.currency, 'on', l.booked_on,
        'differs', {_DIFFERS}) AS candidate
    FROM bank_free l WHERE {_MAY_BE_IT}
      AND NOT EXISTS (SELECT FROM reconciliation_bankmatch m WHERE {_LIVE} AND m.line_id = l.id)
    ORDER BY 1 LIMIT 5
) c
"""  # noqa: S608
_PAYOUTS_FOR = f"""
SELECT jsonb_agg(c.candidate ORDER BY c.place) FROM (
    SELECT row_number() OVER (ORDER BY {_CLOSEST}, d.id) AS place, jsonb_build_object(
        'number', {NUMBER_FUNCTION}('pot', d.id), 'amount_minor', d.expected_minor, 'currency', d.currency, 'on', d.due_on,
        'differs', {_DIFFERS}) AS candidate
    FROM bank_due d WHERE {_MAY_BE_IT}
      AND NOT EXISTS (SELECT FROM reconciliation_bankmatch m WHERE {_LIVE} AND m.payout_id = d.id AND m.leg = d.leg)
    ORDER BY 1 LIMIT 5
) c
"""  # noqa: S608

_ITEMS = """
CREATE TEMPORARY TABLE recon_item ON COMMIT DROP AS
SELECT DISTINCT d.object_kind::text AS kind, d.source::text AS source FROM reconciliation_discrepancy d
WHERE d.object_kind = 'bank' AND (d.state = ANY(%(unresolved)s) OR d.closed_as = 'fixed' AND d.verified_at IS NULL)
"""

# In the provider's place stands the bank: `theirs` is what its lines say, `ours` what our ledger has on the bank's account.
_FOUND = f"""
CREATE TEMPORARY TABLE recon_found ON COMMIT DROP AS
WITH missing AS (
    SELECT d.*, ({_LINES_FOR}) AS candidates
    FROM bank_due d
    WHERE d.leg = 'arrival' AND d.booked_minor <> 0 AND d.arrives_on + %(late)s < %(today)s
), unexplained AS (
    SELECT l.*, {NUMBER_FUNCTION}('bnk', l.id) AS number, ({_PAYOUTS_FOR}) AS candidates
    FROM reconciliation_bankline l
    WHERE l.of_provider AND l.booked_on >= coalesce(%(starts_on)s::date, '-infinity')
      AND NOT EXISTS (SELECT FROM reconciliation_bankmatch m WHERE m.line_id = l.id AND {_LIVE})
), got AS (
    SELECT m.payout_id, sum(l.amount_minor)::bigint AS amount_minor, max(l.currency) AS currency, max(l.booked_on) AS booked_on,
           array_agg({NUMBER_FUNCTION}('bnk', l.id) ORDER BY l.booked_on, l.id) AS lines, count(*) AS count
    FROM reconciliation_bankmatch m JOIN reconciliation_bankline l ON l.id = m.line_id WHERE {_LIVE} GROUP BY m.payout_id
), other AS (
    SELECT p.*, g.amount_minor AS got_minor, g.currency AS got_currency, g.booked_on, g.lines
    FROM got g JOIN {PAYOUTS_AT_BANK_VIEW} p ON p.id = g.payout_id
    WHERE g.currency <> p.currency OR g.amount_minor <> p.booked_minor AND CASE
        WHEN p.status = 'paid' THEN true
        -- It is on the bank's account before the provider says so; or it came back, and the bank takes its time.
        WHEN p.status IN ('pending', 'in_transit') THEN p.arrives_on + %(late)s < %(today)s
        ELSE g.count > 1 OR g.booked_on + %(late)s < %(today)s END
)
SELECT kind || ':' || source AS fingerprint, kind, 'bank'::text AS object_kind, business_date, source, ''::text AS intent,
       ''::text AS charge, NULL::uuid AS merchant_id, NULL::uuid AS payment_id, NULL::uuid AS refund_id,
       ''::text AS order_reference, ours_amount_minor, ours_currency, ours_status, ours_at, theirs_amount_minor,
       theirs_currency, theirs_status, theirs_at, difference_minor, jsonb_strip_nulls(evidence) AS evidence,
       becomes_break_at, timing
FROM (
    SELECT '{Kind.PAYOUT_NOT_AT_BANK}'::text AS kind, source::text, arrives_on AS business_date,
           booked_minor AS ours_amount_minor, currency::text AS ours_currency, status::text AS ours_status,
           arrives_on::timestamp AT TIME ZONE 'UTC' AS ours_at, NULL::bigint AS theirs_amount_minor,
           ''::text AS theirs_currency, ''::text AS theirs_status, NULL::timestamptz AS theirs_at,
           -booked_minor AS difference_minor,
           jsonb_build_object('ours_id', id, 'candidates', candidates, 'statements_reach', reach) AS evidence,
           CASE WHEN reach < arrives_on + %(late)s AND arrives_on + %(wait)s >= %(today)s
               THEN (arrives_on + %(wait)s + 1)::timestamp AT TIME ZONE 'UTC' END AS becomes_break_at,
           'the statements of the bank reach to ' || reach AS timing
    FROM missing
    UNION ALL
    SELECT '{Kind.BANK_LINE_UNEXPLAINED}', number, booked_on, NULL, '', '', NULL, amount_minor, currency, '',
           booked_on::timestamp AT TIME ZONE 'UTC', amount_minor,
           jsonb_build_object('lines', jsonb_build_array(number), 'candidates', candidates), NULL, ''
    FROM unexplained
    UNION ALL
    SELECT '{Kind.BANK_AMOUNT_MISMATCH}', source, booked_on, booked_minor, currency, status,
           arrives_on::timestamp AT TIME ZONE 'UTC', got_minor, got_currency, '', booked_on::timestamp AT TIME ZONE 'UTC',
           CASE WHEN got_currency = currency THEN got_minor - booked_minor END,
           jsonb_build_object('ours_id', id, 'lines', to_jsonb(lines)), NULL, ''
    FROM other
) found
"""  # noqa: S608


def has_statements() -> bool:
    """Whether a bank's statement was ever taken in: the third leg begins with the first one."""
    return BankStatement.objects.exists()


def look(*, now: datetime, starts_on: date | None, by: str) -> int:
    """Match what can be matched, then fill `recon_item` and `recon_found` with all that the bank's side has to say. Returns how
    many lines were matched with payouts.
    """
    parameters = _parameters(now, starts_on, by)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS pg_temp.recon_item, pg_temp.recon_found")
        matched = 0
        while more := _match(cursor, parameters):
            matched += more
        for statement in (_ITEMS, _FOUND):
            cursor.execute(statement, parameters)
    return matched


def _match(cursor: CursorWrapper, parameters: Mapping[str, Any]) -> int:
    """Match what is due with what is free, once; how many. Again, it may be more: who has a line is not due any more, but the
    return of a payout that has its arrival is, and what two might have been only one is left for. Leaves `bank_due` and
    `bank_free` as they are when nothing is matched any more.
    """
    cursor.execute("DROP TABLE IF EXISTS pg_temp.bank_due, pg_temp.bank_free")
    for statement in (_DUE, _FREE):
        cursor.execute(statement, parameters)
    cursor.execute("ANALYZE bank_due, bank_free")
    cursor.execute(_BY_TRACE, {**parameters, "how": MatchedBy.TRACE_ID})
    matched: int = cursor.rowcount
    cursor.execute(_BY_AMOUNT, {**parameters, "how": MatchedBy.AMOUNT})
    matched += cursor.rowcount
    return matched


def gaps(file: UUID) -> dict[UUID, date]:
    """Statements of a file that do not begin with the balance with which the one before them ended → its last day."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT g.id, g.after FROM ({GAPS}) g JOIN reconciliation_bankstatement s ON s.id = g.id WHERE s.file_id = %s",  # noqa: S608
            [file],
        )
        return dict(cursor.fetchall())


def leg_for(payout: UUID, amount_minor: int) -> str:
    """Which leg of a payout a line of that amount can be."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT sign(amount_minor) FROM {PAYOUTS_AT_BANK_VIEW} WHERE id = %s", [payout])  # noqa: S608
        row = cursor.fetchone()
    return Leg.ARRIVAL if row and row[0] * amount_minor >= 0 else Leg.RETURN


def _parameters(now: datetime, starts_on: date | None, by: str) -> dict[str, Any]:
    return {
        "early": settings.BANK_EARLY_DAYS,
        "late": settings.BANK_LATE_DAYS,
        "search": settings.BANK_SEARCH_DAYS,
        "wait": settings.BANK_STATEMENT_WAIT_DAYS,
        "today": now.date(),
        "starts_on": starts_on,
        "by": by,
        "unresolved": list(UNRESOLVED_STATES),
    }
