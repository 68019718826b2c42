"""Every address of the API, who may call it with which method, and a body that it takes. Held against the URLs by a test."""

from typing import Any

from tests.credit import DECLINED
from tests.shop import Shop, settle

BOTH, STOREFRONT, OPERATIONS = {"storefront", "operations"}, {"storefront"}, {"operations"}

Access = dict[str, set[str]]
ROUTES: dict[str, tuple[str, Access]] = {
    "products": ("/products", {"GET": BOTH, "POST": OPERATIONS}),
    "product": ("/products/{product}", {"GET": BOTH, "PATCH": OPERATIONS}),
    "stock-list": ("/stock?products={product}", {"GET": BOTH}),
    "stock": ("/stock/{product}", {"GET": BOTH}),
    "stock-restock": ("/stock/{product}/restock", {"POST": OPERATIONS}),
    "stock-deduct": ("/stock/{product}/deduct", {"POST": OPERATIONS}),
    "stock-release": ("/stock/{product}/release", {"POST": OPERATIONS}),
    "checkout": ("/checkout", {"POST": STOREFRONT}),
    "orders": ("/orders", {"GET": BOTH}),
    "order": ("/orders/{order}", {"GET": BOTH}),
    "order-cancel": ("/orders/{order}/cancel", {"POST": BOTH}),
    "order-ship": ("/orders/{order}/ship", {"POST": OPERATIONS}),
    "order-complete": ("/orders/{order}/complete", {"POST": OPERATIONS}),
    "order-payments": ("/orders/{order}/payments", {"POST": STOREFRONT}),
    "payment": ("/payments/{payment}", {"GET": BOTH}),
    "payment-refunds": ("/payments/{payment}/refunds", {"POST": OPERATIONS}),
    "refund": ("/refunds/{refund}", {"GET": BOTH}),
}
# A signature instead of a key: these tests leave it out.
BY_SIGNATURE = {"provider-webhook"}

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "products"): {
        "id": "new",
        "isbn": "9780439023481",
        "title": "The Hunger Games",
        "author": "Suzanne Collins",
        "price": 990,
        "currency": "usd",
        "description": "the first of three",
        "image_url": "https://covers.example/1.jpg",
        "metadata": {"year": 2008},
        "published": True,
    },
    ("PATCH", "product"): {"title": "another", "price": 1600, "metadata": {}},
    ("POST", "stock-restock"): {"quantity": 1, "reference": "delivery"},
    ("POST", "stock-deduct"): {"quantity": 1, "reference": "counter"},
    ("POST", "stock-release"): {"quantity": 1, "reference": "counter"},
    ("POST", "checkout"): {
        "customer": {"id": "c", "email": "reader@example.com", "phone": "+41 79 000 00 00"},
        "items": [{"product": "book", "quantity": 1}],
        "payment": {"method": "card", "payment_method": "pm_card_visa", "confirm": False, "store_credit": 1},
    },
    ("POST", "order-cancel"): {},
    ("POST", "order-ship"): {"carrier": "Post", "tracking": "99.00.1"},
    ("POST", "order-complete"): {},
    ("POST", "order-payments"): {"method": "card", "payment_method": "pm_card_visa", "confirm": False},
    ("POST", "payment-refunds"): {"amount": 1, "reason": "a torn page"},
}


def trade(shop: Shop) -> dict[str, str]:
    """Something of everything: what to put into the addresses."""
    waiting = shop.checkout(payment=DECLINED).json()["order"]["number"]
    payment = shop.bought()["payments"][0]["number"]
    refund = shop.post(f"/payments/{payment}/refunds", {"amount": 100, "reason": "a stain"}).json()["number"]
    settle()
    return {"product": "book", "order": waiting, "payment": payment, "refund": refund}


def address(route: str, ids: dict[str, str]) -> str:
    return "/api/v1" + ROUTES[route][0].format(**ids)
