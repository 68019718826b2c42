"""What the API's documentation shows of products."""

from typing import Any

Json = dict[str, Any]

PRODUCT_ID = "the-trial"
NEW_PRODUCT: Json = {
    "id": PRODUCT_ID,
    "isbn": "978-0-8052-0999-0",
    "title": "The Trial",
    "author": "Franz Kafka",
    "price": 1250,
    "currency": "usd",
    "description": "Someone must have been telling lies about Josef K.",
    "image_url": "https://shop.example/covers/the-trial.jpg",
    "metadata": {"shelf": "K 12"},
    "published": True,
}
SHORTEST_PRODUCT: Json = {"title": "三体", "author": "刘慈欣", "price": 1500, "currency": "usd"}
PRODUCT: Json = NEW_PRODUCT | {"isbn": "9780805209990", "created_at": "2026-11-19T09:12:44.031Z"}
NEW_PRICE: Json = {"price": 1400}
CHANGED_PRODUCT: Json = PRODUCT | NEW_PRICE
