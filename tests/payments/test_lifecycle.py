"""The table of a payment's ends: declines, 3-D Secure, second attempts, two tabs, a success too many, a success too late.

Each case ends in one of three ways, and `fate` fails on anything in between: the order is paid by one payment; or nobody can
pay and no money is kept; or it waits for its customer.
"""

from typing import Any

import pytest
import requests
from django.db.models import Sum
from django.db.models.functions import Now

from durability.models import SagaRun
from orders import services as orders
from orders.models import Order
from payments import gateway
from payments import services as payments
from payments.models import JournalEntry, Payment, PaymentHistory, Posting, Refund
from tests.shop import Shop, settle

DECLINED = "pm_card_chargeDeclined"
SECURE = "pm_card_authenticationRequired"
VISA = "pm_card_visa"


def by_us(card: str) -> dict[str, Any]:
    return {"method": "card", "payment_method": card, "confirm": True}


def browser(sandbox: Any, payment: dict[str, Any], card: str = VISA) -> int:
    """What Stripe.js does; the status that the browser gets."""
    answer = requests.post(
        f"{sandbox.url}/v1/payment_intents/{payment['provider_reference']}/confirm",
        data={"client_secret": payment["client_secret"], "payment_method": card},
        headers={"Authorization": "Bearer pk_test_sandbox"},
        timeout=10,
    )
    return answer.status_code


def bank(sandbox: Any, payment: dict[str, Any], outcome: str) -> None:
    """What the customer does in the bank's window."""
    intent = payment["provider_reference"]
    sandbox.control("POST", "authenticate", {"payment_intent": intent, "outcome": outcome})


def attempt(shop: Shop, order: str, wish: dict[str, Any] | None = None, *, key: str = "second") -> Any:
    return shop.storefront.post(
        f"/api/v1/orders/{order}/payments", wish or {"method": "card"}, format="json", headers={"Idempotency-Key": key}
    )


def expire() -> None:
    Order.objects.filter(status="pending").update(expires_at=Now())
    orders.rearm()
    orders.expire_due()
    settle()


def money_of(kind: str) -> int:
    return Posting.objects.filter(account__kind=kind).aggregate(total=Sum("amount_minor"))["total"] or 0


def fate(shop: Shop, sandbox: Any, order: str) -> str:
    """paid, nothing, or open; with the provider's intents, the stock and the ledger where that says."""
    settle()
    found = shop.order(order)
    intents = {
        one.number: gateway.retrieve_intent(one.provider_reference).status
        for one in Payment.objects.filter(provider_reference__isnull=False)
        if one.provider_reference
    }
    succeeded = [one for one in Payment.objects.all() if one.status == "succeeded"]
    kept_minor = sum(one.captured_minor - one.refunded_minor for one in succeeded)
    assert [one.settling for one in succeeded].count(True) <= 1
    assert money_of("customer") == 0
    assert money_of("refunds_in_flight") == 0
    # The provider holds what our books say, to the cent: captured less refunded less fees.
    assert money_of("provider_clearing") == kept_minor - money_of("fees")
    assert JournalEntry.objects.filter(kind="capture").count() == len(succeeded)
    payable = {number for number, status in intents.items() if status not in ("succeeded", "canceled")}
    if found["status"] == "paid":
        assert (kept_minor, payable, shop.level()) == (1500, set(), (9, 0))
        return "paid"
    if found["status"] == "cancelled":
        assert (kept_minor, payable, shop.level()) == (0, set(), (10, 0))
        return "nothing"
    assert (found["status"], kept_minor, shop.level()) == ("pending", 0, (10, 1))
    assert len(payable) <= 1
    return "open"


@pytest.fixture
def checked_out(shop: Shop) -> dict[str, Any]:
    """An order whose payment waits for the browser: the payment's document."""
    body = shop.checkout().json()
    assert body["payment"]["client_secret"]
    return {**body["payment"], "order": body["order"]["number"]}


# --- The browser confirms ---------------------------------------------------------------------------


def test_the_browser_pays(shop, sandbox, checked_out):
    assert browser(sandbox, checked_out) == 200
    assert fate(shop, sandbox, checked_out["order"]) == "paid"


def test_a_decline_in_the_browser_is_not_the_end(shop, sandbox, checked_out):
    assert browser(sandbox, checked_out, DECLINED) == 402
    assert fate(shop, sandbox, checked_out["order"]) == "open"
    document = shop.order(checked_out["order"])["payments"][0]
    assert (document["status"], document["failure"]["code"]) == ("pending", "card_declined")
    assert browser(sandbox, checked_out, DECLINED) == 402
    assert browser(sandbox, checked_out) == 200
    assert fate(shop, sandbox, checked_out["order"]) == "paid"
    assert "failure" not in shop.order(checked_out["order"])["payments"][0]


