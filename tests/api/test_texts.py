"""What a caller writes comes back letter by letter: every script, emoji, accent and space. And each limit, from both sides."""

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from catalog.models import Product
from tests.credit import DECLINED
from tests.shop import open_shop

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
SCRIPTS = [
    "Go微服务实战",
    "Война и мир",
    "الفيل الأزرق",  # right to left
    "채식주의자",
    "ノルウェイの森",
    "ข้ามแผ่นดิน",
    "हिन्दी की किताब",
    "Ὀδύσσεια",
    "ያልተጻፈ",
    "𐎀𐎁𐎂 𓂀 𠮷野家",  # beyond the basic plane
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇭 👍🏽",  # several code points each
    "e\u0301 é ﬁ Å Å",  # composed, decomposed, look-alikes: none is made another
    " \u00a0\u3000\u200b\ufeff spaces \t\r\n\u2028\u0085 ",
    "\u202eright to left\u202c \x07 \x1b[31m \x7f \ufffe",
    "NULL; DROP TABLE -- '\"\\ <script>&amp;{{ 7*7 }}%s%(x)s${}",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_a_text_comes_back_as_it_was_written_wherever_it_was_put(shop, text):
    fields = {"title": text, "author": text, "description": text, "metadata": {text: [text, {"deep": text}]}}
    changed = shop.operations.patch("/api/v1/products/book", fields, format="json")
    assert changed.status_code == 200
    found = shop.storefront.get("/api/v1/products/book").json()
    assert {name: found[name] for name in fields} == fields == {name: changed.json()[name] for name in fields}

    order = shop.checkout(customer={"id": text, "phone": text[:40]}, payment=DECLINED).json()["order"]
    again = shop.order(order["number"])
    assert (again["customer"]["id"], again["customer"]["phone"], again["items"][0]["title"]) == (text, text[:40], text)
    (listed,) = shop.storefront.get("/api/v1/orders", {"customer": text}).json()["data"]
    assert listed == again

    assert shop.post("/stock/book/deduct", {"quantity": 1, "reference": text}).status_code == 200
    assert shop.post("/stock/book/release", {"quantity": 1, "reference": f"{text} "}).json()["code"] == "hold_exceeded"
    assert shop.post("/stock/book/release", {"quantity": 1, "reference": text}).status_code == 200


@pytest.mark.django_db
def test_any_text_comes_back_as_it_was_written():
    shop = open_shop()
    shop.stock("book", 0)

    @hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(st.text(LETTERS, min_size=1, max_size=60).filter(str.strip), st.text(LETTERS, max_size=60))
    @example("0", "")
    def comes_back(title: str, more: str) -> None:
        fields = {"title": title, "author": more, "metadata": {more: title}}
        assert shop.operations.patch("/api/v1/products/book", fields, format="json").status_code == 200
        found = shop.storefront.get("/api/v1/products/book").json()
        assert {name: found[name] for name in fields} == fields

    comes_back()


def test_why_and_how_come_back_too(shop):
    text = SCRIPTS[10]
    order = shop.bought()
    refund = shop.post(f"/payments/{order['payments'][0]['number']}/refunds", {"amount": 1, "reason": text}).json()
    assert shop.storefront.get(f"/api/v1/refunds/{refund['number']}").json()["reason"] == text
    from orders.models import Order

    assert shop.post(f"/orders/{order['number']}/ship", {"carrier": text, "tracking": text}).status_code == 200
    assert Order.objects.values_list("carrier", "tracking").get() == (text, text)


def test_two_customers_that_differ_by_a_space_are_two(shop):
    for customer in ("c", "c ", " c", "C"):
        assert shop.checkout(customer={"id": customer}).status_code == 201
    for customer in ("c", "c ", " c", "C"):
        (order,) = shop.storefront.get("/api/v1/orders", {"customer": customer}).json()["data"]
        assert order["customer"]["id"] == customer


# --- Limits -----------------------------------------------------------------------------------------

LONG = "𠮷"  # four bytes


def checkout_of(**customer: Any) -> tuple[str, str, dict[str, Any]]:
    return "storefront", "/checkout", {
        "customer": {"id": "c", **customer}, "items": [{"product": "book", "quantity": 1}], "payment": DECLINED
    }  # fmt: skip


def lines(count: int, quantity: int = 1) -> tuple[str, str, dict[str, Any]]:
    items = [{"product": f"p{place}" if count > 1 else "many", "quantity": quantity} for place in range(count)]
    return "storefront", "/checkout", {"customer": {"id": "c"}, "items": items, "payment": DECLINED}


def listing(**fields: Any) -> tuple[str, str, dict[str, Any]]:
    return "operations", "/products", {"title": "x", "author": "", "price": 1, "currency": "usd", **fields}


def restock(**fields: Any) -> tuple[str, str, dict[str, Any]]:
    return "operations", "/stock/book/restock", {"quantity": 1, **fields}


def email(length: int) -> str:
    domain = ".".join(["d" * 60] * 3) + ".example"
    return "e" * (length - len(domain) - 1) + "@" + domain


@pytest.mark.parametrize(
    ("most", "more", "param"),
    [
        (lines(100), lines(101), "items"),
        (lines(1, 999), lines(1, 1000), "items[0].quantity"),
        (lines(1, 1), lines(1, 0), "items[0].quantity"),
        (checkout_of(id=LONG * 255), checkout_of(id=LONG * 256), "customer.id"),
        (checkout_of(phone=LONG * 40), checkout_of(phone=LONG * 41), "customer.phone"),
        (checkout_of(email=email(254)), checkout_of(email=email(255)), "customer.email"),
        (listing(id="p" * 64), listing(id="p" * 65), "id"),
        (listing(title=LONG * 500), listing(title=LONG * 501), "title"),
        (listing(author=LONG * 1000), listing(author=LONG * 1001), "author"),
        (listing(description="d" * 20_000), listing(description="d" * 20_001), "description"),
        (
            listing(image_url="https://a.example/" + "a" * 482),
            listing(image_url="https://a.example/" + "a" * 483),
            "image_url",
        ),
        (listing(price=99_999_999_999), listing(price=100_000_000_000), "price"),
        (listing(price=0), listing(price=-1), "price"),
        (restock(quantity=10_000_000), restock(quantity=10_000_001), "quantity"),
        (restock(reference=LONG * 100), restock(reference=LONG * 101), "reference"),
    ],
)
def test_a_limit_lets_in_what_it_says_and_refuses_what_is_one_more(shop, most, more, param):
    if "items" in most[2]:
        for place in range(len(most[2]["items"])):
            shop.stock(f"p{place}" if len(most[2]["items"]) > 1 else "many", 999)

    def told(call: tuple[str, str, dict[str, Any]]) -> Any:
        role, path, body = call
        client = getattr(shop, role)
        return client.post(f"/api/v1{path}", body, format="json", headers={"Idempotency-Key": str(uuid4())})

    refused = told(more)
    assert (refused.status_code, refused.json()["code"], refused.json()["param"]) == (400, "parameter_invalid", param)
    assert told(most).status_code in (200, 201, 402)


def test_a_key_of_255_letters_is_kept_whole(shop):
    key = "k" * 254
    first, second = shop.checkout(key=key + "a").json(), shop.checkout(key=f'"{key}b"').json()
    assert first["order"]["number"] != second["order"]["number"]
    assert shop.checkout(key=key + "b").json() == second


def test_a_product_of_the_longest_title_is_found(shop):
    shop.operations.patch("/api/v1/products/book", {"title": LONG * 500}, format="json")
    assert Product.objects.get().title == LONG * 500
    assert len(shop.storefront.get("/api/v1/products", {"search": LONG * 50}).json()["data"]) == 1
