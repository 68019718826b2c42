"""Operations: sagas, deliveries and messages. Operators retry, or skip with a reason; nobody edits."""

import json
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from durability import desk as looks
from durability import services
from durability.models import Delivery, Message, SagaRun
from foundation import cells
from foundation.database import database_now
from foundation.desk import Act, ChoiceFilter, ReadOnlyAdmin, choice_filter
from foundation.sections import Entry, Facts, Page, Section, Table, Text, Timeline

STUCK = "needs a person"


class SagaStateFilter(ChoiceFilter):
    """States, and the one question that operators ask: what does not go on by itself?"""

    title = "state"
    parameter_name = "state"
    field = "state"
    options = (STUCK, *SagaRun.State.values)

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        if value == STUCK:
            slow = Q(state__in=["running", "compensating"], attempts__gte=settings.SAGA_STUCK_AFTER_ATTEMPTS)
            return rows.filter(slow | Q(state=SagaRun.State.COMPENSATION_FAILED))
        return super().apply(rows, value)


def retry_saga(run: SagaRun, data: dict[str, Any], by: str) -> str:
    services.retry_saga(run_id=run.pk, by=by)
    return "The saga is due at once: a worker goes on with the step that it stands at."


def skip_saga_step(run: SagaRun, data: dict[str, Any], by: str) -> str:
    services.skip_saga_step(run_id=run.pk, by=by, reason=data["note"])
    return "The step is skipped: it shall never happen, and a worker goes on with the next one."


def compensate_saga(run: SagaRun, data: dict[str, Any], by: str) -> str:
    services.compensate_saga(run_id=run.pk, by=by, reason=data["note"])
    return "The saga turns back: a worker undoes what it did, step by step."


