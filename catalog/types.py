"""The catalogue's vocabulary for the apps above."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

# A product's own id stands in addresses and in comma-separated lists, so it holds nothing that must be escaped there.
PRODUCT_ID = r"^[A-Za-z0-9][A-Za-z0-9._~:-]{0,63}$"
PRODUCT_ID_PATTERN = re.compile(PRODUCT_ID)


@dataclass(frozen=True, slots=True)
class MerchantTerms:
    """A merchant and the terms on which it sells: seconds, days, basis points, minor units of `currency`."""

    id: UUID
    name: str
    currency: str
    order_expires_after_s: int
    refund_window_days: int
    refund_ratio_bp: int
    refund_fee_minor: int
    webhook_url: str
    refund_approval_above_minor: int | None = None  # None: neither refund nor store credit waits for a second person
    loyalty_rate_bp: int = 0  # points for each major unit paid, in basis points


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Where a merchant wants to be told, and the secrets that prove it is us: two, for a while after one was rolled."""

    url: str
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LiveKey:
    """Who calls: one key of one merchant, what it may do, and as what it stands in the history of what it did."""

    id: UUID
    merchant_id: UUID
    scopes: list[str]
    name: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.name} (ek_{self.prefix}_…)"


@dataclass(frozen=True, slots=True)
class Offer:
    """A published product as it is sold at this moment. `product` is its public id."""

    id: UUID
    product: str
    title: str
    price_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Cart:
    """What a merchant offers of some products, by public id, and how long an order of them may wait for its payment."""

    offers: Mapping[str, Offer]
    priced_at: datetime  # by PostgreSQL's clock
    expires_at: datetime


class ProductChanges(TypedDict, total=False):
    """What of a product may change; its id may not."""

    isbn: str | None
    title: str
    author: str
    price_minor: int
    currency: str
    description: str
    image_url: str
    metadata: dict[str, Any]
    published: bool


# The desk's export of products: the columns that an import reads, and whose product it is.
EXPORT_COLUMNS = (
    "id",
    "isbn",
    "title",
    "author",
    "price",
    "currency",
    "published",
    "description",
    "image_url",
    "metadata",
    "merchant",
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row of an imported file that did not land."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """How many rows of a file became what."""

    created: int
    changed: int
    unchanged: int
    refused: int
