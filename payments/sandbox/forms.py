"""Form-encoded bodies with brackets, as the SDK sends them, and the checks that Stripe makes on single parameters."""

from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl

from payments.sandbox.errors import InvalidParameter

METADATA_KEYS = 50
METADATA_KEY_CHARS = 40
METADATA_VALUE_CHARS = 500


def decode(*encoded: str) -> dict[str, Any]:
    """`a=1&b[c]=2&d[]=3&e[0]=4` → `{"a": "1", "b": {"c": "2"}, "d": ["3"], "e": ["4"]}`."""
    tree: dict[str, Any] = {}
    for part in encoded:
        for name, value in parse_qsl(part, keep_blank_values=True):
            _place(tree, _path(name), value)
    return {name: _with_lists(value) for name, value in tree.items()}


def _path(name: str) -> list[str]:
    head, bracket, rest = name.partition("[")
    return [head, *rest.removesuffix("]").split("][")] if bracket and rest.endswith("]") else [name]


def _place(tree: dict[str, Any], path: list[str], value: str) -> None:
    for key in path[:-1]:
        branch = tree.setdefault(key or str(len(tree)), {})
        if not isinstance(branch, dict):
            raise InvalidParameter(f"Invalid {path[0]}: both a value and a hash.", param=path[0])
        tree = branch
    tree[path[-1] or str(len(tree))] = value


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [_with_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _with_lists(child) for key, child in value.items()}


class Params:
    """The parameters of one request; each reader checks one of them and raises InvalidParameter (400) in Stripe's words."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def refuse_unknown(self, known: Collection[str]) -> None:
        unknown = [name for name in self.values if name not in known]
        if unknown:
            plural = "s" if len(unknown) > 1 else ""
            raise InvalidParameter(
                f"Received unknown parameter{plural}: {', '.join(unknown)}", code="parameter_unknown", param=unknown[0]
            )

    def string(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is None or isinstance(value, str):
            return value
        raise InvalidParameter("Invalid string: a hash or a list was given.", param=name)

    def required(self, name: str) -> str:
        value = self.string(name)
        if value is None:
            raise InvalidParameter(f"Missing required param: {name}.", code="parameter_missing", param=name)
        if not value:
            raise InvalidParameter(
                f"You passed an empty string for '{name}'. We assume empty values are an attempt to unset a parameter;"
                f" however '{name}' cannot be unset.",
                code="parameter_invalid_empty",
                param=name,
            )
        return value

    def integer(self, name: str, *, least: int | None = None, most: int | None = None) -> int | None:
        if name not in self.values:
            return None
        return parse_integer(self.required(name), name, least=least, most=most)

    def flag(self, name: str) -> bool:
        value = self.string(name)
        if value not in {None, "true", "false"}:
            raise InvalidParameter(f"Invalid boolean: {value}", param=name)
        return value == "true"

    def choice(self, name: str, allowed: Collection[str]) -> str | None:
        value = self.string(name)
        if value is not None and value not in allowed:
            listed = ", ".join(sorted(allowed))
            raise InvalidParameter(f"Invalid {name}: must be one of {listed}", param=name)
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.values.get(name, {})
        if value == "":
            return {}
        if not isinstance(value, dict):
            raise InvalidParameter("Invalid object", param=name)
        return value

    def strings(self, name: str) -> list[str]:
        value = self.values.get(name, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise InvalidParameter("Invalid array", param=name)

    def metadata(self) -> dict[str, str]:
        """An empty value unsets a key; the caller merges."""
        given = self.mapping("metadata")
        if len(given) > METADATA_KEYS:
            raise InvalidParameter(f"Metadata can have up to {METADATA_KEYS} keys.", param="metadata")
        for key, value in given.items():
            if not isinstance(value, str):
                raise InvalidParameter("Metadata values must be strings.", param=f"metadata[{key}]")
            if len(key) > METADATA_KEY_CHARS or len(value) > METADATA_VALUE_CHARS:
                raise InvalidParameter(
                    f"Metadata keys can have up to {METADATA_KEY_CHARS} characters, values up to {METADATA_VALUE_CHARS}.",
                    param=f"metadata[{key}]",
                )
        return given


def parse_integer(text: Any, name: str, *, least: int | None = None, most: int | None = None) -> int:
    try:
        value = int(text)
    except (TypeError, ValueError):
        raise InvalidParameter(f"Invalid integer: {text}", code="parameter_invalid_integer", param=name) from None
    if least is not None and value < least:
        raise InvalidParameter(
            f"This value must be greater than or equal to {least}.", code="parameter_invalid_integer", param=name
        )
    if most is not None and value > most:
        raise InvalidParameter(
            f"This value must be less than or equal to {most} (it currently is '{value}').",
            code="parameter_invalid_integer",
            param=name,
        )
    return value


def merge_metadata(current: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    """Stripe's rule: keys are added or replaced; an empty value removes its key."""
    return {key: value for key, value in {**current, **given}.items() if value != ""}
