"""Reconciliation runs on the finance desk: what each compared and found, and the day's statement."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ReadOnlyAdmin, choice_filter
from foundation.sections import Facts, Page, Table
from reconciliation import services
from reconciliation.admin import statements
from reconciliation.admin.shared import state
from reconciliation.models import Discrepancy, ReconciliationRun
from reconciliation.states import RunState
from reconciliation.types import KINDS


def run_again(run: ReconciliationRun, data: dict[str, Any], by: str) -> str:
    services.request_run(day=run.date, by=by)
    return f"A worker reconciles {run.date:%d %B %Y} now: its run appears among the runs in a moment."


@admin.register(ReconciliationRun)
class ReconciliationRunAdmin(ReadOnlyAdmin[ReconciliationRun]):
    list_display = (
        "date_cell",
        "state_cell",
        "ours",
        "theirs",
        "matched_cell",
        "open_cell",
        "residual_cell",
        "started",
        "took",
    )
    list_filter = (choice_filter("state", [RunState.RUNNING, RunState.COMPLETED, RunState.FAILED]),)
    acts = (
        Act(
            name="again",
            label="Reconcile this day again",
            says="Reads Stripe's books for the day once more and compares them with ours. What agrees now is closed.",
            permission="reconciliation.start_reconciliation",
            run=run_again,
            icon="sync",
        ),
    )

    def get_urls(self) -> list[URLPattern]:
        return [*statements.urls(self), *super().get_urls()]

    @admin.display(description="Day")
    def date_cell(self, run: ReconciliationRun) -> SafeString:
        return cells.beside(f"{run.date:%a %d %b %Y}", cells.badge("provisional", "warn") if run.provisional else "")

    @admin.display(description="State")
    def state_cell(self, run: ReconciliationRun) -> SafeString:
        return cells.state(run.state)

    @admin.display(description="Ours")
    def ours(self, run: ReconciliationRun) -> SafeString:
        return _side(run.ours_count, run.ours_totals)

    @admin.display(description="Stripe's")
    def theirs(self, run: ReconciliationRun) -> SafeString:
        return _side(run.theirs_count, run.theirs_totals)

    @admin.display(description="Matched")
    def matched_cell(self, run: ReconciliationRun) -> SafeString:
        return cells.number(run.matched)

    @admin.display(description="Open")
    def open_cell(self, run: ReconciliationRun) -> SafeString:
        return cells.number(_sum(run, "new") + _sum(run, "persisting"))

    @admin.display(description="Residual")
    def residual_cell(self, run: ReconciliationRun) -> SafeString:
        return residual(run)

    @admin.display(description="Started")
    def started(self, run: ReconciliationRun) -> SafeString:
        return cells.sub(cells.moment(run.started_at), f"by {run.by}")

    @admin.display(description="Took")
    def took(self, run: ReconciliationRun) -> str:
        return "—" if run.duration_ms is None else f"{run.duration_ms / 1000:.1f} s"

    def page(self, request: HttpRequest, row: ReconciliationRun) -> Page:
        columns = ("new", "persisting", "resolved", "timing")
        day = Discrepancy.objects.filter(business_date=row.date).order_by("pk")[:100]
        currencies = sorted({*row.ours_totals, *row.theirs_totals})
        return Page(
            title=f"{row.date:%A, %d %B %Y}",
            lead=[cells.state(row.state), cells.badge("provisional", "warn") if row.provisional else ""],
            sub=cells.code(row.number),
            figure=("Residual", residual(row)),
            main=[
                Table(
                    "Both sides, gross",
                    ["Currency", cells.right("Our books"), cells.right("Stripe's books"), cells.right("Difference")],
                    [
                        [
                            currency.upper(),
                            cells.money(row.ours_totals.get(currency, 0), currency),
                            cells.money(row.theirs_totals.get(currency, 0), currency),
                            cells.difference(
                                row.theirs_totals.get(currency, 0) - row.ours_totals.get(currency, 0), currency
                            ),
                        ]
                        for currency in currencies
                    ],
                    empty="Neither side has anything on this day.",
                    link=statements.link(row.date),
                ),
                Table(
                    "What it found",
                    ["Kind", *(cells.right(name.capitalize()) for name in columns)],
                    [
                        [
                            KINDS[kind].label if kind in KINDS else kind,
                            *(cells.number(counts.get(name, 0)) for name in columns),
                        ]
                        for kind, counts in sorted(row.kinds.items())
                    ],
                    empty="No difference: both sides agree.",
                ),
                Table(
                    "Discrepancies of this day",
                    ["Kind", "Order", "State", cells.right("Difference")],
                    [
                        [
                            cells.link(request, "reconciliation.discrepancy", one.pk, one.get_kind_display()),
                            cells.short(one.order_reference),
                            state(one),
                            cells.difference(one.difference_minor, one.currency),
                        ]
                        for one in day
                    ],
                    empty="Nothing differs on this day.",
                ),
            ],
            side=[
                Facts(
                    "Run",
                    [
                        ("By", row.by),
                        ("Started", cells.moment(row.started_at)),
                        ("Finished", cells.moment(row.finished_at)),
                        ("Took", self.took(row)),
                        ("Read from Stripe", cells.number(row.imported)),
                        ("Ours", cells.number(row.ours_count)),
                        ("Stripe's", cells.number(row.theirs_count)),
                        ("Matched", cells.number(row.matched)),
                        ("Error", row.error or cells.NOTHING),
                    ],
                )
            ],
        )


def _side(count: int, totals: dict[str, int]) -> SafeString:
    return cells.lines(
        [cells.money(total, currency) for currency, total in sorted(totals.items())] or [cells.number(count)]
    )


def _sum(run: ReconciliationRun, name: str) -> int:
    return sum(counts.get(name, 0) for counts in run.kinds.values())


def residual(run: ReconciliationRun) -> SafeString:
    """What nothing accounts for: each currency that is off, or zero."""
    off = [cells.difference(amount, currency) for currency, amount in sorted(run.residual.items()) if amount]
    return cells.lines(off) if off else cells.badge("0", "good")
