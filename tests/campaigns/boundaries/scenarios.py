"""What is interrupted: each phase of checkout, payment, cancelling, expiry, refund, news, reconciliation and upkeep.

A scene prepares, and returns what is then played, killed at each of its boundaries, and played again. The workers' part
follows by itself: what the played part asked for is done in the same process, and killed as well.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, timedelta
from datetime import datetime as moment
from datetime import time as time_of_day
from functools import partial
from io import BytesIO
from typing import Any
from uuid import UUID

import requests
import stripe
from django.contrib.auth.models import User
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.db.models.functions import Now
from django.test import override_settings

from catalog.models import Merchant
from durability.models import Delivery
from foundation.database import database_now
from inventory import services as inventory
from orders.models import Order
from payments import gateway
from payments import services as payments
from payments.models import Dispute, Payment, Payout, Refund
from reconciliation import services as reconciliation
from reconciliation.errors import AlreadyResolved, NothingToApprove, PeriodIsClosed, PeriodIsOpen
from reconciliation.models import BankLine, Discrepancy, DiscrepancyAction, ReconciliationRun
from reconciliation.services import sharing
from reconciliation.services.repairs import REPAIRS
from reconciliation.types import ACTIONS, Action, ActionInput, Kind, info_of_action
from tests.campaigns.boundaries.world import Scene, World, run_task
from tests.credit import grant, with_credit

CARD = "pm_card_visa"
_NEWS_WITHIN_S = 10
_TIMES_TO_LOOK = 100
SCENARIOS: dict[str, Scene] = {}
MEETING: set[str] = set()  # those in which two flows meet

Played = Callable[[], Any]


def scenario(name: str, *, meets: bool = False) -> Callable[[Scene], Scene]:
    """`meets`: two flows meet in it, or a flow and the provider's late news. Which is first is a matter of time, and both
    orders are right: what is compared is what either ends in (world.EITHER_WAY).
    """

    def register(scene: Scene) -> Scene:
        SCENARIOS[name] = scene
        if meets:
            MEETING.add(name)
        return scene

    return register


def confirmed_with(card: str) -> dict[str, Any]:
    return {"method": "card", "payment_method": card, "confirm": True}


def nothing() -> None:
    """The workers alone act."""


def pay_in_browser(world: World, payment: dict[str, Any], card: str = CARD) -> None:
    """What Stripe.js does: a publishable key and the client_secret."""
    requests.post(
        f"{world.sandbox.url}/v1/payment_intents/{payment['provider_reference']}/confirm",
        data={"client_secret": payment["client_secret"], "payment_method": card},
        headers={"Authorization": "Bearer pk_test_sandbox"},
        timeout=10,
    ).raise_for_status()


def bought(world: World, card: str = CARD) -> dict[str, Any]:
    """A paid order whose sale is posted."""
    order = world.shop.checkout(payment=confirmed_with(card)).json()["order"]
    world.work()
    return world.shop.order(order["number"])


def all_news(world: World) -> None:
    """Every event of the provider's has come, and was worked on."""
    world.work()
    run_task("payments.catch_up_events")
    world.work()


def cancel(world: World, number: str) -> Any:
    return world.shop.post(f"/orders/{number}/cancel", key="cancel")


def refund(world: World, order: dict[str, Any], amount: int | None = None, key: str = "refund") -> Any:
    body: dict[str, Any] = {"reason": "a torn page"} | ({} if amount is None else {"amount": amount})
    return world.shop.post(f"/payments/{order['payments'][0]['number']}/refunds", body, key=key)


def time_is_up() -> None:
    Order.objects.filter(status="pending").update(expires_at=Now())


def expire(world: World) -> None:
    run_task("orders.rearm_timer")
    run_task("orders.expire_due")


def webhook(world: World, kind: str) -> Played:
    """The delivery of the provider's newest event of a kind, signed as the provider does."""
    event = next(one for one in world.provider_objects("events") if one["type"] == kind)
    body = json.dumps(event).encode()

    def deliver() -> Any:
        stamp = int(time.time())
        signature = stripe.WebhookSignature._compute_signature(f"{stamp}.{body.decode()}", "whsec_sandbox")
        return world.shop.storefront.post(
            "/api/v1/webhooks/stripe",
            body,
            content_type="application/json",
            headers={"Stripe-Signature": f"t={stamp},v1={signature}"},
        )

    return deliver


# --- Checkout ---------------------------------------------------------------------------------------


@scenario("checkout, we confirm")
def checkout_confirmed(world: World) -> Played:
    return lambda: world.shop.checkout(key="checkout", payment=confirmed_with(CARD))


@scenario("checkout, stock becomes low")
def checkout_of_the_last_ones(world: World) -> Played:
    """Whoever listens is told once, together with the reservation, or neither happens."""
    levels = world.shop.level()
    inventory.set_low_threshold(merchant_id=world.shop.merchant_id, product="book", threshold=levels[0] - levels[1] - 1)
    return lambda: world.shop.checkout(key="checkout")


