"""Every POST that changes something: one effect and one answer a key; and a client that died goes on hours later."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pkgutil import resolve_name
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, models, transaction
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils.duration import duration_string

from durability import services as durability
from durability.models import IdempotencyKey
from inventory.models import StockMovement
from orders import services
from orders.models import Order, OrderHistory
from payments.models import Payment, Refund
from payments.providers import stripe as provider
from tests.orders.test_two_tabs import pay_in_browser
from tests.races import Killed
from tests.shop import Shop, open_shop, settle

CARD = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
DECLINED = {**CARD, "payment_method": "pm_card_chargeDeclined"}


# --- Every POST -------------------------------------------------------------------------------------


@dataclass
class Call:
    """A POST that works, and another request that must not have the same key."""

    path: str
    body: dict[str, Any] = field(default_factory=dict)
    scope: str = "operations"
    status: int = 200
    other_path: str = ""
    other_body: dict[str, Any] | None = None

    def send(self, shop: Shop, key: str | None, *, another: bool = False) -> Any:
        client = shop.storefront if self.scope == "storefront" else shop.operations
        path, body = self.path, self.body
        if another:
            path, body = self.other_path or path, body if self.other_body is None else self.other_body
        return client.post(
            f"/api/v1{path}", body, format="json", headers={} if key is None else {"Idempotency-Key": key}
        )


def cart(quantity: int) -> dict[str, Any]:
    return {"customer": {"id": "c"}, "items": [{"product": "book", "quantity": quantity}]}


def to_checkout(shop: Shop) -> Call:
    return Call("/checkout", cart(1), "storefront", 201, other_body=cart(2))


def to_attempt(shop: Shop) -> Call:
    number = shop.checkout().json()["order"]["number"]
    return Call(f"/orders/{number}/payments", {"method": "card"}, "storefront", 201, other_body=CARD)


def to_cancel(shop: Shop) -> Call:
    one, other = (shop.checkout().json()["order"]["number"] for _ in "ab")
    return Call(f"/orders/{one}/cancel", scope="storefront", other_path=f"/orders/{other}/cancel")


def to_ship(shop: Shop) -> Call:
    number = shop.bought()["number"]
    return Call(f"/orders/{number}/ship", {"carrier": "Post"}, other_body={"carrier": "Van"})


def to_complete(shop: Shop) -> Call:
    one, other = (shop.bought()["number"] for _ in "ab")
    for number in (one, other):
        shop.post(f"/orders/{number}/ship")
    return Call(f"/orders/{one}/complete", other_path=f"/orders/{other}/complete")


def to_refund(shop: Shop) -> Call:
    number = shop.bought()["payments"][0]["number"]
    body = {"amount": 100, "reason": "torn"}
    return Call(f"/payments/{number}/refunds", body, status=201, other_body={**body, "amount": 200})


def to_publish(shop: Shop) -> Call:
    body = {"title": "Another", "author": "A", "price": 100, "currency": "usd"}
    return Call("/products", body, status=201, other_body={**body, "price": 200})


def to_restock(shop: Shop) -> Call:
    return Call("/stock/book/restock", {"quantity": 1}, other_body={"quantity": 2})


def to_deduct(shop: Shop) -> Call:
    body = {"quantity": 1, "reference": "till"}
    return Call("/stock/book/deduct", body, other_body={**body, "quantity": 2})


def to_release(shop: Shop) -> Call:
    body = {"quantity": 1, "reference": "till"}
    shop.post("/stock/book/deduct", {"quantity": 5, "reference": "till"})
    return Call("/stock/book/release", body, other_body={**body, "quantity": 2})


CALLS: dict[str, Callable[[Shop], Call]] = {
    "checkout": to_checkout,
    "order-payments": to_attempt,
    "order-cancel": to_cancel,
    "order-ship": to_ship,
    "order-complete": to_complete,
    "payment-refunds": to_refund,
    "products": to_publish,
    "stock-restock": to_restock,
    "stock-deduct": to_deduct,
    "stock-release": to_release,
}


def posts(patterns: Any, prefix: str = "") -> set[str]:
    """Names of all addresses of the API that take a POST of a key's."""
    found: set[str] = set()
    for one in patterns:
        if isinstance(one, URLResolver):
            found |= posts(one.url_patterns, prefix + str(one.pattern))
        elif isinstance(one, URLPattern) and prefix.startswith("api/v1/"):
            view = getattr(one.callback, "view_class", None)
            if view is not None and hasattr(view, "post"):
                found.add(one.name or str(one.pattern))
    return found


