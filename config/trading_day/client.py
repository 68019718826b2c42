"""The product's API as a client that must not lose or double anything: one key a request, repeated until answered."""

import time
from collections.abc import Iterator
from typing import Any

import requests

from foundation.errors import DomainError

Json = dict[str, Any]

_TIMEOUT_S = 30  # a checkout waits 10 s for the provider; longer means that nobody is there
_ATTEMPTS = 8
_BUSY = (409, 429, 503)
_LONGEST_PAUSE_S = 2.0


class ApiRefused(DomainError):
    """An answer that the caller did not reckon with; its text names the call and what came back."""


class Client:
    """One key's view of the API. Safe to use from several threads."""

    def __init__(self, url: str, key: str) -> None:
        self._url = f"{url}/api/v1"
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"
        self._session.trust_env = False  # no proxy between us and this machine

    def get(self, path: str, **params: str) -> Json:
        """Raises ApiRefused."""
        return self._send("GET", path, params=params, wanted=(200,))

    def find(self, path: str) -> Json | None:
        """None where there is no such thing."""
        answer = self._send("GET", path, wanted=(200, 404))
        return None if answer.get("status") == 404 else answer

    def walk(self, path: str, **params: str) -> Iterator[Json]:
        """Every item of a list, page after page."""
        page = self.get(path, limit="100", **params)
        yield from page["data"]
        while page["has_more"]:
            page = self.get(path, limit="100", cursor=page["next_cursor"], **params)
            yield from page["data"]

    def post(self, path: str, body: Json | None = None, *, key: str, also: tuple[int, ...] = ()) -> Json:
        """`also`: statuses beside 200 and 201 whose document the caller can use. Raises ApiRefused."""
        return self._send("POST", path, json=body or {}, headers={"Idempotency-Key": key}, wanted=(200, 201, *also))

    def patch(self, path: str, body: Json) -> Json:
        return self._send("PATCH", path, json=body, wanted=(200,))

    def _send(self, method: str, path: str, *, wanted: tuple[int, ...], **request: Any) -> Json:
        for attempt in range(_ATTEMPTS):
            try:
                answer = self._session.request(method, self._url + path, timeout=_TIMEOUT_S, **request)
            except requests.ConnectionError as error:
                refusal = ApiRefused(f"{method} {path}: {error}")
                pause_s = 0.25 * 2**attempt
            else:
                if answer.status_code in wanted:
                    document: Json = answer.json()
                    return document
                refusal = ApiRefused(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
                if answer.status_code not in _BUSY or "Retry-After" not in answer.headers:
                    raise refusal
                pause_s = float(answer.headers["Retry-After"])
            time.sleep(min(pause_s, _LONGEST_PAUSE_S))
        raise refusal
