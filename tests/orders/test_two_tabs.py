"""One order, two tabs: whatever the customer does in both, one charge is kept and the order is paid once."""

from typing import Any

import pytest
import requests

from durability.types import Succeeded
from payments import gateway
from payments import services as payments
from payments.models import JournalEntry, Payment, Refund
from tests.races import Race, orders
from tests.shop import Shop, settle

DECLINED = {"method": "card", "payment_method": "pm_card_chargeDeclined", "confirm": True}


def pay_in_browser(sandbox: Any, payment: dict[str, Any], card: str = "pm_card_visa") -> bool:
    """What Stripe.js does in a tab. False where the provider refuses."""
    answer = requests.post(
        f"{sandbox.url}/v1/payment_intents/{payment['provider_reference']}/confirm",
        data={"client_secret": payment["client_secret"], "payment_method": card},
        headers={"Authorization": "Bearer pk_test_sandbox"},
        timeout=10,
    )
    return answer.status_code == 200


def new_attempt(shop: Shop, number: str, key: str) -> Any:
    path = f"/api/v1/orders/{number}/payments"
    return shop.storefront.post(path, {"method": "card"}, format="json", headers={"Idempotency-Key": key})


def charges_kept(number: str) -> int:
    """Successes at the provider that nobody gave back."""
    kept = 0
    for payment in Payment.objects.filter(reference=number):
        intent = gateway.retrieve_intent(payment.provider_reference) if payment.provider_reference else None
        if intent and intent.status == "succeeded":
            kept += not Refund.objects.filter(payment=payment, status="succeeded").exists()
    return kept


def assert_paid_once(shop: Shop, number: str) -> None:
    order = shop.order(number)
    assert (order["status"], order["refund_status"]) == ("paid", "none")
    assert charges_kept(number) == 1
    assert JournalEntry.objects.filter(reference=number, kind="sale").count() == 1
    assert shop.level() == (9, 0)


def test_a_decline_in_the_browser_is_followed_by_another_card_on_the_same_order(shop, sandbox):
    body = shop.checkout().json()
    assert not pay_in_browser(sandbox, body["payment"], "pm_card_chargeDeclined")
    settle()
    order = shop.order(body["order"]["number"])
    assert (order["status"], order["payments"][0]["status"]) == ("pending", "pending")  # still confirmable
    assert order["payments"][0]["failure"]["code"]
    assert pay_in_browser(sandbox, body["payment"])
    settle()
    assert_paid_once(shop, order["number"])


def test_after_declines_another_attempt_pays_the_same_order(shop, sandbox):
    number = shop.checkout(payment=DECLINED).json()["order"]["number"]
    path = f"/api/v1/orders/{number}/payments"
    again = shop.storefront.post(path, DECLINED, format="json", headers={"Idempotency-Key": "2"})
    assert (again.status_code, again.json()["code"]) == (402, "card_declined")
    third = new_attempt(shop, number, "3")
    assert third.status_code == 201
    assert pay_in_browser(sandbox, third.json())
    settle()
    assert_paid_once(shop, number)
    assert [one["status"] for one in shop.order(number)["payments"]] == ["failed", "failed", "succeeded"]


def test_both_tabs_confirm_the_same_payment(shop, sandbox):
    body = shop.checkout().json()
    assert [pay_in_browser(sandbox, body["payment"]) for _ in "ab"].count(True) >= 1
    settle()
    assert_paid_once(shop, body["order"]["number"])


def two_tabs(race: Race, shop: Shop, sandbox: Any) -> str:
    """One tab shows the first attempt's form and pays; in the other the customer asks for another attempt and pays that."""
    body = shop.checkout().json()
    number: str = body["order"]["number"]

    def first_tab() -> bool:
        paid = pay_in_browser(sandbox, body["payment"])
        payments.sync_payment(body["payment"]["provider_reference"], by="webhook")
        return paid

    def second_tab() -> str:
        answer = new_attempt(shop, number, "tab").json()
        if "code" in answer:
            return str(answer["code"])
        return "paid" if pay_in_browser(sandbox, answer) else "refused"

    race.stop("payments.gateway.cancel_intent", actor="second")  # decided to cancel the first, not done
    race.stop("orders.services.record_attempt", actor="second")  # cancelled, or found paid
    race.stop("payments.gateway.retrieve_intent", at="after", actor="first")  # paid or refused: not written down yet
    race.actor("first", first_tab)
    race.actor("second", second_tab)
    return number


@pytest.mark.parametrize("turns", orders("first", "first", "second", "second", "second"))
def test_one_tab_pays_while_the_other_begins_anew(race, shop, sandbox, turns):
    number = two_tabs(race, shop, sandbox)
    results = race.play(turns)
    settle()
    assert_paid_once(shop, number)
    # Whoever was refused was told so: never two tabs that both say "paid".
    assert [results["first"] is True, results["second"] == "paid"].count(True) == 1, results


def test_control_where_the_earlier_attempt_is_not_cancelled_first_both_tabs_pay(race, shop, sandbox, monkeypatch):
    """And the last net gives the second charge back: one is kept even then, at the price of the provider's fee."""

    monkeypatch.setattr(payments, "cancel_at_provider", lambda number: Succeeded(None))
    number = two_tabs(race, shop, sandbox)
    results = race.play("second first second first")
    assert (results["first"], results["second"]) == (True, "paid")  # the damage
    settle()
    assert charges_kept(number) == 1
    assert Refund.objects.get().automatic
