"""What is crossed: each scenario, and each step of each recipe refused in the first scenario that comes to it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import current_app

from durability import registry
from durability.types import Call, Context, Handler, Outcome, Refused, Saga, Step
from foundation.errors import DomainError
from tests.campaigns.boundaries.recorder import (
    AFTER,
    COMMIT,
    DO,
    EDGE,
    HANDLER,
    OURS,
    SAGA,
    TASK,
    UNDO,
    Boundary,
    Place,
)

# The first commit here notes that a key was used.
_NOTES = ("catalog.authentication",)
# A person waits for these: whoever has no answer asks again, and it is as right if the world went on before that.
_A_PERSON_WAITS = ("reconciliation.services.",)
_PRODUCT = OURS - {"tests"}  # durability's own tests declare recipes and handlers too


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """A scenario; with `recipe` and `step`, one in which that step meets a definite refusal."""

    scenario: str
    recipe: str = ""
    step: str = ""

    def __str__(self) -> str:
        return f"{self.scenario}; “{self.step}” is refused" if self.step else self.scenario


class RefusedByCampaignError(DomainError):
    """A definite refusal, to see that everything is undone."""

    code = "refused_by_campaign"


def product_recipes() -> list[Saga]:
    return [saga for saga in registry.recipes() if any(_is_ours(step.do or step.undo) for step in saga.steps)]


def product_handlers() -> list[Handler]:
    return [one for one in registry.handlers() if _is_ours(one.run)]


def product_tasks() -> list[str]:
    return [name for name, task in current_app.tasks.items() if _is_ours(task.run)]


def _is_ours(function: Callable[..., Any] | None) -> bool:
    return function is not None and function.__module__.split(".")[0] in _PRODUCT


def refusals(noted: Mapping[Unit, Sequence[Boundary]]) -> list[Unit]:
    """Each step that can refuse, in the scenario that comes to it first. What nothing comes to is told by `missing`."""
    units = []
    for saga in product_recipes():
        for step in saga.steps:
            place = Place(SAGA, saga.name, step.name, DO)
            comes = (unit.scenario for unit, found in noted.items() if any(one.place == place for one in found))
            scenario = next(comes, None)
            if scenario and step.do is not None:
                units.append(Unit(scenario, saga.name, step.name))
    return units


@contextmanager
def refusing(unit: Unit) -> Iterator[None]:
    """While it lasts, the unit's step refuses. It is changed in place: whoever holds the recipe sees it."""
    steps = [
        step for saga in product_recipes() for step in saga.steps if (saga.name, step.name) == (unit.recipe, unit.step)
    ]
    kept = [(step, step.do) for step in steps]
    try:
        for step in steps:
            object.__setattr__(step, "do", _refusal(step))
        yield
    finally:
        for step, do in kept:
            object.__setattr__(step, "do", do)


def _refusal(step: Step | Call) -> Callable[[Context], Outcome | None]:
    def refuse(context: Context) -> Outcome | None:
        if isinstance(step, Call):
            return Refused("refused_by_campaign", "refused by the campaign")
        raise RefusedByCampaignError

    return refuse


def boundaries_of(unit: Unit, noted: Mapping[Unit, Sequence[Boundary]]) -> list[Boundary]:
    """Of a refusal only what the scenario itself does not come to."""
    known = set(noted[Unit(unit.scenario)]) if unit.step else set()
    return [boundary for boundary in noted[unit] if boundary not in known]


def may_come_later(boundaries: Sequence[Boundary]) -> frozenset[Boundary]:
    """Of a run, in its order: what lies before the first commit that is more than a note of what was asked for; and all that a
    person waits for.
    """
    early = []
    for one in boundaries:
        is_note = one.place.name.startswith(_NOTES) and one.nth == 1
        waits = one.place.kind == EDGE and one.place.name.startswith(_A_PERSON_WAITS)
        if (one.what, one.when) == (COMMIT, AFTER) and not is_note and not waits:
            break
        early.append(one)
    return frozenset(early)


def missing(boundaries: Iterable[Boundary]) -> list[str]:
    """What was declared and never crossed, a line each: steps with do and undo, handlers, tasks."""
    crossed = {boundary.place for boundary in boundaries}
    by_name = {(place.kind, place.name) for place in crossed}
    lines = []
    for saga in product_recipes():
        for index, step in enumerate(saga.steps):
            if step.do is not None and Place(SAGA, saga.name, step.name, DO) not in crossed:
                lines.append(f"no scenario crosses step “{step.name}” of {saga.name}")
            undone = step.undo is not None and any(one.do is not None for one in saga.steps[index:])
            if undone and Place(SAGA, saga.name, step.name, UNDO) not in crossed:
                lines.append(f"no scenario crosses the undo of step “{step.name}” of {saga.name}")
    lines += [
        f"no scenario crosses handler {one.name}" for one in product_handlers() if (HANDLER, one.name) not in by_name
    ]
    lines += [f"no scenario crosses task {name}" for name in product_tasks() if (TASK, name) not in by_name]
    return lines
