"""Stock over HTTP: restock, deduct, release."""

import pytest

from inventory.models import Stock, StockHold, StockMovement
from tests.factories import api_client, make_key, make_merchant, make_product

pytestmark = pytest.mark.django_db


@pytest.fixture
def merchant():
    return make_merchant()


@pytest.fixture
def api(merchant):
    return api_client(make_key(merchant))


@pytest.fixture
def book(merchant):
    return make_product(merchant).product


def on_hand(response):
    assert response.status_code == 200, response.json()
    return response.json()["on_hand"]


def test_restock_deduct_the_same_key_again_release(api, book):
    stock = f"/api/v1/stock/{book}"
    assert on_hand(api.post(f"{stock}/restock", {"quantity": 100})) == 100
    five = {"quantity": 5, "reference": "counter-1"}
    first = api.post(f"{stock}/deduct", five, key="deduct-1")
    assert first.json() == {"product": book, "on_hand": 95, "reserved": 0, "available": 95}
    again = api.post(f"{stock}/deduct", five, key="deduct-1")
    assert (on_hand(again), again.headers["Idempotent-Replayed"]) == (95, "true")
    assert on_hand(api.post(f"{stock}/release", five)) == 100
    assert on_hand(api.get(stock)) == 100


def test_each_movement_is_in_the_log(api, book):
    api.post(f"/api/v1/stock/{book}/restock", {"quantity": 7, "reference": "delivery-9"}, key="k1")
    api.post(f"/api/v1/stock/{book}/deduct", {"quantity": 2, "reference": "r"}, key='"k2"')
    log = StockMovement.objects.order_by("pk")
    assert [(row.key, row.operation, row.on_hand_change, row.on_hand_after, row.reference) for row in log] == [
        ("api:k1", "restock", 7, 7, "delivery-9"),
        ("api:k2", "deduct", -2, 5, "r"),
    ]
    assert all(row.by.startswith("API key test (ek_") for row in log)
    assert Stock.objects.get().version == 2


def test_a_product_that_was_never_restocked_has_none(api, book):
    assert api.get(f"/api/v1/stock/{book}").json() == {"product": book, "on_hand": 0, "reserved": 0, "available": 0}


def test_several_at_once_in_the_order_asked(api, merchant):
    few, none, many = (make_product(merchant, stock=stock).product for stock in (1, 0, 9))
    page = api.get(f"/api/v1/stock?products={many},{none},unknown,{few},{many}").json()
    assert [(row["product"], row["available"]) for row in page["data"]] == [(many, 9), (none, 0), (few, 1)]
    assert (page["has_more"], page["next_cursor"]) == (False, None)


def test_the_list_must_be_named_and_is_bounded(api):
    assert api.get("/api/v1/stock").json()["code"] == "parameter_missing"
    assert api.get(f"/api/v1/stock?products={','.join(map(str, range(101)))}").json()["param"] == "products"


def test_no_more_is_deducted_than_there_is(api, book):
    api.post(f"/api/v1/stock/{book}/restock", {"quantity": 3})
    refused = api.post(f"/api/v1/stock/{book}/deduct", {"quantity": 4, "reference": "r"}, key="mine")
    assert (refused.status_code, refused.json()["code"]) == (409, "insufficient_stock")
    assert refused.json()["errors"] == [{"product": book, "requested": 4, "available": 3}]
    # A refusal consumes no key: after the next delivery the same request goes through.
    api.post(f"/api/v1/stock/{book}/restock", {"quantity": 3})
    assert on_hand(api.post(f"/api/v1/stock/{book}/deduct", {"quantity": 4, "reference": "r"}, key="mine")) == 2


def test_nothing_is_deducted_where_nothing_ever_was(api, book):
    refused = api.post(f"/api/v1/stock/{book}/deduct", {"quantity": 1, "reference": "r"})
    assert refused.json()["errors"] == [{"product": book, "requested": 1, "available": 0}]


def test_a_release_gives_back_at_most_what_its_reference_took(api, book):
    stock = f"/api/v1/stock/{book}"
    api.post(f"{stock}/restock", {"quantity": 10})
    api.post(f"{stock}/deduct", {"quantity": 3, "reference": "a"})
    api.post(f"{stock}/deduct", {"quantity": 2, "reference": "b"})
    assert on_hand(api.post(f"{stock}/release", {"quantity": 1, "reference": "a"})) == 6
    refused = api.post(f"{stock}/release", {"quantity": 3, "reference": "a"})
    assert (refused.status_code, refused.json()["code"]) == (409, "hold_exceeded")
    assert on_hand(api.post(f"{stock}/release", {"quantity": 2, "reference": "a"})) == 8
    assert api.post(f"{stock}/release", {"quantity": 1, "reference": "a"}).status_code == 409
    assert api.post(f"{stock}/release", {"quantity": 1, "reference": "never"}).status_code == 409
    assert {hold.reference: hold.sold for hold in StockHold.objects.all()} == {"a": 0, "b": 2}


@pytest.mark.parametrize("move", ["deduct", "release"])
def test_an_orders_own_number_is_refused(api, book, move):
    refused = api.post(f"/api/v1/stock/{book}/{move}", {"quantity": 1, "reference": "ord_01kah5v0qtfq8rsx3m4n2e0f7b"})
    assert (refused.status_code, refused.json()["param"]) == (400, "reference")


@pytest.mark.parametrize(
    ("move", "body", "code"),
    [
        ("restock", {}, "parameter_missing"),
        ("restock", {"quantity": 0}, "parameter_invalid"),
        ("restock", {"quantity": 1.5}, "parameter_invalid"),
        ("restock", {"quantity": 10_000_001}, "parameter_invalid"),
        ("deduct", {"quantity": 1}, "parameter_missing"),
        ("release", {"quantity": 1, "reference": ""}, "parameter_invalid"),
    ],
)
def test_what_is_wrong_is_refused(api, book, move, body, code):
    refused = api.post(f"/api/v1/stock/{book}/{move}", body)
    assert (refused.status_code, refused.json()["code"]) == (400, code)


def test_one_key_is_one_request(api, book):
    api.post(f"/api/v1/stock/{book}/restock", {"quantity": 5}, key="k")
    other = api.post(f"/api/v1/stock/{book}/restock", {"quantity": 6}, key="k")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (
        api.post(f"/api/v1/stock/{book}/restock", {"quantity": 5}, key=None).json()["code"] == "idempotency_key_missing"
    )


def test_another_merchants_stock_does_not_exist(api):
    theirs = make_product(make_merchant(), stock=5).product
    assert api.get(f"/api/v1/stock/{theirs}").status_code == 404
    assert api.post(f"/api/v1/stock/{theirs}/restock", {"quantity": 5}).status_code == 404
    assert api.get(f"/api/v1/stock?products={theirs}").json()["data"] == []


def test_a_storefront_key_reads_and_moves_nothing(merchant, book):
    storefront = api_client(make_key(merchant, ["storefront"]))
    assert storefront.get(f"/api/v1/stock/{book}").status_code == 200
    refused = storefront.post(f"/api/v1/stock/{book}/restock", {"quantity": 5})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
