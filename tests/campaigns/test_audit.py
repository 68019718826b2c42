"""The auditor must find what it is there to find: a healthy shop has no finding, and each damage is seen."""

from copy import deepcopy
from uuid import uuid4

import psycopg
import pytest
from django.db import connection as django_connection
from psycopg.rows import namedtuple_row

from orders import services as orders
from orders.models import Order
from tests.campaigns.audit import Accepted, audit, audit_accepted, judge
from tests.campaigns.evidence import read_ours, read_theirs
from tests.credit import grant, with_credit
from tests.shop import Shop, open_shop, settle

DECLINED = {"method": "card", "payment_method": "pm_card_chargeDeclined", "confirm": True}

# What somebody does to our tables behind the product's back → the law that it breaks.
DAMAGES = {
    "captured_amount": "UPDATE payments_payment SET captured_minor = captured_minor + 1 WHERE settling",
    "captured_in_the_ledger": "UPDATE payments_posting SET amount_minor = amount_minor + sign(amount_minor)"
    " WHERE entry_id IN (SELECT id FROM payments_journalentry WHERE kind = 'capture')",
    "charge_unknown_to_us": "UPDATE payments_payment SET charge_reference = NULL WHERE settling",
    "charge_not_succeeded_with_us": "UPDATE payments_payment SET status = 'cancelled' WHERE settling",
    "capture_without_a_charge": "UPDATE payments_payment SET charge_reference = 'ch_' || id WHERE settling",
    "capture_of_an_unpaid_payment": "UPDATE payments_payment SET status = 'failed' WHERE settling",
    "refund_unknown_to_us": "DELETE FROM payments_refund",
    "refund_status": "UPDATE payments_refund SET status = 'failed'",
    "refunded_amount": "UPDATE payments_refund SET amount_minor = amount_minor + 1",
    "refunded_in_the_ledger": "DELETE FROM payments_posting WHERE entry_id IN"
    " (SELECT id FROM payments_journalentry WHERE kind = 'refund')",
    "refund_without_the_provider": "UPDATE payments_refund SET provider_reference = 're_' || id",
    "refund_sums": "UPDATE payments_payment SET refunded_minor = refunded_minor - 1 WHERE refunded_minor > 0",
    "over_refunded": "UPDATE payments_refund SET amount_minor = 5000",
    "debts_to_customers": "UPDATE payments_payment SET refunds_owed_minor = 1 WHERE captured_minor > refunded_minor",
    "dispute_unknown_to_us": "DELETE FROM payments_dispute",
    "dispute_status": "UPDATE payments_dispute SET status = 'under_review'",
    "withdrawn_amount": "UPDATE payments_dispute SET withdrawn_minor = withdrawn_minor - 1",
    "withdrawn_in_the_ledger": "DELETE FROM payments_posting WHERE entry_id IN"
    " (SELECT id FROM payments_journalentry WHERE kind = 'dispute_withdrawn')",
    "open_in_the_ledger": "UPDATE payments_dispute SET status = 'lost', closed_at = now()",
    "dispute_mark": "UPDATE payments_payment SET disputed_at = NULL",
    "payout_unknown_to_us": "DELETE FROM payments_payout",
    "payout_status": "UPDATE payments_payout SET status = 'in_transit'",
    "payout_in_the_ledger": "DELETE FROM payments_posting WHERE entry_id IN"
    " (SELECT id FROM payments_journalentry WHERE kind = 'payout')",
    "payout_transactions": "DELETE FROM payments_payouttransaction WHERE reporting_category = 'charge'",
    "fee": "DELETE FROM payments_posting WHERE entry_id IN (SELECT id FROM payments_journalentry WHERE kind = 'fee')",
    "fee_unknown_to_the_provider": "UPDATE payments_journalentry SET key = 'fee:txn_' || id WHERE kind = 'fee'",
    "clearing": "UPDATE payments_posting SET amount_minor = amount_minor + sign(amount_minor)",
    "kept_money": "UPDATE orders_order SET status = 'cancelled' WHERE status = 'paid'",
    "money_without_an_order": "DELETE FROM orders_order WHERE status = 'paid'",
    "entry_unbalanced": "UPDATE payments_posting SET amount_minor = amount_minor + 1 WHERE amount_minor > 0",
    "entry_mixes_currencies": "UPDATE payments_journalentry SET currency = 'eur'",
    "customer_balance": "UPDATE payments_account SET balance_minor = 1 WHERE kind = 'customer'",
    "money_left_over": "DELETE FROM payments_posting WHERE entry_id IN"
    " (SELECT id FROM payments_journalentry WHERE kind = 'sale')",
    "credit_refund_sums": "UPDATE payments_payment SET credit_refunded_minor = 0 WHERE credit_refunded_minor > 0",
    "store_credit_held": "UPDATE payments_payment SET credit_minor = credit_minor + 1 WHERE status = 'pending'",
    "points": "UPDATE payments_journalentry SET kind = 'points_earned' WHERE kind = 'points_adjusted'",
    "stock_log": "UPDATE inventory_stock SET on_hand = on_hand + 1",
    "stock_reserved": "UPDATE inventory_stockhold SET reserved = reserved + 1",
    "shelf_of_an_order": "UPDATE inventory_stockhold SET sold = 0",
    "item_without_an_order": "DELETE FROM orders_order WHERE status = 'cancelled'",
    "hold_without_an_order": "UPDATE inventory_stockhold SET reference = 'ord_' || id WHERE sold > 0",
    "order_not_expired": "UPDATE orders_order SET status = 'pending', expires_at = now() - interval '1 min'",
    "cancel_requested_for_ever": "UPDATE orders_order SET cancel_requested_at = now() - interval '1 min'",
    "payment_stuck": "UPDATE payments_payment SET status = 'unknown', first_sent_at = now() - interval '1 min'",
    "payment_open_for_a_closed_order": "UPDATE payments_payment SET status = 'pending' WHERE status = 'cancelled'",
    "intent_left_open": "UPDATE payments_payment SET status = 'cancelled' WHERE status = 'pending'",
    "intent_unknown_to_us": "UPDATE payments_payment SET provider_reference = NULL WHERE status = 'pending'",
    "refund_stuck": "UPDATE payments_refund SET status = 'processing', created_at = now() - interval '1 min'",
    "compensation_failed": "UPDATE durability_sagarun SET state = 'compensation_failed'",
    "saga_without_an_owner": "UPDATE durability_sagarun SET state = 'running', available_at = now() - interval '1 min'",
    "sale_not_carried_through": "DELETE FROM durability_sagarun WHERE recipe = 'orders.payment_success'",
    "sale_undone_but_order_open": "UPDATE durability_sagarun SET state = 'compensated'",
    "sale_given_back": "UPDATE payments_refund SET requested_by = 'payment-success'",
    "sold_order_is_paid_once": "UPDATE payments_payment SET settling = false WHERE credit_minor = 0",
    "delivery_missing": "DELETE FROM durability_delivery WHERE id = (SELECT max(id) FROM durability_delivery)",
    "delivery_parked": "UPDATE durability_delivery SET state = 'parked'",
    "delivery_open": "UPDATE durability_delivery SET state = 'pending', available_at = now() - interval '1 min'",
    "message_not_in_the_stream": "UPDATE durability_message"
    " SET state = 'pending', created_at = now() - interval '1 min'",
    "key_without_an_order": "UPDATE durability_idempotencykey SET subject = 'ord_none'",
    "order_of_several_keys": "INSERT INTO durability_idempotencykey (caller, key, method, path, body_hash, subject)"
    " SELECT caller, key || '-again', method, path, body_hash, subject FROM durability_idempotencykey",
}


