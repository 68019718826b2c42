"""How values look on the desk: one way to show an amount, a state, a moment, a number.

Every function returns safe HTML; whatever comes from outside is escaped on the way.
"""

import re
from collections.abc import Iterable
from datetime import date, datetime
from typing import Final, Literal
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.timesince import timesince

from foundation import numbers

Tone = Literal["good", "bad", "busy", "warn", "info", "quiet"]

_NUMBER = re.compile(r"[a-z]+_[0-9a-z]{26}")  # a public number

NOTHING: Final = mark_safe('<span class="ec-none">—</span>')
NOTHING_RIGHT: Final = mark_safe('<span class="ec-money ec-none">—</span>')

_TONES: dict[str, Tone] = {
    **dict.fromkeys(
        ("paid", "succeeded", "completed", "done", "published", "matched", "resolved", "live", "won", "delivered"),
        "good",
    ),
    **dict.fromkeys(
        ("failed", "compensation_failed", "parked", "given_up", "lost", "error", "high", "revoked", "needs_response"),
        "bad",
    ),
    **dict.fromkeys(("processing", "running", "refunding", "calling", "investigating", "shipped", "requested"), "busy"),
    **dict.fromkeys(("in_transit", "under_review", "inquiry_under_review"), "busy"),
    "inquiry_needs_response": "warn",
    "replaced": "warn",
    "expired": "bad",
    **dict.fromkeys(
        (
            "open",
            "unknown",
            "requires_action",
            "awaiting_approval",
            "asked",
            "compensating",
            "partial",
            "provisional",
            "medium",
        ),
        "warn",
    ),
    **dict.fromkeys(("pending", "timing", "refunded", "compensated", "undone", "skipped", "accepted"), "info"),
}


def tone_of(state: str) -> Tone:
    """The colour of a state, the same on every page; quiet for one that asks nothing of anybody."""
    return _TONES.get(state, "quiet")


def badge(text: str, tone: Tone = "quiet", *, title: str = "") -> SafeString:
    """A small coloured label."""
    return format_html('<span class="ec-badge ec-{}" title="{}">{}</span>', tone, title, text)


def state(value: str) -> SafeString:
    """The badge of a state."""
    return badge(value.replace("_", " "), tone_of(value)) if value else NOTHING


def money(amount_minor: int | None, currency: str) -> SafeString:
    """An amount with its currency, in tabular figures, aligned right by the style sheet."""
    if amount_minor is None:
        return format_html('<span class="ec-money">{}</span>', NOTHING)
    sign = "ec-negative" if amount_minor < 0 else ""
    return format_html('<span class="ec-money {}">{}</span>', sign, numbers.show(amount_minor, currency))


def difference(amount_minor: int | None, currency: str) -> SafeString:
    """A difference: with its sign, and red unless it is nothing."""
    if amount_minor is None:
        return money(None, currency)
    sign = "+" if amount_minor > 0 else ""
    css = "ec-off" if amount_minor else "ec-zero"
    return format_html('<span class="ec-money {}">{}{}</span>', css, sign, numbers.show(amount_minor, currency))


def figure(content: str | SafeString) -> SafeString:
    """Anything that stands in a column of figures."""
    return format_html('<span class="ec-money">{}</span>', content)


def pile(count: str | SafeString, value: str | SafeString) -> SafeString:
    """How many, and what they are worth together."""
    return format_html('<span class="ec-money ec-pile">{} {}</span>', value, count)


def number(value: int) -> SafeString:
    """A count, aligned right."""
    return format_html('<span class="ec-money">{}</span>', numbers.count(value))


def change(value: int) -> SafeString:
    """A count with its sign."""
    return format_html('<span class="ec-money">{}{}</span>', "+" if value > 0 else "", numbers.count(value))


def code(text: str | None) -> SafeString:
    """An id or a reference, to be read letter by letter and copied."""
    return format_html('<span class="ec-code">{}</span>', text) if text else NOTHING


def short(text: str) -> SafeString:
    """A public number where space is scarce: its prefix and its last letters; the whole is its title."""
    head, mark, tail = text.rpartition("_")
    if not mark or len(text) <= 16:
        return code(text)
    return format_html('<span class="ec-code" title="{}">{}_…{}</span>', text, head, tail[-8:])


