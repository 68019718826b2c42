"""Actions on many discrepancies: the preview, the confirmation, and what came of each row."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Count
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ReadOnlyAdmin, choice_filter
from foundation.money import format_minor
from foundation.sections import Cell, Custom, Facts, Page, Section, Table
from reconciliation import selectors, services
from reconciliation.admin.shared import incident_link, piles
from reconciliation.models import BulkAction, BulkItem
from reconciliation.states import BulkItemState, BulkState
from reconciliation.types import ACTIONS, BulkPage, info_of_action

_REFRESH_S = 3  # while workers are at it
_ROWS_SHOWN = 200
_PROBLEMS = (BulkItemState.REFUSED, BulkItemState.FAILED)
_PERMISSIONS = sorted({info.permission for offered in ACTIONS.values() for info in offered})


def _carry_out(bulk: BulkAction, data: dict[str, Any], by: str, *, permission: str) -> str:
    _require(bulk, permission)
    return services.carry_out(bulk_id=bulk.pk, by=by, note=data["note"])


def _stop(bulk: BulkAction, data: dict[str, Any], by: str, *, permission: str) -> str:
    _require(bulk, permission)
    services.stop(bulk_id=bulk.pk)
    return "No further row is begun."


def _require(bulk: BulkAction, permission: str) -> None:
    """The button that was pressed is the one of this action's permission, and not of a lesser one."""
    if info_of_action(bulk.action).permission != permission:
        raise PermissionDenied


def _name(verb: str, permission: str) -> str:
    return f"{verb}_{permission.rpartition('.')[2].partition('_')[0]}"


def _acts(permission: str) -> list[Act[BulkAction]]:
    """Who may do it to one may do it to many: an act has one permission, so there is one of each for each."""
    return [
        Act(
            name=_name("do", permission),
            label="Do it",
            says="Workers do it to every row that can be done, one by one. What is above your limit is asked for. The note is kept with each.",
            run=partial(_carry_out, permission=permission),
            permission=permission,
            icon="playlist_play",
        ),
        Act(
            name=_name("go_on", permission),
            label="Go on",
            says="Goes on where it stands, and tries once more what has failed. What is done is not done again.",
            run=partial(_carry_out, permission=permission),
            permission=permission,
            icon="resume",
        ),
        Act(
            name=_name("stop", permission),
            label="Stop",
            says="No further row is begun. What is done stays done.",
            run=partial(_stop, permission=permission),
            permission=permission,
            icon="pause",
        ),
    ]


@admin.register(BulkAction)
class BulkActionAdmin(ReadOnlyAdmin[BulkAction]):
    list_display = ("what", "scope", "progress", "state_cell", "by_cell", "planned")
    list_filter = (choice_filter("state", [BulkState.PLANNED, BulkState.RUNNING, BulkState.STOPPED, BulkState.DONE]),)
    acts = tuple(act for permission in _PERMISSIONS for act in _acts(permission))

    def prepare(self, rows: list[BulkAction]) -> None:
        counts: dict[Any, dict[str, int]] = {}
        found = BulkItem.objects.filter(bulk__in=rows).values_list("bulk_id", "state").annotate(Count("pk")).order_by()
        for bulk_id, state, count in found:
            counts.setdefault(bulk_id, {})[state] = count
        for row in rows:
            row.__dict__["counts"] = counts.get(row.pk, {})

    @admin.display(description="Action")
    def what(self, bulk: BulkAction) -> str:
        return info_of_action(bulk.action).label

    @admin.display(description="Rows")
    def progress(self, bulk: BulkAction) -> SafeString:
        counts = bulk.__dict__["counts"]
        return cells.figure(f"{counts.get(BulkItemState.DONE, 0)} of {sum(counts.values())} done")

    @admin.display(description="State")
    def state_cell(self, bulk: BulkAction) -> SafeString:
        return cells.state(bulk.state)

    @admin.display(description="By")
    def by_cell(self, bulk: BulkAction) -> str:
        return bulk.by or bulk.planned_by

    @admin.display(description="Planned")
    def planned(self, bulk: BulkAction) -> SafeString:
        return cells.moment(bulk.planned_at)

    def offered(self, row: BulkAction) -> list[str]:
        permission = info_of_action(row.action).permission
        verbs = {
            BulkState.PLANNED: ["do"],
            BulkState.RUNNING: ["go_on", "stop"],
            BulkState.STOPPED: ["go_on"],
            BulkState.DONE: ["go_on"] if row.rows.filter(state=BulkItemState.FAILED).exists() else [],
        }[row.state]
        if row.state == BulkState.PLANNED and not row.rows.filter(state=BulkItemState.PLANNED).exists():
            verbs = []
        return [_name(verb, permission) for verb in verbs]

    def suggested(self, request: HttpRequest, row: BulkAction) -> str:
        return next((name for name in self.offered(row) if name.startswith("do_")), "")

    def page(self, request: HttpRequest, row: BulkAction) -> Page:
        found = selectors.bulk_page(row, by=request.user.get_username())
        info = info_of_action(row.action)
        return Page(
            title=info.label,
            lead=[cells.state(row.state)],
            sub=cells.beside(cells.code(row.number), f"· {row.scope}"),
            top=[_progress(row, found)],
            main=[
                _worth(found),
                Table(
                    "What cannot be done, and why",
                    ["Why", cells.right("Rows")],
                    [[why, cells.number(count)] for why, count in found.reasons.items()],
                    empty="Every row can be done.",
                ),
                *_rows(request, row, found),
            ],
            side=[
                Facts(
                    "Bulk action",
                    [
                        ("Does", info.explanation),
                        *_inputs(row.inputs),
                        ("Incident", incident_link(request, row.incident_id)),
                        ("Planned", cells.beside(row.planned_by, cells.moment(row.planned_at))),
                        (
                            "Confirmed",
                            cells.beside(row.by, cells.moment(row.confirmed_at)) if row.by else cells.NOTHING,
                        ),
                        ("Note", row.note or cells.NOTHING),
                        ("Finished", cells.moment(row.finished_at)),
                    ],
                )
            ],
        )


