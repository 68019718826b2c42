"""What nobody serves, and what broke: a problem document for the API, a page for people."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views import defaults

from foundation.api import PROBLEM_TYPE, problem

_API = "/api/"


def refused(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400: what Django finds suspicious, a wrong host or a thousand parameters."""
    if not request.path.startswith(_API):
        return defaults.bad_request(request, exception)
    detail = (
        "The request is refused: its host is not ours, or it is larger, or names more parameters, than any of ours."
    )
    return _problem(request, 400, "parameter_invalid", detail)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404"""
    if not request.path.startswith(_API):
        return defaults.page_not_found(request, exception)
    return _problem(request, 404, "not_found", "There is no such address: see the API's documentation.")


def broken(request: HttpRequest) -> HttpResponse:
    """500"""
    if not request.path.startswith(_API):
        return defaults.server_error(request)
    return _problem(
        request, 500, "internal_error", "Something broke on our side: send it again with the same Idempotency-Key."
    )


def refuse_nul(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Middleware: a NUL in an address names nothing, and PostgreSQL stores none."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        query = request.META.get("QUERY_STRING", "")
        if "\x00" in request.path or "%00" in query or "\x00" in query:
            return _problem(request, 400, "parameter_invalid", "The address holds a NUL: leave it out.")
        return get_response(request)

    return answer


def _problem(request: HttpRequest, status: int, code: str, detail: str) -> JsonResponse:
    document = problem(status=status, code=code, detail=detail, instance=request.path)
    return JsonResponse(document, status=status, content_type=PROBLEM_TYPE)
