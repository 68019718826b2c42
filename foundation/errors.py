"""The base of every refusal that a caller can act on: a stable code, an HTTP status, and a sentence that says what to do."""

from collections.abc import Mapping
from typing import Any, ClassVar


class DomainError(Exception):
    """The request could not be done."""

    code = "error"
    status = 409
    retry_after_s: int | None = None
    shown: ClassVar[Mapping[str, Any]] = {}  # members of the example in the API's documentation

    def __init__(self, detail: str = "", *, param: str = "", members: dict[str, Any] | None = None) -> None:
        self.detail = detail or " ".join((type(self).__doc__ or "").split())
        self.param = param
        self.members = members or {}
        super().__init__(self.detail)


class InvalidInput(DomainError):
    """A value is not acceptable."""

    code = "parameter_invalid"
    status = 400
    shown: ClassVar[Mapping[str, Any]] = {"param": "items[0].quantity"}


class MissingInput(DomainError):
    """A value is missing."""

    code = "parameter_missing"
    status = 400
    shown: ClassVar[Mapping[str, Any]] = {"param": "customer"}


class NotFound(DomainError):
    """There is no such object, or it is not yours."""

    code = "not_found"
    status = 404


class IllegalTransition(DomainError):
    """The object's state does not allow this."""

    code = "illegal_transition"
    status = 409


class ChangedMeanwhile(DomainError):
    """Somebody changed this since you looked at it: see how it stands now, and do it again if it is still right."""

    code = "changed_meanwhile"
    status = 409
