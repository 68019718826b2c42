"""The client that holds answers against docs/openapi.yaml sees what it is there for."""

from copy import deepcopy
from typing import Any

import pytest

from foundation.api import problem
from orders.examples import PAID
from tests.contract import check

ADDRESS = f"/api/v1/orders/{PAID['number']}"
HEADERS = {"Content-Type": "application/json", "X-Request-Id": "req_1"}
REFUSED = HEADERS | {"Content-Type": "application/problem+json"}


def refusal(status: int, code: str) -> dict[str, Any]:
    return problem(status=status, code=code, detail="No.", instance=ADDRESS)


def test_what_is_documented_passes():
    check("GET", ADDRESS, 200, HEADERS, PAID)
    check("GET", ADDRESS, 404, REFUSED, refusal(404, "not_found"))
    check("GET", "/api/v1/nothing/of/that/name", 404, {}, None)


@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        (418, REFUSED, refusal(418, "teapot"), "no such status"),
        (404, REFUSED, refusal(404, "lost"), '"lost" is not one of'),
        (404, HEADERS, refusal(404, "not_found"), "but application/json"),
        (200, {"Content-Type": "application/json"}, PAID, "no X-Request-Id"),
        (200, HEADERS, PAID | {"surprise": 1}, "surprise"),
        (200, HEADERS, PAID | {"total": 12.5}, "12.5"),
        (200, HEADERS, {name: PAID[name] for name in PAID if name != "items"}, "items"),
    ],
)
def test_what_is_not_documented_is_told(status, headers, body, said):
    with pytest.raises(AssertionError) as told:
        check("GET", ADDRESS, status, headers, body)
    assert said in str(told.value)


def test_a_secret_in_an_order_is_told():
    order = deepcopy(PAID)
    order["payments"][0]["surprise"] = "secret"
    with pytest.raises(AssertionError, match="surprise"):
        check("GET", ADDRESS, 200, HEADERS, order)
