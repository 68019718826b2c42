import pytest
import requests
import stripe

from tests.sandbox.conftest import ORDER, eventually

KINDS = [
    "missing_in_stripe",
    "missing_in_our_system",
    "amount_mismatch",
    "status_mismatch",
    "missing_in_stripe_refund",
    "missing_in_our_system_refund",
    "amount_mismatch_refund",
    "status_mismatch_refund",
    "currency_mismatch",
    "duplicate_charge",
    "fee_variance",
]


def plant(shop, kind: str, count: int = 1):
    return requests.post(f"{shop.sandbox.url}/_sandbox/plant", json={"kind": kind, "count": count}, timeout=10)


def planted(shop, kind: str) -> str:
    answer = plant(shop, kind)
    assert answer.status_code == 200, answer.text
    (object_id,) = answer.json()["ids"]
    return str(object_id)


def rows(shop) -> dict[str, stripe.BalanceTransaction]:
    return {row.source: row for row in shop.v1.balance_transactions.list({"limit": 100}).auto_paging_iter()}


def assert_consistent(shop) -> None:
    """The books are right in themselves: every row, the balance, and each charge with its refunds."""
    sums: dict[str, int] = {}
    for row in shop.v1.balance_transactions.list({"limit": 100}).auto_paging_iter():
        assert row.net == row.amount - row.fee
        assert row.fee == sum(detail.amount for detail in row.fee_details)
        sums[row.currency] = sums.get(row.currency, 0) + row.net
    assert shop.sandbox.books()["balance"] == sums
    balance = shop.v1.balance.retrieve()
    shown: dict[str, int] = {}
    for share in [*balance.available, *balance.pending]:
        shown[share.currency] = shown.get(share.currency, 0) + share.amount
    assert shown == sums
    for charge in shop.v1.charges.list({"limit": 100}).data:
        given_back = sum(r.amount for r in charge.refunds.data if r.status in {"succeeded", "pending"})
        assert charge.amount_refunded == given_back
        assert charge.refunded == (charge.status == "succeeded" and given_back >= charge.amount_captured)


@pytest.fixture
def traded(shop):
    """A morning of trading: paid, refunded, cancelled and abandoned."""
    number = iter(range(1000))

    def metadata() -> dict[str, str]:
        n = next(number)
        return {**ORDER, "payment": f"pay_{n}", "order": f"ord_{n}"}

    shop.paid = [shop.pay(1000 + 7 * n, metadata=metadata()) for n in range(6)]
    shop.refunded = [shop.pay(2000 + n, metadata=metadata()) for n in range(4)]
    for n, intent in enumerate(shop.refunded):
        shop.refund(intent, None if n % 2 else 700)
    shop.cancelled = [shop.open(3000, metadata=metadata()) for _ in range(2)]
    for intent in shop.cancelled:
        shop.v1.payment_intents.cancel(intent.id)
    shop.abandoned = shop.open(4000, metadata=metadata())
    shop.foreign = shop.pay(5000, metadata={"theirs": "yes"})
    return shop


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_difference_is_silent_and_leaves_the_books_consistent(shared_webhook_shop, shared_inbox, kind):
    shop, inbox = shared_webhook_shop, shared_inbox
    shop.sandbox.control("POST", "reset")
    for n in range(2):
        shop.pay(1000 + n)
        shop.refund(shop.pay(2000 + n), 500)
        shop.v1.payment_intents.cancel(shop.open().id)
    eventually(lambda: shop.sandbox.control("GET", "webhooks")["waiting"] == 0)
    events, webhooks, before = shop.event_types(), len(inbox.received), shop.sandbox.books()
    assert_consistent(shop)

    answer = plant(shop, kind, 2).json()

    assert len(set(answer["ids"])) == 2
    assert shop.sandbox.books() != before
    assert_consistent(shop)
    assert shop.event_types() == events
    shop.open()
    eventually(lambda: len(inbox.received) > webhooks)
    assert len(inbox.received) == webhooks + 1


def test_missing_in_stripe(traded):
    charge = planted(traded, "missing_in_stripe")
    assert charge == traded.paid[-1].latest_charge
    with pytest.raises(stripe.InvalidRequestError):
        traded.v1.charges.retrieve(charge)
    assert charge not in rows(traded)
    intent = traded.v1.payment_intents.retrieve(traded.paid[-1].id)
    assert (intent.status, intent.latest_charge, intent.amount_received) == ("requires_payment_method", None, 0)


def test_missing_in_our_system_belongs_to_an_open_order_first_but_has_no_payment_number(traded):
    charge = traded.v1.charges.retrieve(planted(traded, "missing_in_our_system"))
    assert charge.metadata.to_dict() == {"order": "ord_12", "merchant": "mer_1", "instance": "test"}
    assert (charge.amount, charge.status) == (4000, "succeeded")
    assert rows(traded)[charge.id].amount == 4000
    # The next ones belong to other orders.
    others = plant(traded, "missing_in_our_system", 2).json()["objects"]
    assert [other["metadata"]["order"] for other in others] == ["ord_11", "ord_10"]


def test_missing_in_our_system_is_possible_in_empty_books(shop):
    assert shop.v1.charges.retrieve(planted(shop, "missing_in_our_system")).metadata.to_dict() == {}


def test_amount_mismatch(traded):
    charge = traded.v1.charges.retrieve(planted(traded, "amount_mismatch"))
    row = rows(traded)[charge.id]
    intent = traded.v1.payment_intents.retrieve(charge.payment_intent)
    assert 0 < abs(charge.amount - intent.amount) < 10
    assert charge.amount == charge.amount_captured == row.amount == intent.amount_received


