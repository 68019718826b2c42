"""Who calls the API: `Authorization: Bearer ek_…`."""

from typing import Any

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from catalog import services


class ApiKeyAuthentication(BaseAuthentication):
    """`request.auth` becomes the LiveKey. Everyone else gets 401 `key_invalid`."""

    def authenticate(self, request: Request) -> tuple[None, Any]:
        scheme, _, text = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise AuthenticationFailed("Send a key: Authorization: Bearer ek_…")
        key = services.check_api_key(text.strip())
        if key is None:
            raise AuthenticationFailed("This key is unknown, expired or revoked.")
        return None, key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
