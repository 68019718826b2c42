"""How the reader of a page writes numbers: by the browser's language, with the separators that Django knows for it.

The desk speaks English; only its figures follow the reader, because a comma read as a point is a factor of a thousand.
So no language is activated, and no translation is mixed in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache

from django.utils.formats import get_format
from django.utils.functional import lazy
from django.utils.translation import check_for_language, to_language
from django.utils.translation.trans_real import parse_accept_lang_header

from foundation import money
from foundation.money import PLAIN, Style

_style: ContextVar[Style] = ContextVar("number_style", default=PLAIN)


@contextmanager
def written_for(accept_language: str) -> Iterator[None]:
    """While it lasts, amounts are shown and read as the first known language of an Accept-Language header has them."""
    token = _style.set(_style_of(accept_language))
    try:
        yield
    finally:
        _style.reset(token)


def show(amount_minor: int, currency: str) -> str:
    """An amount as the present reader writes it: `$1,234.50`, `1.234,50 €`."""
    return money.format_minor(amount_minor, currency, _style.get())


def read(text: str, currency: str) -> int:
    """What the present reader typed, in minor units. Raises InvalidInput, which shows how to write it."""
    return money.parse_major(text, currency, _style.get())


def count(value: int) -> str:
    """A count, its thousands grouped as the present reader does."""
    return f"{value:,}".replace(",", _style.get().group).replace("-", "−")


def example(currency: str = "usd") -> str:
    """How the present reader writes an amount, for the help of a form."""
    return money.plain_major(1234, currency).replace(".", _style.get().decimal)


def _explain(text: str) -> str:
    return text.format(example())


explained = lazy(_explain, str)  # `explained("As {}.")` → `As 12,34.`, for the reader of the moment


@lru_cache(maxsize=256)  # whoever calls can send any header
def _style_of(accept_language: str) -> Style:
    for tag, _ in parse_accept_lang_header(accept_language):
        for language in (tag, tag.split("-")[0]):
            if language != "*" and check_for_language(to_language(language)):
                return _known(language)
    return PLAIN


@cache
def _known(language: str) -> Style:
    group = str(get_format("THOUSAND_SEPARATOR", language, use_l10n=True))
    decimal = str(get_format("DECIMAL_SEPARATOR", language, use_l10n=True))
    return Style(group, decimal) if group != decimal else PLAIN
