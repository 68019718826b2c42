"""The calls of the API: each view says what its call takes, answers and refuses (`foundation.schema`); this adds the rest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from rest_framework.serializers import CharField, ModelSerializer

from durability.errors import IdempotencyKeyInUse, IdempotencyKeyMissing, IdempotencyKeyReused
from foundation.api import PROBLEM_TYPE, StrictSerializer, problem
from foundation.errors import DomainError, InvalidInput, MissingInput, NotFound
from foundation.permissions import ScopeMissing

Json = dict[str, Any]
REQUEST_ID = "req_01kah5v0p9e8m4t6q2x0c5b7dn"  # of examples


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way in which a call can be refused: what its example is called, and what stands in it."""

    name: str
    status: int
    code: str
    detail: str
    members: Mapping[str, Any]

    def document(self, instance: str) -> Json:
        """As a caller would get it."""
        made = problem(status=self.status, code=self.code, detail=self.detail, instance=instance)
        return {**made, "request_id": REQUEST_ID, **self.members}

    @classmethod
    def of(cls, error: type[DomainError]) -> "Refusal":
        return cls(error.__name__, error.status, error.code, " ".join((error.__doc__ or "").split()), error.shown)


# What the framework refuses, not the domain: `foundation.api.problem_response` gives these their codes.
KEY_INVALID = Refusal("KeyInvalid", 401, "key_invalid", "This key is unknown, expired or revoked.", {})
MEDIA_TYPE = Refusal("MediaType", 415, "media_type", 'Unsupported media type "text/plain" in request.', {})
RATE_LIMITED = Refusal("RateLimited", 429, "rate_limited", "This key makes too many calls: wait for Retry-After.", {})
DATABASE_AWAY = Refusal(
    "DatabaseAway",
    503,
    "provider_unavailable",
    "The database does not answer: send the request again with the same Idempotency-Key.",
    {},
)

PROBLEM: Json = {
    "type": "object",
    "description": "A refusal (RFC 9457). `code` is for programs, `detail` for people; some codes bring further members.",
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string", "description": "what the status is called"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "what to do about it"},
        "instance": {"type": "string", "description": "the address that was called"},
        "code": {"type": "string"},
        "request_id": {"type": "string", "description": "tell it to us, and we find the log"},
        "param": {"type": "string", "description": "the member or parameter at fault"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "product": {"type": "string"},
                    "requested": {"type": "integer"},
                    "available": {"type": "integer"},
                },
                "required": ["product", "requested", "available"],
            },
        },
        "decline_code": {"type": "string", "description": "the bank's reason"},
        "available": {"type": "integer", "description": "how much store credit there is"},
        "order": {"$ref": "#/components/schemas/OrderDocument"},
        "payment": {
            "oneOf": [{"type": "string"}, {"$ref": "#/components/schemas/PaymentDocument"}],
            "description": "what became of the payment; of an order that is paid already, the number that paid it",
        },
    },
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
}

_TEXT = {"type": "string"}
HEADERS: Mapping[str, Json] = {
    "X-Request-Id": {
        "schema": _TEXT,
        "description": "The caller's, where it sent a well-formed one.",
        "required": True,
    },
    "RateLimit": {"schema": _TEXT, "description": 'How many calls are left at once: `"key";r=1999;t=1`.'},
    "RateLimit-Policy": {"schema": _TEXT, "description": 'How many calls a key may make a second: `"key";q=2000;w=1`.'},
    "Retry-After": {"schema": _TEXT, "description": "After how many seconds the same request may be sent again."},
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "The answer was stored when this key was used first.",
    },
    "WWW-Authenticate": {"schema": {"type": "string", "enum": ["Bearer"]}, "description": "How to send a key."},
}
_SOMETIMES_RETRIED = {409, 429, 503}
_STORED = {200, 201, 402, 424}  # the answers to a key that are kept


