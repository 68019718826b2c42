"""Every answer that the tests get from the API has to be one that docs/openapi.yaml tells of: status, headers, code and form."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml
from rest_framework.test import APIClient

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "openapi.yaml"


class ContractClient(APIClient):
    """A client that does not let an undocumented answer pass."""

    def request(self, **environ: Any) -> Any:
        answer = super().request(**environ)
        content = getattr(answer, "content", b"")
        body = answer.json() if "json" in answer.headers.get("Content-Type", "") and content else None
        check(environ["REQUEST_METHOD"], environ["PATH_INFO"], answer.status_code, answer.headers, body)
        return answer


def check(method: str, path: str, status: int, headers: Mapping[str, str], body: Any) -> None:
    """An address or a method that the document does not know is not its business."""
    found = _operation(method, path)
    if found is None:
        return
    name, operation = found
    asked = f"{method} {path}: {status} {body}"
    assert str(status) in operation["responses"], f"docs/openapi.yaml tells of no such status. {asked}"
    response = resolved(operation["responses"][str(status)])
    for header, about in response.get("headers", {}).items():
        assert header in headers or not resolved(about).get("required"), f"there is no {header}. {asked}"
    (media_type,) = response["content"]
    sent = headers["Content-Type"].partition(";")[0]
    assert sent == media_type, f"this is no {media_type}, but {sent}. {asked}"
    wrong = [f"{error.instance_path}: {error.message}" for error in _validator(name, str(status)).iter_errors(body)]
    assert not wrong, f"docs/openapi.yaml tells of another form: {'; '.join(wrong)}. {asked}"


@cache
def document() -> dict[str, Any]:
    """What is committed."""
    loaded: dict[str, Any] = yaml.load(DOCUMENT.read_text(), Loader=yaml.CSafeLoader)
    return loaded


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(address, method, operation)"""
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` refers to."""
    if "$ref" not in node:
        return node
    _, *steps = node["$ref"].split("/")
    found: Any = reduce(getitem, steps, document())
    return resolved(dict(found))


@cache
def _addresses() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), path) for path in document()["paths"]]


def _operation(method: str, path: str) -> tuple[tuple[str, str], dict[str, Any]] | None:
    for pattern, known in _addresses():
        if pattern.fullmatch(path):
            operation = document()["paths"][known].get(method.lower())
            return ((known, method.lower()), operation) if operation else None
    return None


@cache
def _validator(name: tuple[str, str], status: str) -> Any:
    path, method = name
    response = resolved(document()["paths"][path][method]["responses"][status])
    (media,) = response["content"].values()
    return jsonschema_rs.validator_for({**media["schema"], "components": {"schemas": _closed()}})


@cache
def _closed() -> dict[str, Any]:
    """The schemas, without room for members that nobody told of. A problem has some room: its codes bring members."""
    schemas: dict[str, Any] = deepcopy(document()["components"]["schemas"])
    for name, schema in schemas.items():
        if "properties" in schema and name != "Problem":
            schema["additionalProperties"] = False
    return schemas