@scenario("checkout, the browser confirms")
def checkout_to_be_confirmed(world: World) -> Played:
    return lambda: world.shop.checkout(key="checkout")


@scenario("checkout, a worker opens the payment")
def checkout_async(world: World) -> Played:
    return lambda: world.shop.checkout(key="checkout", headers={"Prefer": "respond-async"})


@scenario("checkout, declined")
def checkout_declined(world: World) -> Played:
    return lambda: world.shop.checkout(key="checkout", payment=confirmed_with("pm_card_chargeDeclined"))


@scenario("checkout, the provider refuses")
def checkout_refused(world: World) -> Played:
    return lambda: world.shop.checkout(key="checkout", payment=confirmed_with("pm_card_nobodys"))


@scenario("checkout, the provider's answer is lost")
def checkout_unanswered(world: World) -> Played:
    world.fail("POST /v1/payment_intents", "error_500_after")
    return lambda: world.shop.checkout(key="checkout", payment=confirmed_with(CARD))


# --- Another attempt --------------------------------------------------------------------------------


@scenario("another attempt, we confirm")
def another_attempt(world: World) -> Played:
    number = world.shop.checkout().json()["order"]["number"]
    return partial(_attempt, world, number, confirmed_with(CARD))


@scenario("another attempt after a decline, the browser confirms")
def another_attempt_after_a_decline(world: World) -> Played:
    answer = world.shop.checkout(payment=confirmed_with("pm_card_chargeDeclined")).json()
    return partial(_attempt, world, answer["order"]["number"], {"method": "card"})


def _attempt(world: World, number: str, wish: dict[str, Any]) -> Any:
    return world.shop.storefront.post(
        f"/api/v1/orders/{number}/payments", wish, format="json", headers={"Idempotency-Key": "attempt"}
    )


# --- Store credit and points ------------------------------------------------------------------------


def granted(world: World, amount: int) -> None:
    Merchant.objects.update(loyalty_rate_bp=10_000)
    grant(world.shop, amount)


@scenario("checkout, store credit and a card")
def checkout_with_credit(world: World) -> Played:
    granted(world, 600)
    return lambda: world.shop.checkout(key="checkout", payment=with_credit(500, confirmed_with(CARD)))


@scenario("checkout, store credit alone")
def checkout_with_credit_alone(world: World) -> Played:
    granted(world, 1500)
    return lambda: world.shop.checkout(key="checkout", payment=with_credit(1500))


@scenario("checkout, store credit and a card that is declined")
def checkout_with_credit_declined(world: World) -> Played:
    granted(world, 600)
    declined = confirmed_with("pm_card_chargeDeclined")
    return lambda: world.shop.checkout(key="checkout", payment=with_credit(500, declined))


@scenario("another attempt with the store credit that the earlier one holds")
def another_attempt_with_credit(world: World) -> Played:
    granted(world, 500)
    number = world.shop.checkout(payment=with_credit(500)).json()["order"]["number"]
    return partial(_attempt, world, number, with_credit(500, confirmed_with(CARD)))


@scenario("expiry of orders that hold store credit")
def expiry_with_credit(world: World) -> Played:
    granted(world, 1000)
    world.shop.checkout(payment=with_credit(500))
    world.shop.checkout(payment=with_credit(500), headers={"Prefer": "respond-async"})
    world.work()  # or the saga that opens the second one's payment would race with the one that cancels it
    time_is_up()
    return partial(expire, world)


@scenario("cancelling an order that was paid with store credit and a card")
def cancel_paid_with_credit(world: World) -> Played:
    granted(world, 500)
    number = world.shop.checkout(payment=with_credit(500, confirmed_with(CARD))).json()["order"]["number"]
    world.work()
    return partial(cancel, world, number)


@scenario("refund of what store credit paid")
def refund_of_credit(world: World) -> Played:
    granted(world, 1500)
    number = world.shop.checkout(payment=with_credit(1500)).json()["order"]["number"]
    world.work()
    return partial(refund, world, world.shop.order(number), 500)


# --- News of a payment ------------------------------------------------------------------------------


@scenario("webhook of a payment")
def webhook_of_a_payment(world: World) -> Played:
    pay_in_browser(world, world.shop.checkout().json()["payment"])
    return webhook(world, "payment_intent.succeeded")


@scenario("webhook of a decline in the browser")
def webhook_of_a_decline(world: World) -> Played:
    payment = world.shop.checkout().json()["payment"]
    try:
        pay_in_browser(world, payment, "pm_card_chargeDeclined")
    except requests.HTTPError:
        return webhook(world, "payment_intent.payment_failed")
    raise AssertionError("the card was not declined")