def effects() -> tuple[int, ...]:
    """How much there is of all that a POST makes."""
    made: list[Any] = [Order, OrderHistory, Payment, Refund, StockMovement, apps.get_model("catalog", "Product")]
    return tuple(model.objects.count() for model in made)


def test_every_post_of_the_api_is_in_this_table():
    assert posts(get_resolver().url_patterns) == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_without_a_key_nothing_is_done(shop, name):
    call = CALLS[name](shop)
    before = effects()
    answer = call.send(shop, None)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")
    assert effects() == before


@pytest.mark.parametrize("name", CALLS)
def test_a_key_has_one_effect_and_one_answer_and_serves_no_other_request(shop, name):
    call = CALLS[name](shop)
    first = call.send(shop, "key")
    assert first.status_code == call.status, first.json()
    before = effects()
    again = call.send(shop, '"key"')
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert (first.headers.get("Idempotent-Replayed"), again.headers.get("Idempotent-Replayed")) == (None, "true")
    other = call.send(shop, "key", another=True)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert effects() == before


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("products", "checkout")])
def test_a_refusal_consumes_no_key(shop, name):
    """Of an object that is another merchant's: not found, and the key is free for the right request."""
    call = CALLS[name](shop)
    stranger = open_shop()
    client = stranger.storefront if call.scope == "storefront" else stranger.operations
    keys = IdempotencyKey.objects.count()
    refused = client.post(f"/api/v1{call.path}", call.body, format="json", headers={"Idempotency-Key": "key"})
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert IdempotencyKey.objects.count() == keys
    assert call.send(shop, "key").status_code == call.status


