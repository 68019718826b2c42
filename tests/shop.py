"""A shop for tests: a merchant with keys and stocked books, and the workers' work done in this very process."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db.models.functions import Now
from rest_framework.test import APIClient

from catalog import services as catalog
from durability import services as durability
from durability import shares
from durability.models import Delivery, SagaRun
from durability.types import Lane
from foundation.database import database_now
from inventory import services as inventory
from inventory.models import Stock
from orders.services import merchant_calls
from payments import services as payments
from tests.contract import ContractClient

RECENT = timedelta(seconds=5)  # what was listed before is not read again and again


@dataclass
class Shop:
    """One merchant. `storefront` and `operations` are clients with a key of that scope."""

    merchant_id: UUID
    storefront: APIClient
    operations: APIClient

    def stock(self, product: str, quantity: int, *, price: int = 1500, currency: str = "usd") -> str:
        catalog.create_product(
            merchant_id=self.merchant_id,
            product=product,
            title=f"The book of {product}",
            author="A. Author",
            price_minor=price,
            currency=currency,
            published=True,
        )
        if quantity:
            inventory.restock(
                merchant_id=self.merchant_id, product=product, quantity=quantity, key=str(uuid4()), by="test"
            )
        return product

    def checkout(
        self, product: str = "book", quantity: int = 1, *, key: str | None = None, headers: Any = None, **body: Any
    ) -> Any:
        return self.storefront.post(
            "/api/v1/checkout",
            {
                "customer": {"id": "cust-1", "email": "reader@example.com"},
                "items": [{"product": product, "quantity": quantity}],
                **body,
            },
            format="json",
            headers={"Idempotency-Key": key or str(uuid4()), **(headers or {})},
        )

    def bought(self, product: str = "book", quantity: int = 1) -> dict[str, Any]:
        """A checkout that we confirm with a good card, and all that follows."""
        answer = self.checkout(
            product, quantity, payment={"method": "card", "payment_method": "pm_card_visa", "confirm": True}
        )
        assert answer.status_code == 201, answer.json()
        settle()
        return self.order(answer.json()["order"]["number"])

    def order(self, number: str) -> dict[str, Any]:
        document: dict[str, Any] = self.storefront.get(f"/api/v1/orders/{number}").json()
        return document

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        return self.operations.post(
            f"/api/v1{path}", body or {}, format="json", headers={"Idempotency-Key": key or str(uuid4())}
        )

    def level(self, product: str = "book") -> tuple[int, int]:
        """(on hand, reserved)"""
        stock = Stock.objects.get(merchant_id=self.merchant_id, product__product_id=product)
        return stock.on_hand, stock.reserved


def open_shop(**terms: Any) -> Shop:
    """A merchant of its own, so that tests share nothing."""
    merchant = catalog.create_merchant(name=f"Shop {uuid4()}", currency="usd", **terms)
    return Shop(merchant.id, _client(merchant.id, "storefront"), _client(merchant.id, "operations"))


def _client(merchant_id: UUID, scope: str) -> APIClient:
    key = catalog.issue_api_key(merchant_id=merchant_id, name=scope, scopes=[scope])
    return ContractClient(headers={"Authorization": f"Bearer {key}"})


def settle(*, webhooks: bool = True) -> None:
    """What workers do until nothing is due, with the provider's events listed as webhooks would bring them."""
    for _ in range(20):
        if webhooks:
            payments.replay_events(since=database_now() - RECENT)
        Delivery.objects.filter(state="pending").update(available_at=Now())
        SagaRun.objects.filter(state__in=["running", "compensating"], attempts__lt=6).update(available_at=Now())
        shares.forget()
        if not sum(durability.work(lane) for lane in Lane) + merchant_calls.call_due():
            return
    raise AssertionError("the workers never came to rest")
