"""Every request has an id, echoed to the caller and written on every log line that the request causes."""

import logging
import re
from collections.abc import Callable
from contextvars import ContextVar

from django.http import HttpRequest, HttpResponseBase

from foundation.ids import public_id, uuid7

_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_current: ContextVar[str] = ContextVar("request_id", default="-")


def current_request_id() -> str:
    """The id of the request (or of the task it caused) that this code runs for; `-` outside of one."""
    return _current.get()


def set_request_id(value: str) -> None:
    """Continue a request's id in work that it caused."""
    _current.set(value or "-")


class RequestIdMiddleware:
    """Takes the caller's `X-Request-Id` where it is well-formed, makes one otherwise."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _WELL_FORMED.fullmatch(given) else public_id("req", uuid7())
        token = _current.set(request_id)
        try:
            response = self.get_response(request)
        finally:
            _current.reset(token)
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


class RequestIdFilter(logging.Filter):
    """Gives every log record the field `request_id`."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = _current.get()
        return True