@scenario("events that no webhook brought")
def caught_up_events(world: World) -> Played:
    pay_in_browser(world, world.shop.checkout().json()["payment"])
    return partial(run_task, "payments.catch_up_events")


@scenario("re-check of a payment")
def recheck_of_a_payment(world: World) -> Played:
    pay_in_browser(world, world.shop.checkout().json()["payment"])
    world.wait_no_longer()
    return partial(run_task, "payments.recheck")


@scenario("an intent that contradicts its payment")
def contradicted_payment(world: World) -> Played:
    """Somebody changed its amount at the provider; then the customer paid that."""
    payment = world.shop.checkout().json()["payment"]
    world.is_tampered = True
    _change_amount(world, payment, 1400)
    pay_in_browser(world, payment)
    return partial(run_task, "payments.catch_up_events")


@scenario("an intent that contradicts its payment, and that nobody has paid")
def contradicted_unpaid(world: World) -> Played:
    payment = world.shop.checkout().json()["payment"]
    _change_amount(world, payment, 1400)
    world.wait_no_longer()
    return partial(run_task, "payments.recheck")


def _change_amount(world: World, payment: dict[str, Any], amount: int) -> None:
    intent = payment["provider_reference"]
    requests.post(
        f"{world.sandbox.url}/v1/payment_intents/{intent}", {"amount": amount}, auth=("sk_test_sandbox", ""), timeout=10
    ).raise_for_status()


@scenario("a refund that contradicts ours")
def contradicted_refund(world: World) -> Played:
    refund(world, bought(world), 500)
    world.work()
    world.plant(Kind.AMOUNT_MISMATCH_REFUND)
    world.wait_no_longer()
    return partial(run_task, "payments.recheck")


@scenario("money for a cancelled order")
def money_for_a_cancelled_order(world: World) -> Played:
    """The provider's word alone makes a cancelled payment succeed; what was paid goes back by itself."""
    answer = world.shop.checkout().json()
    cancel(world, answer["order"]["number"])
    world.work()
    world.plant("status_mismatch")  # the cancelled intent has succeeded after all
    world.wait_no_longer()
    reference = answer["payment"]["provider_reference"]
    return partial(payments.sync_payment, reference, by="re-check")


@scenario("an intent that was opened after its cancellation")
def opened_too_late(world: World) -> Played:
    """A process slept between "sent" and the sending; meanwhile the order was cancelled."""
    answer = world.shop.checkout(headers={"Prefer": "respond-async"}).json()
    Payment.objects.update(first_sent_at=Now())
    cancel(world, answer["order"]["number"])
    payment = Payment.objects.get()
    gateway.create_intent(
        number=payment.number,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        metadata=payments.attempts.metadata(payment),
        payment_method="",
        confirm=False,
    )
    return partial(run_task, "payments.catch_up_events")


# --- Cancelling -------------------------------------------------------------------------------------


@scenario("cancelling an unpaid order")
def cancel_unpaid(world: World) -> Played:
    return partial(cancel, world, world.shop.checkout().json()["order"]["number"])


@scenario("cancelling an order that was paid a moment ago", meets=True)
def cancel_just_paid(world: World) -> Played:
    answer = world.shop.checkout().json()
    pay_in_browser(world, answer["payment"])
    return partial(cancel, world, answer["order"]["number"])


@scenario("cancelling a paid order")
def cancel_paid(world: World) -> Played:
    return partial(cancel, world, bought(world)["number"])


# --- Expiry -----------------------------------------------------------------------------------------


@scenario("expiry of orders that never reached the provider")
def expiry_unsent(world: World) -> Played:
    for _ in range(3):
        world.shop.checkout(headers={"Prefer": "respond-async"})
    time_is_up()
    return partial(expire, world)


@scenario("expiry of orders that wait for the browser")
def expiry_sent(world: World) -> Played:
    for _ in range(2):
        world.shop.checkout()
    time_is_up()
    return partial(expire, world)


@scenario("expiry of an order whose payment is unknown")
def expiry_unknown(world: World) -> Played:
    world.fail("POST /v1/payment_intents", "error_500_after")
    world.shop.checkout()
    time_is_up()
    return partial(expire, world)


@scenario("expiry of an order that was paid a moment ago")
def expiry_paid(world: World) -> Played:
    pay_in_browser(world, world.shop.checkout().json()["payment"])
    time_is_up()
    return partial(expire, world)


# --- Refunds ----------------------------------------------------------------------------------------


@scenario("refund")
def refund_in_part(world: World) -> Played:
    return partial(refund, world, bought(world), 500)


@scenario("refund that the provider refuses")
def refund_refused(world: World) -> Played:
    order = bought(world)
    world.plant("missing_in_our_system_refund")  # half of it went back already
    return partial(refund, world, order, 1500)


