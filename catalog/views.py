"""The API of products. A key for the storefront sees what is published; one for operations sees all."""

from typing import Any, ClassVar

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from catalog import examples, selectors, services
from catalog.errors import ProductExists
from catalog.serializers import NewProduct, PatchProduct, ProductDocument, product_json, products_json
from durability.http import answer_once
from durability.types import Answer
from foundation.api import known_params, listed, page, text_param, validated
from foundation.permissions import caller
from foundation.schema import PAGE, answers, answers_page, idempotency_header, in_path, in_query, refuses, takes

READERS = {"storefront", "operations"}
_LONGEST_SEARCH = 200
_PRODUCT = in_path("product", "The product's id.", examples.PRODUCT_ID)


class ProductsView(APIView):
    scopes: ClassVar = {"GET": READERS, "POST": {"operations"}}

    @extend_schema(
        operation_id="products_list",
        parameters=[
            in_query(
                "search",
                "Words or beginnings of words of title and author, or an ISBN.",
                "kafka tri",
                maxLength=_LONGEST_SEARCH,
            ),
            in_query("ids", "Up to 100 ids, separated by commas.", "the-trial,the-castle"),
            *PAGE,
        ],
        responses={200: answers_page("ProductPage", ProductDocument, examples.PRODUCT)},
    )
    def get(self, request: Request) -> Response:
        """Products, the newest first."""
        known_params(request, "search", "ids")
        products = listed(request, "ids")
        rows = selectors.list_products(
            merchant_id=caller(request).merchant_id,
            also_unpublished=_sees_all(request),
            text=text_param(request, "search", longest=_LONGEST_SEARCH),
            products=products,
        )
        return page(request, rows, products_json, default_limit=len(products) if products else None)

    @extend_schema(
        operation_id="product_create",
        request=takes(NewProduct, whole=examples.NEW_PRODUCT, shortest=examples.SHORTEST_PRODUCT),
        responses={201: answers(ProductDocument, product=examples.PRODUCT)},
        parameters=[idempotency_header()],
    )
    @refuses(ProductExists)
    def post(self, request: Request) -> Response:
        """Publish a product."""
        body = validated(NewProduct, request.data)
        merchant_id = caller(request).merchant_id
        return answer_once(
            request, lambda: Answer(201, product_json(services.create_product(merchant_id=merchant_id, **body)))
        )


class ProductView(APIView):
    scopes: ClassVar = {"GET": READERS, "PATCH": {"operations"}}

    @extend_schema(
        operation_id="product_get",
        parameters=[_PRODUCT],
        responses={200: answers(ProductDocument, product=examples.PRODUCT)},
    )
    def get(self, request: Request, product: str) -> Response:
        """One product."""
        merchant_id = caller(request).merchant_id
        found = selectors.get_product(merchant_id=merchant_id, product=product, also_unpublished=_sees_all(request))
        return Response(product_json(found))

    @extend_schema(
        operation_id="product_change",
        parameters=[_PRODUCT],
        request=takes(PatchProduct, new_price=examples.NEW_PRICE),
        responses={200: answers(ProductDocument, product=examples.CHANGED_PRODUCT)},
    )
    @refuses(ProductExists)
    def patch(self, request: Request, product: str) -> Response:
        """Change a product."""
        body = validated(PatchProduct, request.data)
        changed = services.update_product(merchant_id=caller(request).merchant_id, product=product, **body)
        return Response(product_json(changed))


def _sees_all(request: Request) -> bool:
    return "operations" in caller(request).scopes


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tells the OpenAPI document of our keys. Here, because DRF loads the authentication before its own views."""

    target_class = "catalog.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "A merchant's key."}
