"""Writes down which objects of the provider's are matched with which of ours, and why.

Set-based, in the caller's transaction, after a match and after its discrepancies were stored.
"""

from datetime import datetime
from uuid import UUID

from django.db import IntegrityError, connection, transaction

from reconciliation.types import Rule

# What the last look saw of each object.
_SEEN = """
    SELECT i.kind || ':' || i.source AS object, p.kind, p.ours_id, p.rule, p.theirs_currency AS currency, p.theirs_minor,
           CASE WHEN p.ours_source <> p.source THEN p.ours_source ELSE '' END AS ours_source,
           CASE WHEN p.tolerance_minor IS NULL THEN 0
                ELSE (CASE p.kind WHEN 'charge' THEN 1 ELSE -1 END) * (p.theirs_minor - p.ours_minor)
           END AS difference_minor, p.tolerance_minor,
           (p.theirs_at AT TIME ZONE 'UTC')::date AS theirs_on, (p.ours_at AT TIME ZONE 'UTC')::date AS ours_on,
           p.ours_id IS NOT NULL AND p.theirs_rows IS NOT NULL AND f.source IS NULL AS agrees
    FROM recon_item i
    LEFT JOIN recon_pair p ON p.kind = i.kind AND p.source = i.source
    LEFT JOIN (SELECT DISTINCT object_kind, source FROM recon_found WHERE kind <> 'fee_variance') f
        ON f.object_kind = p.kind AND f.source = p.source
    WHERE i.kind IN ('charge', 'refund', 'dispute', 'payout')
      AND NOT EXISTS (SELECT FROM recon_off o WHERE o.has_match AND o.kind = i.kind AND o.source = i.source)
"""
# Ours is another object's now. What was put together without an id was looked at as well (`pairs`), and gets a row below if it still
# is a match: of two rows that change places, neither could be written before the other.
_MAKE_ROOM = f"""
DELETE FROM reconciliation_match m USING ({_SEEN}) now
WHERE now.agrees AND now.rule <> '{Rule.INTENT}' AND m.ours_id = now.ours_id AND m.rule <> '{Rule.INTENT}' AND m.object <> now.object
"""  # noqa: S608  constants
# What was looked at is what a later look replaces: a pair that differs now, or is not there any more, is no match. A row
# that says the same stays untouched, so a run that is repeated writes nothing.
_STORE = f"""
MERGE INTO reconciliation_match m
USING ({_SEEN}) now ON now.object = m.object
WHEN NOT MATCHED AND now.agrees THEN
    INSERT (object, ours_id, ours_source, rule, currency, theirs_minor, difference_minor, tolerance_minor, theirs_on,
            ours_on, run_id)
    VALUES (now.object, now.ours_id, now.ours_source, now.rule, now.currency, now.theirs_minor, now.difference_minor,
            now.tolerance_minor, now.theirs_on, now.ours_on, %(run)s)
WHEN MATCHED AND now.agrees AND (m.ours_id, m.ours_source, m.rule, m.currency, m.theirs_minor, m.difference_minor,
                                 m.tolerance_minor, m.theirs_on, m.ours_on)
        IS DISTINCT FROM (now.ours_id, now.ours_source, now.rule, now.currency, now.theirs_minor, now.difference_minor,
                          now.tolerance_minor, now.theirs_on, now.ours_on) THEN
    UPDATE SET ours_id = now.ours_id, ours_source = now.ours_source, rule = now.rule, currency = now.currency,
               theirs_minor = now.theirs_minor, difference_minor = now.difference_minor,
               tolerance_minor = now.tolerance_minor, theirs_on = now.theirs_on, ours_on = now.ours_on,
               run_id = %(run)s, matched_at = %(now)s
WHEN MATCHED AND NOT coalesce(now.agrees, false) THEN DELETE
"""  # noqa: S608  constants
# What agreed at first sight: by id, and to the cent.
_STORE_AGREED = """
MERGE INTO reconciliation_match m
USING (
    SELECT kind || ':' || source AS object, ours_id, currency, abs(theirs_day_minor) AS theirs_minor,
           (theirs_at AT TIME ZONE 'UTC')::date AS theirs_on, (ours_at AT TIME ZONE 'UTC')::date AS ours_on
    FROM recon_agreed
) now ON now.object = m.object
WHEN NOT MATCHED THEN
    INSERT (object, ours_id, ours_source, rule, currency, theirs_minor, difference_minor, tolerance_minor, theirs_on, ours_on, run_id)
    VALUES (now.object, now.ours_id, '', 'id', now.currency, now.theirs_minor, 0, NULL, now.theirs_on, now.ours_on, %(run)s)
WHEN MATCHED AND (m.ours_id, m.ours_source, m.rule, m.currency, m.theirs_minor, m.difference_minor, m.tolerance_minor, m.theirs_on,
                  m.ours_on)
        IS DISTINCT FROM (now.ours_id, '', 'id', now.currency, now.theirs_minor, 0, NULL, now.theirs_on, now.ours_on) THEN
    UPDATE SET ours_id = now.ours_id, ours_source = '', rule = 'id', currency = now.currency, theirs_minor = now.theirs_minor,
               difference_minor = 0, tolerance_minor = NULL, theirs_on = now.theirs_on, ours_on = now.ours_on, run_id = %(run)s,
               matched_at = %(now)s
"""
# The first attempt of a payment came to nothing in both books; now it succeeded with another charge.
_FORGET_ATTEMPTS = f"""
DELETE FROM reconciliation_match m USING recon_agreed a
WHERE m.ours_id = a.ours_id AND m.rule <> '{Rule.INTENT}' AND m.object <> a.kind || ':' || a.source
"""  # noqa: S608  constants


def store_agreed(run: UUID | None, *, now: datetime) -> None:
    """Write what agreed at first sight."""
    parameters = {"run": run, "now": now}
    with connection.cursor() as cursor:
        try:
            with transaction.atomic():
                cursor.execute(_STORE_AGREED, parameters)
        except IntegrityError:  # so rare that it is not looked for in a large day
            cursor.execute(_FORGET_ATTEMPTS)
            cursor.execute(_STORE_AGREED, parameters)


def store(run: UUID | None, *, now: datetime) -> None:
    """Write what the last look saw as matches."""
    with connection.cursor() as cursor:
        cursor.execute(_MAKE_ROOM)
        cursor.execute(_STORE, {"run": run, "now": now})
    store_agreed(run, now=now)
