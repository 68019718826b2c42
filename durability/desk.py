"""How sagas and messages look on the finance desk: for the pages here, and for the page of the object they are about."""

from collections.abc import Iterable, Sequence

from django.http import HttpRequest
from django.utils.safestring import SafeString

from durability import registry
from durability.models import Delivery, Message, SagaRun, SagaStep
from foundation import cells
from foundation.cells import Tone
from foundation.sections import Entry, Stage, Table, Track, Tracks

_STAGES: dict[str, tuple[Tone, str]] = {
    SagaStep.State.CALLING: ("busy", "sync"),
    SagaStep.State.DONE: ("good", "check"),
    SagaStep.State.FAILED: ("bad", "close"),
    SagaStep.State.UNDONE: ("warn", "undo"),
    SagaStep.State.SKIPPED: ("info", "skip_next"),
}
_DELIVERIES: dict[str, str] = {
    Delivery.State.DONE: "check",
    Delivery.State.PARKED: "priority_high",
    Delivery.State.SKIPPED: "skip_next",
}


def stages(run: SagaRun) -> list[Stage]:
    """Every step of a run's recipe, with what became of it; those not begun have no state."""
    known = {step.index: step for step in run.steps.all()}
    recipe = registry.recipe(run.recipe, run.version)
    names = [step.name for step in recipe.steps] if recipe else [step.name for step in known.values()]
    return [_stage(name, known.get(index)) for index, name in enumerate(names)]


def _stage(name: str, step: SagaStep | None) -> Stage:
    if step is None:
        return Stage(name, state="", tone="quiet", icon="more_horiz")
    tone, icon = _STAGES[step.state]
    return Stage(name, step.state, tone, icon, note=step.note, at=step.finished_at or step.started_at)


def tracks(request: HttpRequest, runs: Iterable[SagaRun], *, title: str = "Sagas") -> Tracks:
    """Runs (with their steps prefetched) from left to right, each with a link to its page."""
    return Tracks(
        title,
        [
            Track(
                title=cells.link(request, "durability.sagarun", run.pk, run.recipe),
                state=cells.state(run.state),
                stages=stages(run),
                note=run.error if run.finished_at is None else "",
            )
            for run in runs
        ],
        empty="No saga has run for this.",
    )


def messages(request: HttpRequest, rows: Iterable[Message]) -> Table:
    """Messages (with their deliveries prefetched), oldest first, and what became of each delivery."""
    return Table(
        "Events and their deliveries",
        ["Event", "Published", "Deliveries"],
        [
            [
                cells.link(request, "durability.message", message.pk, message.name),
                cells.brief(message.created_at),
                cells.lines(_delivery(request, delivery) for delivery in message.deliveries.all()),
            ]
            for message in rows
        ],
        empty="No event has been published about this.",
    )


def _delivery(request: HttpRequest, delivery: Delivery) -> SafeString:
    handler = cells.link(request, "durability.delivery", delivery.pk, delivery.handler)
    return cells.beside(cells.state(delivery.state), handler)


def story(rows: Sequence[Message]) -> list[Entry]:
    """Messages as entries of a timeline."""
    return [Entry(at=row.created_at, title=row.name, detail="event", icon="campaign") for row in rows]