class ApiSchema(AutoSchema):
    """One call of the API."""

    def get_summary(self) -> str:
        return self._docstring()[0]

    def get_description(self) -> str:  # type: ignore[override]  # as drf-spectacular has it
        scopes = getattr(self.view, "scopes", {}).get(self.method, ())
        needed = " or ".join(f"`{scope}`" for scope in sorted(scopes))
        return "\n\n".join(filter(None, [self._docstring()[1], f"Scope: {needed}."]))

    def _docstring(self) -> tuple[str, str]:
        first, _, rest = (getattr(self.view, self.method.lower()).__doc__ or "").strip().partition("\n")
        return first.rstrip("."), "\n".join(line.strip() for line in rest.strip().splitlines())

    def _postprocess_serializer_schema(self, schema: Json, serializer: Any, direction: Any) -> Json:
        """Requests are read strictly, and answers are whole: say so."""
        if not type(serializer).__doc__:
            schema.pop("description", None)  # a base class spoke
        for member in schema.get("properties", {}).values():
            if "oneOf" in member:  # an address, or nothing: to whoever does not look at formats, nothing is both
                member["anyOf"] = member.pop("oneOf")
        if isinstance(serializer, ModelSerializer):
            schema["required"] = sorted(schema["properties"])
        if isinstance(serializer, StrictSerializer):
            schema["additionalProperties"] = False
            for name, field in serializer.fields.items():
                member = schema.get("properties", {}).get(name, {})
                if isinstance(field, CharField) and not field.allow_blank and "type" in member:
                    member.setdefault("minLength", 1)
        return schema

    def _get_response_bodies(self, direction: Any = "response") -> Json:
        bodies: Json = super()._get_response_bodies(direction)
        by_status: dict[int, list[Refusal]] = {}
        for refusal in self._refusals():
            by_status.setdefault(refusal.status, []).append(refusal)
        for status, body in bodies.items():
            body["headers"] = {name: self._header(name) for name in self._headers(int(status))}
        return bodies | {str(status): self._problem(status, by_status[status]) for status in sorted(by_status)}

    def _refusals(self) -> Iterator[Refusal]:
        view = getattr(self.view, self.method.lower())
        yield Refusal.of(InvalidInput)
        if self.method != "GET" or any(parameter["in"] == "query" for parameter in self._get_parameters()):
            yield Refusal.of(MissingInput)
        if self.method == "POST":
            yield from map(Refusal.of, (IdempotencyKeyMissing, IdempotencyKeyReused))
        if self.method != "GET":  # a PATCH, too, may have to wait for a row
            yield from (Refusal.of(IdempotencyKeyInUse), MEDIA_TYPE)
        if "{" in self.path:
            yield Refusal.of(NotFound)
        yield from (KEY_INVALID, Refusal.of(ScopeMissing), RATE_LIMITED, DATABASE_AWAY)
        yield from map(Refusal.of, getattr(view, "refusals", ()))

    def _problem(self, status: int, refusals: list[Refusal]) -> Json:
        schema = self._component(ResolvedComponent.SCHEMA, "Problem", PROBLEM)
        codes = {"properties": {"code": {"enum": list(dict.fromkeys(refusal.code for refusal in refusals))}}}
        examples = {refusal.name: self._example(refusal) for refusal in refusals}
        said = dict.fromkeys(f"`{refusal.code}`: {refusal.detail}" for refusal in refusals)
        body = {
            "description": "\n\n".join(said),
            "content": {PROBLEM_TYPE: {"schema": {"allOf": [schema, codes]}, "examples": examples}},
            "headers": {name: self._header(name) for name in self._headers(status)},
        }
        alone = len(refusals) == 1
        return self._component(ResolvedComponent.RESPONSE, refusals[0].name, body) if alone else body

    def _example(self, refusal: Refusal) -> Json:
        value = refusal.document(self._address())
        return self._component(ResolvedComponent.EXAMPLE, refusal.name, {"summary": refusal.code, "value": value})

    def _address(self) -> str:
        """This call's address, with the examples of its parts."""
        address = self.path
        for parameter in self._get_parameters():
            if parameter["in"] == "path":
                example = parameter.get("examples", {}).get("Example", {}).get("value", "")
                address = address.replace(f"{{{parameter['name']}}}", example)
        return address

    def _headers(self, status: int) -> Iterator[str]:
        yield "X-Request-Id"
        if status == 401:
            yield "WWW-Authenticate"
        else:
            yield from ("RateLimit", "RateLimit-Policy")
        if status in _SOMETIMES_RETRIED:
            yield "Retry-After"
        if self.method == "POST" and status in _STORED:
            yield "Idempotent-Replayed"

    def _header(self, name: str) -> Json:
        return self._component(ResolvedComponent.HEADER, name, HEADERS[name])

    def _component(self, kind: str, name: str, schema: Mapping[str, Any]) -> Json:
        """Written once, referred to from everywhere."""
        component = ResolvedComponent(name, kind, dict(schema), object=Refusal)  # type: ignore[no-untyped-call]
        self.registry.register_on_missing(component)
        reference: Json = component.ref
        return reference
