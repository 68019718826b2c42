"""Every request has an id, echoed to the caller and written on every log line that the request causes."""

import logging
import re
import time
from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from foundation import numbers
from foundation.ids import public_id, uuid7
from foundation.logs import bound, bound_id, named

log = logging.getLogger(__name__)

_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_READS = {"GET", "HEAD", "OPTIONS"}


def current_request_id() -> str:
    """The id of the request (or of the task it caused) that this code runs for; `-` outside of one."""
    return bound_id("request_id") or "-"


class RequestIdMiddleware:
    """Takes the caller's `X-Request-Id` where it is well-formed, makes one otherwise.

    Each request that may have changed something, and each that broke, leaves a line in the log.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _WELL_FORMED.fullmatch(given) else public_id("req", uuid7())
        began = time.monotonic()
        with bound(request_id=request_id, **named(*request.path.split("/"))):
            response = self.get_response(request)
            if request.method not in _READS or response.status_code >= 500:
                took_ms = round((time.monotonic() - began) * 1000)
                facts = {"status": response.status_code, "took_ms": took_ms}
                log.info("%s %s", request.method, request.path, extra=facts)
        response.headers["X-Request-Id"] = request_id
        return response


class AdminScriptsMiddleware:
    """Lets the admin's pages, and no others, evaluate the attributes that Unfold's Alpine.js lives by."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if request.resolver_match and request.resolver_match.app_name == "admin":
            response._csp_update = {"script-src": ["'unsafe-eval'"]}  # type: ignore[attr-defined]
        return response


class ReaderMiddleware:
    """Amounts on a page are written, and those in its forms read, as the browser's language has them."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with numbers.written_for(request.headers.get("Accept-Language", "")):
            return self.get_response(request)