def database_url() -> str:
    told = django_connection.settings_dict
    return f"postgresql://{told['USER']}:{told['PASSWORD']}@{told['HOST']}:{told['PORT']}/{told['NAME']}"


@pytest.fixture
def shop(transactional_db, valkey, sandbox) -> Shop:
    """A shop in which a bit of everything has happened, and all of it has come to rest."""
    sandbox.control("POST", "webhooks", {"mode": "drop"})
    shop = open_shop(loyalty_rate_bp=10_000)
    shop.stock("book", 10)
    grant(shop, 2000)
    shop.bought()
    by_credit = shop.checkout(payment=with_credit(1500)).json()["payment"]["number"]
    settle()
    assert shop.post(f"/payments/{by_credit}/refunds", {"amount": 500, "reason": "torn"}).status_code == 201
    refunded = shop.bought()["payments"][0]["number"]
    assert shop.post(f"/payments/{refunded}/refunds", {"amount": 500, "reason": "torn"}).status_code == 201
    returned = shop.bought()["number"]
    assert shop.post(f"/orders/{returned}/cancel").status_code == 200
    disputed = shop.bought()["payments"][0]["provider_reference"]
    sandbox.control("POST", "disputes", {"payment_intent": disputed, "amount": 900})
    for payout in sandbox.control("POST", "payouts", {"include_pending": True})["payouts"]:
        sandbox.control("POST", "payouts/outcome", {"payout": payout["id"], "status": "paid"})
    assert shop.checkout(payment=DECLINED).status_code == 402
    expired = shop.checkout().json()["order"]["number"]
    Order.objects.filter(pk=Order.id_of(expired)).update(expires_at="2020-01-01T00:00:00Z")
    settle()
    orders.rearm()
    orders.expire_due()
    assert shop.checkout(payment=with_credit(300)).status_code == 201  # still open, and rightly so
    settle()
    mirror()
    return shop


