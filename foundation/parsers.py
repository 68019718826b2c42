"""Strict JSON: what no caller can mean, and no database or other reader can hold, is refused at the door."""

import json
import re
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from rest_framework.parsers import BaseParser

from foundation.errors import InvalidInput

_DEEPEST = 16  # levels; our own deepest body has three
# Beyond this not every reader holds an integer exactly (RFC 8259, section 6; JavaScript is one), and a bigint ends soon after.
_LARGEST = 2**53 - 1
_LARGEST_DIGITS = 16
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class StrictJSONParser(BaseParser):
    """One JSON object in UTF-8, of bounded size and depth, without repeated members, NaN, huge numbers, NUL or lone
    surrogates."""

    media_type = "application/json"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            raw = stream.read(settings.API_MAX_BODY_BYTES + 1)
        except OSError:  # the caller hung up
            raise InvalidInput("The body broke off before its end.") from None
        if len(raw) > settings.API_MAX_BODY_BYTES:
            raise InvalidInput(f"The body is longer than {settings.API_MAX_BODY_BYTES} bytes.")
        return read_object(raw)


def read_object(text: str | bytes) -> dict[str, Any]:
    """One JSON object, in UTF-8 where it is bytes, that a database can store. Raises InvalidInput."""
    try:
        body = json.loads(
            (text.decode("utf-8-sig") if isinstance(text, bytes) else text) or "{}",
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
            parse_int=_whole_number,
        )
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


def _whole_number(digits: str) -> int:
    # Counted before it is read: reading digits costs their square.
    if len(digits.lstrip("-")) > _LARGEST_DIGITS:
        raise ValueError(f"a number is larger than {_LARGEST}: send it as a text")
    return int(digits)


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
    elif isinstance(value, int | float) and abs(value) > _LARGEST:  # 1e999 is well-formed, and infinite here
        raise InvalidInput(f"A number is larger than {_LARGEST}: send it as a text.")
    elif isinstance(value, str) and _UNSTORABLE.search(value):
        raise InvalidInput("A text holds a NUL or a lone surrogate, which no database stores.")
