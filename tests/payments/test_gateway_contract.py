"""What every payment provider must promise, asked of each that we have: Stripe by its sandbox, and the clerk on paper."""

import inspect
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import uuid4

import pytest
import requests
import stripe as sdk

from payments import gateway
from payments.errors import ProviderBusy, ProviderRefused, ProviderUnsure, SignatureInvalid
from payments.gateway import Provider
from payments.providers import stripe
from payments.types import Intent, ProviderEvent, ProviderRefund
from tests.payments import paper

PROVIDERS: list[Provider] = [stripe, paper]  # mypy holds each to the signatures
VERBS = [name for name, one in vars(Provider).items() if inspect.isfunction(one) and not name.startswith("_")]
PATIENCE_S = 10


@dataclass
class Rig:
    """A provider, and what its tests can do to it."""

    provider: Provider
    good: str  # payment methods: one that is taken, one that is not, one whose refunds come back later
    declined: str
    comes_back: str
    pay: Callable[[Intent], object]  # the customer, in the browser
    fail: Callable[[str], object]  # the next asking: "busy", "before" or "after" the effect
    bring_back: Callable[[ProviderRefund], object]  # the refund comes back, if it does not by itself
    sign: Callable[[ProviderEvent], tuple[bytes, dict[str, str]]]
    dispute: Callable[[Intent], str]  # the customer's bank takes it back: the dispute's id
    pay_out: Callable[[], str]  # all there is, to our bank: the payout's id

    def create(self, number: str = "", *, amount: int = 1500, method: str = "", currency: str = "usd") -> Intent:
        return self.provider.create_intent(
            number=number or new_number(),
            amount_minor=amount,
            currency=currency,
            metadata={"payment": number, "order": "ord_1"},
            payment_method=method,
            confirm=bool(method),
        )

    def refund(self, intent: Intent, number: str = "", amount: int = 500) -> ProviderRefund:
        return self.provider.create_refund(
            number=number or new_number(),
            payment_intent=intent.id,
            amount_minor=amount,
            metadata={"refund": number},
        )


def new_number() -> str:
    return f"pay_{uuid4().hex}"


def a_moment_ago() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=1)


@pytest.fixture
def on_paper() -> Rig:
    paper.open_a_new_book()
    return Rig(
        provider=paper,
        good=paper.NOTE,
        declined=paper.TORN_NOTE,
        comes_back=paper.NOTE,
        pay=lambda intent: paper.pay(intent.id),
        fail=paper.fail_next,
        bring_back=lambda refund: paper.bring_back(refund.id),
        sign=paper.webhook_of,
        dispute=lambda intent: paper.dispute(intent.id).id,
        pay_out=lambda: paper.carry_to_the_bank().id,
    )


@pytest.fixture
def at_stripe(sandbox, settings) -> Rig:
    settings.PROVIDER_READ_TIMEOUT_S = 1
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_sandbox"]
    sandbox.control("POST", "webhooks", {"mode": "drop"})

    def fail(kind: str) -> None:
        kinds = {"busy": "rate_limit", "before": "timeout_before", "after": "timeout_after"}
        sandbox.control("POST", "faults", {"match": "POST /v1/", "kind": kinds[kind], "times": 1})

    def pay(intent: Intent) -> None:
        requests.post(
            f"{sandbox.url}/v1/payment_intents/{intent.id}/confirm",
            data={"client_secret": intent.client_secret, "payment_method": "pm_card_visa"},
            headers={"Authorization": "Bearer pk_test_sandbox"},
            timeout=10,
        ).raise_for_status()

    def sign(event: ProviderEvent) -> tuple[bytes, dict[str, str]]:
        row = next(one for one in stripe._listing("events", {}) if one["id"] == event.id)
        body, stamp = json.dumps(row), int(time.time())
        signature = sdk.WebhookSignature._compute_signature(f"{stamp}.{body}", "whsec_sandbox")
        return body.encode(), {"Stripe-Signature": f"t={stamp},v1={signature}"}

    def pay_out() -> str:
        (made,) = sandbox.control("POST", "payouts", {"include_pending": True, "currency": "sek"})["payouts"]
        return str(made["id"])

    return Rig(
        provider=stripe,
        good="pm_card_visa",
        declined="pm_card_chargeDeclined",
        comes_back="pm_card_refundFail",
        pay=pay,
        fail=fail,
        bring_back=lambda refund: None,
        sign=sign,
        dispute=lambda intent: sandbox.control("POST", "disputes", {"payment_intent": intent.id})["id"],
        pay_out=pay_out,
    )