@scenario("refund whose answer is lost")
def refund_unanswered(world: World) -> Played:
    order = bought(world)
    world.fail("POST /v1/refunds", "error_500_after")
    return partial(refund, world, order, 500)


@scenario("news of a refund that took its time")
def refund_later(world: World) -> Played:
    _refund_and_wait(world, "pm_card_pendingRefund", "succeeded")
    return partial(run_task, "payments.catch_up_events")


@scenario("news of a refund that failed after all")
def refund_failed_late(world: World) -> Played:
    """Of an order that was being cancelled: the cancellation is withdrawn."""
    _refund_and_wait(world, "pm_card_refundFail", "failed")
    return partial(run_task, "payments.recheck")


def waiting_for_approval(world: World) -> str:
    """A paid order whose cancellation asked for a refund above the merchant's limit: the refund's number."""
    Merchant.objects.update(refund_approval_above_minor=0)
    cancel(world, bought(world)["number"])
    world.work()
    return Refund.objects.get().number


def at_the_desk(verb: Callable[..., Any], number: str, **options: Any) -> Played:
    """Staff acts on a refund, in one transaction; whoever finds it decided already is told so."""

    def act() -> None:
        with transaction.atomic():
            verb(number=number, by="paul", why="I have looked at it", **options)

    return act


@scenario("refund above the limit, approved by a second person")
def refund_approved(world: World) -> Played:
    return at_the_desk(payments.approve_refund, waiting_for_approval(world))


@scenario("refund above the limit, rejected by a second person")
def refund_rejected(world: World) -> Played:
    """The cancellation that waited for it is withdrawn."""
    return at_the_desk(payments.reject_refund, waiting_for_approval(world))


@scenario("webhook of a refund made in the dashboard")
def refund_made_elsewhere(world: World) -> Played:
    _refund_elsewhere(world, bought(world), 600)
    return webhook(world, "refund.created")


@scenario("webhook of a refund made in the dashboard that breaks our sum", meets=True)
def refund_made_beyond(world: World) -> Played:
    order = bought(world)
    refund(world, order, 1000)  # held; not sent yet
    _refund_elsewhere(world, order, 1500)
    return webhook(world, "refund.created")


def _refund_elsewhere(world: World, order: dict[str, Any], amount: int) -> None:
    requests.post(
        f"{world.sandbox.url}/v1/refunds",
        data={"payment_intent": order["payments"][0]["provider_reference"], "amount": amount},
        auth=("sk_test_sandbox", ""),
        timeout=10,
    ).raise_for_status()


@scenario("refund again, after it failed late", meets=True)
def refund_once_more(world: World) -> Played:
    _refund_and_wait(world, "pm_card_refundFail", "failed")
    all_news(world)
    return at_the_desk(payments.refund_again, Refund.objects.get().number)


@scenario("what is owed after a refund failed late, paid by our bank")
def refund_paid_outside(world: World) -> Played:
    _refund_and_wait(world, "pm_card_refundFail", "failed")
    all_news(world)
    return at_the_desk(payments.refund_again, Refund.objects.get().number, paid_outside=True)


def _refund_and_wait(world: World, card: str, becomes: str) -> None:
    refund(world, bought(world, card))
    world.work()
    deadline = time.monotonic() + _NEWS_WITHIN_S
    while [one["status"] for one in world.provider_objects("refunds")] != [becomes]:
        assert time.monotonic() < deadline, f"the refund has not {becomes}"
        time.sleep(0.02)
    Refund.objects.update(next_check_at=Now())


# --- Disputes, payouts ------------------------------------------------------------------------------


def disputed(world: World) -> dict[str, Any]:
    """A paid order that its customer's bank takes back; we have not heard of it."""
    intent = bought(world)["payments"][0]["provider_reference"]
    made: dict[str, Any] = world.sandbox.control("POST", "disputes", {"payment_intent": intent})
    return made


def decided(world: World, call: str, kind: str, made: dict[str, Any], status: str) -> None:
    """We know of it, and have not heard how it ended."""
    all_news(world)
    world.sandbox.control("POST", f"{call}/outcome", {kind: made["id"], "status": status})
    Dispute.objects.update(next_check_at=Now())
    Payout.objects.update(next_check_at=Now())


@scenario("news of a dispute")
def dispute_opened(world: World) -> Played:
    disputed(world)
    return partial(run_task, "payments.catch_up_events")


@scenario("webhook of a dispute that is won")
def dispute_won(world: World) -> Played:
    decided(world, "disputes", "dispute", disputed(world), "won")
    return webhook(world, "charge.dispute.closed")


@scenario("re-check of a dispute that is lost")
def dispute_lost(world: World) -> Played:
    decided(world, "disputes", "dispute", disputed(world), "lost")
    return partial(run_task, "payments.recheck")