@pytest.mark.parametrize(
    "path", ["/orders/{}/cancel", "/orders/{}/payments", "/payments/{}/refunds", "/stock/{}/restock"]
)
def test_an_address_of_any_length_is_not_found(shop, path):
    bodies: dict[str, dict[str, Any]] = {
        "/orders/{}/payments": {"method": "card"},
        "/payments/{}/refunds": {"reason": "x"},
        "/stock/{}/restock": {"quantity": 1},
    }
    body = bodies.get(path, {})
    client = shop.storefront if "payments" in path and "refunds" not in path else shop.operations
    address = f"/api/v1{path.format('x' * 1000)}"
    answer = client.post(address, body, format="json", headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


# --- Final or not -----------------------------------------------------------------------------------


def stored() -> list[int | None]:
    return list(IdempotencyKey.objects.order_by("pk").values_list("status", flat=True))


def test_failures_that_are_final_are_stored_and_replayed(shop, settings):
    for key, expected in (("declined", 402), ("refused", 424)):
        settings.INSTANCE_ID = "everycent" if expected == 402 else "x" * 600  # longer than metadata may be
        first, again = (shop.checkout(key=key, payment=DECLINED) for _ in "ab")
        assert (first.status_code, again.status_code) == (expected, expected)
        assert first.json() == again.json()
        assert again.headers["Idempotent-Replayed"] == "true"
    assert stored() == [402, 424]
    assert Order.objects.count() == 2


def test_an_answer_that_is_not_final_is_not_stored(shop, sandbox):
    sandbox.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": "error_500_after", "times": 1})
    answer = shop.checkout(key="key", payment=CARD)
    assert (answer.status_code, answer.json()["payment"]["status"]) == (201, "processing")
    assert stored() == [None]
    settle()
    again = shop.checkout(key="key", payment=CARD)
    assert (again.json()["order"]["status"], again.json()["payment"]["status"]) == ("paid", "succeeded")
    assert stored() == [201]


@pytest.mark.parametrize("what", ["payments", "cancel"])
def test_a_refusal_after_the_first_commit_gives_the_key_back_too(shop, sandbox, what):
    """The provider is asked first, and says that the customer has paid in the browser meanwhile."""
    body = shop.checkout().json()
    number = body["order"]["number"]
    assert pay_in_browser(sandbox, body["payment"])  # and no webhook has come
    keys = IdempotencyKey.objects.count()
    wish = {"method": "card"} if what == "payments" else {}
    call = Call(f"/orders/{number}/{what}", wish, "storefront" if what == "payments" else "operations")
    refused = call.send(shop, "key")
    assert (refused.status_code, refused.json()["code"]) == (409, "order_already_paid")
    assert refused.json()["payment"] == body["payment"]["number"]
    assert IdempotencyKey.objects.count() == keys
    settle()
    if what == "cancel":  # asked anew: what is paid by now is refunded
        assert call.send(shop, "key").json()["refund_status"] == "refunding"
        settle()
        assert call.send(shop, "key").headers["Idempotent-Replayed"] == "true"
        assert shop.order(number)["status"] == "cancelled"
    else:
        assert call.send(shop, "key").json()["code"] == "order_already_paid"
        assert shop.order(number)["status"] == "paid"


def test_a_cancellation_that_could_not_be_is_asked_for_anew_with_the_same_key(shop, sandbox):
    """The provider works on the payment; then the customer's bank declines it, and the same request cancels."""
    body = shop.checkout().json()
    number, intent = body["order"]["number"], body["payment"]["provider_reference"]
    cancel = Call(f"/orders/{number}/cancel")
    sandbox.control(
        "POST", "faults", {"match": f"POST /v1/payment_intents/{intent}/cancel", "kind": "reset", "times": 1}
    )
    first = cancel.send(shop, "key")
    assert (first.status_code, first.json()["code"]) == (503, "provider_unavailable")
    assert first.headers["Retry-After"]
    assert not IdempotencyKey.objects.filter(key="key").exists()
    settle()
    again = cancel.send(shop, "key")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    assert cancel.send(shop, "key").headers["Idempotent-Replayed"] == "true"
    assert OrderHistory.objects.filter(subject=Order.id_of(number)).count() == 1


def test_a_key_is_kept_for_thirty_days(shop):
    shop.checkout(key="key")
    hours_pass(29.9 * 24)
    assert durability.clean_up()["keys"] == 0
    hours_pass(0.2 * 24)
    assert durability.clean_up()["keys"] == 1
    assert not IdempotencyKey.objects.exists()


# --- Died after sending -----------------------------------------------------------------------------

# Where the first try's process dies, in the order of its way.
POINTS = {
    "before the order is placed": ("orders.services.checkout._place", "before"),
    "before the first commit": ("durability.keys.claim", "after"),
    "before the call to the provider": ("payments.services.open_at_provider", "before"),
    "before the answer of the provider": ("payments.gateway.create_intent", "after"),
    "before the outcome is committed": ("payments.services.record_opening", "before"),
    "before the answer is stored": ("durability.keys.store", "before"),
    "before the answer arrives": ("", ""),
}


CHECKOUTS = [point for point in POINTS if point != "before the first commit"]
OTHERS = [point for point in POINTS if point != "before the order is placed"]


def hours_pass(hours: float) -> None:
    """All that was written down was written so many hours earlier."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # no triggers: histories are written once
        for model in apps.get_models():
            if model._meta.app_label in ("durability", "inventory", "payments", "orders"):
                moments = [one.column for one in model._meta.local_fields if isinstance(one, models.DateTimeField)]
                if moments:
                    changes = ", ".join(f'"{name}" = "{name}" - %(by)s::interval' for name in moments)
                    cursor.execute(
                        f'UPDATE "{model._meta.db_table}" SET {changes}',
                        {"by": duration_string(timedelta(hours=hours))},
                    )


def dies(monkeypatch: pytest.MonkeyPatch, point: str, request: Callable[[], Any]) -> None:
    """Send a request whose process dies at a point; nobody hears its answer."""
    name, at = POINTS[point]
    with monkeypatch.context() as broken:
        if not name:
            request()
            return
        real = resolve_name(name)

        def die(*positional: Any, **named: Any) -> Any:
            if at == "after":
                real(*positional, **named)
            raise Killed

        broken.setattr(name, die)
        with pytest.raises(Killed):
            request()


def beat_goes_on() -> None:
    """What beat and workers do in those hours."""
    services.rearm()
    services.expire_due()
    settle()


def intents_of(number: str) -> list[dict[str, Any]]:
    return [one for one in provider._listing("payment_intents", {}) if one["metadata"].get("order") == number]


@pytest.mark.parametrize("hours", [3, 25])  # the provider's keys are good for a day
@pytest.mark.parametrize("first", ["the client", "the workers"])
@pytest.mark.parametrize("point", CHECKOUTS)
def test_a_checkout_is_continued_hours_later_wherever_its_first_try_died(  # noqa: PLR0917
    shop, monkeypatch, settings, point, first, hours
):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    wish = CARD if hours == 3 else {"method": "card"}
    dies(monkeypatch, point, lambda: shop.checkout(key="key", payment=wish))
    hours_pass(hours)
    if first == "the workers":
        beat_goes_on()
    answer = shop.checkout(key="key", payment=wish)
    settle()
    order = shop.order(answer.json()["order"]["number"])
    again = shop.checkout(key="key", payment=wish)
    assert (answer.status_code, again.status_code) == (201, 201), answer.json()
    assert again.json()["order"]["number"] == order["number"]
    assert Order.objects.count() == Payment.objects.count() == 1  # no second order
    assert len(intents_of(order["number"])) <= 1  # no second intent
    sold = order["status"] == "paid"
    assert sold or order["status"] in ("pending", "cancelled")
    assert shop.level() == {"paid": (9, 0), "pending": (10, 1), "cancelled": (10, 0)}[order["status"]]
    if hours == 3 and first == "the client":
        assert sold  # we confirm: whoever goes on ends it


@pytest.mark.parametrize("first", ["the client", "the workers"])
@pytest.mark.parametrize("point", [point for point in CHECKOUTS if point != "before the answer of the provider"])
def test_a_declined_checkout_is_told_so_hours_later(shop, monkeypatch, settings, point, first):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    dies(monkeypatch, point, lambda: shop.checkout(key="key", payment=DECLINED))
    if first == "the workers":
        settle()
    hours_pass(3)
    answer = shop.checkout(key="key", payment=DECLINED)
    assert (answer.status_code, answer.json()["code"]) == (402, "card_declined")
    assert Order.objects.count() == Payment.objects.count() == 1
    assert shop.checkout(key="key", payment=DECLINED).headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("point", OTHERS)
def test_another_attempt_is_continued_wherever_its_first_try_died(shop, monkeypatch, settings, point):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    number = shop.checkout(payment=DECLINED).json()["order"]["number"]
    attempt = Call(f"/orders/{number}/payments", CARD, "storefront")
    dies(monkeypatch, point, lambda: attempt.send(shop, "key"))
    Order.objects.update(expires_at=Order.objects.get().expires_at + timedelta(hours=4))  # it waits for its customer
    hours_pass(3)
    answer = attempt.send(shop, "key")
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded"), answer.json()
    settle()
    assert shop.order(number)["status"] == "paid"
    assert Payment.objects.count() == 2
    assert [one["status"] for one in intents_of(number)].count("succeeded") == 1


@pytest.mark.parametrize(
    "point", ["before the first commit", "before the answer is stored", "before the answer arrives"]
)
def test_a_refund_is_made_once_wherever_its_first_try_died(shop, monkeypatch, point):
    call = to_refund(shop)
    dies(monkeypatch, point, lambda: call.send(shop, "key"))
    hours_pass(3)
    assert call.send(shop, "key").status_code == 201
    settle()
    assert [refund.amount_minor for refund in Refund.objects.all()] == [100]


def test_control_a_key_that_is_not_in_the_first_commit_places_two_orders(shop, monkeypatch):
    """The key bound only when the answer is stored, as many libraries do it: a retry begins anew."""
    dies(monkeypatch, "before the answer is stored", lambda: shop.checkout(key="key"))
    IdempotencyKey.objects.all().delete()
    shop.checkout(key="key")
    assert Order.objects.count() == 2
