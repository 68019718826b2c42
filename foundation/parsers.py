"""Strict JSON: what no caller can mean, and no database can store, is refused at the door."""

import json
import math
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from rest_framework.parsers import BaseParser

from foundation.errors import InvalidInput

_DEEPEST = 16  # levels; our own deepest body has three


class StrictJSONParser(BaseParser):
    """One JSON object, of bounded size and depth, without repeated members, NaN, NUL or lone surrogates."""

    media_type = "application/json"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        raw = stream.read(settings.API_MAX_BODY_BYTES + 1)
        if len(raw) > settings.API_MAX_BODY_BYTES:
            raise InvalidInput(f"The body is longer than {settings.API_MAX_BODY_BYTES} bytes.")
        return read_object(raw or b"{}")


def read_object(text: str | bytes) -> dict[str, Any]:
    """One JSON object that a database can store. Raises InvalidInput."""
    try:
        body = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The body is not JSON that we can read: {error}.") from None
    if not isinstance(body, dict):
        raise InvalidInput("The body must be one JSON object.")
    _check_values(body, depth=0)
    return body


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _check_values(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidInput(f"The body is nested deeper than {_DEEPEST} levels.")
    if isinstance(value, dict):
        for name, member in value.items():
            _check_values(name, depth + 1)
            _check_values(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _check_values(member, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):  # 1e999 is well-formed
        raise InvalidInput("A number is too large.")
    elif isinstance(value, str) and ("\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise InvalidInput("A text holds a NUL or a lone surrogate, which no database stores.")
