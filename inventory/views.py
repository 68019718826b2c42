"""The API of stock."""

from collections.abc import Callable
from typing import ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from durability.http import answer_once, idempotency_key
from durability.types import Answer
from foundation.api import StrictSerializer, known_params, listed, validated
from foundation.errors import MissingInput
from foundation.permissions import caller
from foundation.schema import answers, answers_page, idempotency_header, in_path, in_query, refuses, takes
from inventory import examples, selectors, services
from inventory.errors import HoldExceeded, InsufficientStock
from inventory.serializers import Restock, StockChange, StockDocument, stock_json
from inventory.types import StockLevel

READERS = {"storefront", "operations"}
_PRODUCT = in_path("product", "The product's id.", examples.STOCK["product"])


class StockListView(APIView):
    scopes: ClassVar = {"GET": READERS}

    @extend_schema(
        operation_id="stock_list",
        parameters=[
            in_query("products", "Up to 100 ids, separated by commas.", "the-trial,the-castle", required=True),
        ],
        responses={200: answers_page("StockPage", StockDocument, examples.STOCK)},
    )
    def get(self, request: Request) -> Response:
        """The stock of several products, in the order asked; unknown ones are left out."""
        known_params(request, "products")
        products = listed(request, "products")
        if products is None:
            raise MissingInput("Name the products: ?products=a,b", param="products")
        levels = selectors.list_stock(merchant_id=caller(request).merchant_id, products=products)
        return Response({"data": [stock_json(level) for level in levels], "has_more": False, "next_cursor": None})


class StockView(APIView):
    scopes: ClassVar = {"GET": READERS}

    @extend_schema(
        operation_id="stock_get",
        parameters=[_PRODUCT],
        responses={200: answers(StockDocument, stock=examples.STOCK)},
    )
    def get(self, request: Request, product: str) -> Response:
        """The stock of a product; 0 if it was never restocked."""
        return Response(stock_json(selectors.get_stock(merchant_id=caller(request).merchant_id, product=product)))


class RestockView(APIView):
    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(
        operation_id="stock_restock",
        parameters=[_PRODUCT, idempotency_header()],
        request=takes(Restock, restock=examples.RESTOCK),
        responses={200: answers(StockDocument, stock=examples.STOCK)},
    )
    def post(self, request: Request, product: str) -> Response:
        """Put pieces on the shelf."""
        return _move(request, product, Restock, services.restock)


class DeductView(APIView):
    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(
        operation_id="stock_deduct",
        parameters=[_PRODUCT, idempotency_header()],
        request=takes(StockChange, deduct=examples.DEDUCT),
        responses={200: answers(StockDocument, stock=examples.DEDUCTED)},
    )
    @refuses(InsufficientStock)
    def post(self, request: Request, product: str) -> Response:
        """Take pieces off the shelf under a reference."""
        return _move(request, product, StockChange, services.deduct)


class ReleaseView(APIView):
    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(
        operation_id="stock_release",
        parameters=[_PRODUCT, idempotency_header()],
        request=takes(StockChange, release=examples.DEDUCT),
        responses={200: answers(StockDocument, stock=examples.STOCK)},
    )
    @refuses(HoldExceeded)
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
