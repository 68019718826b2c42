"""The provider's books as statements on the desk: a page a day, and the same as a file."""

from datetime import date, timedelta
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path, reverse

from foundation import cells
from foundation.database import database_now
from foundation.desk import PeriodForm, ReadOnlyAdmin
from foundation.exports import csv_response
from foundation.sections import Cell, Custom, Page, Section, Table
from reconciliation import books, tables
from reconciliation.models import ReconciliationRun
from reconciliation.types import Proof, Statement

_LONGEST_DAYS = 31  # statements on one page
_NAME = "reconciliation_reconciliationrun_statement"


def urls(model_admin: ReadOnlyAdmin[ReconciliationRun]) -> list[URLPattern]:
    """The statement's address, in front of the runs' own."""

    def statement(request: HttpRequest) -> HttpResponseBase:
        return _statement(model_admin, request)

    return [path("statement/", model_admin.admin_site.admin_view(statement), name=_NAME)]


def link(day: date) -> tuple[str, str]:
    """The statement of a day."""
    return f"{reverse(f'admin:{_NAME}')}?{urlencode(_period(day, day))}", "Statement of this day"


def _period(first: date, last: date) -> dict[str, str]:
    return {"since": first.isoformat(), "until": last.isoformat()}


def _statement(model_admin: ReadOnlyAdmin[ReconciliationRun], request: HttpRequest) -> HttpResponseBase:
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    yesterday = database_now().date() - timedelta(days=1)
    form = PeriodForm(request.GET if "since" in request.GET else _period(yesterday, yesterday))
    if not form.is_valid():
        top: list[Section] = [Custom("admin/desk/period.html", "Period", {"form": form, "links": []})]
        return model_admin.show(request, "Statement", Page(title="Statement", top=top), status=400)
    first, last = form.cleaned_data["since"], form.cleaned_data["until"]
    days = [first + timedelta(days=back) for back in range(min((last - first).days, _LONGEST_DAYS - 1) + 1)]
    found = [one for day in days for one in books.statements(day)]
    if request.GET.get("format") == "csv":
        name = f"provider-statement-{first:%Y%m%d}-{days[-1]:%Y%m%d}"
        return csv_response(name, tables.STATEMENT_COLUMNS, tables.statement_rows(found))
    address = f"?{urlencode({**_period(first, days[-1]), 'format': 'csv'})}"
    page = Page(
        title="Statement of Stripe's account",
        lead=[_verdict(found)],
        sub=f"{cells.days(first, days[-1])}, UTC",
        top=[
            Custom("admin/desk/period.html", "Period", {"form": form, "links": [(address, "Export as CSV")]}),
        ],
        main=[section for one in found for section in _sections(one)]
        or [Table("Statement", [], [], empty="Nothing was booked so far.")],
    )
    return model_admin.show(request, "Statement", page)


def _verdict(found: list[Statement]) -> Cell:
    if any(one.residual_minor for one in found):
        return cells.badge("does not close", "bad")
    if found and all(one.is_proved for one in found):
        return cells.badge("closes to zero", "good")
    return cells.badge("not proved yet", "warn")


def _sections(statement: Statement) -> list[Section]:
    currency = statement.currency
    rows: list[list[Cell]] = [["Opening", "", "", "", cells.money(statement.opening_minor, currency)]]
    for line in statement.lines:
        rows.append(
            [
                line.category.replace("_", " ").capitalize(),
                cells.number(line.rows),
                cells.money(line.gross_minor, currency),
                cells.money(-line.fee_minor, currency) if line.fee_minor else "",
                cells.money(line.net_minor, currency),
            ]
        )
    return [
        Table(
            f"{statement.day:%A, %d %B %Y}, {currency.upper()}",
            ["", *(cells.right(head) for head in ("Rows", "Gross", "Fees", "Net"))],
            rows,
            empty="Nothing was booked on this day.",
            footer=["Closing", "", "", "", cells.money(statement.closing_minor, currency)],
        ),
        Table(
            f"Proofs, {currency.upper()}",
            ["Held against", *(cells.right(head) for head in ("Says", "Explained", "Residual")), "How"],
            [_proof(proof, currency) for proof in statement.proofs],
            empty="Nothing was held against it.",
        ),
    ]


def _proof(proof: Proof, currency: str) -> list[Cell]:
    if proof.residual_minor is None:
        return [tables.PROOFS[proof.name], "", "", cells.figure(cells.badge("not yet", "warn")), proof.note]
    return [
        tables.PROOFS[proof.name],
        cells.money(proof.says_minor, currency),
        cells.money(proof.explained_minor, currency) if proof.explained_minor else "",
        cells.difference(proof.residual_minor, currency)
        if proof.residual_minor
        else cells.figure(cells.badge("0", "good")),
        tables.how(proof.accepted, proof.note),
    ]
