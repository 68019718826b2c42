"""Lists: cursor pages in which nothing moves while rows arrive, and parameters that are known or refused."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from foundation.ids import uuid7
from orders.models import Order
from tests.factories import api_client, make_key, make_merchant, make_product

pytestmark = pytest.mark.django_db


@pytest.fixture
def merchant():
    return make_merchant()


@pytest.fixture
def api(merchant):
    return api_client(make_key(merchant))


def place(merchant, **fields: Any) -> str:
    """An order, as checkout leaves it in its table."""
    values = {"customer": "c", "currency": "usd", "total_minor": 1, "expires_at": Now() + timedelta(hours=1), **fields}
    order = Order(id=uuid7(), merchant_id=merchant.id, **values)
    order.save(force_insert=True)
    return order.number


def read(api, path: str, **params: Any) -> dict[str, Any]:
    answer = api.get(f"/api/v1{path}", params)
    assert answer.status_code == 200, answer.json()
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize(
    "params", [{}, {"status": "pending"}, {"customer": "c"}, {"customer": "c", "status": "pending"}]
)
def test_orders_that_arrive_while_paging_move_no_page(api, merchant, params):
    there = [place(merchant) for _ in range(11)]
    others = [place(merchant, customer="d")]
    wanted = (there if "customer" in params else there + others)[::-1]
    pages: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while not pages or pages[-1]["has_more"]:
        page = read(api, "/orders", limit=5, **params, **cursor)
        place(merchant)
        place(make_merchant())
        assert not cursor or read(api, "/orders", limit=5, **params, **cursor) == page
        pages.append(page)
        cursor = {"cursor": page["next_cursor"]}
    assert [[row["number"] for row in page["data"]] for page in pages] == [wanted[:5], wanted[5:10], wanted[10:]]
    assert [page["next_cursor"] is None for page in pages] == [False, False, True]


def test_a_product_that_changes_while_paging_is_seen_once(api, merchant):
    made = [make_product(merchant).product for _ in range(5)]
    first = read(api, "/products", limit=2)
    api.patch(f"/api/v1/products/{made[0]}", {"title": "AAA"})
    api.patch(f"/api/v1/products/{made[4]}", {"title": "ZZZ"})
    second = read(api, "/products", limit=100, cursor=first["next_cursor"])
    assert [row["id"] for row in first["data"] + second["data"]] == made[::-1]


def test_an_empty_list_is_a_page(api):
    for path in ("/orders", "/products", "/stock?products="):
        assert read(api, path) == {"data": [], "has_more": False, "next_cursor": None}


def test_twenty_are_a_page_and_a_hundred_the_longest(api, merchant):
    for _ in range(101):
        place(merchant)
    assert [len(read(api, "/orders", **params)["data"]) for params in ({}, {"limit": 1}, {"limit": 100})] == [
        20,
        1,
        100,
    ]


def refused(api, path: str) -> tuple[int, str, str]:
    problem = api.get(f"/api/v1{path}").json()
    return problem["status"], problem["code"], problem["param"]


@pytest.mark.parametrize("limit", ["0", "-1", "101", "1.0", "1e1", "٣", " 5", "", "x", "9" * 5_000, "0x10", "%2B5"])
@pytest.mark.parametrize("path", ["/orders", "/products"])
def test_a_limit_is_a_number_from_1_to_100(api, path, limit):
    assert refused(api, f"{path}?limit={limit}") == (400, "parameter_invalid", "limit")


@pytest.mark.parametrize(
    "cursor",
    ["x", "AZqxYjkHcBqAAAAAAAAAAA==", "AZqxYjkHcBqAAAAAAAAA", "💥", "A" * 5_000, "AZqx!jkHcBqAAAAAAAAAAA", "null"],
)
@pytest.mark.parametrize("path", ["/orders", "/products"])
def test_a_cursor_is_one_that_a_page_gave(api, path, cursor):
    assert refused(api, f"{path}?cursor={cursor}") == (400, "parameter_invalid", "cursor")


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/products?serach=x", "serach"),
        ("/orders?state=paid", "state"),
        ("/orders?search=x", "search"),
        ("/stock?product=a&products=a", "product"),
        ("/orders?status=paid&status=pending", "status"),
        ("/products?limit=1&limit=2", "limit"),
        ("/orders?Status=paid", "Status"),
    ],
)
def test_a_parameter_that_is_misspelt_or_doubled_is_refused(api, path, param):
    assert refused(api, path) == (400, "parameter_invalid", param)


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/orders?status=open", "status"),
        ("/orders?customer=" + "c" * 256, "customer"),
        ("/products?search=" + "s" * 201, "search"),
        ("/products?ids=" + ",".join(map(str, range(101))), "ids"),
    ],
)
def test_a_filter_that_finds_nothing_for_sure_is_refused(api, path, param):
    assert refused(api, path) == (400, "parameter_invalid", param)


def test_what_django_itself_finds_suspicious_is_a_problem_document(api):
    for path, headers in (
        ("/orders?" + "&".join(f"a{n}=1" for n in range(2_000)), {}),
        ("/orders", {"Host": "evil.example"}),
    ):
        answer = api.get(f"/api/v1{path}", headers=headers)
        assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
        assert answer.json()["code"] == "parameter_invalid"