def test_status_mismatch(traded):
    charge = traded.v1.charges.retrieve(planted(traded, "status_mismatch"))
    assert charge.payment_intent == traded.cancelled[-1].id
    intent = traded.v1.payment_intents.retrieve(charge.payment_intent)
    assert (intent.status, intent.latest_charge, intent.canceled_at) == ("succeeded", charge.id, None)
    assert charge.metadata.payment == intent.metadata.payment
    assert rows(traded)[charge.id].amount == 3000


def test_missing_in_stripe_refund(traded):
    refund = planted(traded, "missing_in_stripe_refund")
    with pytest.raises(stripe.InvalidRequestError):
        traded.v1.refunds.retrieve(refund)
    assert refund not in rows(traded)
    assert traded.charge_of(traded.refunded[-1]).amount_refunded == 0


def test_missing_in_our_system_refund(traded):
    refund = traded.v1.refunds.retrieve(planted(traded, "missing_in_our_system_refund"))
    assert (refund.status, refund.metadata.to_dict()) == ("succeeded", {})
    assert 0 < refund.amount < traded.v1.charges.retrieve(refund.charge).amount
    assert rows(traded)[refund.id].amount == -refund.amount


def test_amount_mismatch_refund(traded):
    refund = traded.v1.refunds.retrieve(planted(traded, "amount_mismatch_refund"))
    assert 0 < traded.refunded[-1].amount - refund.amount < 10
    assert rows(traded)[refund.id].amount == -refund.amount


def test_status_mismatch_refund(traded):
    refund = traded.v1.refunds.retrieve(planted(traded, "status_mismatch_refund"))
    assert refund.status == "failed"
    assert refund.failure_balance_transaction
    assert refund.failure_reason
    assert traded.charge_of(traded.refunded[-1]).amount_refunded == 0


def test_currency_mismatch_duplicate_charge_and_fee_variance(traded):
    other = traded.v1.charges.retrieve(planted(traded, "currency_mismatch"))
    assert other.currency == rows(traded)[other.id].currency == "eur"
    double = traded.v1.charges.retrieve(planted(traded, "duplicate_charge"))
    twins = [
        c for c in traded.v1.charges.list({"limit": 100}).data if c.metadata.to_dict() == double.metadata.to_dict()
    ]
    assert len(twins) == 2
    charge = planted(traded, "fee_variance")
    dear = rows(traded)[charge]
    assert dear.fee > (dear.amount * 29 + 500) // 1000 + 30


def test_disputes_payouts_and_rows_of_others(traded):
    """What no webhook tells of, each consistent in itself."""
    dispute = traded.v1.disputes.retrieve(planted(traded, "dispute_unexpected"))
    assert dispute.balance_transactions[0].amount == -dispute.amount
    # Of an untouched charge of ours, a dispute that the shop knows:
    known = requests.post(
        f"{traded.sandbox.url}/_sandbox/disputes", json={"charge": rows_of_ours(traded)[0]}, timeout=10
    ).json()
    assert planted(traded, "dispute_missing") == known["id"]
    assert traded.v1.disputes.retrieve(known["id"]).status == "won"
    stranger = traded.v1.charges.retrieve(planted(traded, "foreign_instance"))
    assert stranger.metadata["instance"] == "another-installation"
    row = traded.v1.balance_transactions.retrieve(planted(traded, "unknown_type"))
    assert row.reporting_category == "tulip_futures"
    payout = traded.v1.payouts.retrieve(planted(traded, "payout_difference"))
    assert payout.amount > 0
    assert plant(traded, "payout_difference").status_code == 409  # nothing is left to pay out
    assert_consistent(traded)


def test_a_balance_that_its_rows_do_not_explain(traded):
    def told() -> dict[str, int]:
        balance = traded.v1.balance.retrieve()
        shares = [*balance.available, *balance.pending]
        return {one.currency: sum(share.amount for share in shares if share.currency == one.currency) for one in shares}

    before, books = told(), traded.sandbox.books()
    assert before == books["balance"]
    answer = plant(traded, "statement_residual").json()
    assert answer["ids"] == ["balance_usd"]
    assert told() == {"usd": before["usd"] + answer["objects"][0]["amount"]} != before
    assert traded.sandbox.books() == books
    assert plant(traded, "statement_residual").status_code == 409  # each currency once


def rows_of_ours(shop) -> list[str]:
    """Untouched charges that the shop made."""
    return [
        charge.id
        for charge in shop.v1.charges.list({"limit": 100}).data
        if charge.status == "succeeded" and charge.metadata.to_dict().get("payment") and not charge.disputed
    ]


def test_each_object_is_planted_at_most_once_and_only_ours(traded):
    seen: set[str] = set()
    # Six paid charges of ours, the foreign one is left alone.
    for kind in ("missing_in_stripe", "amount_mismatch", "fee_variance", "currency_mismatch", "duplicate_charge"):
        seen.add(planted(traded, kind))
    answer = plant(traded, "amount_mismatch", 2)
    assert (answer.status_code, answer.json()["error"]["candidates"]) == (409, 1)
    assert "only 1 candidate" in answer.json()["error"]["message"]
    seen.add(planted(traded, "amount_mismatch"))
    assert len(seen) == 6
    assert traded.foreign.latest_charge not in seen
    assert plant(traded, "amount_mismatch").json()["error"]["candidates"] == 0


def test_a_refused_plant_changes_nothing(traded):
    before = traded.sandbox.books()
    assert plant(traded, "missing_in_stripe", 7).status_code == 409
    assert traded.sandbox.books() == before


def test_planted_differences_survive_a_kill(traded):
    charge = planted(traded, "missing_in_stripe")
    traded.sandbox.kill()
    traded.sandbox.restart()
    with pytest.raises(stripe.InvalidRequestError):
        traded.v1.charges.retrieve(charge)
    assert_consistent(traded)
