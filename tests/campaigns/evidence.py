"""What the auditor judges by: the provider's objects over its own API, and our tables in one snapshot.

Nothing of the product is imported: a mistake of its code must not hide behind the same mistake here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import requests
from psycopg.rows import namedtuple_row

Json = dict[str, Any]
Row = Any  # a named tuple of the query's columns

_SECRET_KEY = "sk_test_sandbox"
_PAGE = 100
_TIMEOUT_S = 30
_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class Theirs:
    """Everything in the provider's books, by id, and its totals."""

    intents: dict[str, Json]
    charges: dict[str, Json]
    refunds: dict[str, Json]
    disputes: dict[str, Json]
    payouts: dict[str, Json]
    balance_transactions: dict[str, Json]
    balance: dict[str, int]  # currency → Σ net, minor units


@dataclass(frozen=True)
class Ours:
    """Our tables at one moment. Numbers (`ord_…`, `pay_…`, `ref_…`, `dsp_…`, `pot_…`) stand in place of ids."""

    orders: dict[str, Row]
    payments: dict[str, Row]
    refunds: dict[str, Row]
    disputes: dict[str, Row]
    payouts: dict[str, Row]
    entries: list[Row]
    postings: list[Row]
    accounts: dict[UUID, Row]
    items: list[Row]
    stock: list[Row]
    holds: list[Row]
    sagas: list[Row]
    deliveries: list[Row]
    handlers: list[Row]
    messages: list[Row]
    keys: list[Row]


def number(prefix: str, value: UUID) -> str:
    """The public form of an id: a prefix, and the UUID in Crockford's base32."""
    return prefix + "_" + "".join(_LETTERS[value.int >> 5 * place & 31] for place in reversed(range(26)))


def read_theirs(url: str) -> Theirs:
    with requests.Session() as session:
        session.trust_env = False
        session.auth = (_SECRET_KEY, "")

        def everything(resource: str) -> dict[str, Json]:
            return {row["id"]: row for row in _walk(session, f"{url}/v1/{resource}")}

        books = session.get(f"{url}/_sandbox/books", timeout=_TIMEOUT_S).json()
        return Theirs(
            intents=everything("payment_intents"),
            charges=everything("charges"),
            refunds=everything("refunds"),
            disputes=everything("disputes"),
            payouts=everything("payouts"),
            balance_transactions=everything("balance_transactions"),
            balance=books["balance"],
        )


