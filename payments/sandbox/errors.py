"""What Stripe answers when it refuses: status, body, and whether the answer is kept under an idempotency key."""

from typing import Any


class ApiError(Exception):
    """An answer other than success, in Stripe's shape: `{"error": {type, code, message, param, …}}`."""

    status = 400
    kind = "invalid_request_error"
    # Stripe keeps the answer under the idempotency key once execution has begun.
    saved = True
    # A decline is an answer *and* an effect: the failed charge stays.
    keeps_effects = False

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        error: dict[str, Any] = {}
        if code is not None:
            error["code"] = code
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        error["message"] = message
        if param is not None:
            error["param"] = param
        error["type"] = self.kind
        error.update(extra)
        self.body: dict[str, Any] = {"error": error}


class InvalidParameter(ApiError):
    """The parameters are wrong: nothing was begun, so the key stays free."""

    saved = False


class Unauthorized(ApiError):
    status = 401
    saved = False


class NotFound(ApiError):
    status = 404

    def __init__(self, kind: str, object_id: str, param: str = "id") -> None:
        super().__init__(f"No such {kind}: '{object_id}'", code="resource_missing", param=param)


class UnknownUrl(ApiError):
    status = 404
    saved = False

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Unrecognized request URL ({method}: {path}). The sandbox's README lists what it serves.")


class Refused(ApiError):
    """The request is well formed, the object's state forbids it."""


class Declined(ApiError):
    status = 402
    kind = "card_error"
    keeps_effects = True


class BadCard(ApiError):
    """The card number itself is wrong, so there is no attempt to record."""

    status = 402
    kind = "card_error"


class KeyReused(ApiError):
    kind = "idempotency_error"
    saved = False


class KeyInUse(ApiError):
    status = 409
    kind = "idempotency_error"
    saved = False

    def __init__(self, key: str) -> None:
        super().__init__(
            "There is currently another in-progress request using this Idempotent Key (that probably means you submitted"
            f" twice, and the other request is still going through): {key}. Please try again later.",
            code="idempotency_key_in_use",
        )


class RateLimited(ApiError):
    status = 429
    saved = False

    def __init__(self) -> None:
        super().__init__("Request rate limit exceeded.", code="rate_limit")


class ServerError(ApiError):
    status = 500
    kind = "api_error"

    def __init__(self) -> None:
        super().__init__(
            "An unknown error occurred. (The sandbox was told to answer so, or has a defect: see its log.)"
        )
