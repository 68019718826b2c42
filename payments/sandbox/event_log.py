"""Reading events back: what a merchant does that missed webhooks, or has no public address for them."""

from payments.sandbox.calls import PAGE_PARAMS, Call, Route, list_page, retrieve
from payments.sandbox.errors import InvalidParameter
from payments.sandbox.store import Json

MAX_TYPES = 20


def _list(call: Call) -> Json:
    params = call.params
    if "type" in params and "types" in params:
        raise InvalidParameter("You may only specify one of these parameters: type, types.", param="types")
    types = [params.required("type")] if "type" in params else params.strings("types")
    if len(types) > MAX_TYPES:
        raise InvalidParameter(f"At most {MAX_TYPES} types can be given.", param="types")
    return list_page(call, "event", {}, types)


ROUTES = {
    ("GET", "/v1/events"): Route(_list, PAGE_PARAMS | {"type", "types"}),
    ("GET", "/v1/events/{id}"): retrieve("event"),
}
