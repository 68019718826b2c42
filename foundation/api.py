"""What every endpoint shares: strict JSON in, problem+json out, scopes, cursor pages.

Conventions: RFC 9457 problem details with Stripe's `code` and `param`; another merchant's object answers 404.
"""

import base64
import binascii
import logging
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import OperationalError, models
from django.http import Http404
from rest_framework import exceptions, serializers
from rest_framework.fields import empty
from rest_framework.request import Request
from rest_framework.response import Response

from foundation.database import LOCK_NOT_AVAILABLE, sqlstate
from foundation.errors import DomainError, InvalidInput, MissingInput
from foundation.middleware import current_request_id
from foundation.money import MAX_AMOUNT_MINOR

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}  # RFC 9110; Python 3.13 was the first to say so
_LONGEST_EMAIL = 254  # characters: RFC 5321's longest path, and what the column holds
_PAGE_PARAMS = ("limit", "cursor")


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses members that it does not know, so that a misspelt one is noticed, and values that would have to be guessed."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            wrong = dict.fromkeys(sorted(set(data) - set(self.fields)), "This parameter is not known.")
            wrong |= {name: said for name, field in self.fields.items() if (said := _guessed(field, data.get(name)))}
            if wrong:
                raise serializers.ValidationError(wrong)
        return super().to_internal_value(data)


def _guessed(field: serializers.Field[Any, Any, Any, Any], value: Any) -> str:
    """What to say where DRF would take a number for a text, or "no" for false."""
    if value is not None and isinstance(field, serializers.CharField) and not isinstance(value, str):
        return "Give a text."
    if value is not None and isinstance(field, serializers.BooleanField) and not isinstance(value, bool):
        return "Give true or false."
    return ""


class Text(serializers.CharField):
    """A text, kept letter by letter: no space around it is lost. Nothing but spaces is no text."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trim_whitespace": False, **kwargs})

    def run_validation(self, data: Any = empty) -> Any:
        if isinstance(data, str) and not data.strip() and not self.allow_blank:
            self.fail("blank")
        return super().run_validation(data)


class Email(Text, serializers.EmailField):
    """An e-mail address."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"max_length": _LONGEST_EMAIL, **kwargs})


class MinorUnits(serializers.IntegerField):
    """An amount in minor units: a JSON integer, never a float or a text."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"min_value": 1, "max_value": MAX_AMOUNT_MINOR, **kwargs})

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            raise serializers.ValidationError("Give an integer of minor units, for example 1250.")
        return super().to_internal_value(data)


class Quantity(MinorUnits):
    """A number of pieces."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"max_value": settings.CHECKOUT_MAX_QUANTITY, **kwargs})


