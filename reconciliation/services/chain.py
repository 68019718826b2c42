"""The audit chain: what the books were told, item by item as it stood, in blocks of which each names the one before.

Built by a daily job, never in the transaction that writes: a sale, a run or an action does not know that it exists. What
changed since it was chained is chained anew, under the same name. `audit_pack --verify` follows the chain without a database.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from foundation.database import database_now
from payments.selectors import CHARGES_VIEW, NUMBER_FUNCTION, PAYOUTS_AT_BANK_VIEW, REFUNDS_VIEW
from reconciliation import books, matching
from reconciliation.locks import chain_writer
from reconciliation.models import AuditBlock, AuditRow, PeriodClosing
from reconciliation.states import ENDED, UNRESOLVED_STATES
from reconciliation.types import Audited, MatchedBy

log = logging.getLogger(__name__)

# Rows of a transaction that was open when the job last looked: longer than any transaction of ours lasts.
_LOOK_BACK = timedelta(days=1)

# What people decided beside discrepancies, of the month in which they did. Chained once, with the figures as they are then: the tables
# are small, and whether it was is one look by an index, so that nothing that was decided before the chain knew of it is left out.
_DECIDED = f"""
SELECT 'decision:' || said.object, date_trunc('month', said.at AT TIME ZONE 'UTC')::date, said.at::text,
       jsonb_build_object('action', said.action, 'by', said.by, 'at', said.at, 'note', said.note) || said.terms
FROM (
    SELECT 'tolerance:' || t.id || ':' || e.what, CASE e.what WHEN 'made' THEN 'set_tolerance' ELSE 'end_tolerance' END,
           e.at, e.by, e.note,
           jsonb_build_object('tolerance', t.id, 'merchant', t.merchant_id, 'amount_minor', t.amount_minor, 'currency', t.currency)
    FROM reconciliation_tolerance t CROSS JOIN LATERAL (
        VALUES ('made', t.since, t.by, t.note), ('ended', t.ended_at, t.ended_by, t.ended_why)) e (what, at, by, note)
    UNION ALL
    SELECT 'link:' || l.id || ':' || e.what, CASE e.what WHEN 'made' THEN 'link' ELSE 'end_link' END, e.at, e.by, e.note,
           jsonb_build_object(
               'link', l.id, 'object', l.object_kind, 'source', l.source, 'ours_source', l.ours_source,
               'ours', {NUMBER_FUNCTION}(CASE l.object_kind WHEN 'refund' THEN 'ref' ELSE 'pay' END, l.ours_id),
               'ours_minor', ours.amount_minor, 'ours_currency', ours.currency,
               'theirs_minor', theirs.amount_minor, 'theirs_currency', theirs.currency)
    FROM reconciliation_link l CROSS JOIN LATERAL (
        VALUES ('made', l.made_at, l.by, l.why), ('ended', l.ended_at, l.ended_by, l.ended_why)) e (what, at, by, note)
    LEFT JOIN LATERAL (
        SELECT m.amount_minor, m.currency FROM {CHARGES_VIEW} m WHERE l.object_kind = 'charge' AND m.id = l.ours_id
        UNION ALL
        SELECT m.amount_minor, m.currency FROM {REFUNDS_VIEW} m WHERE l.object_kind = 'refund' AND m.id = l.ours_id
    ) ours ON true
    LEFT JOIN LATERAL (
        SELECT sum(p.amount_minor)::bigint AS amount_minor, max(p.currency) AS currency FROM reconciliation_providertransaction p
        WHERE p.source = l.source AND p.withdrawn_at IS NULL
    ) theirs ON true
    UNION ALL
    SELECT 'bank_link:' || m.id || ':' || e.what, CASE e.what WHEN 'made' THEN 'link_bank_line' ELSE 'unlink_bank_line' END,
           e.at, e.by, e.note,
           jsonb_build_object(
               'bank_link', m.id, 'line', {NUMBER_FUNCTION}('bnk', b.id), 'account', b.account, 'day', b.booked_on,
               'amount_minor', b.amount_minor, 'currency', b.currency, 'leg', m.leg, 'matched_by', m.how,
               'payout', {NUMBER_FUNCTION}('pot', m.payout_id), 'source', o.source, 'payout_minor', o.amount_minor,
               'payout_currency', o.currency)
    FROM reconciliation_bankmatch m JOIN reconciliation_bankline b ON b.id = m.line_id CROSS JOIN LATERAL (
        VALUES ('made', CASE WHEN m.how = '{MatchedBy.PERSON}' THEN m.made_at END, m.by, m.why),
               ('ended', m.ended_at, m.ended_by, m.ended_why)) e (what, at, by, note)
    LEFT JOIN {PAYOUTS_AT_BANK_VIEW} o ON o.id = m.payout_id
) said (object, action, at, by, note, terms)
WHERE said.at IS NOT NULL
  AND (SELECT r.id FROM reconciliation_auditrow r WHERE r.object = 'decision:' || said.object LIMIT 1) IS NULL
