"""Reports of the books on the desk: the trial balance and an account's statement, as pages and as files."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString

from foundation import cells
from foundation.database import database_now
from foundation.desk import MomentForm, PeriodForm, ReadOnlyAdmin
from foundation.exports import csv_response
from foundation.money import plain_major
from foundation.sections import Cell, Custom, Page, Section, Table
from payments import books, tables
from payments.models import Account

_PAGE_LINES = 100


def urls(model_admin: ReadOnlyAdmin[Account]) -> list[URLPattern]:
    """The addresses of the reports, in front of the account's own."""
    view = model_admin.admin_site.admin_view

    def trial_balance(request: HttpRequest) -> HttpResponseBase:
        return _trial_balance(model_admin, request)

    def statement(request: HttpRequest, object_id: str) -> HttpResponseBase:
        return _statement(model_admin, request, object_id)

    return [
        path("trial-balance/", view(trial_balance), name="payments_account_trial_balance"),
        path("<path:object_id>/statement/", view(statement), name="payments_account_statement"),
    ]


# --- The trial balance --------------------------------------------------------------------------------


def _trial_balance(model_admin: ReadOnlyAdmin[Account], request: HttpRequest) -> HttpResponseBase:
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    form = MomentForm(request.GET)
    day: date | None = form.cleaned_data.get("day") if form.is_valid() else None
    trial = books.trial_balance(at=tables.day_end(day) if day else database_now())
    if request.GET.get("format") == "csv":
        name = f"trial-balance-{trial.at.astimezone(UTC):%Y-%m-%dT%H%M%SZ}"
        return csv_response(name, tables.TRIAL_COLUMNS, tables.trial_rows(trial))
    address = f"?{urlencode({**({'day': day.isoformat()} if day else {}), 'format': 'csv'})}"
    page = Page(
        title="Trial balance",
        lead=[_final_badge(trial.is_final)],
        sub=cells.beside("as of", cells.moment(trial.at)),
        top=[Custom("admin/desk/period.html", "As of", {"form": form, "links": [(address, "Export as CSV")]})],
        main=[_trial_table(trial, currency) for currency in trial.currencies]
        or [Table("Trial balance", [], [], empty="Nothing has been posted yet.")],
    )
    return model_admin.show(request, "Trial balance", page)


def _trial_table(trial: books.TrialBalance, currency: str) -> Table:
    lines = trial.of(currency)
    totals = tables.trial_totals(lines)
    verdict = (
        cells.badge("balances", "good") if not trial.off_minor(currency) else cells.badge("does not balance", "bad")
    )
    rows: list[list[Cell]] = [
        [
            cells.anchor(f"{reverse('admin:payments_account_changelist')}?{urlencode(_which(line))}", line.label),
            cells.money(line.debit_minor, currency),
            cells.money(line.credit_minor, currency),
            cells.money(line.balance_minor, currency) if line.balance_minor > 0 else "",
            cells.money(-line.balance_minor, currency) if line.balance_minor < 0 else "",
        ]
        for line in lines
    ]
    heads = ("Debits", "Credits", "Debit balance", "Credit balance")
    return Table(
        currency.upper(),
        ["Accounts", *(cells.right(head) for head in heads)],
        rows,
        empty="Nothing has been posted yet.",
        footer=[cells.beside("Total", verdict), *(cells.money(total, currency) for total in totals)],
    )


def _which(line: books.TrialLine) -> dict[str, str]:
    return {"kind": line.kind, "currency": line.currency}


# --- Statements ---------------------------------------------------------------------------------------


