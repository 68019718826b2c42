import pytest
import requests

DAY_S = 86400


def advance(shop, days: int) -> None:
    shop.sandbox.control("POST", "clock", {"advance_s": days * DAY_S})


def pay_out(shop, **body):
    return shop.sandbox.control("POST", "payouts", body)["payouts"]


def decide(shop, payout, status: str):
    return shop.sandbox.control("POST", "payouts/outcome", {"payout": payout["id"], "status": status})


def rows_of(shop, payout):
    return list(shop.v1.balance_transactions.list({"payout": payout["id"], "limit": 2}).auto_paging_iter())


def test_a_payout_collects_what_is_available_and_its_rows_add_up(shop):
    early = shop.pay(2500)
    shop.refund(early, 400)
    assert pay_out(shop) == []  # nothing is available yet
    advance(shop, 2)
    shop.pay(9900)  # still pending
    shop.pay(800, "eur")
    (payout,) = pay_out(shop)

    assert (payout["amount"], payout["currency"], payout["status"], payout["automatic"]) == (
        2500 - 103 - 400,
        "usd",
        "in_transit",
        True,
    )
    assert payout["reconciliation_status"] == "completed"
    rows = rows_of(shop, payout)
    assert sum(row.net for row in rows) == 0
    assert sum(row.net for row in rows if row.source != payout["id"]) == payout["amount"]
    assert len(rows) == 3
    assert shop.event_types()[-2:] == ["payout.created", "payout.reconciliation_completed"]
    assert pay_out(shop) == []  # a row is paid out once
    assert shop.sandbox.books()["balance"]["usd"] == 9900 - 317


def test_a_payout_arrives(shop):
    shop.pay(2500)
    (payout,) = pay_out(shop, include_pending=True)
    assert decide(shop, payout, "paid")["status"] == "paid"
    assert shop.event_types()[-1] == "payout.paid"
    assert shop.v1.payouts.list({"status": "paid"}).data[0].id == payout["id"]


@pytest.mark.parametrize("paid_first", [False, True])
def test_a_payout_that_fails_comes_back_and_goes_out_with_the_next(shop, paid_first: bool):
    shop.pay(2500)
    (payout,) = pay_out(shop, include_pending=True)
    if paid_first:
        decide(shop, payout, "paid")
    failed = decide(shop, payout, "failed")
    assert (failed["status"], failed["failure_code"]) == ("failed", "account_closed")
    row = shop.v1.balance_transactions.retrieve(failed["failure_balance_transaction"])
    assert (row.net, row.type, row.reporting_category) == (payout["amount"], "payout_failure", "payout_reversal")
    assert shop.event_types()[-1] == "payout.failed"
    (again,) = pay_out(shop, include_pending=True)
    assert again["amount"] == payout["amount"]
    answer = requests.post(
        f"{shop.sandbox.url}/_sandbox/payouts/outcome", json={"payout": payout["id"], "status": "paid"}, timeout=10
    )
    assert answer.status_code == 400


def test_daily_payouts_follow_the_clock(shop):
    shop.pay(2500)
    advance(shop, 3)
    assert shop.v1.payouts.list().data == []  # only when asked for, until the schedule says otherwise
    shop.sandbox.control("POST", "payout_schedule", {"interval": "daily"})
    shop.pay(1000)
    advance(shop, 1)
    (first,) = shop.v1.payouts.list().data
    assert (first.amount, first.status) == (2500 - 103, "in_transit")
    advance(shop, 2)
    second, first = shop.v1.payouts.list().data
    assert (first.status, second.amount, second.status) == ("paid", 1000 - 59, "in_transit")
    assert second.arrival_date == second.created + 2 * DAY_S


def test_a_currency_in_the_red_is_not_paid_out(shop):
    intent = shop.pay(2500)
    (payout,) = pay_out(shop, include_pending=True)
    shop.sandbox.control("POST", "disputes", {"payment_intent": intent.id})
    shop.pay(1000)
    assert pay_out(shop, include_pending=True) == []
    assert shop.v1.payouts.retrieve(payout["id"]).amount == 2397


def test_what_a_currency_owes_is_taken_from_our_bank_where_that_is_asked_for(shop):
    """All that was earned is paid out, then 4.00 are given back."""
    intent = shop.pay(2500)
    pay_out(shop, include_pending=True)
    shop.refund(intent, 400)
    assert pay_out(shop, include_pending=True) == []
    (debit,) = pay_out(shop, include_pending=True, debit_negative_balances=True)
    assert (debit["amount"], debit["status"], debit["automatic"]) == (-400, "in_transit", True)
    assert [(row.amount, row.type) for row in rows_of(shop, debit)] == [(400, "payout"), (-400, "refund")]
    assert shop.sandbox.books()["balance"]["usd"] == 0
    assert decide(shop, debit, "paid")["trace_id"]["value"]

    failed = decide(shop, debit, "failed")
    assert failed["failure_code"] == "debit_not_authorized"
    row = shop.v1.balance_transactions.retrieve(failed["failure_balance_transaction"])
    assert (row.net, row.reporting_category) == (-400, "payout_reversal")
    shop.pay(1000)  # 9.41 more, of which the next payout keeps what is owed
    (next_one,) = pay_out(shop, include_pending=True)
    assert next_one["amount"] == 1000 - 59 - 400