@scenario("re-check of a dispute that an appeal has turned")
def dispute_turned(world: World) -> Played:
    made = disputed(world)
    decided(world, "disputes", "dispute", made, "lost")
    decided(world, "disputes", "dispute", made, "won")
    return partial(run_task, "payments.recheck")


@scenario("news of a dispute in another currency than its payment")
def dispute_foreign(world: World) -> Played:
    intent = bought(world)["payments"][0]["provider_reference"]
    world.plant(Kind.CURRENCY_MISMATCH)
    world.sandbox.control("POST", "disputes", {"payment_intent": intent})
    return partial(run_task, "payments.catch_up_events")


def paid_out(world: World) -> dict[str, Any]:
    """What was sold is on its way to our bank; we have not heard of it."""
    bought(world)
    made: dict[str, Any] = world.sandbox.control("POST", "payouts", {"include_pending": True})["payouts"][0]
    return made


@scenario("news of a payout")
def payout_made(world: World) -> Played:
    paid_out(world)
    return partial(run_task, "payments.catch_up_events")


@scenario("webhook of a payout that has arrived")
def payout_arrived(world: World) -> Played:
    decided(world, "payouts", "payout", paid_out(world), "paid")
    return webhook(world, "payout.paid")


@scenario("re-check of a payout that came back")
def payout_came_back(world: World) -> Played:
    made = paid_out(world)
    decided(world, "payouts", "payout", made, "paid")
    decided(world, "payouts", "payout", made, "failed")
    return partial(run_task, "payments.recheck")


# --- Shipping, stock --------------------------------------------------------------------------------


@scenario("shipping and completing")
def ship_and_complete(world: World) -> Played:
    number = bought(world)["number"]

    def play() -> Any:
        world.shop.post(f"/orders/{number}/ship", {"carrier": "Post"}, key="ship")
        return world.shop.post(f"/orders/{number}/complete", key="complete")

    return play


@scenario("shipping, while the merchant's system refuses to hear of it")
def ship_untold(world: World) -> Played:
    number = bought(world)["number"]
    world.merchant_refuses(2)
    return lambda: world.shop.post(f"/orders/{number}/ship", key="ship")


@scenario("restocking")
def restock(world: World) -> Played:
    return lambda: world.shop.post("/stock/book/restock", {"quantity": 3}, key="restock")


@scenario("deduct and release")
def deduct_and_release(world: World) -> Played:
    taken = {"quantity": 2, "reference": "counter"}

    def play() -> Any:
        world.shop.post("/stock/book/deduct", taken, key="deduct")
        return world.shop.post("/stock/book/release", {**taken, "quantity": 1}, key="release")

    return play


@scenario("list a product")
def list_a_product(world: World) -> Played:
    dust = {"id": "dust", "title": "Dust", "author": "", "price": 900, "currency": "usd"}
    return lambda: world.shop.post("/products", dust, key="product")


# --- Reconciliation ---------------------------------------------------------------------------------


def traded_yesterday(world: World) -> None:
    """Two sales of yesterday, one of them refunded in part; an order that waits for its money."""
    world.trade_on(moment.combine(database_now().date() - timedelta(days=1), time_of_day(12), UTC))
    world.shop.checkout(payment=confirmed_with(CARD))
    refund(world, bought(world), 500)
    world.shop.checkout()
    all_news(world)


@scenario("reconciliation of a day")
def reconcile_day(world: World) -> Played:
    traded_yesterday(world)
    for kind in (Kind.MISSING_IN_STRIPE, Kind.MISSING_IN_OUR_SYSTEM, Kind.AMOUNT_MISMATCH_REFUND):
        world.plant(kind)
    return partial(run_task, "reconciliation.nightly")


@scenario("reconciliation that a person asked for")
def reconcile_on_request(world: World) -> Played:
    traded_yesterday(world)
    world.plant(Kind.DUPLICATE_CHARGE)
    day = (database_now() - timedelta(days=1)).date().isoformat()

    def play() -> None:
        if not Discrepancy.objects.exists():  # else the person sees what was found, and asks for nothing
            run_task("reconciliation.reconcile_day", day=day, by="clara")

    return play


@scenario("reconciliation of a large day, which a worker shares")
def shared_day(world: World) -> Played:
    """The run and its helper are one process here, and die together; whoever comes next finds what each has committed."""
    traded_yesterday(world)
    for kind in (Kind.MISSING_IN_STRIPE, Kind.MISSING_IN_OUR_SYSTEM):
        world.plant(kind)

    def play() -> None:
        with override_settings(RECONCILE_PART_ROWS=1), helped_at_once():
            run_task("reconciliation.nightly")

    return play


