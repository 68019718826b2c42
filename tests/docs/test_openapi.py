"""docs/openapi.yaml is what the code says; each call and each refusal has an example; what stands in the examples is true."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.renderers import OpenApiYamlRenderer
from drf_spectacular.validation import validate_schema

from config.openapi.views import document as made
from foundation.ids import parse_public_id
from tests.contract import DOCUMENT, document, operations, resolved

ROOT = Path(__file__).resolve().parents[2]
# Every code of the contract.
CODES = {
    400: {
        "parameter_invalid",
        "parameter_missing",
        "idempotency_key_missing",
        "product_not_found",
        "currency_mixed",
        "signature_invalid",
    },
    401: {"key_invalid"},
    402: {"card_declined"},
    403: {"scope_missing"},
    404: {"not_found"},
    409: {
        "product_exists",
        "insufficient_stock",
        "insufficient_store_credit",
        "hold_exceeded",
        "idempotency_key_in_use",
        "illegal_transition",
        "payment_in_progress",
        "order_already_paid",
        "payment_not_refundable",
        "refund_exceeds_captured",
        "payment_disputed",
        "refund_window_closed",
    },
    415: {"media_type"},
    422: {"idempotency_key_reused"},
    424: {"provider_error"},
    429: {"rate_limited"},
    503: {"provider_unavailable"},
}
NAMED = [pytest.param(path, operation, id=f"{method} {path}") for path, method, operation in operations()]


def test_the_committed_document_is_what_the_code_says():
    said = OpenApiYamlRenderer().render(made()).decode().splitlines()
    committed = DOCUMENT.read_text().splitlines()
    if said != committed:
        diff = list(difflib.unified_diff(committed, said, "docs/openapi.yaml", "the code", lineterm="", n=2))
        pytest.fail("docs/openapi.yaml is not what the code says; run: make openapi\n" + "\n".join(diff[:60]))


def test_the_document_is_valid_and_was_made_without_guessing():
    validate_schema(made())
    assert not GENERATOR_STATS, GENERATOR_STATS


def test_the_document_is_served_as_it_is_committed(client):
    served = client.get("/api/schema")
    assert served.content.decode() == DOCUMENT.read_text()
    assert client.get("/api/schema?format=json").json()["paths"].keys() == document()["paths"].keys()


@pytest.mark.parametrize(("path", "operation"), NAMED)
def test_a_call_has_examples(path, operation):
    assert operation["summary"]
    for part in parts(operation):
        assert part.get("examples"), part
    for status, response in operation["responses"].items():
        for media_type, content in resolved(response)["content"].items():
            assert content["examples"], status
            if int(status) >= 400 and media_type == "application/problem+json":
                shown = {resolved(example)["value"]["code"] for example in content["examples"].values()}
                assert shown == set(codes(content))


def test_every_code_of_the_contract_is_told_of_and_no_other():
    told: dict[int, set[str]] = {}
    for _, _, operation in operations():
        for status, response in operation["responses"].items():
            for content in resolved(response)["content"].values():
                told.setdefault(int(status), set()).update(codes(content))
    assert {status: found for status, found in told.items() if found} == CODES


def test_the_shops_page_tells_what_each_code_means():
    page = (ROOT / "docs" / "storefront.md").read_text()
    for_a_storefront = {
        code
        for _, _, operation in operations()
        if "`storefront`" in operation.get("description", "")
        for response in operation["responses"].values()
        for content in resolved(response)["content"].values()
        for code in codes(content)
    }
    missing = sorted(code for code in for_a_storefront if f"`{code}`" not in page)
    assert not missing


@pytest.mark.parametrize(("path", "operation"), NAMED)
def test_the_examples_have_the_form_that_is_told(path, operation):
    components = {"schemas": document()["components"]["schemas"]}
    for part in [*parts(operation), *answers(operation)]:
        validator = jsonschema_rs.validator_for({**part["schema"], "components": components})
        for name, example in part["examples"].items():
            wrong = [error.message for error in validator.iter_errors(resolved(example)["value"])]
            assert not wrong, name


def test_the_ids_in_the_examples_are_ids():
    found = set(re.findall(r"\b(ord|pay|ref|req)_(\w{10,})", DOCUMENT.read_text()))
    assert {prefix for prefix, _ in found} == {"ord", "pay", "ref", "req"}
    for prefix, letters in found:
        parse_public_id(prefix, f"{prefix}_{letters}")


def parts(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is sent: parameters and body, each with its schema and examples."""
    yield from operation.get("parameters", [])
    yield from operation.get("requestBody", {}).get("content", {}).values()


def answers(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for response in operation["responses"].values():
        yield from resolved(response)["content"].values()


def codes(content: dict[str, Any]) -> list[str]:
    """The codes that a refusal may have."""
    narrowed = content["schema"].get("allOf", [{}])[-1]
    found: list[str] = narrowed.get("properties", {}).get("code", {}).get("enum", [])
    return found
