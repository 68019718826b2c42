import gc
import os
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def with_length(application: Application, *, longest: int) -> Application:
    """A body that is sent in chunks names no length, and Django reads nothing of it: it is read here, and given one.

    Whole libraries send all their JSON so (.NET's is one). What is longer than `longest` bytes is cut off right behind
    that, which is where whoever reads it refuses it.
    """

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # Where there are both, the server has decided which of them holds.
        if environ.get("wsgi.input_terminated") and "HTTP_TRANSFER_ENCODING" in environ:
            body = _read(environ["wsgi.input"], longest + 1)
            environ |= {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        return application(environ, start_response)

    return answer


def _read(stream: Any, longest: int) -> bytes:
    body = bytearray()
    while len(body) < longest and (piece := stream.read(longest - len(body))):
        body += piece
    return bytes(body)


_django = get_wsgi_application()

from config import settings  # noqa: E402  after the environment names it

if settings.SECRET_KEY == settings.NO_SECRET_KEY:
    raise ImproperlyConfigured("Set SECRET_KEY to a long random text: without it anybody can sign a session.")

application = with_length(_django, longest=settings.DATA_UPLOAD_MAX_MEMORY_SIZE)

# The views are loaded now, not by the first request. And what is loaded by now stays: a full collection would walk all of
# it time and again, a tenth of a second in which nobody is answered.
_ = get_resolver().url_patterns
gc.collect()
gc.freeze()