"""  # noqa: S608  constants

# Each source: object, period, place (its order in its month) and body, of what may have changed since %(since)s.
_SOURCES: Mapping[str, str] = {
    # A row that the provider does not list any more counts nothing. `was`: what the chain said of it before.
    Audited.RAW: """
SELECT 'raw:' || t.id AS object, date_trunc('month', t.created_at AT TIME ZONE 'UTC')::date AS period,
       t.created_at::text AS place,
       CASE WHEN t.page_row IS NOT NULL AND EXISTS (SELECT FROM reconciliation_rawpage p WHERE p.sha256 = t.sha256)
            THEN jsonb_build_object('page', encode(t.sha256, 'hex'), 'row', t.page_row)
            ELSE jsonb_build_object('sha256', encode(t.sha256, 'hex')) END || jsonb_build_object(
           'id', t.id, 'day', (t.created_at AT TIME ZONE 'UTC')::date,
           'currency', t.currency, 'category', t.reporting_category, 'withdrawn', t.withdrawn_at IS NOT NULL,
           'gross', CASE WHEN t.withdrawn_at IS NULL THEN t.amount_minor ELSE 0 END,
           'fee', CASE WHEN t.withdrawn_at IS NULL THEN t.fee_minor ELSE 0 END,
           'net', CASE WHEN t.withdrawn_at IS NULL THEN t.net_minor ELSE 0 END) AS body
FROM reconciliation_providertransaction t
WHERE t.created_at >= %(begin)s AND (t.seen_at >= %(since)s OR t.withdrawn_at >= %(since)s)
""",
    Audited.ITEM: f"""
SELECT 'item:' || d.id, d.period, d.id::text,
       jsonb_build_object(
           'item', {NUMBER_FUNCTION}('dis', d.id), 'kind', d.kind, 'object', d.object_kind, 'day', d.business_date,
           'period', to_char(d.period, 'YYYY-MM'), 'source', d.source, 'order', d.order_reference, 'state', d.state,
           'cycle', d.cycle, 'closed_as', d.closed_as, 'resolved_by', d.resolved_by, 'resolved_at', d.resolved_at,
           'verified', d.verified_at IS NOT NULL, 'ours_minor', d.ours_amount_minor, 'ours_currency', d.ours_currency,
           'ours_status', d.ours_status, 'theirs_minor', d.theirs_amount_minor, 'theirs_currency', d.theirs_currency,
           'theirs_status', d.theirs_status, 'difference_minor', d.difference_minor)
FROM reconciliation_discrepancy d
WHERE d.period IS NOT NULL
  AND (d.state = ANY(%(unresolved)s) OR greatest(d.resolved_at, d.verified_at) >= %(since)s)
""",  # noqa: S608  constants
    Audited.DECISION: f"""
SELECT 'decision:' || a.id, d.period, a.finished_at::text,
       jsonb_build_object(
           'item', {NUMBER_FUNCTION}('dis', d.id), 'action', a.action, 'by', a.by, 'at', a.at, 'note', a.note,
           'inputs', a.inputs, 'amount_minor', a.amount_minor, 'currency', a.currency,
           'approval_above_minor', a.approval_above_minor, 'approved_by', a.approved_by, 'approved_at', a.approved_at,
           'outcome', a.outcome, 'made', a.made, 'result', a.result, 'finished_at', a.finished_at)
