import pytest
import stripe

from tests.sandbox.conftest import eventually


def test_refunds_give_back_the_amount_but_not_the_fee(shop):
    intent = shop.pay(2500)
    first = shop.refund(intent, 500, reason="requested_by_customer", expand=["balance_transaction", "charge"])
    assert (first.status, first.amount, first.reason) == ("succeeded", 500, "requested_by_customer")
    row = first.balance_transaction
    assert (row.amount, row.fee, row.net, row.type, row.reporting_category) == (-500, 0, -500, "refund", "refund")
    assert (row.source, row.fee_details) == (first.id, [])
    assert (first.charge.amount_refunded, first.charge.refunded) == (500, False)

    rest = shop.v1.refunds.create({"charge": first.charge.id})

    assert rest.amount == 2000
    charge = shop.charge_of(intent)
    assert (charge.amount_refunded, charge.refunded) == (2500, True)
    assert [r.id for r in charge.refunds.data] == [rest.id, first.id]
    assert shop.event_types()[-2:] == ["refund.created", "charge.refunded"]
    assert [r.id for r in shop.v1.refunds.list({"payment_intent": intent.id}).data] == [rest.id, first.id]
    books = shop.sandbox.books()
    assert books == {
        "charges": 1,
        "captured": {"usd": 2500},
        "refunded": {"usd": 2500},
        "fees": {"usd": 103},
        "balance": {"usd": -103},
        "idempotent_replays": 0,
    }


def test_over_refunds_are_refused(shop):
    intent = shop.pay(2500)
    with pytest.raises(stripe.InvalidRequestError, match="greater than charge amount") as refusal:
        shop.refund(intent, 2501)
    assert refusal.value.param == "amount"
    shop.refund(intent, 2000)
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded amount"):
        shop.refund(intent, 501)
    shop.refund(intent, 500)
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        shop.refund(intent, 1)
    assert refusal.value.code == "charge_already_refunded"
    assert shop.sandbox.books()["refunded"] == {"usd": 2500}


def test_what_was_not_charged_cannot_be_refunded(shared_shop):
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        shared_shop.refund(shared_shop.open())
    assert refusal.value.code == "charge_not_refundable"
    for params in ({}, {"payment_intent": "pi_none"}, {"payment_intent": "pi_1", "charge": "ch_1"}):
        with pytest.raises(stripe.InvalidRequestError):
            shared_shop.v1.refunds.create(params)


def test_a_pending_refund_succeeds_later(shop):
    intent = shop.pay(card="pm_card_pendingRefund")
    refund = shop.refund(intent)
    assert refund.status == "pending"
    eventually(lambda: shop.v1.refunds.retrieve(refund.id).status == "succeeded")
    assert shop.event_types()[-1] == "refund.updated"


def test_a_succeeded_refund_can_still_fail_and_the_money_comes_back(shop):
    intent = shop.pay(2500, card="pm_card_refundFail")
    refund = shop.refund(intent)
    assert refund.status == "succeeded"
    eventually(lambda: shop.v1.refunds.retrieve(refund.id).status == "failed")
    failed = shop.v1.refunds.retrieve(refund.id, {"expand": ["failure_balance_transaction"]})
    row = failed.failure_balance_transaction
    assert (row.net, row.type, row.source) == (2500, "refund_failure", refund.id)
    assert failed.failure_reason
    charge = shop.charge_of(intent)
    assert (charge.amount_refunded, charge.refunded) == (0, False)
    assert "refund.failed" in shop.event_types()
    assert shop.sandbox.books()["balance"] == {"usd": 2500 - 103}


