"""The API of stock."""

from collections.abc import Callable
from typing import ClassVar

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from durability.http import answer_once, idempotency_key
from durability.types import Answer
from foundation.api import StrictSerializer, listed, validated
from foundation.errors import MissingInput
from foundation.permissions import caller
from foundation.schema import idempotency_header, page_schema
from inventory import selectors, services
from inventory.serializers import Restock, StockChange, StockDocument, stock_json
from inventory.types import StockLevel

READERS = {"storefront", "operations"}


class StockListView(APIView):
    scopes: ClassVar = {"GET": READERS}

    @extend_schema(
        operation_id="stock_list",
        parameters=[OpenApiParameter("products", required=True, description="up to 100 ids, separated by commas")],
        responses=page_schema("StockPage", StockDocument),
    )
    def get(self, request: Request) -> Response:
        """The stock of several products, in the order asked; unknown ones are left out."""
        products = listed(request, "products")
        if products is None:
            raise MissingInput("Name the products: ?products=a,b", param="products")
        levels = selectors.list_stock(merchant_id=caller(request).merchant_id, products=products)
        return Response({"data": [stock_json(level) for level in levels], "has_more": False, "next_cursor": None})


class StockView(APIView):
    scopes: ClassVar = {"GET": READERS}

    @extend_schema(responses=StockDocument)
    def get(self, request: Request, product: str) -> Response:
        """The stock of a product; 0 if it was never restocked."""
        return Response(stock_json(selectors.get_stock(merchant_id=caller(request).merchant_id, product=product)))


class RestockView(APIView):
    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(request=Restock, responses=StockDocument, parameters=[idempotency_header()])
    def post(self, request: Request, product: str) -> Response:
        """Put pieces on the shelf."""
        return _move(request, product, Restock, services.restock)


class DeductView(APIView):
    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(request=StockChange, responses=StockDocument, parameters=[idempotency_header()])
    def post(self, request: Request, product: str) -> Response:
        """Take pieces off the shelf under a reference."""
        return _move(request, product, StockChange, services.deduct)


class ReleaseView(APIView):
    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(request=StockChange, responses=StockDocument, parameters=[idempotency_header()])
    def post(self, request: Request, product: str) -> Response:
        """Put back what was deducted under the same reference."""
        return _move(request, product, StockChange, services.release)


def _move(
    request: Request, product: str, serializer: type[StrictSerializer], move: Callable[..., StockLevel]
) -> Response:
    body = validated(serializer, request.data)
    key = caller(request)

    def effect() -> Answer:
        level = move(
            merchant_id=key.merchant_id,
            product=product,
            key=f"api:{idempotency_key(request)}",
            by=f"API key {key}"[:150],
            **body,
        )
        return Answer(200, stock_json(level))

    return answer_once(request, effect)