def _walk(session: requests.Session, url: str) -> Iterator[Json]:
    params: dict[str, Any] = {"limit": _PAGE}
    while True:
        answer = session.get(url, params=params, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        page = answer.json()
        yield from page["data"]
        if not page["has_more"]:
            return
        params["starting_after"] = page["data"][-1]["id"]


def connect(url: str) -> psycopg.Connection[Row]:
    """One snapshot for all that is read over it, and nothing is written."""
    connection = psycopg.connect(url, row_factory=namedtuple_row)
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    return connection


def read_ours(connection: psycopg.Connection[Row]) -> Ours:

    def rows(query: str) -> list[Row]:
        return connection.execute(query).fetchall()

    def numbered(prefix: str, query: str) -> dict[str, Row]:
        return {number(prefix, row.id): row for row in rows(query)}

    return Ours(
        orders=numbered(
            "ord",
            "SELECT id, status, total_minor, currency, "
            " extract(epoch FROM now() - expires_at)::float AS overdue_s,"
            " extract(epoch FROM now() - cancel_requested_at)::float AS cancelling_s,"
            " EXISTS (SELECT FROM orders_orderhistory history"
            "         WHERE history.subject_id = orders_order.id AND history.to_state = 'paid') AS was_paid"
            " FROM orders_order",
        ),
        payments=numbered(
            "pay",
            "SELECT id, reference, status, amount_minor, currency, provider_reference, charge_reference,"
            " captured_minor, corrected_minor, refunded_minor, refunds_committed_minor, refunds_owed_minor, settling,"
            " disputed_at IS NOT NULL AS disputed, disputed_lost_minor,"
            " customer, merchant_id,"
            " credit_minor, credit_captured_minor, credit_refunded_minor, credit_refunds_committed_minor,"
            " extract(epoch FROM now() - coalesce(first_sent_at, created_at))::float AS age_s"
            " FROM payments_payment",
        ),
        refunds=numbered(
            "ref",
            "SELECT id, payment_id, status, amount_minor, credit_minor, currency, provider_reference, requested_by,"
            " paid_outside,"
            " extract(epoch FROM now() - created_at)::float AS age_s FROM payments_refund",
        ),
        disputes=numbered(
            "dsp",
            "SELECT id, payment_id, provider_reference, status, amount_minor, withdrawn_minor, lost_minor, refundable,"
            " currency FROM payments_dispute",
        ),
        payouts=numbered(
            "pot",
            "SELECT p.id, provider_reference, status, p.amount_minor, p.currency, listed_at IS NOT NULL AS listed,"
            " coalesce(sum(t.net_minor), 0)::bigint AS net_minor, count(t.id) AS rows"
            " FROM payments_payout p LEFT JOIN payments_payouttransaction t ON t.payout_id = p.id GROUP BY p.id",
        ),
        entries=rows("SELECT id, kind, key, subject, reference, currency FROM payments_journalentry"),
        postings=rows("SELECT entry_id, account_id, amount_minor FROM payments_posting"),
        accounts={
            row.id: row
            for row in rows("SELECT id, kind, currency, merchant_id, customer, balance_minor FROM payments_account")
        },
        items=rows("SELECT order_id, product_id, quantity FROM orders_orderitem"),
        stock=rows(
            "SELECT product_id, stock.on_hand, stock.reserved, coalesce(log.on_hand, 0)::bigint AS logged_on_hand,"
            " coalesce(log.reserved, 0)::bigint AS logged_reserved, coalesce(held.reserved, 0)::bigint AS held"
            " FROM inventory_stock stock"
            " LEFT JOIN (SELECT product_id, sum(on_hand_change) AS on_hand, sum(reserved_change) AS reserved"
            "            FROM inventory_stockmovement GROUP BY product_id) log USING (product_id)"
            " LEFT JOIN (SELECT product_id, sum(reserved) AS reserved"
            "            FROM inventory_stockhold GROUP BY product_id) held USING (product_id)"
        ),
        holds=rows("SELECT reference, product_id, reserved, sold FROM inventory_stockhold"),
        sagas=rows(
            "SELECT recipe, key, subject, state, attempts, error,"
            " extract(epoch FROM now() - available_at)::float AS overdue_s FROM durability_sagarun"
        ),
        deliveries=rows(
            "SELECT id, handler, key, state, attempts, last_error,"
            " extract(epoch FROM now() - available_at)::float AS overdue_s"
            " FROM durability_delivery WHERE state NOT IN ('done', 'skipped')"
        ),
        # A handler existed from the first message that it has a delivery of.
        handlers=rows(
            "WITH handler AS (SELECT m.name, d.handler, min(m.id) AS since FROM durability_delivery d"
            "                 JOIN durability_message m ON m.id = d.message_id GROUP BY m.name, d.handler)"
            " SELECT m.id, m.name, m.key, handler.handler FROM durability_message m"
            " JOIN handler ON handler.name = m.name AND m.id >= handler.since"
            " LEFT JOIN durability_delivery d ON d.message_id = m.id AND d.handler = handler.handler"
            " WHERE d.id IS NULL"
        ),
        messages=rows(
            "SELECT id, name, key, extract(epoch FROM now() - created_at)::float AS age_s"
            " FROM durability_message WHERE state <> 'published'"
        ),
        keys=rows("SELECT caller, key, path, subject, status FROM durability_idempotencykey WHERE method = 'POST'"),
    )
