import pytest
import requests
import stripe

from tests.sandbox.conftest import error_of, eventually

FEE = 1500


def dispute(shop, intent, **body):
    return shop.sandbox.control("POST", "disputes", {"payment_intent": intent.id, **body})


def decide(shop, opened, status: str):
    return shop.sandbox.control("POST", "disputes/outcome", {"dispute": opened["id"], "status": status})


def rows_of(shop, opened) -> list[tuple[int, int, int, str, str]]:
    """Oldest first: amount, fee, net, type, reporting category."""
    rows = shop.v1.balance_transactions.list({"source": opened["id"]}).data[::-1]
    return [(row.amount, row.fee, row.net, row.type, row.reporting_category) for row in rows]


def test_a_dispute_takes_the_amount_and_a_fee_and_blocks_refunds(shop):
    intent = shop.pay(2500)
    opened = dispute(shop, intent, reason="product_not_received")

    read = shop.v1.disputes.retrieve(opened["id"], {"expand": ["charge"]})
    assert (read.status, read.amount, read.currency, read.reason) == (
        "needs_response",
        2500,
        "usd",
        "product_not_received",
    )
    assert (read.charge.disputed, read.payment_intent, read.is_charge_refundable) == (True, intent.id, False)
    assert read.evidence_details.due_by > read.created
    assert rows_of(shop, opened) == [(-2500, FEE, -2500 - FEE, "adjustment", "dispute")]
    assert [row.id for row in read.balance_transactions] == [
        row.id for row in shop.v1.balance_transactions.list({"source": opened["id"]}).data
    ]
    assert shop.event_types()[-2:] == ["charge.dispute.created", "charge.dispute.funds_withdrawn"]
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        shop.refund(intent, 100)
    assert error_of(refusal).code == "charge_disputed"
    assert shop.sandbox.books()["balance"] == {"usd": 2500 - 103 - 2500 - FEE}


def test_a_dispute_that_is_won_gives_the_amount_back_but_not_the_fee(shop):
    intent = shop.pay(2500)
    opened = dispute(shop, intent)
    decide(shop, opened, "won")
    assert [row[2] for row in rows_of(shop, opened)] == [-2500 - FEE, 2500]
    assert rows_of(shop, opened)[1][4] == "dispute_reversal"
    assert shop.event_types()[-2:] == ["charge.dispute.closed", "charge.dispute.funds_reinstated"]
    assert shop.refund(intent, 100).status == "succeeded"


def test_of_a_dispute_that_is_lost_only_the_rest_can_be_refunded(shop):
    intent = shop.pay(2500)
    opened = dispute(shop, intent, amount=2000)
    decide(shop, opened, "lost")
    assert [row[0] for row in rows_of(shop, opened)] == [-2000]
    assert shop.event_types()[-1] == "charge.dispute.closed"
    with pytest.raises(stripe.InvalidRequestError):
        shop.refund(intent, 501)
    assert shop.refund(intent).amount == 500


def test_an_appeal_can_turn_what_was_lost(shop):
    opened = dispute(shop, shop.pay(2500))
    decide(shop, opened, "lost")
    decide(shop, opened, "won")
    assert [row[0] for row in rows_of(shop, opened)] == [-2500, 2500]


def test_an_inquiry_moves_no_money_and_its_charge_can_be_refunded(shop):
    intent = shop.pay(2500)
    opened = dispute(shop, intent, inquiry=True)
    assert (opened["status"], opened["is_charge_refundable"], opened["balance_transactions"]) == (
        "warning_needs_response",
        True,
        [],
    )
    assert shop.refund(intent, 100).status == "succeeded"
    decide(shop, opened, "warning_closed")
    assert rows_of(shop, opened) == []
    assert "charge.dispute.funds_withdrawn" not in shop.event_types()


def test_an_inquiry_can_become_a_chargeback(shop):
    opened = dispute(shop, shop.pay(2500), inquiry=True)
    escalated = decide(shop, opened, "needs_response")
    assert (escalated["is_charge_refundable"], len(escalated["balance_transactions"])) == (False, 1)
    assert shop.event_types()[-2:] == ["charge.dispute.updated", "charge.dispute.funds_withdrawn"]


