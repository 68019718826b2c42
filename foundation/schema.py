"""What the views tell the OpenAPI document. Apart from `foundation.api`, which DRF loads before its own views."""

from typing import Any, cast

from drf_spectacular.utils import OpenApiParameter, inline_serializer
from rest_framework import serializers


def page_schema(name: str, row: type[serializers.BaseSerializer[Any]]) -> Any:
    """The form of `foundation.api.page`."""
    members = {
        "data": row(many=True),
        "has_more": serializers.BooleanField(),
        "next_cursor": serializers.CharField(allow_null=True),
    }
    return inline_serializer(name, cast(Any, members))


def idempotency_header() -> OpenApiParameter:
    """The header of every POST that changes something."""
    return OpenApiParameter("Idempotency-Key", location=OpenApiParameter.HEADER, required=True)