def _inputs(inputs: dict[str, str]) -> list[tuple[str, Cell]]:
    return [(name.capitalize(), str(value).replace("_", " ")) for name, value in inputs.items()]


def _count(found: BulkPage, *states: str) -> int:
    return sum(found.piles[state].count for state in states if state in found.piles)


def _progress(row: BulkAction, found: BulkPage) -> Custom:
    refused, planned = _count(found, BulkItemState.REFUSED), _count(found, BulkItemState.PLANNED)
    done, failed, asked = (
        _count(found, state) for state in (BulkItemState.DONE, BulkItemState.FAILED, BulkItemState.ASKED)
    )
    if row.state == BulkState.PLANNED:
        words = f"A preview: {planned} of {found.total} can be done. Nothing was done yet."
        if found.limits:
            words += f" {len(found.limits)} of them you can only ask for: a second person has to approve each."
    else:
        words = f"{done} of {found.total} done, {failed} failed, {planned} to do, {refused} could not be done."
        if asked:
            words += f" {asked} asked for: a second person decides."
    return Custom(
        "admin/desk/progress.html",
        "How it stands",
        {
            "done": done + asked + failed,
            "of": max(1, found.total - refused),
            "words": words,
            "refresh_s": _REFRESH_S if row.state == BulkState.RUNNING else 0,
        },
    )


_ABOVE = "Above what you may settle alone"
_WORDS = {
    BulkItemState.PLANNED: "Can be done",
    BulkItemState.DONE: "Done",
    BulkItemState.ASKED: "Asked for: a second person decides",
    BulkItemState.FAILED: "Failed",
    BulkItemState.REFUSED: "Cannot be done",
}


def _worth(found: BulkPage) -> Table:
    worth = [(words, found.piles[state]) for state, words in _WORDS.items() if state in found.piles]
    if found.limits:
        worth.append((f"{_ABOVE} (of those that can be done)", found.above_limit))
    return Table(
        "How many, and what they are worth",
        ["", cells.right("Rows"), cells.right("Σ")],
        [[words, cells.number(pile.count), piles(pile.value)] for words, pile in worth],
        empty="No rows.",
    )


def _rows(request: HttpRequest, row: BulkAction, found: BulkPage) -> list[Section]:
    items = row.rows.select_related("discrepancy").order_by("id")
    problems = items.filter(state__in=_PROBLEMS)[:_ROWS_SHOWN] if _count(found, *_PROBLEMS) else []
    above = items.filter(pk__in=found.limits)[:_ROWS_SHOWN] if found.limits else []
    others = items.exclude(state__in=_PROBLEMS).exclude(pk__in=found.limits)[:_ROWS_SHOWN]
    return [
        *([_table(request, "Refused or failed", problems, found)] if problems else []),
        *([_table(request, _ABOVE, above, found)] if above else []),
        _table(request, "Rows", others, found),
    ]


def _table(request: HttpRequest, title: str, items: Sequence[BulkItem] | Any, found: BulkPage) -> Table:
    return Table(
        title,
        ["Discrepancy", cells.right("Worth"), "State", "What came of it"],
        [
            [
                cells.link(
                    request,
                    "reconciliation.discrepancy",
                    one.discrepancy_id,
                    cells.sub(one.discrepancy.get_kind_display(), one.discrepancy.source),
                ),
                cells.money(one.value_minor, one.currency),
                cells.state(one.state),
                one.result or _limit(one, found) or cells.NOTHING,
            ]
            for one in items
        ],
        empty="None.",
    )


def _limit(row: BulkItem, found: BulkPage) -> str:
    if row.pk not in found.limits:
        return ""
    limit = format_minor(found.limits[row.pk], row.currency) if row.currency else "nothing"
    return f"It settles more than {limit}, which you may settle alone: a second person has to approve it."