@pytest.fixture(params=["at_stripe", "on_paper"])
def rig(request):
    one: Rig = request.getfixturevalue(request.param)
    yield one
    if request.param == "at_stripe":
        request.getfixturevalue("sandbox").control("DELETE", "faults")


# --- The shape --------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda one: one.NAME)
def test_a_provider_has_every_verb_with_its_signature(provider):
    for verb in VERBS:
        promised = list(inspect.signature(getattr(Provider, verb)).parameters.values())[1:]
        kept = list(inspect.signature(getattr(provider, verb)).parameters.values())
        assert [(one.name, one.kind, one.default) for one in kept] == [
            (one.name, one.kind, one.default) for one in promised
        ], verb


def test_the_gateway_offers_every_verb_of_the_one_that_the_setting_names():
    for verb in VERBS:
        assert getattr(gateway, verb) is getattr(stripe, verb)
    assert gateway.NAME == "stripe"


# --- Payments ---------------------------------------------------------------------------------------


def test_a_payment_is_opened_once_per_number(rig):
    number = new_number()
    first, second = rig.create(number), rig.create(number)
    assert first.id == second.id
    assert first.id.startswith("pi_")
    assert (first.status, first.amount_minor, first.currency) == ("requires_payment_method", 1500, "usd")
    assert (first.charge, first.failure, first.amount_received_minor) == (None, None, 0)
    assert first.metadata == {"payment": number, "order": "ord_1"}
    assert first.livemode == rig.provider.livemode() is False


def test_the_secret_that_the_browser_confirms_with_is_told_and_not_shown(rig):
    intent = rig.create()
    assert intent.client_secret
    assert intent.client_secret not in repr(intent)


def test_a_confirmed_payment_is_captured_and_booked(rig):
    number = new_number()
    intent = rig.provider.retrieve_intent(rig.create(number, method=rig.good).id)
    assert (intent.status, intent.amount_received_minor, intent.failure) == ("succeeded", 1500, None)
    assert intent.charge is not None
    assert intent.charge.id.startswith("ch_")
    assert (intent.charge.amount_captured_minor, intent.charge.disputed) == (1500, False)
    assert rig.provider.retrieve_charge_intent(intent.charge.id) == intent.id
    (booked,) = rig.provider.list_balance_transactions(source=intent.charge.id)
    assert (booked.source, booked.payment_intent, booked.reporting_category) == (intent.charge.id, intent.id, "charge")
    assert booked.amount_minor == 1500
    assert booked.net_minor == booked.amount_minor - booked.fee_minor
    assert booked.metadata["payment"] == number


def test_what_the_browser_confirmed_is_read_like_any_other(rig):
    intent = rig.create()
    rig.pay(intent)
    assert rig.provider.retrieve_intent(intent.id).status == "succeeded"


def test_a_decline_is_an_answer_and_the_payment_can_still_be_cancelled(rig):
    intent = rig.create(method=rig.declined)
    assert (intent.status, intent.failure.code) == ("requires_payment_method", "card_declined")
    assert intent.failure.message
    assert rig.provider.cancel_intent(intent.id).status == "canceled"


def test_a_cancelled_payment_stays_cancelled(rig):
    intent = rig.create()
    rig.provider.cancel_intent(intent.id)
    with pytest.raises(ProviderRefused):
        rig.provider.cancel_intent(intent.id)
    assert rig.provider.retrieve_intent(intent.id).status == "canceled"


