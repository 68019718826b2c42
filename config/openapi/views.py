"""Where the document is served."""

from functools import cache
from typing import Any

from drf_spectacular.views import SpectacularAPIView
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response


@cache
def document() -> dict[str, Any]:
    """Made once a process: that takes longer than any call that it describes."""
    generator = SpectacularAPIView.generator_class()
    made: dict[str, Any] = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


class SchemaView(SpectacularAPIView):
    """GET /api/schema, as YAML, or as JSON where that is asked for."""

    content_negotiation_class = DefaultContentNegotiation

    def _get_schema_response(self, request: Request) -> Response:
        name = self._get_filename(request, None)  # type: ignore[no-untyped-call]
        return Response(document(), headers={"Content-Disposition": f'inline; filename="{name}"'})
