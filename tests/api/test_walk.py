"""Every address × method × role × owner: who may, does; who may not, is told so; another merchant's objects do not exist."""

from datetime import timedelta
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.test import APIClient

from catalog import services as catalog
from catalog.models import ApiKey
from foundation.ids import public_id, uuid7
from tests.api.routes import BODIES, BY_SIGNATURE, ROUTES, address, trade
from tests.api.state import changed, state
from tests.shop import Shop, open_shop

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LIVE = ("storefront", "operations")
DEAD = ("without a key", "revoked", "expired")

Told = tuple[str, str, str, str]  # route, method, role, owner


def clients_of(shop: Shop) -> dict[str, APIClient]:
    """A client of each role."""
    clients = {"storefront": shop.storefront, "operations": shop.operations}
    for role in ("revoked", "expired"):
        key = catalog.issue_api_key(merchant_id=shop.merchant_id, name=role, scopes=list(LIVE))
        clients[role] = APIClient(headers={"Authorization": f"Bearer {key}"})
    catalog.revoke_api_key(key_id=ApiKey.objects.get(merchant_id=shop.merchant_id, name="revoked").pk)
    ApiKey.objects.filter(name="expired").update(expires_at=Now() - timedelta(seconds=1))
    clients["without a key"] = APIClient()
    return clients


def ask(client: APIClient, method: str, route: str, ids: dict[str, str]) -> Any:
    body = BODIES.get((method, route))
    more = {"data": body, "format": "json"} if body is not None else {}
    return client.generic(method, address(route, ids), headers={"Idempotency-Key": str(uuid4())}) if not more else (
        getattr(client, method.lower())(address(route, ids), headers={"Idempotency-Key": str(uuid4())}, **more)
    )  # fmt: skip


def expected(route: str, method: str, role: str, owner: str) -> int | str:
    access = ROUTES[route][1]
    served = "GET" if method == "HEAD" else method
    if role in DEAD:
        return 401
    if method == "OPTIONS":
        return 200
    if served not in access:
        return 405
    if role not in access[served]:
        return 403
    return "let in" if owner == "own" else 404


def outcome(answer: Any) -> int | str:
    """404 and the like as they are; the rest is between the caller and its own objects."""
    return answer.status_code if answer.status_code in (401, 403, 404, 405) or answer.status_code >= 500 else "let in"


@pytest.fixture
def own(shop: Shop) -> dict[str, str]:
    return trade(shop)


@pytest.fixture
def nobodys() -> dict[str, str]:
    numbers = {
        name: public_id(prefix, uuid7()) for name, prefix in (("order", "ord"), ("payment", "pay"), ("refund", "ref"))
    }
    return {"product": "nothing", **numbers}


def named(patterns: list[URLPattern | URLResolver]) -> set[str]:
    """Names of all addresses under /api/v1."""
    found: set[str] = set()
    for pattern in patterns:
        if isinstance(pattern, URLResolver) and str(pattern.pattern) == "api/v1/":
            found |= {str(one.name) for one in pattern.url_patterns if isinstance(one, URLPattern)}
    return found


def test_the_walk_knows_every_address():
    assert named(get_resolver().url_patterns) == ROUTES.keys() | BY_SIGNATURE
    changing = {(method, route) for route, (_, access) in ROUTES.items() for method in access if method != "GET"}
    assert changing == BODIES.keys()


def test_each_role_may_what_its_scopes_say_and_no_more(shop, own):
    clients = clients_of(shop)
    calls = [(route, method, role, "own") for route, method, role in product(ROUTES, METHODS, clients)]
    refused = {call: wanted for call in calls if (wanted := expected(*call)) in (401, 403, 405)}
    before = state()
    assert {call: outcome(ask(clients[call[2]], call[1], call[0], own)) for call in refused} == refused
    assert changed(before, state()) == []
    open_to = {call: "let in" for call in calls if expected(*call) == "let in"}
    assert {call: outcome(ask(clients[call[2]], call[1], call[0], own)) for call in open_to} == open_to
    assert len(refused) > len(open_to) > 0


def test_another_merchants_objects_do_not_exist_whatever_the_method_and_the_scope(shop, own, nobodys):
    stranger = clients_of(open_shop())
    before = state()
    told: dict[Told, int | str] = {}
    for route, role in product(ROUTES, LIVE):
        path, access = ROUTES[route]
        for method in [*access, "HEAD"] if "{" in path else []:
            if "?" in path:
                continue  # a list: below
            theirs, none = (ask(stranger[role], method, route, ids) for ids in (own, nobodys))
            told[route, method, role, "theirs"] = outcome(theirs)
            assert alike(theirs, none), (route, method, role)
    assert told == {key: expected(*key) for key in told}
    assert changed(before, state()) == []


def alike(one: Any, other: Any) -> bool:
    """Nothing tells an object of somebody else's from one that never was."""
    documents = [
        {name: value for name, value in answer.json().items() if name not in ("instance", "request_id")}
        if answer.content
        else {}
        for answer in (one, other)
    ]
    return one.status_code == other.status_code and documents[0] == documents[1]


@pytest.mark.parametrize("role", LIVE)
@pytest.mark.parametrize(
    "path",
    [
        "/products",
        "/products?ids=book",
        "/products?search=book",
        "/stock?products=book",
        "/orders",
        "/orders?customer=cust-1",
        "/orders?status=paid",
    ],
)
def test_no_list_shows_another_merchants_objects(shop, role, path):
    shop.bought()
    clients = clients_of(open_shop())
    assert clients[role].get(f"/api/v1{path}").json()["data"] == []
    assert len(shop.storefront.get(f"/api/v1{path}").json()["data"]) == 1


def test_a_cursor_of_another_merchants_list_leads_into_none_of_it(shop):
    for number in range(3):
        shop.stock(f"b{number}", 0)
    cursor = shop.storefront.get("/api/v1/products?limit=1").json()["next_cursor"]
    assert clients_of(open_shop())["operations"].get(f"/api/v1/products?cursor={cursor}").json()["data"] == []


def test_keys_for_idempotency_of_two_merchants_have_nothing_in_common(shop):
    other = open_shop()
    other.stock("book", 1)
    first, second = shop.checkout(key="one").json(), other.checkout(key="one").json()
    assert first["order"]["number"] != second["order"]["number"]


def test_the_methods_of_an_address_are_told_to_whoever_has_a_key(shop, own):
    answer = shop.storefront.options(address("order-ship", own))
    assert (answer.status_code, answer.headers["Allow"]) == (200, "POST, OPTIONS")


def test_a_webhook_has_a_signature_or_no_effect(shop):
    before = state()
    told = {method: Client().generic(method, "/api/v1/webhooks/stripe", "{}").status_code for method in METHODS}
    assert told == {method: 400 if method == "POST" else 405 for method in METHODS}
    assert changed(before, state()) == []
