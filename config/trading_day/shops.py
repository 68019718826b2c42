"""The merchants and their stock."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from catalog import selectors, services
from catalog.types import MerchantTerms
from config.bootstrap import DEMO_MERCHANT
from config.trading_day.books import Book
from config.trading_day.client import Client
from foundation.database import database_now
from inventory import services as inventory

SECOND_MERCHANT = "Librairie du Rhin"
CURRENCIES = {"usd": DEMO_MERCHANT, "eur": SECOND_MERCHANT}
# Longer than any load; the keys end with it.
_KEYS_LIVE_FOR = timedelta(hours=1)
_FEWEST_COPIES, _MOST_COPIES = 30, 80
_LOW_FROM = 30  # so that some of it is by the evening


@dataclass(frozen=True)
class Shop:
    """A merchant and its two keys: the website's and the back-office's."""

    merchant: MerchantTerms
    storefront: Client
    operations: Client

    def set_expiry(self, seconds: int) -> None:
        """How long the orders placed from now on wait to be paid. A merchant's terms have no API: staff set them."""
        services.set_order_expiry(merchant_id=self.merchant.id, seconds=seconds)

    def approve_refunds_above(self, minor: int) -> None:
        """From now on a larger refund waits for a second person."""
        terms = selectors.get_merchant(self.merchant.id)
        services.set_terms(
            merchant_id=terms.id,
            order_expires_after_s=terms.order_expires_after_s,
            refund_window_days=terms.refund_window_days,
            refund_ratio_bp=terms.refund_ratio_bp,
            refund_fee_minor=terms.refund_fee_minor,
            refund_approval_above_minor=minor,
            webhook_url=terms.webhook_url,
            loyalty_rate_bp=terms.loyalty_rate_bp,
        )

    def list_book(self, book: Book, *, copies: int) -> None:
        """Publish a book under its ISBN and put copies on the shelf."""
        price = book.prices[self.merchant.currency]
        document = {
            "id": book.isbn,
            "isbn": book.isbn,
            "title": book.title,
            "author": book.author,
            "price": price,
            "currency": self.merchant.currency,
            "published": True,
        }
        key = f"trading-day-{book.isbn}"
        self.operations.post("/products", document, key=f"{key}-publish")
        self.operations.post(f"/stock/{book.isbn}/restock", {"quantity": copies}, key=f"{key}-restock")

    def watch_stock(self, products: Iterable[str]) -> None:
        """From when on these are low: staff set that, too."""
        for product in products:
            inventory.set_low_threshold(merchant_id=self.merchant.id, product=product, threshold=_LOW_FROM)


def open_shops(url: str) -> dict[str, Shop]:
    """The shops by currency; made where they do not exist yet."""
    known = {merchant.name: merchant for merchant in selectors.list_merchants()}
    shops = {}
    for currency, name in CURRENCIES.items():
        merchant = known.get(name) or services.create_merchant(name=name, currency=currency)
        shops[currency] = Shop(merchant, _client(url, merchant, "storefront"), _client(url, merchant, "operations"))
    return shops


def _client(url: str, merchant: MerchantTerms, scope: str) -> Client:
    key = services.issue_api_key(
        merchant_id=merchant.id,
        name=f"day of trading: {scope}",
        scopes=[scope],
        expires_at=database_now() + _KEYS_LIVE_FOR,
    )
    return Client(url, key)


def shelf_jobs(shops: dict[str, Shop], books: Sequence[Book]) -> list[Callable[[], None]]:
    """One call for each book that a shop sells: publish and restock it; what is there already stays as it is."""
    chance = random.Random(len(books))
    return [
        partial(shop.list_book, book, copies=chance.randint(_FEWEST_COPIES, _MOST_COPIES))
        for currency, shop in shops.items()
        for book in books
        if currency in book.prices
    ]