def test_balance_transactions_can_be_found_as_reconciliation_needs(shop):
    paid = [shop.pay(1000 + n) for n in range(5)]
    euros = shop.pay(900, "eur")
    refund = shop.refund(paid[0], 100)
    list_ = shop.v1.balance_transactions.list

    rows = list_({"limit": 100, "expand": ["data.source"]}).data
    assert [row.source.id for row in rows] == [refund.id, euros.latest_charge, *[p.latest_charge for p in paid[::-1]]]
    assert all(row.net == row.amount - row.fee == row.amount - sum(d.amount for d in row.fee_details) for row in rows)
    assert [row.currency for row in list_({"currency": "eur"}).data] == ["eur"]
    assert [row.source for row in list_({"type": "refund"}).data] == [refund.id]
    assert [row.amount for row in list_({"source": paid[2].latest_charge}).data] == [1002]
    assert list_({"payout": "po_1"}).data == []
    assert [row.id for row in list_({"limit": 2}).auto_paging_iter()] == [row.id for row in rows]
    day = rows[0].created
    shop.sandbox.control("POST", "clock", {"advance_s": 86400})
    later = shop.pay()
    assert [row.source for row in list_({"created": {"gt": day + 3600}}).data] == [later.latest_charge]
    assert len(list_({"created": {"gte": rows[-1].created, "lt": day + 3600}}).data) == 7
    assert list_({"limit": 1}).data[0].description is None


def test_money_is_pending_for_two_days_and_the_balance_is_the_sum_of_the_rows(shop):
    shop.pay(2500)
    shop.refund(shop.pay(1000), 400)
    shop.pay(5000, "jpy")

    def shares() -> list[dict[str, int]]:
        balance = shop.v1.balance.retrieve()
        return [{share.currency: share.amount for share in part} for part in (balance.available, balance.pending)]

    total = {"usd": 2500 - 103 + 1000 - 59 - 400, "jpy": 5000 - 175}
    assert shares() == [{"usd": 0, "jpy": 0}, total]
    assert {row.status for row in shop.v1.balance_transactions.list().data} == {"pending"}
    shop.sandbox.control("POST", "clock", {"advance_s": 2 * 86400})
    assert shares() == [total, {"usd": 0, "jpy": 0}]
    assert {row.status for row in shop.v1.balance_transactions.list().data} == {"available"}
    assert shop.sandbox.books()["balance"] == total


def test_the_balance_transaction_may_come_later_with_charge_updated(start):
    shop = start(settle_after_s=0.5)
    intent = shop.pay(expand=["latest_charge"])
    assert intent.latest_charge.balance_transaction is None
    eventually(lambda: shop.charge_of(intent).balance_transaction)
    updated = shop.v1.events.list({"type": "charge.updated"}).data[0]
    assert updated.data.previous_attributes.to_dict() == {"balance_transaction": None}
    assert updated.data.object.balance_transaction == shop.charge_of(intent).balance_transaction
    assert shop.pay(capture_method="automatic", expand=["latest_charge"]).latest_charge.balance_transaction


def test_how_long_charges_wait_for_their_balance_transaction_can_be_changed_while_it_runs(shop):
    assert shop.sandbox.control("POST", "settle_after", {"milliseconds": 300}) == {"milliseconds": 300}
    intent = shop.pay()
    assert shop.charge_of(intent).balance_transaction is None
    eventually(lambda: shop.charge_of(intent).balance_transaction)
    assert shop.event_types()[-1] == "charge.updated"
    shop.sandbox.control("POST", "settle_after", {"milliseconds": 0})
    assert shop.charge_of(shop.pay()).balance_transaction


def test_a_settlement_that_was_due_survives_a_kill(start):
    shop = start(settle_after_s=0.5)
    intent = shop.pay()
    shop.sandbox.kill()
    shop.sandbox.restart()
    eventually(lambda: shop.charge_of(intent).balance_transaction)


def test_events_can_be_listed_by_type_and_time(shop):
    intent = shop.pay()
    shop.refund(intent)
    list_ = shop.v1.events.list
    assert [e.data.object.id for e in list_({"type": "payment_intent.succeeded"}).data] == [intent.id]
    assert {e.type for e in list_({"types": ["refund.created", "charge.succeeded"]}).data} == {
        "refund.created",
        "charge.succeeded",
    }
    assert {e.type for e in list_({"type": "charge.*"}).data} == {"charge.succeeded", "charge.refunded"}
    assert list_({"created": {"gt": list_().data[0].created}}).data == []
    newest = list_({"limit": 1}).data[0]
    assert shop.v1.events.retrieve(newest.id).type == newest.type == "charge.refunded"
    assert newest.data.previous_attributes.to_dict() == {"amount_refunded": 0, "refunded": False}
    assert newest.request.id.startswith("req_")
    assert newest.api_version == stripe.api_version
