"""Bodies that nobody means: refused with 400 at every address that takes one, never a 500, and nothing has changed."""

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from rest_framework.test import APIClient

from tests.api.routes import BODIES, ROUTES, address, trade
from tests.api.state import changed, state
from tests.shop import Shop

BROKEN = {
    "cut off": b'{"quantity": ',
    "no JSON": b"quantity=1",
    "with a comment": b'{/* one */ "quantity": 1}',
    "with a comma too many": b'{"quantity": 1,}',
    "two objects": b'{"quantity": 1} {"quantity": 2}',
    "a list": b"[]",
    "a text": b'"text"',
    "a number": b"1",
    "null": b"null",
    "a line break in a text": b'{"reference": "a\nb"}',
    "a member twice": b'{"quantity": 1, "quantity": 2}',
    "a member twice further down": b'{"metadata": {"a": 1, "b": {"c": 1, "c": 1}}}',
    "deep lists": b'{"metadata": ' + b"[" * 17 + b"]" * 17 + b"}",
    "deep objects": b'{"metadata": ' + b'{"a":' * 17 + b"1" + b"}" * 17 + b"}",
    "as deep as can be sent": b"[" * 65_000,
    "objects as deep as can be sent": b'{"a":' * 13_000,
    "NaN": b'{"quantity": NaN}',
    "Infinity": b'{"quantity": -Infinity}',
    "infinite": b'{"quantity": 1e999}',
    "a huge fraction": b'{"metadata": {"n": 1e300}}',
    "an integer that not every reader holds": b'{"metadata": {"n": 9007199254740992}}',
    "a negative one": b'{"metadata": {"n": -9007199254740992}}',
    "an integer that no column holds": b'{"quantity": 99999999999999999999}',
    "an integer of 5,000 digits": b'{"quantity": ' + b"9" * 5_000 + b"}",
    "an integer of 60,000 digits": b'{"quantity": -' + b"9" * 60_000 + b"}",
    "an escaped NUL": b'{"reference": "a\\u0000b"}',
    "a NUL in a name": b'{"a\\u0000": 1}',
    "a bare NUL": b'{"reference": "a\x00b"}',
    "half of an emoji": b'{"reference": "\\ud83d"}',
    "its other half": b'{"reference": "\\ude00"}',
    "the halves in the wrong order": b'{"reference": "\\ude00\\ud83d"}',
    "half of an emoji in a name": b'{"metadata": {"\\ud83d": 1}}',
    "half of an emoji in UTF-8": b'{"reference": "\xed\xa0\xbd"}',
    "no UTF-8": b'{"reference": "\xff\xfe"}',
    "an overlong NUL": b'{"reference": "\xc0\x80"}',
    "Latin-1": '{"reference": "ä"}'.encode("latin-1"),
    "UTF-16": '{"quantity": 1}'.encode("utf-16"),
    "compressed": bytes.fromhex("1f8b0800000000000003ab5602004100ffff"),
    "longer than a body may be": b'{"reference": "' + b"a" * settings.API_MAX_BODY_BYTES + b'"}',
}


def send(client: Any, method: str, path: str, raw: bytes, **more: Any) -> Any:
    headers = {"Idempotency-Key": str(uuid4()), **more.pop("headers", {})}
    return client.generic(method, path, raw, **{"content_type": "application/json", **more}, headers=headers)


def places(shop: Shop, ids: dict[str, str]) -> Iterator[tuple[APIClient, str, str]]:
    """Whoever may call it, method and address, of everything that takes a body."""
    for method, route in BODIES:
        client = shop.operations if "operations" in ROUTES[route][1][method] else shop.storefront
        yield client, method, address(route, ids)


EVERYWHERE = ("a list", "a member twice", "an integer of 5,000 digits", "an escaped NUL", "half of an emoji")


def test_what_is_broken_is_refused_everywhere_and_changes_nothing(shop):
    ids = trade(shop)
    restock = address("stock-restock", ids)
    calls = [(shop.operations, "POST", restock, name) for name in BROKEN]
    calls += [(*place, name) for place in places(shop, ids) for name in EVERYWHERE]
    before = state()
    told = {
        (name, method, path): (
            (answer := send(client, method, path, BROKEN[name])).status_code,
            answer.json().get("code"),
        )
        for client, method, path, name in calls
    }
    assert {call: what for call, what in told.items() if what != (400, "parameter_invalid")} == {}
    assert changed(before, state()) == []


