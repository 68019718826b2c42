"""From an order to the bank and back, on one screen: entered by any number that belongs to the chain."""

from collections.abc import Sequence

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import ActForm, ReadOnlyAdmin
from foundation.sections import Cell, Custom, Facts, Page, Section, Table
from reconciliation.admin.shared import order_link, walk_link
from reconciliation.bank import walk
from reconciliation.bank.chain import Booking, Ours, Payout
from reconciliation.bank.walk import SHOWN, Break, Ending, Link, Walk
from reconciliation.models import BankLine

_NAME = "reconciliation_bankline_walk"
_TAKES = (
    "The number of an order, payment, refund, dispute, payout or bank line; Stripe's pi_…, ch_…, re_…, dp_…, txn_… or po_…; a "
    "trace id; the bank's own reference."
)
_PAGES = {"charge": "payments.payment", "refund": "payments.refund", "dispute": "payments.dispute"}
_TONES: dict[str, cells.Tone] = {Ending.BROKEN: "bad", Ending.WAITS: "info", Ending.NOTHING: "quiet"}


class SearchForm(ActForm):
    """Comes by GET."""

    q = forms.CharField(label="Any number of the chain", max_length=255, required=False)


def urls(model_admin: ReadOnlyAdmin[BankLine]) -> list[URLPattern]:
    """The walk's address, in front of the lines' own."""

    def view(request: HttpRequest) -> HttpResponseBase:
        return _walk(model_admin, request)

    return [path("walk/", model_admin.admin_site.admin_view(view), name=_NAME)]


def _walk(model_admin: ReadOnlyAdmin[BankLine], request: HttpRequest) -> HttpResponseBase:
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    form = SearchForm(request.GET)
    text = form.cleaned_data["q"].strip() if form.is_valid() else ""
    found = walk.follow(text)
    search = Custom("admin/desk/period.html", "Follow the money", {"form": form, "links": []})
    page = Page(
        title="Order to bank",
        lead=[_verdict(found)] if text else [],
        sub=cells.code(text) if text else _TAKES,
        top=[search],
        main=_sections(request, found) if text else [],
    )
    return model_admin.show(request, "Order to bank", page)


def _verdict(found: Walk) -> SafeString:
    if found.is_empty:
        return cells.badge("nothing moved under this number", "warn")
    endings = {link.break_.how for link in found.links if link.break_}
    of_nothing = found.line is not None and found.payout is None
    if Ending.BROKEN in endings or (of_nothing and found.line is not None and found.line.of_provider):
        return cells.badge("broken", "bad")
    if Ending.WAITS in endings or of_nothing:
        return cells.badge("not at its end yet", "info")
    if all(link.break_ for link in found.links):
        return cells.badge("no money moved", "quiet")
    return cells.badge("whole", "good")


def _sections(request: HttpRequest, found: Walk) -> list[Section]:
    sections: list[Section] = []
    if found.payout or found.line:
        sections.append(_ends(request, found))
    elif found.links:
        sections.append(_sums(found.links))
    sections.append(_chain(request, found))
    return sections


def _ends(request: HttpRequest, found: Walk) -> Facts:
    """What a payout collected, what it is, and what the bank got of it."""
    facts: list[tuple[str, Cell]] = []
    if found.payout:
        payout, currency = found.payout, found.payout.currency
        lines = found.lines
        if found.collected:
            facts.append((f"Σ net of its {found.collected:,} bookings", cells.money(found.collected_minor, currency)))
        facts += [
            ("The payout", cells.beside(_payout_link(request, payout), cells.money(payout.amount_minor, currency))),
            ("On our bank's account, by our ledger", cells.money(payout.booked_minor, currency)),
        ]
        got = sum(line.amount_minor for line in lines)
        same = all(line.currency == currency for line in lines)
        facts.append(
            ("The bank got", cells.money(got, lines[0].currency) if lines else cells.badge("nothing yet", "warn"))
        )
        if lines and same:
            facts.append(("Bank less ledger", cells.difference(got - payout.booked_minor, currency)))
    elif found.line:
        facts.append(("The bank's line", _line_cell(request, found.line)))
        facts.append(("Payout", cells.badge("none: nothing explains it", "bad" if found.line.of_provider else "quiet")))
    return Facts("Amounts", facts)