def test_3d_secure_in_the_browser(shop, sandbox, checked_out):
    assert browser(sandbox, checked_out, SECURE) == 200
    settle()
    assert shop.order(checked_out["order"])["payments"][0]["status"] == "requires_action"
    bank(sandbox, checked_out, "fail")
    assert fate(shop, sandbox, checked_out["order"]) == "open"
    assert shop.order(checked_out["order"])["payments"][0]["status"] == "pending"
    assert browser(sandbox, checked_out, SECURE) == 200
    bank(sandbox, checked_out, "succeed")
    assert fate(shop, sandbox, checked_out["order"]) == "paid"


def test_3d_secure_and_then_a_decline(shop, sandbox, checked_out):
    browser(sandbox, checked_out, "pm_card_threeDSecureRequiredChargeDeclined")
    bank(sandbox, checked_out, "succeed")
    assert fate(shop, sandbox, checked_out["order"]) == "open"
    expire()
    assert fate(shop, sandbox, checked_out["order"]) == "nothing"


def test_an_order_that_expires_in_the_banks_window_cannot_be_paid_there(shop, sandbox, checked_out):
    browser(sandbox, checked_out, SECURE)
    settle()
    expire()
    with pytest.raises(Exception, match="HTTP Error"):
        bank(sandbox, checked_out, "succeed")
    assert fate(shop, sandbox, checked_out["order"]) == "nothing"


def test_a_payment_that_takes_its_time_keeps_its_order(shop, sandbox, checked_out):
    browser(sandbox, checked_out, "pm_card_processing")
    settle()
    Order.objects.update(expires_at=Now())
    orders.rearm()
    orders.expire_due()
    for _ in range(100):
        settle()
        if Payment.objects.get().status == "succeeded":
            break
    assert fate(shop, sandbox, checked_out["order"]) == "paid"


# --- We confirm -------------------------------------------------------------------------------------


def test_we_confirm(shop, sandbox):
    answer = shop.checkout(payment=by_us(VISA))
    assert (answer.status_code, answer.json()["payment"]["status"]) == (201, "succeeded")
    assert fate(shop, sandbox, answer.json()["order"]["number"]) == "paid"


def test_a_decline_when_we_confirm_is_said_only_when_nobody_can_pay_it_any_more(shop, sandbox):
    answer = shop.checkout(payment=by_us(DECLINED))
    body = answer.json()
    assert (answer.status_code, body["code"], body["payment"]["status"]) == (402, "card_declined", "failed")
    assert gateway.retrieve_intent(body["payment"]["provider_reference"]).status == "canceled"
    assert fate(shop, sandbox, body["order"]["number"]) == "open"  # order and stock stay until expiry
    assert attempt(shop, body["order"]["number"], by_us(VISA)).status_code == 201
    assert fate(shop, sandbox, body["order"]["number"]) == "paid"
    assert [one["status"] for one in shop.order(body["order"]["number"])["payments"]] == ["failed", "succeeded"]


def test_a_decline_and_then_silence(shop, sandbox):
    body = shop.checkout(payment=by_us(DECLINED)).json()
    expire()
    assert fate(shop, sandbox, body["order"]["number"]) == "nothing"


@pytest.mark.parametrize("outcome", ["succeed", "fail"])
def test_3d_secure_when_we_confirm(shop, sandbox, outcome):
    answer = shop.checkout(payment=by_us(SECURE))
    payment = answer.json()["payment"]
    assert (answer.status_code, payment["status"]) == (201, "requires_action")
    assert payment["client_secret"]  # the browser opens the bank's window with it
    bank(sandbox, payment, outcome)
    assert fate(shop, sandbox, answer.json()["order"]["number"]) == ("paid" if outcome == "succeed" else "open")
    if outcome == "fail":
        expire()
        assert fate(shop, sandbox, answer.json()["order"]["number"]) == "nothing"


# --- Two tabs, second attempts ----------------------------------------------------------------------


def test_two_tabs_with_one_payment_pay_once(shop, sandbox, checked_out):
    assert browser(sandbox, checked_out) == 200
    assert browser(sandbox, checked_out) == 400
    assert fate(shop, sandbox, checked_out["order"]) == "paid"


def test_two_tabs_with_two_attempts_leave_one_that_can_be_paid(shop, sandbox, checked_out):
    first, second = (attempt(shop, checked_out["order"], key=key) for key in ("tab 1", "tab 2"))
    assert (first.status_code, second.status_code) == (201, 201)
    assert browser(sandbox, checked_out) == 400
    assert browser(sandbox, first.json()) == 400
    assert browser(sandbox, second.json()) == 200
    assert fate(shop, sandbox, checked_out["order"]) == "paid"


def test_a_second_attempt_that_the_first_one_overtakes(shop, sandbox, checked_out):
    assert browser(sandbox, checked_out) == 200  # in the other tab; no news have come
    answer = attempt(shop, checked_out["order"])
    assert (answer.status_code, answer.json()["code"]) == (409, "order_already_paid")
    assert answer.json()["payment"] == checked_out["number"]
    assert fate(shop, sandbox, checked_out["order"]) == "paid"