def test_a_body_that_breaks_off_is_refused(shop):
    class HungUp(BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError("the caller hung up")

    path = "/api/v1/stock/book/restock"
    answer = shop.operations.generic(
        "POST", path, content_type="application/json", headers={"Idempotency-Key": "k"},
        **{"wsgi.input": HungUp(), "CONTENT_LENGTH": "15"},
    )  # fmt: skip
    assert (answer.status_code, answer.json()["code"]) == (400, "parameter_invalid")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\u00e9\\/"', "é/"),
        ("[[[[[[[[[[[[[1]]]]]]]]]]]]]", [[[[[[[[[[[[[1]]]]]]]]]]]]]),
        ("9007199254740991", 2**53 - 1),
        ("-9007199254740991", 1 - 2**53),
        ("0.1", 0.1),
    ],
)
def test_what_only_looks_odd_is_read(shop, written, meant):
    answer = send(
        shop.operations, "PATCH", "/api/v1/products/book", b'\xef\xbb\xbf {"metadata": {"it": %s}}' % written.encode()
    )
    assert answer.status_code == 200
    assert shop.storefront.get("/api/v1/products/book").json()["metadata"] == {"it": meant}


def test_a_body_may_be_as_long_as_the_limit(shop):
    around = len('{"metadata":{"a":""}}')
    raw = b'{"metadata":{"a":"%s"}}' % (b"a" * (settings.API_MAX_BODY_BYTES - around))
    assert len(raw) == settings.API_MAX_BODY_BYTES
    assert send(shop.operations, "PATCH", "/api/v1/products/book", raw).status_code == 200
    assert send(shop.operations, "PATCH", "/api/v1/products/book", raw + b" ").status_code == 400


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON", 200),
        ("", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/" + "x" * 300, 415),
    ],
)
def test_a_body_is_json_and_says_so(shop, content_type, status):
    answer = send(shop.operations, "PATCH", "/api/v1/products/book", b'{"title": "x"}', content_type=content_type)
    assert answer.status_code == status


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "application/problem+json", "*/*", "", "n o n e"])
def test_the_answer_is_json_whatever_the_caller_accepts(shop, accept):
    found = shop.storefront.get("/api/v1/products/book?format=xml", headers={"Accept": accept})
    assert (found.status_code, found.headers["Content-Type"]) == (200, "application/json")
    missing = shop.storefront.get("/api/v1/products/none", headers={"Accept": accept})
    assert (missing.status_code, missing.headers["Content-Type"]) == (404, "application/problem+json")


# --- Members -----------------------------------------------------------------------------------------

ODD: list[Any] = [None, True, -1, 1.5, 2**53 - 1, "", " ", "0", "💥", "x" * 2_000, [[]], {"": ""}]


def replaced(body: Any) -> Iterator[Any]:
    """The body with each of its members in turn replaced by each odd value, or gone; and with one more."""
    if isinstance(body, dict):
        yield {**body, "surprise": 1}
        for name, value in body.items():
            yield {other: body[other] for other in body if other != name}
            yield from ({**body, name: odd} for odd in [*ODD, *replaced(value)])
    elif isinstance(body, list):
        for place, value in enumerate(body):
            yield from ([*body[:place], odd, *body[place + 1 :]] for odd in [*ODD, *replaced(value)])


def test_no_value_of_any_member_is_answered_with_a_500_and_what_is_wrong_is_named(shop):
    ids = trade(shop)
    told: dict[str, Any] = {}
    calls = 0
    for (method, route), (client, _, path) in zip(BODIES, places(shop, ids), strict=True):
        for body in replaced(BODIES[method, route]):
            raw = json.dumps(body).encode()
            answer = send(client, method, path, raw, headers={"Prefer": "respond-async"})
            calls += 1
            problem = answer.json() if answer.status_code >= 400 else {}
            if answer.status_code >= 500 or (answer.status_code == 400 and not problem.get("param")):
                told[f"{method} {path} {raw.decode()[:200]}"] = (answer.status_code, problem)
    assert told == {}
    assert calls > 300
