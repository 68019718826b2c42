"""What most tests need before they begin: a merchant, its key, a product on the shelf, a client. Built on services."""

from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import uuid4

from rest_framework.test import APIClient

from catalog import services as catalog
from catalog.types import MerchantTerms, Offer
from inventory import services as inventory

_numbers = count(1)


def make_merchant(**terms: Any) -> MerchantTerms:
    """A shop that sells in US dollars, unless told otherwise."""
    return catalog.create_merchant(**{"name": f"Shop {uuid4().hex[:12]}", "currency": "usd", **terms})


def make_key(merchant: MerchantTerms, scopes: Sequence[str] = ("storefront", "operations")) -> str:
    """A fresh API key."""
    return catalog.issue_api_key(merchant_id=merchant.id, name="test", scopes=list(scopes))


def make_product(merchant: MerchantTerms, *, stock: int = 0, **fields: Any) -> Offer:
    """A published book at 15.00 of the merchant's currency, with `stock` pieces on the shelf."""
    number = next(_numbers)
    values = {
        "title": f"Book {number}",
        "author": "Ada Lovelace",
        "price_minor": 1500,
        "currency": merchant.currency,
        **fields,
    }
    row = catalog.create_product(merchant_id=merchant.id, **values)
    if stock:
        inventory.restock(
            merchant_id=merchant.id, product=row.product_id, quantity=stock, key=f"test:{uuid4()}", by="test"
        )
    return Offer(row.pk, row.product_id, row.title, row.price_minor, row.currency)


class ApiClient(APIClient):
    """Speaks JSON, and sends a fresh Idempotency-Key with each POST unless it is given one (None: sends none)."""

    def post(self, path: str, data: Any = None, *, key: str | None = "", **extra: Any) -> Any:  # type: ignore[override]
        headers = {} if key is None else {"Idempotency-Key": key or str(uuid4())}
        return super().post(path, data or {}, format="json", headers={**headers, **extra.pop("headers", {})}, **extra)

    def patch(self, path: str, data: Any = None, **extra: Any) -> Any:  # type: ignore[override]
        return super().patch(path, data or {}, format="json", **extra)


def api_client(key: str) -> ApiClient:
    """A client that calls the API with this key."""
    client = ApiClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    return client
