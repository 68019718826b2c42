"""Months of the books on the desk: what stands in the way of closing one, what each held, and reopening by two people."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, NoteForm, ReadOnlyAdmin, choice_filter
from foundation.sections import Cell, Entry, Facts, Page, Section, Table, Timeline
from reconciliation import selectors, services, tables
from reconciliation.models import Period, PeriodClosing, PeriodReopening
from reconciliation.states import PeriodState
from reconciliation.types import KINDS

_ITEMS_SHOWN = 100


class CloseForm(NoteForm):
    carry_open = forms.BooleanField(
        label="Carry open items over", required=False, help_text="What is open goes to the next month."
    )
    without_balance = forms.BooleanField(
        label="Close without Stripe's balance",
        required=False,
        help_text="Where Stripe's books come as files, and nobody asks it what it holds. The note will say so.",
    )
    without_payouts = forms.BooleanField(
        label="Close without what payouts collected",
        required=False,
        help_text="Where nobody asks Stripe which rows its payouts are made of. The note will say so.",
    )
    field_order = ("note", "carry_open", "without_balance", "without_payouts")


def close(row: Period, data: dict[str, Any], by: str) -> str:
    closing = services.close_period(
        period=row.starts_on,
        by=by,
        note=data["note"],
        carry_open=data["carry_open"],
        without_balance=data["without_balance"],
        without_payouts=data["without_payouts"],
    )
    carried = closing.items["carried"]
    return f"{row} is closed." + (f" {carried} items go on to the next month." if carried else "")


def ask_reopening(row: Period, data: dict[str, Any], by: str) -> str:
    services.ask_reopening(period=row.starts_on, by=by, why=data["note"])
    return "A second person has to agree."


def approve_reopening(row: Period, data: dict[str, Any], by: str) -> str:
    services.approve_reopening(period=row.starts_on, by=by, why=data["note"])
    return f"{row} is open again. Closed anew, it says what changed."


def refuse_reopening(row: Period, data: dict[str, Any], by: str) -> str:
    services.refuse_reopening(period=row.starts_on, by=by, why=data["note"])
    return f"{row} stays closed."


@admin.register(Period)
class PeriodAdmin(ReadOnlyAdmin[Period]):
    list_display = ("month", "state_cell", "closings_cell")
    list_filter = (choice_filter("state", [PeriodState.OPEN, PeriodState.CLOSED, PeriodState.REOPENING]),)
    acts = (
        Act(
            name="close",
            label="Close this month",
            says="Writes down what the month held. Nothing can be posted into it any more; what comes later falls into the "
            "next open month.",
            permission="reconciliation.close_period",
            run=close,
            form=CloseForm,
            icon="lock",
        ),
        Act(
            name="ask_reopening",
            label="Ask to reopen it",
            says="A second person has to agree. Closed anew, the month says what changed.",
            permission="reconciliation.reopen_period",
            run=ask_reopening,
            icon="lock_open",
            danger=True,
        ),
        Act(
            name="approve_reopening",
            label="Reopen it",
            says="You are the second person. Its items that are not settled come back to it.",
            permission="reconciliation.reopen_period",
            run=approve_reopening,
            icon="lock_open",
            danger=True,
        ),
        Act(
            name="refuse_reopening",
            label="Keep it closed",
            says="Nothing changes.",
            permission="reconciliation.reopen_period",
            run=refuse_reopening,
            icon="lock",
        ),
    )

    def offered(self, row: Period) -> Sequence[str]:
        return {
            PeriodState.OPEN: ["close"],
            PeriodState.CLOSED: ["ask_reopening"],
            PeriodState.REOPENING: ["approve_reopening", "refuse_reopening"],
        }[row.state]

    @admin.display(description="Month")
    def month(self, row: Period) -> str:
        return str(row)

    @admin.display(description="State")
    def state_cell(self, row: Period) -> SafeString:
        return _state(row)

    @admin.display(description="Closed")
    def closings_cell(self, row: Period) -> str:
        return ("never", "once")[row.closings] if row.closings < 2 else f"{row.closings} times"

    def page(self, request: HttpRequest, row: Period) -> Page:
        found = selectors.period_page(row)
        main: list[Section] = []
        if row.state == PeriodState.OPEN:
            main.append(
                Table(
                    "What stands in the way of closing it",
                    ["Obstacle"],
                    [[obstacle[:1].upper() + obstacle[1:]] for obstacle in found.obstacles],
                    empty="Nothing: it can be closed.",
                )
            )
        for closing in found.closings:
            main += _closing(closing)
        return Page(
            title=str(row),
            lead=[_state(row)],
            sub=f"{row.starts_on:%d %b %Y} to {row.last_day:%d %b %Y}, UTC",
            main=[*main, _history(row)],
            side=[_question(found.question)] if found.question else [],
        )


def _state(row: Period) -> SafeString:
    tones: dict[str, cells.Tone] = {PeriodState.CLOSED: "good", PeriodState.REOPENING: "warn"}
    return cells.badge(row.state, tones.get(row.state, "info"))


def _question(question: PeriodReopening) -> Facts:
    return Facts(
        "Asked to be reopened",
        [("By", question.asked_by), ("Why", question.why), ("At", cells.moment(question.asked_at))],
    )


def _closing(closing: PeriodClosing) -> list[Section]:
    items = closing.items
    sections: list[Section] = [
        Facts(
            f"Closing {closing.number}",
            [
                ("By", cells.who(closing.closed_by, closing.note)),
                ("At", cells.moment(closing.closed_at)),
                ("Nothing is posted before", cells.moment(closing.sealed_through)),
                ("Seen of the audit chain", f"blocks {closing.after + 1} to {closing.head}"),
                ("Items", cells.number(sum(items["states"].values()))),
                ("… that came late", cells.number(items["late"])),
                ("… that go on to the next month", cells.number(items["carried"])),
            ],
        )
    ]
    for currency, one in sorted(closing.statements.items()):
        sections += [_statement(closing, currency, one), _proofs(closing, currency, one)]
    return [*sections, *_differences(closing)]


def _statement(closing: PeriodClosing, currency: str, one: dict[str, Any]) -> Table:
    rows: list[list[Cell]] = [["Opening", "", "", "", cells.money(one["opening_minor"], currency)]]
    for prefix, lines in (("late: ", one["late"]), ("", one["lines"])):
        for line in lines:
            rows.append(
                [
                    (prefix + line["category"].replace("_", " ")).capitalize(),
                    cells.number(line["rows"]),
                    cells.money(line["gross_minor"], currency),
                    cells.money(-line["fee_minor"], currency) if line["fee_minor"] else "",
                    cells.money(line["net_minor"], currency),
                ]
            )
    return Table(
        f"Statement of closing {closing.number}, {currency.upper()}",
        ["", *(cells.right(head) for head in ("Rows", "Gross", "Fees", "Net"))],
        rows,
        empty="Nothing was booked.",
        footer=["Closing", "", "", "", cells.money(one["closing_minor"], currency)],
    )


def _proofs(closing: PeriodClosing, currency: str, one: dict[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for proof in one["proofs"]:
        residual = proof["residual_minor"]
        told = (
            cells.figure(cells.badge("not proved", "warn"))
            if residual is None
            else cells.difference(residual, currency)
        )
        rows.append(
            [tables.PROOFS[proof["name"]], told, tables.how(proof.get("accepted", False), proof.get("note", ""))]
        )
    return Table(
        f"Proofs of closing {closing.number}, {currency.upper()}",
        ["Held against", cells.right("Residual"), "How"],
        rows,
        empty="Nothing was held against it.",
    )


def _differences(closing: PeriodClosing) -> list[Section]:
    """What changed since the closing before it."""
    changes = closing.differences
    if not changes:
        return []
    reopened = changes["reopened"] or {}
    return [
        Table(
            f"What changed since closing {changes['since']}",
            ["Line", cells.right("Before"), cells.right("Now")],
            [
                [
                    f"{one['line'].replace('_', ' ').capitalize()}, {one['currency'].upper()}",
                    cells.money(one["before_minor"], one["currency"]),
                    cells.money(one["after_minor"], one["currency"]),
                ]
                for one in changes["statement"]
            ],
            empty="The statement says the same.",
        ),
        Facts(
            "Why it was reopened",
            [
                ("Asked by", cells.who(reopened.get("asked_by", ""), reopened.get("why", ""))),
                ("Approved by", cells.who(reopened.get("approved_by", ""), reopened.get("approved_why", ""))),
                ("Stripe's rows that came", cells.number(changes["rows"]["added"])),
                ("… that changed", cells.number(changes["rows"]["changed"])),
                ("Items that changed", cells.number(changes["item_count"])),
            ],
        ),
        Table(
            "Items that changed",
            ["Item", "Kind", "Before", "Now"],
            [
                [
                    cells.short(one["item"]),
                    KINDS[one["kind"]].label if one["kind"] in KINDS else one["kind"],
                    cells.state(one["state_before"]) if one["state_before"] else cells.NOTHING,
                    cells.state(one["state"]),
                ]
                for one in changes["items"][:_ITEMS_SHOWN]
            ],
            empty="None.",
        ),
    ]


def _history(row: Period) -> Timeline:
    return Timeline(
        "History",
        [
            Entry(one.at, cells.state(one.to_state), cells.who(one.by, one.why), "flag", cells.tone_of(one.to_state))
            for one in row.history.order_by("id")
        ],
        empty="It was never closed.",
    )