def validated(serializer: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """The checked body of a request. Raises InvalidInput or MissingInput that names the first wrong parameter."""
    try:
        values: dict[str, Any] = _made_once(serializer).run_validation(data)
    except serializers.ValidationError as refusal:
        param, message, code = next(_flatten(refusal.detail))
        raise (MissingInput if code == "required" else InvalidInput)(message, param=param) from None
    return values


@cache
def _made_once(serializer: type[serializers.Serializer[Any]]) -> serializers.Serializer[Any]:
    """One for all requests: making it copies every field, the largest part of validating. Checking keeps nothing in it."""
    return serializer()


def _flatten(errors: Any, path: str = "") -> Any:
    if isinstance(errors, Mapping):
        for name, below in errors.items():
            step = f"[{name}]" if isinstance(name, int) else (f".{name}" if path else str(name))
            yield from _flatten(below, path if name == "non_field_errors" else path + step)
    elif isinstance(errors, list):
        for index, below in enumerate(errors):
            yield from _flatten(below, f"{path}[{index}]" if isinstance(below, Mapping) else path)
    else:
        yield path, str(errors), getattr(errors, "code", "invalid")


def problem(
    *,
    status: int,
    code: str,
    detail: str,
    instance: str,
    param: str = "",
    members: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A problem document (RFC 9457) with our members."""
    document: dict[str, Any] = {
        "type": f"https://everycent.example/problems/{code}",
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": current_request_id(),
    }
    if param:
        document["param"] = param
    return {**document, **(members or {})}


# `parameter_invalid` for what is not here.
_FRAMEWORK_CODES = {
    401: "key_invalid",
    403: "scope_missing",
    404: "not_found",
    405: "method_not_allowed",
    415: "media_type",
    429: "rate_limited",
}


def problem_response(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """DRF's exception handler: every error that a caller sees is a problem document; the rest is a 500 with a log."""
    path = context["request"].path
    headers: dict[str, str] = {}
    if isinstance(error, DomainError):
        document = problem(
            status=error.status,
            code=error.code,
            detail=error.detail,
            instance=path,
            param=error.param,
            members=error.members,
        )
        if error.retry_after_s:
            headers["Retry-After"] = str(error.retry_after_s)
    elif isinstance(error, exceptions.APIException):
        code = _FRAMEWORK_CODES.get(error.status_code, "parameter_invalid")
        document = problem(status=error.status_code, code=code, detail=str(error.detail), instance=path)
        if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
            headers["WWW-Authenticate"] = "Bearer"
        elif isinstance(error, exceptions.Throttled):
            headers["Retry-After"] = str(max(1, math.ceil(getattr(error, "wait", None) or 0)))
    elif isinstance(error, Http404):
        document = problem(status=404, code="not_found", detail="There is no such object.", instance=path)
    elif isinstance(error, OperationalError):
        busy = sqlstate(error) == LOCK_NOT_AVAILABLE
        log.warning("database refused %s: %s", path, error)
        document = problem(
            status=409 if busy else 503,
            code="idempotency_key_in_use" if busy else "provider_unavailable",
            detail="Another request holds what this one needs: send it again with the same Idempotency-Key."
            if busy
            else "The database does not answer: send the request again with the same Idempotency-Key.",
            instance=path,
        )
        headers["Retry-After"] = "1"
    else:
        return None
    return Response(document, status=document["status"], headers=headers, content_type=PROBLEM_TYPE)


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def page(
    request: Request,
    rows: models.QuerySet[Any],
    render: Callable[[list[Any]], list[dict[str, Any]]],
    *,
    newest_first: bool = True,
    default_limit: int | None = None,
) -> Response:
    """One page of rows whose primary key is a UUIDv7: `{data, has_more, next_cursor}`, stable while rows arrive."""
    limit = _limit(request, default_limit or settings.API_PAGE_DEFAULT)
    cursor = request.query_params.get("cursor")
    if cursor:
        rows = rows.filter(**{"pk__lt" if newest_first else "pk__gt": _decode_cursor(cursor)})
    found = list(rows.order_by("-pk" if newest_first else "pk")[: limit + 1])
    shown, has_more = found[:limit], len(found) > limit
    return Response(
        {
            "data": render(shown),
            "has_more": has_more,
            "next_cursor": _encode_cursor(shown[-1].pk) if has_more else None,
        }
    )


def known_params(request: Request, *names: str) -> None:
    """Refuses query parameters of a list that it does not know, and those given twice: either is a mistake, and would
    list other rows than were asked for. `limit` and `cursor` are known everywhere. Raises InvalidInput.
    """
    for name, values in request.query_params.lists():
        if name not in names and name not in _PAGE_PARAMS:
            raise InvalidInput("This parameter is not known.", param=name)
        if len(values) > 1:
            raise InvalidInput("This parameter is given more than once.", param=name)


def text_param(request: Request, name: str, *, longest: int) -> str:
    """A query parameter as the caller typed it, empty where it is absent. Raises InvalidInput."""
    text = request.query_params.get(name, "")
    if len(text) > longest or "\x00" in text:
        raise InvalidInput(f"{name} is a text of at most {longest} characters.", param=name)
    return text


def listed(request: Request, name: str) -> list[str] | None:
    """A query parameter of comma-separated ids, without repeats; None where it is absent. Raises InvalidInput."""
    text = request.query_params.get(name)
    if text is None:
        return None
    ids = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if len(ids) > settings.API_PAGE_LONGEST or "\x00" in text:
        raise InvalidInput(f"{name} lists at most {settings.API_PAGE_LONGEST} ids.", param=name)
    return ids


def _limit(request: Request, default: int) -> int:
    text = request.query_params.get("limit", str(default))
    # Read only where it can be right: Python refuses to read an integer of thousands of digits.
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= settings.API_PAGE_LONGEST:
        raise InvalidInput(f"limit is an integer from 1 to {settings.API_PAGE_LONGEST}.", param="limit")
    return int(text)


def _encode_cursor(pk: UUID) -> str:
    return base64.urlsafe_b64encode(pk.bytes).decode().rstrip("=")


def _decode_cursor(cursor: str) -> UUID:
    try:
        pk = UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))
    except (ValueError, binascii.Error):
        pk = None
    if pk is None or _encode_cursor(pk) != cursor:  # what is no base64 is skipped in silence
        raise InvalidInput("cursor is a next_cursor that an earlier page gave.", param="cursor")
    return pk
