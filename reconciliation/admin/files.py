"""Statement files on the desk: who took in which, when, what came of it, and what was wrong with those that were refused."""

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import ReadOnlyAdmin, choice_filter
from foundation.sections import Cell, Facts, Page, Section, Table
from reconciliation.models import BankStatement, StatementFile
from reconciliation.types import LAYOUTS, Whose

_LAYOUTS = {
    "stripe": "Stripe's activity",
    "everycent": "our CSV of the provider's books",
    "camt053": "CAMT.053",
    "mt940": "MT940",
    "bank_csv": "our CSV of a bank account",
    "": "not known",
}


@admin.register(StatementFile)
class StatementFileAdmin(ReadOnlyAdmin[StatementFile]):
    list_display = (
        "name_cell",
        "whose_cell",
        "state_cell",
        "rows_cell",
        "added_cell",
        "days_cell",
        "taken_in",
        "hash_cell",
    )
    list_filter = (
        choice_filter("whose", [Whose.PROVIDER, Whose.BANK], title="books"),
        choice_filter("layout", LAYOUTS),
    )
    saved_views = (("All", ""), ("The provider's", "whose=provider"), ("The bank's", "whose=bank"))
    search_help_text = "The SHA-256 of a file, or its name"

    def find(self, text: str) -> Q:
        return Q(sha256=text.lower()) | Q(name=text)

    @admin.display(description="File")
    def name_cell(self, file: StatementFile) -> SafeString:
        return cells.sub(file.name, _LAYOUTS[file.layout])

    @admin.display(description="Books")
    def whose_cell(self, file: StatementFile) -> str:
        return "the bank's" if file.whose == Whose.BANK else "the provider's"

    @admin.display(description="State")
    def state_cell(self, file: StatementFile) -> SafeString:
        return _state(file)

    @admin.display(description="Rows")
    def rows_cell(self, file: StatementFile) -> SafeString:
        return cells.number(file.rows)

    @admin.display(description="New")
    def added_cell(self, file: StatementFile) -> SafeString:
        return cells.number(file.added)

    @admin.display(description="Days")
    def days_cell(self, file: StatementFile) -> str:
        return _days(file)

    @admin.display(description="Taken in")
    def taken_in(self, file: StatementFile) -> SafeString:
        return cells.sub(cells.moment(file.imported_at), f"by {file.by}")

    @admin.display(description="SHA-256")
    def hash_cell(self, file: StatementFile) -> SafeString:
        return cells.code(file.sha256[:12])

    def page(self, request: HttpRequest, row: StatementFile) -> Page:
        main: list[Section] = []
        if row.refused:
            main.append(_problems(row))
        if row.whose == Whose.BANK and not row.refused:
            main.append(_statements(row))
        return Page(
            title=row.name,
            lead=[_state(row)],
            sub=_LAYOUTS[row.layout],
            main=main,
            side=[
                Facts(
                    "File",
                    [
                        ("By", row.by),
                        ("At", cells.moment(row.imported_at)),
                        ("Rows", cells.number(row.rows)),
                        ("New", cells.number(row.added)),
                        ("Known before", cells.number(row.rows - row.added)),
                        ("Days", _days(row)),
                        ("Problems", cells.number(row.problem_count)),
                        ("SHA-256", cells.code(row.sha256)),
                    ],
                )
            ],
        )


def _state(file: StatementFile) -> SafeString:
    if not file.refused:
        return cells.badge("taken in", "good")
    return cells.badge(f"refused: {file.problem_count:,} {'problem' if file.problem_count == 1 else 'problems'}", "bad")


def _days(file: StatementFile) -> str:
    if file.first_day is None or file.last_day is None:
        return "—"
    return f"{file.first_day:%d %b %Y} to {file.last_day:%d %b %Y}"


def _problems(file: StatementFile) -> Table:
    shown = len(file.problems)
    return Table(
        "What is wrong" if shown == file.problem_count else f"The first {shown} of {file.problem_count:,} problems",
        [cells.right("Line"), "Reason"],
        [[cells.number(line), reason] for line, reason in file.problems],
        empty="It does not say.",
    )


def _statements(file: StatementFile) -> Table:
    return Table(
        "Statements in it",
        ["Account", "Number", "Days", *(cells.right(head) for head in ("Lines", "Opening", "Closing"))],
        [_statement(one) for one in file.statements.order_by("account", "first_day", "id")[:200]],
        empty="It holds no statement.",
    )


def _statement(one: BankStatement) -> list[Cell]:
    return [
        cells.code(one.account),
        one.number,
        f"{one.first_day:%d %b %Y} to {one.last_day:%d %b %Y}",
        cells.number(one.lines),
        cells.money(one.opening_minor, one.currency),
        cells.money(one.closing_minor, one.currency),
    ]