@contextmanager
def helped_at_once() -> Iterator[None]:
    """A helper that is asked comes at once, on a connection of its own, and looks at every part."""
    ask = sharing._ask_for_help

    def ask_and_wait(run: ReconciliationRun, look_id: UUID, cuts: Sequence[str]) -> None:
        ask(run, look_id, cuts)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_export_snapshot()")
            arguments = {"run": str(run.pk), "look": str(look_id), "snapshot": cursor.fetchone()[0], "cuts": list(cuts)}
        own = connections[DEFAULT_DB_ALIAS]
        connections[DEFAULT_DB_ALIAS] = own.copy()
        try:
            run_task("reconciliation.help_run", **arguments)
        finally:
            connections[DEFAULT_DB_ALIAS].close()
            connections[DEFAULT_DB_ALIAS] = own

    sharing._ask_for_help = ask_and_wait
    try:
        yield
    finally:
        sharing._ask_for_help = ask


def _found_at_night(world: World, kind: str) -> None:
    traded_yesterday(world)
    world.plant(kind)
    run_task("reconciliation.nightly")


def _told_of_a_currency(world: World, kind: str) -> None:
    """The provider took dollars for what we asked in yen."""
    payment = world.shop.checkout().json()["payment"]
    Payment.objects.update(currency="jpy")
    world.is_tampered = True
    pay_in_browser(world, payment)
    all_news(world)


def _told_of_a_refund(world: World, kind: str) -> None:
    _refund_and_wait(world, "pm_card_refundFail", "failed")
    all_news(world)


def _given_back_at_night(world: World, kind: str) -> None:
    """We know of a dispute, and not that the customer's bank gave its money back."""
    traded_yesterday(world)
    paid = Payment.objects.filter(status="succeeded", refunded_minor=0).latest("pk")
    world.sandbox.control("POST", "disputes", {"payment_intent": paid.provider_reference})
    for _ in range(_TIMES_TO_LOOK):  # its money moves a moment after it was opened
        # At the provider this is yesterday: by itself, an inbox that never listed events asks for one day's alone.
        payments.replay_events(since=database_now() - timedelta(days=3))
        world.work()
        if Dispute.objects.filter(withdrawn_minor__gt=0).exists():
            break
        time.sleep(0.1)
    world.plant(kind)
    run_task("reconciliation.nightly")


# --- Our bank ---------------------------------------------------------------------------------------

_A_MONTH = timedelta(days=30)


def arrived(world: World) -> Payout:
    """What was sold a month ago was paid out, and is on our bank's account by our books; no statement tells of it."""
    world.trade_on(database_now() - _A_MONTH)
    made = paid_out(world)
    world.sandbox.control("POST", "payouts/outcome", {"payout": made["id"], "status": "paid"})
    payments.sync_payout(made["id"], by="news")
    world.work()
    return Payout.objects.get()


def bank_tells(*lines: tuple[str, int, date, str, str]) -> BytesIO:
    """A file of our bank's: (its reference, amount, day, the other side, text), from before the payout until today."""
    today = database_now().date()
    of_others = (("J1", 11, today - 2 * _A_MONTH, "Jane Doe", ""), ("J2", 12, today, "Jane Doe", ""))
    rows = (f"{name},ACCT,{day},usd,{amount},{side},{text}" for name, amount, day, side, text in (*of_others, *lines))
    head = "reference,account,booked_on,currency,amount_minor,counterparty,text"
    return BytesIO("\n".join([head, *rows, ""]).encode())


def take_in(file: BytesIO) -> Any:
    return reconciliation.import_bank_statement(file=file, name="bank.csv", by="clara")


@scenario("a bank's statement is taken in")
def bank_statement(world: World) -> Played:
    payout = arrived(world)
    file = bank_tells(
        ("B1", payout.amount_minor, payout.arrives_on, "Stripe", payout.trace_id),
        ("B2", 5, payout.arrives_on, "Stripe", ""),
    )
    return partial(take_in, file)


@scenario("a bank line is linked to a payout")
def bank_link(world: World) -> Played:
    payout, line = _line_like_a_payout(world)
    return partial(reconciliation.link_bank_line, line=line.number, payout=payout.number, by="clara", why="it is")


@scenario("the link of a bank line is taken back")
def bank_link_ended(world: World) -> Played:
    payout, line = _line_like_a_payout(world)
    reconciliation.link_bank_line(line=line.number, payout=payout.number, by="clara", why="it is")
    return partial(reconciliation.unlink_bank_line, line=line.pk, by="clara", why="it is not")


def _line_like_a_payout(world: World) -> tuple[Payout, BankLine]:
    """Nothing but its amount and date speaks for it."""
    payout = arrived(world)
    take_in(bank_tells(("B1", payout.amount_minor, payout.arrives_on, "A bank", "")))
    return payout, BankLine.objects.get(reference="B1")


def _not_at_the_bank(world: World, kind: str) -> None:
    payout = arrived(world)
    take_in(bank_tells(("B1", payout.amount_minor, payout.arrives_on, "A bank", "")))


