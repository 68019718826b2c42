"""What durability refuses."""

from foundation.errors import DomainError


class IdempotencyKeyMissing(DomainError):
    """Send an Idempotency-Key header with every POST that changes something: 1 to 255 characters, a fresh UUID is best."""

    code = "idempotency_key_missing"
    status = 400


class IdempotencyKeyReused(DomainError):
    """This Idempotency-Key was used for a different request: take a new key for a new request."""

    code = "idempotency_key_reused"
    status = 422


class IdempotencyKeyInUse(DomainError):
    """A request with this Idempotency-Key is still being worked on: send it again in a moment, with the same key."""

    code = "idempotency_key_in_use"
    status = 409
    retry_after_s = 1


class LeaseLost(Exception):
    """Another worker has taken this work over: whatever we were about to commit must not be."""


class RecipeNotDeployed(DomainError):
    """No recipe of this name and version is deployed: deploy it, then decide."""

    code = "recipe_not_deployed"
    status = 409


class StreamBusy(DomainError):
    """Another worker writes to the stream at the moment: try again in a few seconds."""

    code = "stream_busy"
    status = 409


class ReasonMissing(DomainError):
    """Say why: the reason is kept with the decision."""

    code = "parameter_missing"
    status = 400
