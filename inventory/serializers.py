"""What the API reads and writes about stock."""

from dataclasses import asdict
from typing import Any

from django.conf import settings
from rest_framework import serializers

from foundation.api import Quantity, StrictSerializer, Text
from inventory.types import StockLevel

_LONGEST_REFERENCE = 100


class Restock(StrictSerializer):
    quantity = Quantity(max_value=settings.STOCK_MAX_QUANTITY)
    reference = Text(required=False, default="", allow_blank=True, max_length=_LONGEST_REFERENCE)


class StockChange(StrictSerializer):
    """Taken and given back under a reference of the caller's."""

    quantity = Quantity(max_value=settings.STOCK_MAX_QUANTITY)
    reference = Text(max_length=_LONGEST_REFERENCE)


class StockDocument(serializers.Serializer[StockLevel]):
    """The stock of a product as the API shows it."""

    product = serializers.CharField()
    on_hand = serializers.IntegerField()
    reserved = serializers.IntegerField()
    available = serializers.IntegerField(help_text="on_hand − reserved")


def stock_json(level: StockLevel) -> dict[str, Any]:
    return asdict(level)