def test_a_second_attempt_while_the_first_is_being_processed_has_to_wait(shop, sandbox, checked_out):
    browser(sandbox, checked_out, "pm_card_processing")
    settle()
    if Payment.objects.get().status == "processing":
        answer = attempt(shop, checked_out["order"])
        assert (answer.status_code, answer.json()["code"]) == (409, "payment_in_progress")
    for _ in range(100):
        settle()
        if Payment.objects.get().status == "succeeded":
            break
    assert fate(shop, sandbox, checked_out["order"]) == "paid"


# --- A success too many, a success too late ---------------------------------------------------------


def late_success(sandbox: Any, reference: str) -> None:
    """The provider changes its mind about a cancelled intent: its money is real."""
    sandbox.control("POST", "plant", {"kind": "status_mismatch", "count": 1})
    assert gateway.retrieve_intent(reference).status == "succeeded"
    payments.sync_payment(reference, by="re-check")


def test_a_second_success_is_recorded_and_given_back(shop, sandbox, checked_out):
    second = attempt(shop, checked_out["order"], by_us(VISA)).json()
    settle()
    late_success(sandbox, checked_out["provider_reference"])
    assert fate(shop, sandbox, checked_out["order"]) == "paid"
    first = Payment.objects.get(provider_reference=checked_out["provider_reference"])
    assert (first.status, first.settling, first.refunded_minor) == ("succeeded", False, 1500)
    assert Payment.objects.get(settling=True).number == second["number"]


def test_a_success_after_a_failure_pays_the_order_that_still_waits(shop, sandbox):
    body = shop.checkout(payment=by_us(DECLINED)).json()
    late_success(sandbox, body["payment"]["provider_reference"])
    assert fate(shop, sandbox, body["order"]["number"]) == "paid"
    assert PaymentHistory.objects.filter(from_state="failed", to_state="succeeded").count() == 1


def test_a_success_after_a_failure_of_an_order_that_is_gone_is_given_back(shop, sandbox):
    body = shop.checkout(payment=by_us(DECLINED)).json()
    expire()
    late_success(sandbox, body["payment"]["provider_reference"])
    assert fate(shop, sandbox, body["order"]["number"]) == "nothing"
    assert Refund.objects.get().status == "succeeded"


@pytest.mark.guard(9)
@pytest.mark.parametrize("who", ["the customer", "expiry"])
def test_a_success_after_a_cancellation_is_given_back(shop, sandbox, checked_out, who):
    if who == "expiry":
        expire()
    else:
        shop.post(f"/orders/{checked_out['order']}/cancel")
        settle()
    late_success(sandbox, checked_out["provider_reference"])
    assert fate(shop, sandbox, checked_out["order"]) == "nothing"
    assert PaymentHistory.objects.filter(from_state="cancelled", to_state="succeeded").count() == 1


# --- Nobody knows -----------------------------------------------------------------------------------


@pytest.mark.guard(1)
@pytest.mark.guard(2)
@pytest.mark.parametrize("confirm", [True, False])
@pytest.mark.parametrize("kind", ["timeout_before", "timeout_after", "reset", "error_500", "error_500_after"])
def test_an_unknown_outcome_is_never_a_failure_and_is_asked_for_under_the_same_key(  # noqa: PLR0917
    shop, sandbox, settings, monkeypatch, kind, confirm
):
    settings.PROVIDER_READ_TIMEOUT_S = 0.5
    settings.PROVIDER_LOOKUP_GRACE_S = 3600
    keys: list[str] = []
    real = gateway.create_intent

    def noting(**asked: Any) -> Any:
        keys.append(asked["number"])
        return real(**asked)

    monkeypatch.setattr(gateway, "create_intent", noting)
    before = sandbox.books()["charges"]
    sandbox.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": kind, "times": 1})
    answer = shop.checkout(payment=by_us(VISA) if confirm else {"method": "card"})
    assert (answer.status_code, answer.json()["payment"]["status"]) == (201, "processing")
    assert Payment.objects.get().status == "unknown"
    sandbox.control("DELETE", "faults")
    for _ in range(3):
        settle(webhooks=False)
    payment = Payment.objects.get()
    assert set(keys) == {payment.number}
    assert not PaymentHistory.objects.filter(to_state="failed").exists()
    assert sandbox.books()["charges"] - before <= 1
    if kind == "error_500":  # replayed for ever, nothing made: settled only once it counts as never made
        assert payment.status == "unknown"
        settings.PROVIDER_LOOKUP_GRACE_S = 0
        SagaRun.objects.update(attempts=0)  # else the workers of these tests leave it alone
        settle(webhooks=False)
        assert Payment.objects.get().status == "failed"
        assert fate(shop, sandbox, answer.json()["order"]["number"]) == "nothing"
    else:
        assert fate(shop, sandbox, answer.json()["order"]["number"]) == ("paid" if confirm else "open")
        assert sandbox.books()["charges"] - before == int(confirm)