def _not_explained(world: World, kind: str) -> None:
    payout = arrived(world)
    take_in(bank_tells(("B1", payout.amount_minor, payout.arrives_on + timedelta(days=10), "Stripe", "")))


def _another_amount(world: World, kind: str) -> None:
    payout = arrived(world)
    take_in(bank_tells(("B1", payout.amount_minor - 10, payout.arrives_on, "Stripe", payout.trace_id)))


def _counterpart(item: Discrepancy) -> str:
    """What the item is linked to."""
    if item.kind == Kind.BANK_LINE_UNEXPLAINED:
        return Payout.objects.get().number
    return BankLine.objects.get(reference="B1").number if item.kind == Kind.PAYOUT_NOT_AT_BANK else ""


# What a run finds, unless news or our bank tell of it.
_TOLD = {
    Kind.PAYOUT_NOT_AT_BANK: _not_at_the_bank,
    Kind.BANK_LINE_UNEXPLAINED: _not_explained,
    Kind.BANK_AMOUNT_MISMATCH: _another_amount,
    Kind.CURRENCY_MISMATCH: _told_of_a_currency,
    Kind.REFUND_FAILED_LATE: _told_of_a_refund,
    Kind.DISPUTE_MISSING: _given_back_at_night,
}


def _action(action: str, kind: str) -> Scene:
    def scene(world: World) -> Played:
        _TOLD.get(kind, _found_at_night)(world, kind)
        item = Discrepancy.objects.get(kind=kind)
        return partial(
            reconciliation.perform,
            discrepancy_id=item.pk,
            action=action,
            by="clara",
            note="checked with the bank",
            key="one press",
            given=_given(action, item),
        )

    return scene


def _given(action: str, item: Discrepancy) -> ActionInput:
    """What a person says beside the note."""
    if (action, item.kind) == (Action.REFUND_CUSTOMER, Kind.AMOUNT_MISMATCH):
        return ActionInput(amount_minor=1)
    if action == Action.SPLIT:
        difference = item.difference_minor or 0
        cent = 1 if difference > 0 else -1
        return ActionInput(parts=(("fees", cent), ("write_offs", difference - cent)))
    return ActionInput(counterpart=_counterpart(item))


# These do the same whatever the kind: one of it stands for all.
_OF_ONE_KIND = {
    Action.REPLAY_EVENT: Kind.STATUS_MISMATCH,
    Action.WRITE_OFF: Kind.AMOUNT_MISMATCH,
    Action.SPLIT: Kind.MISSING_IN_STRIPE,
    Action.LINK: "",  # has a scene of its own
}
# Every other repair of every kind that offers it: a new one is here by being declared.
REPAIRED: list[str] = []
for _kind, _offered in ACTIONS.items():
    for _info in _offered:
        if _info.name in REPAIRS and _info.name != Action.REQUERY and _OF_ONE_KIND.get(_info.name, _kind) == _kind:
            REPAIRED.append(f"{_info.label.lower()}: {_kind}")
            SCENARIOS[REPAIRED[-1]] = _action(_info.name, _kind)
MEETING.add(
    f"{info_of_action(Action.REFUND_CUSTOMER).label.lower()}: {Kind.REFUND_FAILED_LATE}"
)  # again with that card
SCENARIOS[f"ask the provider again: {Kind.AMOUNT_MISMATCH}"] = _action(Action.REQUERY, Kind.AMOUNT_MISMATCH)


@scenario("what one person may not settle alone is approved")
def approved(world: World) -> Played:
    """Pressed again by who approved it, it goes on where it stopped."""
    _found_at_night(world, Kind.AMOUNT_MISMATCH)
    User.objects.create(username="trainee", is_staff=True)  # of no role: may settle nothing alone
    item = Discrepancy.objects.get(kind=Kind.AMOUNT_MISMATCH)
    reconciliation.perform(discrepancy_id=item.pk, action=Action.POST_CORRECTION, by="trainee", note="Stripe is right")
    asked = DiscrepancyAction.objects.get()

    def play() -> None:
        with suppress(NothingToApprove, AlreadyResolved):  # done before
            reconciliation.approve_action(action_id=asked.pk, by="clara", note="it is")

    return play


@scenario("two that are the same money are linked")
def link(world: World) -> Played:
    """Stripe lost our charge, and somebody charged the same amount again."""
    _found_at_night(world, Kind.MISSING_IN_STRIPE)
    lost = Discrepancy.objects.get(kind=Kind.MISSING_IN_STRIPE)
    requests.post(
        f"{world.sandbox.url}/v1/payment_intents",
        data={
            "amount": lost.ours_amount_minor,
            "currency": lost.ours_currency,
            "confirm": "true",
            "payment_method": CARD,
            "payment_method_types[0]": "card",
        },
        headers={"Authorization": "Bearer sk_test_sandbox"},
        timeout=10,
    ).raise_for_status()
    run_task("reconciliation.reconcile_day", day=lost.business_date.isoformat(), by="clara")
    return partial(
        reconciliation.perform,
        discrepancy_id=Discrepancy.objects.get(kind=Kind.MISSING_IN_OUR_SYSTEM).pk,
        action=Action.LINK,
        by="clara",
        note="the customer has paid once",
        key="one press",
        given=ActionInput(number=lost.payment_number),
    )


