"""What others found, put beside what matching found: news of the provider, and statements that do not close."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime

from django.db import connection

from foundation.ids import parse_public_id
from reconciliation.matching.days import run
from reconciliation.matching.looks import start
from reconciliation.types import Finding, Proved, Statement

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

# One item for each currency and proof: a balance that is off stays off on the days that follow. Beside our clearing account, what
# the provider's rows add up to is theirs. Beside the balance that it tells, they are what we know of it, and so they are ours.
_RESIDUAL = """
INSERT INTO recon_found
SELECT 'statement_residual:' || %(source)s::text, 'statement_residual', 'statement', %(since)s::date, %(source)s::text, '', '',
       NULL, NULL, NULL, '', %(ours)s::bigint, %(currency)s::text, '', NULL, %(theirs)s::bigint, %(currency)s::text, '',
       %(now)s::timestamptz, %(residual)s::bigint,
       jsonb_build_object('proof', %(proof)s::text, 'day', %(day)s::date), NULL, ''
"""


def note_found(found: Finding, *, now: datetime) -> None:
    """Fill `recon_found` with what news told, as if it had been matched. Belongs inside a transaction."""
    start()
    run(
        _NOTED,
        {
            **asdict(found),
            "payment_id": parse_public_id("pay", found.payment) if found.payment else None,
            "refund_id": parse_public_id("ref", found.refund) if found.refund else None,
            "now": now,
        },
    )


def add_residuals(statements: Iterable[Statement], *, now: datetime, earlier: Iterable[Statement] = ()) -> None:
    """Put what statements leave unexplained beside what was found, and every proof that was made beside what was looked at.
    `earlier`: those of a day before, since when it is off if they show it as well. Belongs inside a transaction, after `match_day`.
    """
    since = {
        f"{statement.currency}:{proof.name}": statement.day
        for statement in earlier
        for proof in statement.proofs
        if proof.residual_minor
    }
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
                    "since": since.get(f"{statement.currency}:{proof.name}", statement.day),
                    "currency": statement.currency,
                    "proof": proof.name,
                    "theirs": proof.says_minor if proof.name == Proved.BALANCE else statement.closing_minor,
                    "ours": statement.closing_minor
                    if proof.name == Proved.BALANCE
                    else (proof.says_minor or 0) + proof.explained_minor,
                    "residual": proof.residual_minor,
                    "now": now,
                }
                for statement, proof in proved
                if proof.residual_minor
            ],
        )
