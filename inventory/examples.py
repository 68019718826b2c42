"""What the API's documentation shows of stock."""

from typing import Any

Json = dict[str, Any]

RESTOCK: Json = {"quantity": 100, "reference": "delivery 4711"}
DEDUCT: Json = {"quantity": 5, "reference": "window display"}
STOCK: Json = {"product": "the-trial", "on_hand": 100, "reserved": 2, "available": 98}
DEDUCTED: Json = STOCK | {"on_hand": 95, "available": 93}
SHORTAGES: Json = {"errors": [{"product": "the-trial", "requested": 5, "available": 2}]}
