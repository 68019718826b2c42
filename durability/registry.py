"""Handlers and recipes by name. An app's `apps.py` imports its handlers and sagas, which registers them."""

from collections.abc import Callable
from typing import Any

from durability.types import Event, Handler, Saga, Since

_handlers: dict[str, Handler] = {}
_by_event: dict[str, list[Handler]] = {}
_recipes: dict[tuple[str, int], Saga] = {}


def handles(
    event: type[Event], *, name: str, since: Since, outside: bool = False, aside: str = ""
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a function as the handler `name` of an event. `since` says from where it starts if it is added later.

    A handler of our own database runs in the transaction that marks its delivery done. One that goes `outside` runs
    in none, may run more than once, and must carry a stable id so that the other side can drop the repeat. What
    tells people, counts, or otherwise follows from a sale that is done, stands `aside`: see `Handler`.
    """

    def register(run: Callable[[Any], None]) -> Callable[[Any], None]:
        if name in _handlers:
            raise ValueError(f"two handlers are called {name}")
        handler = Handler(name=name, event=event, run=run, since=since, outside=outside, aside=aside)
        _handlers[name] = handler
        _by_event.setdefault(event.name, []).append(handler)
        return run

    return register


def register(saga: Saga) -> Saga:
    """Make a recipe known by its name and version."""
    known = _recipes.setdefault((saga.name, saga.version), saga)
    if known is not saga:
        raise ValueError(f"two recipes are called {saga.name} version {saga.version}")
    return saga


def handlers_of(event_name: str) -> list[Handler]:
    return _by_event.get(event_name, [])


def handlers() -> list[Handler]:
    return list(_handlers.values())


def alongside(name: str) -> set[str]:
    """The handlers that depend on the same other side as this one; or it alone."""
    one = _handlers.get(name)
    aside = one.aside if one else ""
    return {other.name for other in _handlers.values() if other.aside == aside} if aside else {name}


def handler(name: str) -> Handler:
    return _handlers[name]


def recipe(name: str, version: int) -> Saga | None:
    return _recipes.get((name, version))


def latest_recipe(name: str) -> Saga:
    """The newest version of a recipe. Raises LookupError."""
    versions = [saga for (known, _), saga in _recipes.items() if known == name]
    if not versions:
        raise LookupError(f"no recipe is called {name}")
    return max(versions, key=lambda saga: saga.version)


def recipes() -> list[Saga]:
    return list(_recipes.values())