@pytest.mark.parametrize(
    ("card", "reason", "status"),
    [
        ("pm_card_createDispute", "fraudulent", "needs_response"),
        ("pm_card_createDisputeProductNotReceived", "product_not_received", "needs_response"),
        ("pm_card_createDisputeInquiry", "general", "warning_needs_response"),
    ],
)
def test_a_test_card_disputes_by_itself(shop, card: str, reason: str, status: str):
    intent = shop.pay(2500, card=card)
    assert intent.status == "succeeded"
    eventually(lambda: shop.v1.disputes.list({"payment_intent": intent.id}).data)
    (found,) = shop.v1.disputes.list({"payment_intent": intent.id}).data
    assert (found.reason, found.status) == (reason, status)


@pytest.mark.parametrize(("words", "status"), [("winning_evidence", "won"), ("losing_evidence", "lost")])
def test_evidence_decides(shop, words: str, status: str):
    opened = dispute(shop, shop.pay(2500))
    kept = shop.v1.disputes.update(opened["id"], {"evidence": {"customer_name": "R. Eader"}, "submit": False})
    assert (kept.status, kept.evidence_details.has_evidence, kept.evidence_details.submission_count) == (
        "needs_response",
        True,
        0,
    )
    answered = shop.v1.disputes.update(opened["id"], {"evidence": {"uncategorized_text": words}})
    assert (answered.status, answered.evidence_details.submission_count) == (status, 1)
    assert answered.evidence.customer_name == "R. Eader"
    with pytest.raises(stripe.InvalidRequestError):
        shop.v1.disputes.update(opened["id"], {"evidence": {"uncategorized_text": words}})


def test_a_merchant_can_give_in(shop):
    opened = dispute(shop, shop.pay(2500))
    assert shop.v1.disputes.close(opened["id"]).status == "lost"


def test_what_makes_no_sense_is_refused(shop):
    unpaid = shop.open()
    paid = shop.pay(2500)
    opened = dispute(shop, paid)
    for call, body in (
        ("disputes", {"payment_intent": unpaid.id}),
        ("disputes", {"payment_intent": paid.id, "amount": 2501}),
        ("disputes", {"payment_intent": paid.id, "reason": "boredom"}),
        ("disputes/outcome", {"dispute": opened["id"], "status": "warning_closed"}),
        ("disputes/outcome", {"dispute": "dp_none", "status": "won"}),
    ):
        answer = requests.post(f"{shop.sandbox.url}/_sandbox/{call}", json=body, timeout=10)
        assert answer.status_code in {400, 404}, (call, body)
        assert answer.json()["error"]["message"]


def test_a_refund_in_the_dashboard_is_told_with_events(shop):
    intent = shop.pay(2500)
    refund = shop.sandbox.control("POST", "refunds", {"payment_intent": intent.id, "amount": 700})
    assert (refund["amount"], refund["status"], refund["metadata"]) == (700, "succeeded", {})
    assert shop.event_types()[-2:] == ["refund.created", "charge.refunded"]
    assert shop.charge_of(intent).amount_refunded == 700


def test_any_refund_can_fail_late(shop):
    refund = shop.refund(shop.pay(2500), 700)
    body = {"refund": refund.id, "status": "failed", "reason": "expired_or_canceled_card"}
    failed = shop.sandbox.control("POST", "refunds/outcome", body)
    assert (failed["status"], failed["failure_reason"]) == ("failed", "expired_or_canceled_card")
    row = shop.v1.balance_transactions.retrieve(failed["failure_balance_transaction"])
    assert (row.net, row.reporting_category, row.source) == (700, "refund_failure", refund.id)
    assert shop.event_types()[-2:] == ["refund.failed", "refund.updated"]
    answer = requests.post(f"{shop.sandbox.url}/_sandbox/refunds/outcome", json=body, timeout=10)
    assert answer.status_code == 400  # once is enough


def test_a_pending_refund_waits_for_the_customer_as_long_as_it_takes(start):
    shop = start(news_after_s=3600)
    refund = shop.refund(shop.pay(card="pm_card_pendingRefund"), 700)
    for status in ("requires_action", "pending", "canceled"):
        shop.sandbox.control("POST", "refunds/outcome", {"refund": refund.id, "status": status})
        assert shop.v1.refunds.retrieve(refund.id).status == status
    assert shop.event_types()[-1] == "refund.updated"
    assert "refund.failed" not in shop.event_types()
