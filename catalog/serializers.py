"""What the API reads and writes about products."""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from django.core.validators import URLValidator
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from catalog.models import Product
from foundation import money
from foundation.api import MinorUnits, StrictSerializer, Text, timestamp


@extend_schema_field({"type": "string", "enum": sorted(money.EXPONENTS)}, component_name="Currency")
class CurrencyField(Text):
    """A lower-case ISO 4217 code."""


class PatchProduct(StrictSerializer):
    """All that may change; what is not sent stays."""

    isbn = Text(required=False, allow_null=True, allow_blank=True, max_length=32)
    title = Text(required=False, max_length=500)
    author = Text(required=False, allow_blank=True, max_length=1000)
    price = MinorUnits(required=False, source="price_minor", min_value=0)
    currency = CurrencyField(required=False, max_length=3)
    description = Text(required=False, allow_blank=True, max_length=20_000)
    image_url = Text(
        required=False, allow_blank=True, max_length=500, validators=[URLValidator(schemes=["http", "https"])]
    )
    metadata = serializers.DictField(required=False)
    published = serializers.BooleanField(required=False)

    def validate_currency(self, value: str) -> str:
        if value not in money.EXPONENTS:
            raise serializers.ValidationError("Give a lower-case ISO 4217 code, for example usd.")
        return value


class NewProduct(PatchProduct):
    """A product to list; without an id it is given one."""

    id = Text(required=False, source="product", max_length=64)
    title = Text(max_length=500)
    author = Text(allow_blank=True, max_length=1000)
    price = MinorUnits(source="price_minor", min_value=0)
    currency = CurrencyField(max_length=3)
    published = serializers.BooleanField(default=True)


class ProductDocument(serializers.ModelSerializer[Product]):
    """A product as the API shows it."""

    id = serializers.CharField(source="product_id")
    price = serializers.IntegerField(source="price_minor", help_text="minor units")
    created_at = serializers.SerializerMethodField()

    class Meta:
        model = Product
        fields: ClassVar = [
            "id",
            "isbn",
            "title",
            "author",
            "price",
            "currency",
            "description",
            "image_url",
            "metadata",
            "published",
            "created_at",
        ]

    @extend_schema_field(OpenApiTypes.DATETIME)
    def get_created_at(self, product: Product) -> str | None:
        return timestamp(product.created_at)


def product_json(product: Product) -> dict[str, Any]:
    """One product as plain JSON."""
    return dict(ProductDocument(product).data)


def products_json(products: Sequence[Product]) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], ProductDocument(products, many=True).data)