def test_a_payment_that_was_made_cannot_be_cancelled(rig):
    intent = rig.create(method=rig.good)
    with pytest.raises(ProviderRefused):
        rig.provider.cancel_intent(intent.id)
    assert rig.provider.retrieve_intent(intent.id).status == "succeeded"


@pytest.mark.parametrize("verb", ["retrieve_dispute", "retrieve_payout"])
def test_a_dispute_or_payout_that_does_not_exist_is_refused(rig, verb):
    with pytest.raises(ProviderRefused):
        getattr(rig.provider, verb)("dp_none")


def test_what_does_not_exist_is_refused(rig):
    with pytest.raises(ProviderRefused):
        rig.provider.retrieve_intent("pi_nobodys")
    with pytest.raises(ProviderRefused):
        rig.provider.retrieve_refund("re_nobodys")


def test_a_payment_is_found_by_our_number_at_once(rig):
    number = new_number()
    made = rig.create(number, method=rig.good)
    found = rig.provider.find_intent(number, since=a_moment_ago())
    assert (found.id, found.status) == (made.id, "succeeded")
    assert rig.provider.find_intent(new_number(), since=a_moment_ago()) is None


# --- Doubt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("when", "made"), [("before", False), ("after", True)])
def test_an_answer_that_never_came_is_doubt_and_the_same_number_makes_one_payment(rig, when, made):
    number = new_number()
    rig.fail(when)
    with pytest.raises(ProviderUnsure):
        rig.create(number, method=rig.good)
    found = rig.provider.find_intent(number, since=a_moment_ago())
    assert (found is not None) == made
    again = rig.create(number, method=rig.good)
    assert found is None or found.id == again.id
    assert len(list(rig.provider.list_balance_transactions(source=again.charge.id))) == 1


def test_a_provider_that_is_busy_did_not_begin(rig):
    number = new_number()
    rig.fail("busy")
    with pytest.raises(ProviderBusy):
        rig.create(number)
    assert rig.provider.find_intent(number, since=a_moment_ago()) is None
    assert rig.create(number).status == "requires_payment_method"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_refund_in_doubt_is_made_once(rig, when):
    intent, number = rig.create(method=rig.good), new_number()
    rig.fail(when)
    with pytest.raises(ProviderUnsure):
        rig.refund(intent, number)
    assert (rig.provider.find_refund(number, payment_intent=intent.id) is not None) == (when == "after")
    rig.refund(intent, number)
    with pytest.raises(ProviderRefused):
        rig.refund(intent, amount=1001)  # 500 of 1500 are gone, once


# --- Refunds ----------------------------------------------------------------------------------------


def test_a_refund_is_made_once_per_number_and_never_of_more_than_was_taken(rig):
    intent, number = rig.create(method=rig.good), new_number()
    first, second = rig.refund(intent, number), rig.refund(intent, number)
    assert first.id == second.id
    assert first.id.startswith("re_")
    assert (first.amount_minor, first.currency, first.payment_intent) == (500, "usd", intent.id)
    assert rig.provider.find_refund(number, payment_intent=intent.id).id == first.id
    assert rig.provider.find_refund(new_number(), payment_intent=intent.id) is None
    with pytest.raises(ProviderRefused):
        rig.refund(intent, amount=1001)
    (booked,) = rig.provider.list_balance_transactions(source=first.id)
    assert (booked.amount_minor, booked.reporting_category) == (-500, "refund")


def test_a_refund_that_succeeded_can_be_read_as_failed_later(rig):
    refund = rig.refund(rig.create(method=rig.comes_back))
    assert refund.status == "succeeded"
    rig.bring_back(refund)
    deadline = time.monotonic() + PATIENCE_S
    while (now := rig.provider.retrieve_refund(refund.id)).status == "succeeded":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert now.status == "failed"
    assert now.failure_reason
    assert sum(row.amount_minor for row in rig.provider.list_balance_transactions(source=refund.id)) == 0


# --- Disputes and payouts ---------------------------------------------------------------------------