@scenario("many are corrected at once")
def in_bulk(world: World) -> Played:
    _found_at_night(world, Kind.AMOUNT_MISMATCH_REFUND)
    world.plant(Kind.UNKNOWN_TYPE)
    run_task("reconciliation.reconcile_day", day=_yesterday(), by="clara")
    world.rest()  # the news that a refund contradicts ours come before or after its correction: here before
    bulk_id = UUID("0199f000-0000-7000-8000-000000000001")
    items = list(Discrepancy.objects.values_list("pk", flat=True))

    def play() -> None:
        reconciliation.plan_bulk(
            bulk_id=bulk_id, action=Action.WRITE_OFF, discrepancies=items, by="clara", scope="all of yesterday"
        )
        reconciliation.carry_out(bulk_id=bulk_id, by="clara", note="cents")
        run_task("reconciliation.work_on_bulk")

    return play


def _last_month(world: World) -> date:
    """A month of one day, traded and reconciled; its first day."""
    last = database_now().date().replace(day=1) - timedelta(days=1)
    world.trade_on(moment.combine(last, time_of_day(12), UTC))
    refund(world, bought(world), 500)
    all_news(world)
    run_task("reconciliation.reconcile_day", day=last.isoformat(), by="clara")
    return last.replace(day=1)


@scenario("a month is closed")
def month_closed(world: World) -> Played:
    month = _last_month(world)

    def play() -> None:
        with suppress(PeriodIsClosed):
            reconciliation.close_period(period=month, by="clara", note="month's end", carry_open=True)

    return play


@scenario("a month is reopened by two, and closed again")
def month_reopened(world: World) -> Played:
    month = _last_month(world)
    reconciliation.close_period(period=month, by="clara", note="month's end", carry_open=True)
    reconciliation.ask_reopening(period=month, by="clara", why="a row came late")

    def play() -> None:
        with suppress(NothingToApprove, PeriodIsOpen):
            reconciliation.approve_reopening(period=month, by="paul", why="I have seen it")
        with suppress(PeriodIsClosed):
            reconciliation.close_period(period=month, by="paul", note="now it is right", carry_open=True)

    return play


@scenario("what was ignored comes back")
def wake_ignored(world: World) -> Played:
    _found_at_night(world, Kind.UNKNOWN_TYPE)
    tomorrow = database_now().date() + timedelta(days=1)
    reconciliation.perform(
        discrepancy_id=Discrepancy.objects.get().pk,
        action=Action.IGNORE_UNTIL,
        by="clara",
        note="we ask Stripe",
        given=ActionInput(until=tomorrow),
    )
    Discrepancy.objects.update(ignored_until=database_now().date())
    return _several("reconciliation.wake_ignored")


def _yesterday() -> str:
    return (database_now() - timedelta(days=1)).date().isoformat()


# --- Upkeep -----------------------------------------------------------------------------------------


def _several(*tasks: str) -> Played:
    def play() -> None:
        for name in tasks:
            run_task(name)

    return play


@scenario("clean-up of what is old")
def clean_up(world: World) -> Played:
    refund(world, bought(world), 500)
    all_news(world)
    world.age()
    return _several("durability.clean_up", "payments.clean_up", "orders.clean_up")


@scenario("the books are cut and proved")
def books(world: World) -> Played:
    refund(world, bought(world), 500)
    all_news(world)
    return _several("payments.cut_books", "payments.check_books")


@scenario("the audit chain is extended")
def chain(world: World) -> Played:
    _found_at_night(world, Kind.AMOUNT_MISMATCH)
    return _several("reconciliation.extend_chain")


@scenario("the provider's balance is read")
def balance_read(world: World) -> Played:
    bought(world)
    return _several("reconciliation.read_balance")


@scenario("the stock is proved")
def stock_proved(world: World) -> Played:
    bought(world)
    return _several("inventory.check_stock")


@scenario("a handler that was deployed later")
def subscribe(world: World) -> Played:
    """Its messages were published by processes that did not know it."""
    world.work()
    world.shop.checkout(payment=confirmed_with(CARD))
    Delivery.objects.all().delete()
    return _several("durability.subscribe")


@scenario("signs of life")
def signs_of_life(world: World) -> Played:
    return _several("durability.seen_own", "durability.seen_outside", "durability.seen_long")