FROM reconciliation_discrepancyaction a JOIN reconciliation_discrepancy d ON d.id = a.discrepancy_id
WHERE d.period IS NOT NULL AND a.outcome = ANY(%(ended)s) AND a.finished_at >= %(since)s
UNION ALL {_DECIDED}
""",  # noqa: S608  constants
    Audited.HISTORY: f"""
SELECT 'history:' || h.id, d.period, lpad(h.id::text, 20, '0'),
       jsonb_build_object(
           'item', {NUMBER_FUNCTION}('dis', d.id), 'from', h.from_state, 'to', h.to_state, 'by', h.by, 'why', h.why,
           'at', h.at)
FROM reconciliation_discrepancyhistory h JOIN reconciliation_discrepancy d ON d.id = h.subject_id
WHERE d.period IS NOT NULL AND h.at >= %(since)s
""",  # noqa: S608  constants
    # Of the month of its last day: with its rows, where it tells of one month. One that holds none, of the month in which it came.
    Audited.FILE: """
SELECT 'file:' || f.id, date_trunc('month', coalesce(f.last_day, (f.imported_at AT TIME ZONE 'UTC')::date))::date,
       f.imported_at::text,
       jsonb_build_object(
           'name', f.name, 'sha256', f.sha256, 'whose', f.whose, 'layout', f.layout, 'rows', f.rows, 'added', f.added,
           'first_day', f.first_day, 'last_day', f.last_day, 'by', f.by, 'imported_at', f.imported_at)
FROM reconciliation_statementfile f WHERE NOT f.refused AND f.imported_at >= %(since)s
""",
    Audited.BANK_LINE: f"""
SELECT 'bank_line:' || l.id, date_trunc('month', l.booked_on)::date, l.booked_on::text || l.id,
       jsonb_build_object(
           'line', {NUMBER_FUNCTION}('bnk', l.id), 'account', l.account, 'day', l.booked_on, 'amount_minor', l.amount_minor,
           'currency', l.currency, 'sha256', encode(l.sha256, 'hex'), 'file', f.sha256, 'place', l.line)
FROM reconciliation_statementfile f JOIN reconciliation_bankline l ON l.file_id = f.id
WHERE NOT f.refused AND f.imported_at >= %(since)s
""",  # noqa: S608  constants
    Audited.STATEMENT: """
SELECT 'statement:' || c.id || ':' || s.key, c.period_id, lpad(c.number::text, 10, '0') || s.key,
       jsonb_build_object('closing', c.number, 'currency', s.key) || s.value
FROM reconciliation_periodclosing c CROSS JOIN jsonb_each(c.statements) s
WHERE c.closed_at >= %(since)s
""",
    Audited.CLOSING: """
SELECT 'closing:' || c.id, c.period_id, lpad(c.number::text, 10, '0'),
       jsonb_build_object(
           'what', 'closing', 'number', c.number, 'by', c.closed_by, 'note', c.note, 'at', c.closed_at,
           'books_begin', c.books_begin, 'sealed_through', c.sealed_through, 'after', c.after, 'head', c.head, 'items', c.items,
           'trial_balance', c.trial_balance, 'differences', c.differences)
FROM reconciliation_periodclosing c WHERE c.closed_at >= %(since)s
UNION ALL
SELECT 'reopening:' || r.id, c.period_id, lpad(c.number::text, 10, '0') || 'reopened' || r.id,
       jsonb_build_object(
           'what', 'reopening', 'closing', c.number, 'asked_by', r.asked_by, 'why', r.why, 'asked_at', r.asked_at,
           'decision', r.decision, 'decided_by', r.decided_by, 'decided_why', r.decided_why, 'decided_at', r.decided_at)