def who(name: str, why: str = "") -> SafeString:
    """Who or what did something, and why."""
    return beside(short(name) if _NUMBER.fullmatch(name) else name, f"— {why}" if why else "")


def moment(at: datetime | None) -> SafeString:
    """A moment in UTC, to the second."""
    if at is None:
        return NOTHING
    shown = f"{at:%d %b %Y, %H:%M:%S}"
    return format_html('<time class="ec-time" datetime="{}">{}</time>', at.isoformat(), shown)


def days(first: date, last: date) -> str:
    """Some days, both included."""
    return f"{first:%d %b %Y}" if first == last else f"{first:%d %b %Y} to {last:%d %b %Y}"


def brief(at: datetime | None) -> SafeString:
    """A moment in UTC where space is scarce: the year is in its title."""
    if at is None:
        return NOTHING
    title = f"{at:%d %b %Y, %H:%M:%S} UTC"
    shown = f"{at:%d %b, %H:%M:%S}"
    return format_html('<time class="ec-time" datetime="{}" title="{}">{}</time>', at.isoformat(), title, shown)


def ago(at: datetime | None, now: datetime) -> SafeString:
    """How long ago, in words; the moment itself is the title."""
    if at is None:
        return NOTHING
    words = timesince(at, now, depth=1) if (now - at).total_seconds() >= 60 else "just now"
    return format_html('<time class="ec-time" title="{} UTC">{}</time>', f"{at:%d %b %Y, %H:%M:%S}", words)


def seconds(value: float) -> str:
    """A duration for a person: `8 s`, `4 min`, `3 h`, `2 days`."""
    if value < 90:
        return f"{value:.0f} s"
    if value < 90 * 60:
        return f"{value / 60:.0f} min"
    if value < 36 * 3600:
        return f"{value / 3600:.0f} h"
    return f"{value / 86_400:.0f} days"


def link(request: HttpRequest, model: str, pk: object, text: str | SafeString) -> SafeString:
    """A link to a row's page (`"payments.payment"`), or the bare text for someone who may not see it."""
    app, name = model.split(".")
    if not request.user.has_perm(f"{app}.view_{name}"):
        return format_html("{}", text)
    return anchor(reverse(f"admin:{app}_{name}_change", args=[pk]), text)


def report(request: HttpRequest, name: str, text: str | SafeString, **query: str) -> SafeString:
    """A link to a report beside a model's list (`"reconciliation.bankline/walk"`), or the bare text as `link` does.

    By the address's name alone: an app may link to what stands above it.
    """
    model, _, which = name.partition("/")
    app, listed = model.split(".")
    if not request.user.has_perm(f"{app}.view_{listed}"):
        return format_html("{}", text)
    return anchor(f"{reverse(f'admin:{app}_{listed}_{which}')}?{urlencode(query)}", text)


def anchor(address: str, text: str | SafeString) -> SafeString:
    """A link to an address of ours."""
    return format_html('<a class="ec-link" href="{}">{}</a>', address, text)


def quiet(text: str, *, title: str = "") -> SafeString:
    """A remark beside something."""
    return format_html('<span class="ec-sub" title="{}">{}</span>', title, text)


def lines(parts: Iterable[str | SafeString]) -> SafeString:
    """Several values in one cell, one below the other."""
    return format_html_join(mark_safe("<br>"), "{}", ((part,) for part in parts if part)) or NOTHING


def beside(*parts: str | SafeString) -> SafeString:
    """Several values on one line."""
    return format_html_join(" ", "{}", ((part,) for part in parts if part))


def strong(text: str | SafeString) -> SafeString:
    return format_html("<strong>{}</strong>", text)


def sub(text: str | SafeString, below: str | SafeString) -> SafeString:
    """A value with a quieter line below it."""
    return format_html('{}<span class="ec-sub">{}</span>', text, below)


def right(text: str) -> SafeString:
    """The header of a column of figures."""
    return format_html('<span class="ec-right">{}</span>', text)
