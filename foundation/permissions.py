"""Who calls, and what their key may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast
from uuid import UUID

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from foundation.errors import DomainError

if TYPE_CHECKING:  # DRF loads this module while it loads its views
    from rest_framework.views import APIView


class Caller(Protocol):
    """Who calls: one key of one merchant."""

    id: UUID
    merchant_id: UUID
    scopes: list[str]


def caller(request: Request) -> Caller:
    """The key that the request was authenticated with."""
    return cast(Caller, request.auth)


class ScopeMissing(DomainError):
    """This key's scopes do not cover the call: use a key that has the scope."""

    code = "scope_missing"
    status = 403


class HasScope(BasePermission):
    """A view names the scopes that may call it, per method: `scopes = {"GET": {"storefront"}, …}`.

    Who may GET may HEAD. Whoever has a key may ask for the OPTIONS: the answer names methods and nothing of anybody's.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        method = "GET" if request.method == "HEAD" else request.method or ""
        if method == "OPTIONS" or not hasattr(view, method.lower()):
            return True  # the latter nobody may: the answer is 405
        needed: set[str] = getattr(view, "scopes", {}).get(method, set())
        held = set(caller(request).scopes) if request.auth else set()
        if not needed & held:
            raise ScopeMissing(f"This call needs a key with the scope {' or '.join(sorted(needed)) or 'none'}.")
        return True