def test_a_dispute_names_its_payment_and_tells_what_was_withdrawn(rig):
    intent = rig.create(method=rig.good)
    dispute = rig.provider.retrieve_dispute(rig.dispute(intent))
    assert dispute.id.startswith(("dp_", "du_"))
    assert (dispute.status, dispute.amount_minor, dispute.currency) == ("needs_response", 1500, "usd")
    assert (dispute.payment_intent, dispute.refundable) == (intent.id, False)
    (booked,) = dispute.bookings
    assert (booked.amount_minor, booked.source) == (-1500, dispute.id)
    assert booked.net_minor == booked.amount_minor - booked.fee_minor


def test_what_a_payout_is_made_of_adds_up(rig):
    rig.create(method=rig.good, currency="sek")
    rig.create(method=rig.good, currency="sek", amount=2000)
    payout = rig.provider.retrieve_payout(rig.pay_out())
    assert payout.id.startswith("po_")
    assert (payout.currency, payout.automatic, payout.listable) == ("sek", True, True)
    rows = list(rig.provider.list_payout_transactions(payout.id))
    assert sum(row.net_minor for row in rows) == 0
    assert sum(row.net_minor for row in rows if row.source != payout.id) == payout.amount_minor


# --- Books and news ---------------------------------------------------------------------------------


def test_bookings_of_a_time_come_newest_first_and_no_others(rig):
    since = datetime.now(UTC) - timedelta(seconds=2)
    intents = [rig.create(method=rig.good) for _ in range(3)]
    rows = list(rig.provider.list_balance_transactions(since=since, until=datetime.now(UTC) + timedelta(seconds=2)))
    ours = [row.payment_intent for row in rows if row.payment_intent in {intent.id for intent in intents}]
    assert ours == [intent.id for intent in reversed(intents)]
    long_ago = since - timedelta(days=400)
    assert list(rig.provider.list_balance_transactions(since=long_ago, until=long_ago + timedelta(days=1))) == []


def test_a_listing_of_bookings_goes_on_behind_a_row(rig):
    for _ in range(3):
        rig.create(method=rig.good)
    rows = [row.id for row in islice(rig.provider.list_balance_transactions(), 4)]
    assert [row.id for row in islice(rig.provider.list_balance_transactions(after=rows[0]), 2)] == rows[1:3]


def test_the_balance_is_what_the_bookings_add_up_to(rig):
    rig.create(method=rig.good)
    held = {part.currency: part.total_minor for part in rig.provider.retrieve_balance() if part.total_minor}
    added: dict[str, int] = {}
    for row in rig.provider.list_balance_transactions():
        added[row.currency] = added.get(row.currency, 0) + row.net_minor
    assert held == {currency: minor for currency, minor in added.items() if minor}


def test_news_name_what_changed_newest_first(rig):
    intent = rig.create(method=rig.good)
    refund = rig.refund(intent)
    news = list(islice(rig.provider.list_events(since=a_moment_ago()), 50))
    assert [one.created_at for one in news] == sorted((one.created_at for one in news), reverse=True)
    assert any((one.type, one.object_id) == ("payment_intent.succeeded", intent.id) for one in news)
    told = next(one for one in news if one.object_id == refund.id)
    assert told.intent_id == intent.id
    earlier = rig.provider.list_events(since=a_moment_ago(), until=told.created_at)
    assert all(one.created_at < told.created_at for one in earlier)


def test_news_are_believed_only_if_they_are_signed(rig):
    intent = rig.create(method=rig.good)
    event = next(one for one in rig.provider.list_events(since=a_moment_ago()) if one.intent_id == intent.id)
    body, headers = rig.sign(event)
    assert rig.provider.parse_webhook(body, headers) == event
    with pytest.raises(SignatureInvalid):
        rig.provider.parse_webhook(body, {})
    with pytest.raises(SignatureInvalid):
        rig.provider.parse_webhook(body + b" ", headers)


def test_it_answers_when_it_is_asked_whether_it_is_there(rig):
    rig.provider.ping(timeout_s=2)