def _sums(links: Sequence[Link]) -> Table:
    """What each leg holds of it, by currency."""
    currencies = sorted({_currency(link) for link in links})
    rows: list[list[Cell]] = []
    for currency in currencies:
        mine = [link for link in links if _currency(link) == currency]
        ours = {link.ours.id: link.ours for link in mine if link.ours and link.ours.booked}.values()
        bookings = [link.booking for link in mine if link.booking]
        paid_out = [link.booking.net_minor for link in mine if link.booking and link.payout]
        rows.append(
            [
                currency.upper(),
                cells.money(
                    sum(one.amount_minor if one.kind == "charge" else -one.amount_minor for one in ours), currency
                ),
                cells.money(sum(one.gross_minor for one in bookings), currency),
                cells.money(-sum(one.fee_minor for one in bookings), currency),
                cells.money(sum(one.net_minor for one in bookings), currency),
                cells.money(sum(paid_out), currency),
                cells.money(sum(link.booking.net_minor for link in mine if link.booking and link.lines), currency),
            ]
        )
    heads = ("Our books", "Stripe's, gross", "Fees", "Net", "Of it paid out", "Of it at the bank")
    return Table(
        "Amounts at each leg", ["Currency", *(cells.right(head) for head in heads)], rows, empty="Nothing moved."
    )


def _currency(link: Link) -> str:
    return link.booking.currency if link.booking else link.ours.currency if link.ours else ""


def _chain(request: HttpRequest, found: Walk) -> Table:
    title = "Chain"
    if found.collected > SHOWN:
        title = f"The first {SHOWN} of {found.collected:,} bookings"
    return Table(
        title,
        ["Order", "Payment, refund, dispute", "Stripe's booking", "Payout", "Bank line", "Ends at"],
        [
            [
                order_link(request, link.ours.reference) if link.ours else cells.NOTHING,
                _ours_cell(request, link.ours),
                _booking_cell(request, link.booking),
                _payout_cell(request, link.payout, found),
                cells.lines([_line_cell(request, line) for line in link.lines]),
                _break_cell(link.break_),
            ]
            for link in found.links
        ],
        empty="No payment, refund or dispute is behind it, as far as the provider lists what it is made of.",
    )


def _ours_cell(request: HttpRequest, ours: Ours | None) -> SafeString:
    if ours is None:
        return cells.NOTHING
    number = cells.link(request, _PAGES[ours.kind], ours.id, cells.short(ours.number))
    return cells.lines([cells.beside(number, cells.state(ours.status)), cells.money(ours.amount_minor, ours.currency)])


def _booking_cell(request: HttpRequest, booking: Booking | None) -> SafeString:
    if booking is None:
        return cells.NOTHING
    return cells.lines(
        [
            cells.beside(walk_link(request, booking.id, cells.short(booking.id)), booking.category.replace("_", " ")),
            cells.beside("gross", cells.money(booking.gross_minor, booking.currency)),
            cells.beside("fee", cells.money(-booking.fee_minor, booking.currency)) if booking.fee_minor else "",
            cells.beside("net", cells.money(booking.net_minor, booking.currency)),
        ]
    )


def _payout_cell(request: HttpRequest, payout: Payout | None, found: Walk) -> SafeString:
    if payout is None:
        return cells.NOTHING
    back = "" if found.payout else walk_link(request, payout.number, "all that it collected")
    return cells.lines(
        [
            cells.beside(_payout_link(request, payout), cells.state(payout.status)),
            cells.money(payout.amount_minor, payout.currency),
            *([back] if back else []),
        ]
    )


def _payout_link(request: HttpRequest, payout: Payout) -> SafeString:
    return cells.link(request, "payments.payout", payout.id, cells.short(payout.number))


def _line_cell(request: HttpRequest, line: BankLine) -> SafeString:
    number = cells.link(request, "reconciliation.bankline", line.pk, cells.short(line.number))
    return cells.lines([cells.beside(number, f"{line.booked_on:%d %b}"), cells.money(line.amount_minor, line.currency)])


def _break_cell(found: Break | None) -> SafeString:
    if found is None:
        return cells.badge("whole", "good")
    return cells.lines([cells.badge(found.leg, _TONES[found.how]), cells.quiet(found.says)])