FROM reconciliation_periodreopening r JOIN reconciliation_periodclosing c ON c.id = r.closing_id
WHERE r.decision <> '' AND r.decided_at >= %(since)s
""",
}

# What is not in the chain yet, or in other words. Numbered within its month, in its order.
_STAGE = """
CREATE TEMPORARY TABLE audit_fresh ON COMMIT DROP AS
SELECT s.period, s.object,
       CASE WHEN s.object LIKE 'raw:%%' THEN s.body || jsonb_build_object('was', before.body) ELSE s.body END::text AS body,
       row_number() OVER (PARTITION BY s.period ORDER BY s.place, s.object) - 1 AS n
FROM ({source}) AS s (object, period, place, body)
LEFT JOIN LATERAL (
    SELECT r.body::jsonb - 'was' AS body FROM reconciliation_auditrow r
    WHERE r.object = s.object ORDER BY r.block_id DESC LIMIT 1
) before ON true
WHERE before.body IS DISTINCT FROM s.body
"""
_BLOCK = """
INSERT INTO reconciliation_auditblock (kind, period, rows, root)
SELECT %(kind)s, period, count(*), sha256(string_agg(sha256(convert_to(body, 'UTF8')), ''::bytea ORDER BY n))
FROM audit_fresh WHERE period = %(period)s AND n / %(size)s = %(part)s
GROUP BY period
RETURNING number
"""
_CONTENTS = """
INSERT INTO reconciliation_auditrow (block_id, position, object, body)
SELECT %(number)s, n %% %(size)s, object, body FROM audit_fresh
WHERE period = %(period)s AND n / %(size)s = %(part)s ORDER BY n
"""


def extend_chain_of_today() -> bool:
    """Extend the chain once a UTC day, whoever asks and however often; whether something was added now. A closing whose
    process died before it was chained is chained at once."""
    last = AuditBlock.objects.order_by("-number").values_list("made_at", flat=True).first()
    if last and last.date() == database_now().date() and _newest_closing_is_chained():
        return False
    return bool(extend_chain())


def _newest_closing_is_chained() -> bool:
    newest = PeriodClosing.objects.order_by("-closed_at").first()
    return newest is None or AuditRow.objects.filter(object=f"closing:{newest.pk}").exists()


def extend_chain() -> int:
    """Chain what is not chained yet, or changed since; how many blocks that made. Belongs outside of transactions.

    The hash of the last block is logged: who keeps the log elsewhere can tell later that the chain was not written anew.
    """
    with transaction.atomic(durable=True):
        blocks = extend()
    if blocks:
        newest = AuditBlock.objects.latest("number")
        log.info("audit chain: block %s, sha256 %s", newest.number, bytes(newest.sha256).hex())
    return blocks


def extend() -> int:
    """The same in the caller's transaction: for a closing, which is written with all that it has seen."""
    with chain_writer():
        return sum(_extend(kind) for kind in _SOURCES)


def last_block() -> int:
    """The number of the newest block; 0 before the first."""
    return AuditBlock.objects.order_by("-number").values_list("number", flat=True).first() or 0


def _extend(kind: str) -> int:
    begin = books.first_day()
    if begin is None:
        return 0
    parameters = {
        "begin": matching.window(begin)[0],
        "since": _looked_at_until(kind) or "-infinity",
        "unresolved": list(UNRESOLVED_STATES),
        "ended": list(ENDED),
    }
    size = settings.AUDIT_BLOCK_ROWS
    blocks = 0
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS pg_temp.audit_fresh")
        cursor.execute(_STAGE.format(source=_SOURCES[kind]), parameters)
        cursor.execute("SELECT period, count(*) FROM audit_fresh GROUP BY period ORDER BY period")
        for period, rows in cursor.fetchall():
            for part in range(-(-rows // size)):
                block: dict[str, Any] = {"kind": kind, "period": period, "size": size, "part": part}
                cursor.execute(_BLOCK, block)
                block["number"] = cursor.fetchone()[0]
                cursor.execute(_CONTENTS, block)
                blocks += 1
    return blocks


def _looked_at_until(kind: str) -> datetime | None:
    newest = AuditBlock.objects.filter(kind=kind).order_by("-number").values_list("made_at", flat=True).first()
    return newest - _LOOK_BACK if newest else None
