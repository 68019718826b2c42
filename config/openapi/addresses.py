"""The addresses that are no calls of the API and need no key: Stripe's webhook, and whether we are well."""

from typing import Any

from config.openapi.calls import Refusal
from foundation.api import PROBLEM_TYPE
from payments.errors import SignatureInvalid

Json = dict[str, Any]

_WEBHOOK = "/api/v1/webhooks/stripe"
_TEXT: Json = {"type": "string"}
_BOOLEAN: Json = {"type": "boolean"}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _content(schema: Json, example: Any, media_type: str = "application/json") -> Json:
    return {"content": {media_type: {"schema": schema, "examples": {"Example": {"value": example}}}}}


def _answer(description: str, content: Json) -> Json:
    return {
        "description": description,
        "headers": {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}},
        **content,
    }


def _refused(error: type[SignatureInvalid]) -> Json:
    refusal = Refusal.of(error)
    code = {"properties": {"code": {"enum": [refusal.code]}}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, code]}
    problem = _content(schema, refusal.document(_WEBHOOK), PROBLEM_TYPE)
    return _answer(f"`{refusal.code}`: {refusal.detail}", problem)


_RECEIVE: Json = {
    "operationId": "webhook_receive",
    "tags": ["webhooks"],
    "summary": "Stripe tells us of an event",
    "description": "Stored, then acknowledged; what it tells of is read at Stripe again. Its signature is its key.",
    "security": [],
    "parameters": [
        {
            "name": "Stripe-Signature",
            "in": "header",
            "required": True,
            "schema": _TEXT,
            "examples": {
                "Example": {"value": "t=1763544600,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd"}
            },
        }
    ],
    "requestBody": {
        "required": True,
        **_content(
            {"type": "object"},
            {
                "id": "evt_1SVb2xLkdIwHu7ixT0a9QmZr",
                "object": "event",
                "type": "payment_intent.succeeded",
                "data": {"object": {"id": "pi_3SVb2wLkdIwHu7ix1mY4tKq8", "object": "payment_intent"}},
            },
        ),
    },
    "responses": {
        "200": _answer(
            "Stored; `new` is false where it was known.",
            _content(_object(received=_BOOLEAN, new=_BOOLEAN), {"received": True, "new": True}),
        ),
        "400": _refused(SignatureInvalid),
    },
}

_LIVE: Json = {
    "operationId": "livez",
    "tags": ["health"],
    "summary": "This process answers",
    "security": [],
    "responses": {"200": _answer("It does.", _content(_object(status={"enum": ["alive"]}), {"status": "alive"}))},
}

_PART = _object(status={"enum": ["ok", "failed"]}, duration_ms={"type": "number"}, error={"type": ["string", "null"]})
_HEALTH = _object(
    status={"enum": ["healthy", "degraded", "unhealthy"]}, checks={"type": "object", "additionalProperties": _PART}
)
_WELL: Json = {"status": "ok", "duration_ms": 1.2, "error": None}
_AWAY: Json = {"status": "failed", "duration_ms": 3001.7, "error": "OperationalError: connection timeout expired"}
_READY: Json = {
    "operationId": "readyz",
    "tags": ["health"],
    "summary": "What it needs answers too",
    "description": "Each part with its status, duration and error. Degraded is 200: sales go on, and work piles up.",
    "security": [],
    "responses": {
        "200": _answer("Healthy or degraded.", _content(_HEALTH, {"status": "healthy", "checks": {"database": _WELL}})),
        "503": _answer(
            "Unhealthy: no sale is possible.",
            _content(_HEALTH, {"status": "unhealthy", "checks": {"database": _AWAY}}),
        ),
    },
}


def add_plain_addresses(result: Json, **_: Any) -> Json:
    """A hook of drf-spectacular's, at the end of its work."""
    result["paths"] |= {_WEBHOOK: {"post": _RECEIVE}, "/livez": {"get": _LIVE}, "/readyz": {"get": _READY}}
    return result
