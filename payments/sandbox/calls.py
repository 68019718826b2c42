"""One API call as the handlers of the resources see it, and the table entry that leads to a handler."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from payments.sandbox import views
from payments.sandbox.account import Account
from payments.sandbox.errors import InvalidParameter, NotFound
from payments.sandbox.forms import Params, parse_integer
from payments.sandbox.store import Json

DEFAULT_LIMIT = 10
MAX_LIMIT = 100
PAGE_PARAMS = frozenset({"limit", "starting_after", "ending_before", "created"})


@dataclass(frozen=True)
class Call:
    account: Account
    params: Params
    path: str
    object_id: str = ""  # the {id} of the path, empty where it has none
    publishable: bool = False  # made with the publishable key, as Stripe.js does

    def load(self, kind: str) -> Json:
        """The object that the path names; raises NotFound (404)."""
        return load(self.account, kind, self.object_id)


@dataclass(frozen=True)
class Route:
    """A handler, and the parameters beside `expand` that it takes; with the publishable key only where it says so."""

    handle: Callable[[Call], Json]
    params: Collection[str] = ()
    publishable: bool = False


def load(account: Account, kind: str, object_id: str, param: str | None = None) -> Json:
    """Raises NotFound (404)."""
    found = account.store.get(kind, object_id)
    if found is None:
        raise NotFound(kind, object_id, param or {"payment_intent": "intent"}.get(kind, "id"))
    return found


def retrieve(kind: str) -> Route:
    return Route(lambda call: views.present(call.account, call.load(kind)))


def listing(kind: str, *filters: str) -> Route:
    """A list of a kind, newest first, with cursors, `created` and equality filters (columns of the store)."""
    return Route(
        lambda call: list_page(
            call, kind, {name: call.params.required(name) for name in filters if name in call.params}
        ),
        PAGE_PARAMS | set(filters),
    )


def list_page(call: Call, kind: str, equal: dict[str, str], types: Collection[str] = ()) -> Json:
    params, store = call.params, call.account.store
    limit = params.integer("limit", least=1, most=MAX_LIMIT) or DEFAULT_LIMIT
    if "starting_after" in params and "ending_before" in params:
        raise InvalidParameter("You can only use one of `starting_after` and `ending_before`.", param="ending_before")
    rows = store.page(
        kind,
        equal=equal,
        created=_created(params),
        types=list(types),
        older_than=_cursor(call, kind, "starting_after"),
        newer_than=_cursor(call, kind, "ending_before"),
        limit=limit + 1,
    )
    has_more = len(rows) > limit
    if has_more:
        rows = rows[1:] if "ending_before" in params else rows[:-1]
    return {
        "object": "list",
        "data": [views.present(call.account, row) for row in rows],
        "has_more": has_more,
        "url": call.path,
    }


def _cursor(call: Call, kind: str, name: str) -> tuple[int, int] | None:
    if name not in call.params:
        return None
    object_id = call.params.required(name)
    position = call.account.store.position(kind, object_id)
    if position is None:
        raise InvalidParameter(f"No such {kind}: '{object_id}'", code="resource_missing", param=name)
    return position


def _created(params: Params) -> dict[str, int]:
    given = params.values.get("created")
    if given is None:
        return {}
    if isinstance(given, str):
        moment = parse_integer(given, "created")
        return {"gte": moment, "lte": moment}
    if not isinstance(given, dict) or not given or not given.keys() <= {"gt", "gte", "lt", "lte"}:
        raise InvalidParameter("Invalid created: a time, or a hash of gt, gte, lt, lte.", param="created")
    return {name: parse_integer(value, f"created[{name}]") for name, value in given.items()}
