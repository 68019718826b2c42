"""Statement files on the desk: who took in which, when, what came of it, and what was wrong with those that were refused."""

from datetime import date
from typing import Any, BinaryIO, cast

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.files.uploadedfile import UploadedFile
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.template.defaultfilters import filesizeformat
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ActForm, ReadOnlyAdmin, choice_filter
from foundation.money import EXPONENTS
from foundation.sections import Cell, Facts, Page, Section, Table
from reconciliation import imports, services
from reconciliation.bank import legs, staging
from reconciliation.errors import StatementRefused
from reconciliation.models import BankStatement, StatementFile
from reconciliation.types import LAYOUTS, Whose

_LAYOUTS = {
    "stripe": "Stripe's activity",
    "stripe_payouts": "Stripe's payouts",
    "everycent": "our CSV of the provider's books",
    "camt053": "CAMT.053",
    "mt940": "MT940",
    "bank_csv": "our CSV of a bank account",
    "": "not known",
}
_PROBLEMS_TOLD = 3  # in the message; the file's page has them all


class TakeInForm(ActForm):
    whose = forms.ChoiceField(
        label="Whose books", choices=[(Whose.BANK, "our bank's"), (Whose.PROVIDER, "the provider's")]
    )
    file = forms.FileField(
        label="File", help_text="CAMT.053, MT940 or our CSV of a bank; Stripe's itemised activity, or our CSV of it."
    )
    first_day = forms.DateField(label="First day", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    last_day = forms.DateField(
        label="Last day",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="UTC. Lines of other days are refused. With both days, a file of the provider's is taken as all that it booked on them.",
    )
    currency = forms.ChoiceField(
        label="Currency", required=False, choices=[("", "any"), *((name, name.upper()) for name in EXPONENTS)]
    )
    time_zone = forms.CharField(
        label="Time zone",
        required=False,
        help_text="Of Stripe's times, where the file has no column created_utc: for example Europe/Berlin.",
    )

    def clean_file(self) -> "UploadedFile[Any]":
        file: UploadedFile[Any] = self.cleaned_data["file"]
        if (file.size or 0) > settings.DESK_UPLOAD_MAX_BYTES:
            largest = filesizeformat(settings.DESK_UPLOAD_MAX_BYTES)
            raise forms.ValidationError(
                f"The desk takes files of up to {largest}: larger ones are for manage.py import_statement and import_bank_statement."
            )
        return file

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if data.get("whose") == Whose.BANK and data.get("time_zone"):
            self.add_error("time_zone", "A bank's days are its own: leave this empty.")
        return data


def _take_in(row: None, data: dict[str, Any], by: str) -> str:
    """Raises StatementRefused, BooksBusy, InvalidInput."""
    of_bank = data["whose"] == Whose.BANK
    upload: UploadedFile[Any] = data["file"]
    file, name = cast("BinaryIO", upload.file), upload.name or "upload"
    within = {"first_day": data["first_day"], "last_day": data["last_day"], "currency": data["currency"]}
    if of_bank:
        report = services.import_bank_statement(file=file, name=name, by=by, expected=staging.Expected(**within))
    else:
        expected = imports.Expected(**within, time_zone=data["time_zone"])
        report = services.import_statement(file=file, name=name, by=by, expected=expected)
    if report.problems:
        told = "; ".join(f"line {one.line}: {one.reason}" for one in report.problems[:_PROBLEMS_TOLD])
        raise StatementRefused(
            f"Nothing of {report.name} was taken in, {_count(report.problem_count, 'problem')}: {told}."
        )
    whole = not of_bank and data["first_day"] and data["last_day"]
    read = f" All of {cells.days(data['first_day'], data['last_day'])} is read." if whole else ""
    if report.replayed:
        return f"{report.name} was taken in before: {'no row is new.' if read else 'nothing has changed.'}{read}"
    matched = f", {report.matched:,} matched with payouts" if of_bank else ""
    notes = "".join(f" {note}" for note in report.notes)
    return f"{report.name} is in: {_count(report.rows, 'row')}, {report.added:,} of them new{matched}.{read}{notes}"


_TAKE_IN: Act[Any] = Act(
    name="take-in",
    label="Take in a file",
    says="Every line is checked first; with any problem nothing is taken in. The same file a second time changes nothing.",
    permission="reconciliation.import_statement",
    run=_take_in,
    form=TakeInForm,
    icon="upload_file",
)


@admin.register(StatementFile)
class StatementFileAdmin(ReadOnlyAdmin[StatementFile]):
    list_links = (("new/", "Take in a file"),)
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

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.new_view)
        return [path("new/", view, name="reconciliation_statementfile_new"), *super().get_urls()]

    def new_view(self, request: HttpRequest) -> HttpResponseBase:
        page = Page(title="Take in a file", sub="A statement of our bank's, or of the provider's account with us.")
        then = reverse("admin:reconciliation_statementfile_changelist")
        return self.act_of_none(request, _TAKE_IN, page, then=then)

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
    return cells.badge(f"refused: {_count(file.problem_count, 'problem')}", "bad")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _days(file: StatementFile) -> str:
    if file.first_day is None or file.last_day is None:
        return "—"
    return cells.days(file.first_day, file.last_day)


def _problems(file: StatementFile) -> Table:
    shown = len(file.problems)
    return Table(
        "What is wrong" if shown == file.problem_count else f"The first {shown} of {file.problem_count:,} problems",
        [cells.right("Line"), "Reason"],
        [[cells.number(line), reason] for line, reason in file.problems],
        empty="It does not say.",
    )


def _statements(file: StatementFile) -> Table:
    gaps = legs.gaps(file.pk)
    return Table(
        "Statements in it",
        ["Account", "Number", "Days", *(cells.right(head) for head in ("Lines", "Opening", "Closing")), "Before it"],
        [_statement(one, gaps.get(one.pk)) for one in file.statements.order_by("account", "first_day", "id")[:200]],
        empty="It holds no statement.",
    )


def _statement(one: BankStatement, gap_after: date | None) -> list[Cell]:
    before: Cell = cells.badge(f"a statement is missing after {gap_after:%d %b %Y}", "warn") if gap_after else "—"
    return [
        cells.code(one.account),
        one.number,
        cells.days(one.first_day, one.last_day),
        cells.number(one.lines),
        cells.money(one.opening_minor, one.currency),
        cells.money(one.closing_minor, one.currency),
        before,
    ]