def mirror() -> None:
    from durability import stream

    stream.mirror_batch()


def test_a_healthy_shop_has_no_finding(shop, sandbox):
    report = audit(database_url(), sandbox.url)
    assert report.is_clean, str(report)
    assert report.orders == {"paid": 4, "cancelled": 2, "pending": 2}
    assert (report.charges, report.refunds) == (4, 2)


def test_each_damage_to_our_tables_is_found(shop, sandbox):
    theirs = read_theirs(sandbox.url)
    unseen = {}
    with psycopg.connect(database_url(), row_factory=namedtuple_row) as connection:
        for law, damage in DAMAGES.items():
            # As a superuser may: past triggers and foreign keys; and each damage is undone before the next.
            connection.execute("SET LOCAL session_replication_role = replica")
            connection.execute(damage)
            found = {finding.code for finding in judge(read_ours(connection), theirs, slack_s=30).findings}
            if law not in found:
                unseen[law] = found
            connection.rollback()
    assert not unseen


def test_what_is_only_young_is_not_late(shop, sandbox):
    theirs = read_theirs(sandbox.url)
    with psycopg.connect(database_url(), row_factory=namedtuple_row) as connection:
        connection.execute("UPDATE durability_message SET state = 'pending', created_at = now()")
        connection.execute(
            "UPDATE durability_sagarun SET state = 'running', available_at = now() WHERE recipe = 'orders.checkout'"
        )
        assert judge(read_ours(connection), theirs, slack_s=30).is_clean
        assert not judge(read_ours(connection), theirs, slack_s=-1).is_clean
        connection.rollback()


def test_books_that_the_provider_changed_in_silence_are_found(shop, sandbox):
    """Each object is planted once, so what comes later is seen beside what came before."""
    for _ in range(3):
        shop.bought()
    for kind, law in {
        "fee_variance": "fee",
        "status_mismatch": "charge_unknown_to_us",
        "missing_in_our_system_refund": "refund_unknown_to_us",
        "status_mismatch_refund": "refund_status",
        "duplicate_charge": "kept_money",
        "missing_in_stripe": "capture_without_a_charge",
    }.items():
        before = audit(database_url(), sandbox.url)
        sandbox.control("POST", "plant", {"kind": kind})
        after = audit(database_url(), sandbox.url)
        assert law in {finding.code for finding in set(after.findings) - set(before.findings)}, f"{kind}\n{after}"
        assert after.cents_off["usd"] > before.cents_off.get("usd", 0), kind


def test_a_cent_is_a_cent(shop, sandbox):
    theirs = read_theirs(sandbox.url)
    changed = deepcopy(theirs)
    refund = next(iter(changed.refunds.values()))
    refund["amount"] += 1
    with psycopg.connect(database_url(), row_factory=namedtuple_row) as connection:
        ours = read_ours(connection)
    assert judge(ours, theirs, slack_s=30).cents_off == {}
    assert judge(ours, changed, slack_s=30).cents_off == {"usd": 2}  # its row, and its entry


def test_accepted_checkouts_are_there_once_and_under_their_keys(shop):
    key = str(uuid4())
    order = shop.checkout(key=key).json()["order"]["number"]
    url = database_url()
    assert audit_accepted(url, [Accepted(key, order)], refused=["never used"]) == ()
    codes = {
        "accepted_order_missing": audit_accepted(
            url, [Accepted(key, order[:-1] + ("y" if order.endswith("z") else "z"))]
        ),
        "key_made_other_orders": audit_accepted(url, [Accepted("lost", order)]),
        "refused_checkout_made_an_order": audit_accepted(url, [], refused=[key]),
        "promise_broken": audit_accepted(url, [], statuses={order: "shipped"}),
        "accepted_refund_missing": audit_accepted(url, [], refunds=["ref_none"]),
    }
    for code, findings in codes.items():
        assert [finding.code for finding in findings] == [code]