def _statement(model_admin: ReadOnlyAdmin[Account], request: HttpRequest, object_id: str) -> HttpResponseBase:
    account = model_admin.get_object(request, unquote(object_id))
    if account is None:
        raise Http404
    if not model_admin.has_view_permission(request, account):
        raise PermissionDenied
    today = database_now().astimezone(UTC).date()
    form = PeriodForm(request.GET if "since" in request.GET else {"since": today.replace(day=1), "until": today})
    if not form.is_valid():
        page = Page(title=str(account), sub="Statement", top=[_period(form, [])])
        return model_admin.show(request, f"Statement of {account}", page, status=400)
    first, last = form.cleaned_data["since"], form.cleaned_data["until"]
    since, until = tables.day_begin(first), tables.day_end(last)
    if request.GET.get("format") == "csv":
        name = f"statement-{account.kind}-{account.currency}-{first:%Y%m%d}-{last:%Y%m%d}"
        return csv_response(name, tables.STATEMENT_COLUMNS, tables.statement_rows(account, since, until))
    days = {"since": first.isoformat(), "until": last.isoformat()}
    after = books.Place.parse(request.GET.get("after", ""))
    shown = books.statement_page(account.pk, since=since, until=until, after=after, limit=_PAGE_LINES)
    links = [(f"?{urlencode({**days, 'format': 'csv'})}", "Export as CSV")]
    if after:
        links.append((f"?{urlencode(days)}", "First page"))
    if shown.has_more:
        links.append((f"?{urlencode({**days, 'after': str(shown.lines[-1].place)})}", "Next page"))
    page = Page(
        title=cells.beside("Statement of", cells.link(request, "payments.account", account.pk, str(account))),
        lead=[_final_badge(books.statement_is_final(until))],
        sub=f"{cells.days(first, last)}, UTC",
        figure=("Closing balance", balance_cell(books.balance(account.pk, at=until), account.currency)),
        top=[_period(form, links)],
        main=[
            lines_table(
                request,
                "Lines",
                shown.lines,
                account.currency,
                opening_minor=shown.opening_minor,
                closing_minor=shown.closing_minor,
            )
        ],
    )
    return model_admin.show(request, f"Statement of {account}", page)


def _period(form: PeriodForm, links: list[tuple[str, str]]) -> Section:
    return Custom("admin/desk/period.html", "Period", {"form": form, "links": links})


def statement_link(account: Account) -> tuple[str, str]:
    return reverse("admin:payments_account_statement", args=[account.pk]), "Statement of a period"


def lines_table(
    request: HttpRequest,
    title: str,
    lines: Sequence[books.StatementLine],
    currency: str,
    *,
    opening_minor: int | None = None,
    closing_minor: int | None = None,
    link: tuple[str, str] | None = None,
) -> Table:
    """Lines of an account with the balance after each."""
    rows: list[list[Cell]] = [
        [
            cells.link(request, "payments.journalentry", line.entry_id, line.kind.replace("_", " ")),
            cells.short(line.reference),
            cells.short(line.subject),
            line.by,
            cells.brief(line.place.posted_at),
            cells.money(line.debit_minor, currency) if line.debit_minor else "",
            cells.money(line.credit_minor, currency) if line.credit_minor else "",
            balance_cell(line.balance_minor, currency),
        ]
        for line in lines
    ]
    if opening_minor is not None:
        rows.insert(0, ["Balance brought forward", *[""] * 6, balance_cell(opening_minor, currency)])
    heads = ("Debit", "Credit", "Balance")
    return Table(
        title,
        ["Entry", "Order", "Of", "By", "Posted", *(cells.right(head) for head in heads)],
        rows,
        empty="Nothing has been posted here.",
        footer=["Carried forward", *[""] * 6, balance_cell(closing_minor, currency)]
        if closing_minor is not None
        else (),
        link=link,
    )


def balance_cell(balance_minor: int, currency: str) -> SafeString:
    """A balance with its side: `$12.00 Dr`."""
    side = "Dr" if balance_minor > 0 else "Cr" if balance_minor < 0 else ""
    return cells.figure(cells.beside(cells.money(abs(balance_minor), currency), cells.quiet(side) if side else ""))


def history_chart(currency: str, moments: Sequence[datetime], balances: Sequence[int]) -> Section:
    """An account's balance at the ends of days; the last point is now."""
    labels = [f"{moment - timedelta(microseconds=1):%d %b}" for moment in moments]
    options: dict[str, Any] = {
        "animation": False,
        "responsive": True,
        "maintainAspectRatio": False,
        "plugins": {"legend": {"display": False}},
        "scales": {"x": {"grid": {"display": False}}, "y": {"title": {"display": True, "text": currency.upper()}}},
    }
    line = {"label": "Balance", "borderColor": "#4f46e5", "borderWidth": 2, "pointRadius": 0, "stepped": True}
    data = {"labels": labels, "datasets": [{**line, "data": [plain_major(one, currency) for one in balances]}]}
    says = f"Balance from {plain_major(balances[0], currency)} to {plain_major(balances[-1], currency)}"
    values = {"type": "line", "data": json.dumps(data), "options": json.dumps(options), "says": says}
    return Custom("admin/desk/chart.html", f"Balance of the last {len(moments)} days, debit above zero", values)


def _final_badge(is_final: bool) -> SafeString:
    if is_final:
        return cells.badge("final", "good", title="Nothing can be posted before this moment any more.")
    return cells.badge("provisional", "warn", title="Entries may still be posted before this moment.")