@admin.register(SagaRun)
class SagaRunAdmin(ReadOnlyAdmin[SagaRun]):
    list_display = ("recipe_cell", "about", "state_cell", "step", "attempts_cell", "began", "error_cell")
    list_filter = (SagaStateFilter,)
    saved_views = (
        ("All", ""),
        ("Needs a person", "state=needs+a+person"),
        ("Running", "state=running"),
        ("Compensated", "state=compensated"),
        ("Failed to compensate", "state=compensation_failed"),
    )
    search_help_text = "Number of an order, payment or refund"
    acts = (
        Act(
            name="retry",
            label="Retry now",
            says="Gives the step that it stands at a fresh set of attempts, at once.",
            permission="durability.retry_sagarun",
            run=retry_saga,
            icon="replay",
        ),
        Act(
            name="skip",
            label="Skip this step",
            says="Decides that the step it stands at (while it compensates: that step's undo) shall never happen.",
            permission="durability.decide_sagarun",
            run=skip_saga_step,
            icon="skip_next",
            danger=True,
        ),
        Act(
            name="compensate",
            label="Undo the saga",
            says="Turns the saga back: the steps that are done are undone, the last one first.",
            permission="durability.decide_sagarun",
            run=compensate_saga,
            icon="undo",
            danger=True,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[SagaRun]:
        return super().get_queryset(request).prefetch_related("steps")

    def find(self, text: str) -> Q:
        return Q(subject=text)

    def offered(self, row: SagaRun) -> list[str]:
        match row.state:
            case SagaRun.State.COMPLETED | SagaRun.State.COMPENSATED:
                return []
            case SagaRun.State.RUNNING:
                return ["retry", "skip", "compensate"]
            case _:
                return ["retry", "skip"]

    @admin.display(description="Recipe")
    def recipe_cell(self, run: SagaRun) -> str:
        return run.recipe

    @admin.display(description="About")
    def about(self, run: SagaRun) -> SafeString:
        return cells.code(run.subject)

    @admin.display(description="State")
    def state_cell(self, run: SagaRun) -> SafeString:
        return cells.state(run.state)

    @admin.display(description="Step")
    def step(self, run: SagaRun) -> str:
        steps = looks.stages(run)
        at = min(run.current_step, len(steps) - 1)
        return f"{at + 1} of {len(steps)}: {steps[at].name}" if steps else "—"

    @admin.display(description="Attempts")
    def attempts_cell(self, run: SagaRun) -> SafeString:
        return cells.number(run.attempts)

    @admin.display(description="Began")
    def began(self, run: SagaRun) -> SafeString:
        return cells.moment(run.created_at)

    @admin.display(description="Last error")
    def error_cell(self, run: SagaRun) -> str:
        return run.error[:80] or "—"

    def page(self, request: HttpRequest, row: SagaRun) -> Page:
        stages = looks.stages(row)
        entries = [
            Entry(
                stage.at, stage.name, f"{stage.state}{': ' + stage.note if stage.note else ''}", stage.icon, stage.tone
            )
            for stage in stages
            if stage.at
        ]
        main: list[Section] = [looks.tracks(request, [row], title="Steps")]
        if row.error:
            main.append(Text("Last error", row.error))
        main.append(Timeline("What happened", entries, empty="No step has begun yet."))
        main.append(Text("Payload", json.dumps(row.payload, indent=2, sort_keys=True)))
        return Page(
            title=row.recipe,
            lead=[cells.state(row.state)],
            sub=cells.code(row.key),
            main=main,
            side=[
                Facts(
                    "Saga",
                    [
                        ("About", cells.short(row.subject)),
                        ("Recipe", f"{row.recipe}, version {row.version}"),
                        ("Attempts of this step", str(row.attempts)),
                        ("Due", cells.moment(None if row.finished_at else row.available_at)),
                        ("Began", cells.moment(row.created_at)),
                        ("Finished", cells.moment(row.finished_at)),
                        ("Request", cells.code(row.request_id)),
                    ],
                )
            ],
        )


def retry_delivery(delivery: Delivery, data: dict[str, Any], by: str) -> str:
    services.retry_delivery(delivery_id=delivery.pk, by=by)
    return "The delivery has a fresh set of attempts: a worker takes it up at once."


def skip_delivery(delivery: Delivery, data: dict[str, Any], by: str) -> str:
    services.skip_delivery(delivery_id=delivery.pk, by=by, reason=data["note"])
    return "The delivery is skipped: it shall never happen, and what waited behind it goes on."


class DeliveryStateFilter(ChoiceFilter):
    title = "state"
    parameter_name = "state"
    field = "state"
    options = (*Delivery.State.values, "all")
    default = Delivery.State.PARKED

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        return rows if value == "all" else super().apply(rows, value)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin[Delivery]):
    list_display = ("handler_cell", "event", "about", "state_cell", "attempts_cell", "published", "error_cell")
    list_filter = (DeliveryStateFilter,)
    list_select_related = ("message",)
    saved_views = (
        ("Parked", "state=parked"),
        ("Waiting", "state=pending"),
        ("Skipped", "state=skipped"),
        ("Done", "state=done"),
        ("All", "state=all"),
    )
    search_help_text = "Number of an order or payment"
    acts = (
        Act(
            name="retry",
            label="Retry",
            says="Gives this delivery a fresh set of attempts, at once.",
            permission="durability.decide_delivery",
            run=retry_delivery,
            icon="replay",
        ),
        Act(
            name="skip",
            label="Skip for ever",
            says="Decides that this handler shall never see this message. What waits behind it goes on.",
            permission="durability.decide_delivery",
            run=skip_delivery,
            icon="skip_next",
            danger=True,
        ),
    )

    def find(self, text: str) -> Q:
        return Q(message__key=text)

    def offered(self, row: Delivery) -> list[str]:
        return ["retry", "skip"] if row.state == Delivery.State.PARKED else []

    @admin.display(description="Handler")
    def handler_cell(self, delivery: Delivery) -> str:
        return delivery.handler

    @admin.display(description="Event")
    def event(self, delivery: Delivery) -> str:
        return delivery.message.name

    @admin.display(description="About")
    def about(self, delivery: Delivery) -> SafeString:
        return cells.code(delivery.key)

    @admin.display(description="State")
    def state_cell(self, delivery: Delivery) -> SafeString:
        return cells.state(delivery.state)

    @admin.display(description="Attempts")
    def attempts_cell(self, delivery: Delivery) -> SafeString:
        return cells.number(delivery.attempts)

    @admin.display(description="Published")
    def published(self, delivery: Delivery) -> SafeString:
        return cells.moment(delivery.message.created_at)

    @admin.display(description="Last error")
    def error_cell(self, delivery: Delivery) -> str:
        return delivery.last_error.strip().splitlines()[-1][:80] if delivery.last_error.strip() else "—"

    def page(self, request: HttpRequest, row: Delivery) -> Page:
        main: list[Section] = []
        if row.last_error:
            main.append(Text("Last error", row.last_error))
        main.append(Text("Payload", json.dumps(row.message.payload, indent=2, sort_keys=True)))
        return Page(
            title=row.handler,
            lead=[cells.state(row.state)],
            sub=cells.lines([row.message.name]),
            main=main,
            side=[
                Facts(
                    "Delivery",
                    [
                        ("Event", cells.link(request, "durability.message", row.message_id, row.message.name)),
                        ("About", cells.short(row.key)),
                        ("Attempts", str(row.attempts)),
                        ("Published", cells.moment(row.message.created_at)),
                        ("Done", cells.moment(row.done_at)),
                        ("Decided by", row.resolved_by or cells.NOTHING),
                        ("Why", row.resolved_reason or cells.NOTHING),
                    ],
                )
            ],
        )


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin[Message]):
    list_display = ("name_cell", "about", "published", "state_cell")
    list_filter = (choice_filter("state", Message.State.values),)
    search_help_text = "Number of an order or payment"

    def find(self, text: str) -> Q:
        return Q(key=text)

    @admin.display(description="Event")
    def name_cell(self, message: Message) -> str:
        return message.name

    @admin.display(description="About")
    def about(self, message: Message) -> SafeString:
        return cells.code(message.key)

    @admin.display(description="Published")
    def published(self, message: Message) -> SafeString:
        return cells.moment(message.created_at)

    @admin.display(description="Stream")
    def state_cell(self, message: Message) -> SafeString:
        return cells.state(message.state)

    def page(self, request: HttpRequest, row: Message) -> Page:
        now = database_now()
        return Page(
            title=row.name,
            lead=[cells.state(row.state)],
            sub=cells.code(row.key),
            main=[
                Table(
                    "Deliveries",
                    ["Handler", "State", cells.right("Attempts"), "Done", "Last error"],
                    [
                        [
                            cells.link(request, "durability.delivery", delivery.pk, delivery.handler),
                            cells.state(delivery.state),
                            cells.number(delivery.attempts),
                            cells.moment(delivery.done_at),
                            delivery.last_error.strip()[-120:] or cells.NOTHING,
                        ]
                        for delivery in row.deliveries.order_by("pk")
                    ],
                    empty="No handler of ours listens to this event.",
                ),
                Text("Payload", json.dumps(row.payload, indent=2, sort_keys=True)),
            ],
            side=[
                Facts(
                    "Message",
                    [
                        ("About", cells.short(row.key)),
                        ("Published", cells.moment(row.created_at)),
                        ("Age", cells.ago(row.created_at, now)),
                        ("In the stream since", cells.moment(row.published_at)),
                        ("Request", cells.code(row.request_id)),
                    ],
                )
            ],
        )
