"""A shop with two books that never run out, and what a checkout of one of each sends."""

from uuid import UUID, uuid4

from catalog import services as catalog
from durability.types import Fingerprint
from inventory import services as inventory
from orders.types import Customer, Wanted

PRODUCTS = ("one", "two")
CUSTOMER = Customer("cust-1", "reader@example.com")
CART = [Wanted("one", 1), Wanted("two", 2)]


def open_shop(name: str) -> UUID:
    """A merchant of this name. Its orders live for a day: no benchmark expires them by accident."""
    merchant = catalog.create_merchant(name=name, currency="usd", order_expires_after_s=86_400).id
    for product in PRODUCTS:
        catalog.create_product(
            merchant_id=merchant, product=product, title=product, author="A", price_minor=100, currency="usd"
        )
        inventory.restock(merchant_id=merchant, product=product, quantity=10**7, key=product, by="benchmark")
    return merchant


def storefront_key(merchant: UUID) -> str:
    return catalog.issue_api_key(merchant_id=merchant, name="benchmark", scopes=["storefront"])


def claim(merchant: UUID) -> Fingerprint:
    """A fresh Idempotency-Key, as the view hands it to the service."""
    return Fingerprint(merchant, str(uuid4()), "POST", "/api/v1/checkout", bytes(32))
