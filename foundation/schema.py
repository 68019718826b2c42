"""What the views tell the OpenAPI document, beside what `config.openapi` says of every call.

Apart from `foundation.api`, which DRF loads before its own views.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiRequest, OpenApiResponse, inline_serializer
from rest_framework import serializers

from foundation.errors import DomainError

Json = Mapping[str, Any]
_View = TypeVar("_View", bound=Callable[..., Any])
_Serializer = type[serializers.BaseSerializer[Any]]


def refuses(*errors: type[DomainError]) -> Callable[[_View], _View]:
    """What this call refuses beside what every call does. Each is documented with its status, code and an example."""

    def mark(view: _View) -> _View:
        view.refusals = errors  # type: ignore[attr-defined]
        return view

    return mark


def takes(serializer: _Serializer, **examples: Json) -> OpenApiRequest:
    """The body of a call, with examples by name."""
    return OpenApiRequest(serializer, examples=_shown(examples))


def answers(serializer: Any, **examples: Json) -> OpenApiResponse:
    """What a call answers, with examples by name."""
    return OpenApiResponse(serializer, description="Done.", examples=_shown(examples))


def answers_page(name: str, row: _Serializer, example: Json) -> OpenApiResponse:
    """The form of `foundation.api.page`, with one row as its example."""
    members = {
        "data": row(many=True),
        "has_more": serializers.BooleanField(),
        "next_cursor": serializers.CharField(allow_null=True),
    }
    shown = {"data": [example], "has_more": False, "next_cursor": None}
    return answers(inline_serializer(name, cast(Any, members)), page=shown)


def in_path(name: str, description: str, example: str) -> OpenApiParameter:
    """A part of the address."""
    return _parameter(name, OpenApiParameter.PATH, {"type": "string"}, description, example)


def in_query(name: str, description: str, example: Any, *, required: bool = False, **schema: Any) -> OpenApiParameter:
    """A parameter after the question mark: a text, unless the schema says otherwise."""
    schema = {"type": "string", **schema}
    return _parameter(name, OpenApiParameter.QUERY, schema, description, example, required=required)


def in_header(name: str, description: str, example: str, *, required: bool = False, **schema: Any) -> OpenApiParameter:
    """A header of the request."""
    schema = {"type": "string", **schema}
    return _parameter(name, OpenApiParameter.HEADER, schema, description, example, required=required)


def idempotency_header() -> OpenApiParameter:
    """The header of every POST that changes something."""
    return in_header(
        "Idempotency-Key",
        "One key for one thing to be done, however often it is sent: a fresh UUID is best. Kept for 30 days.",
        "b6f8f4b0-5c1e-4a52-9d0e-3c1f5f1f8a77",
        required=True,
        minLength=1,
        maxLength=255,
    )


def _parameter(
    name: str, location: Any, schema: dict[str, Any], description: str, example: Any, *, required: bool = True
) -> OpenApiParameter:
    return OpenApiParameter(
        name, schema, location, required=required, description=description, examples=_shown({"example": example})
    )


def _shown(examples: Mapping[str, Any]) -> list[OpenApiExample]:
    return [OpenApiExample(name.replace("_", " ").capitalize(), value=value) for name, value in examples.items()]


# What `foundation.api.page` takes.
PAGE = (
    in_query("limit", "How many rows a page has.", 20, type="integer", minimum=1, maximum=100, default=20),
    in_query("cursor", "The `next_cursor` of the page before.", "AZqvwAAAcACAAAAAAAAAAA"),
)
