"""By which rules both books are matched: those in force, and a file of others to try (docs/reconciliation.md)."""

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from django.conf import settings

from catalog import selectors as catalog
from foundation.errors import InvalidInput, NotFound
from foundation.money import parse_major
from reconciliation.models import Tolerance
from reconciliation.types import MOST_TOLERATED_MINOR, Rules, Tolerated

_SWITCHES: Final = ("intent", "metadata", "amount_and_date")
_LONGEST_HOURS: Final = 31 * 24
_LONGEST_FILE: Final = 1_000_000  # bytes


def in_force() -> Rules:
    """The rules that runs follow now."""
    set_now = Tolerance.objects.filter(ended_at__isnull=True).order_by("merchant_id", "currency")
    return Rules(
        apart=timedelta(hours=settings.RECONCILE_FUZZY_HOURS),
        tolerances=tuple(Tolerated(one.merchant_id, one.currency, one.amount_minor) for one in set_now),
    )


def read_file(path: Path) -> Rules:
    """The rules in force, changed by a TOML or JSON file. Raises InvalidInput, which says what is wrong with it."""
    try:
        if path.stat().st_size > _LONGEST_FILE:
            raise InvalidInput(f"{path.name} is too long to be a file of rules.")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    parse: Callable[[str], Any] = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        document = parse(text)
    except ValueError as error:
        raise InvalidInput(f"{path.name} is no {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from error
    return changed(in_force(), document)


def changed(rules: Rules, document: Any) -> Rules:
    """Rules with the changes of a document `{"match": {…}, "tolerance": [{…}]}`; what it does not name stays.

    Raises InvalidInput.
    """
    _only(document, "the file", ("match", "tolerance"))
    match = _only(document.get("match", {}), "[match]", (*_SWITCHES, "hours_apart"))
    for name in _SWITCHES:
        if name in match:
            if not isinstance(match[name], bool):
                raise InvalidInput(f"[match] {name} is true or false, not {match[name]!r}.")
            rules = replace(rules, **{name: match[name]})
    if "hours_apart" in match:
        hours = match["hours_apart"]
        if not isinstance(hours, int) or isinstance(hours, bool) or not 0 < hours <= _LONGEST_HOURS:
            raise InvalidInput(f"[match] hours_apart is a whole number from 1 to {_LONGEST_HOURS}, not {hours!r}.")
        rules = replace(rules, apart=timedelta(hours=hours))
    entries = document.get("tolerance", [])
    if not isinstance(entries, list):
        raise InvalidInput("[[tolerance]] is a list: one for each merchant and currency.")
    tolerances = {(one.merchant_id, one.currency): one.amount_minor for one in rules.tolerances}
    for entry in entries:
        one = _tolerance(entry)
        tolerances[one.merchant_id, one.currency] = one.amount_minor
    kept = (Tolerated(merchant, currency, minor) for (merchant, currency), minor in tolerances.items() if minor)
    return replace(rules, tolerances=tuple(kept))


def _tolerance(entry: Any) -> Tolerated:
    entry = _only(entry, "[[tolerance]]", ("merchant", "currency", "amount"))
    for name in ("currency", "amount"):
        if not isinstance(entry.get(name), str):  # a number would be a float on its way
            raise InvalidInput(f'[[tolerance]] needs {name} as text: currency = "usd", amount = "0.05".')
    currency = entry["currency"].strip().lower()
    minor = parse_major(entry["amount"], currency)
    if not 0 <= minor <= MOST_TOLERATED_MINOR:
        raise InvalidInput(f"[[tolerance]] amount is at most {MOST_TOLERATED_MINOR} minor units, and not negative.")
    return Tolerated(_merchant(entry.get("merchant")), currency, minor)


def _merchant(named: Any) -> UUID | None:
    """By name or id; left out, every merchant."""
    if named is None:
        return None
    try:
        return catalog.get_merchant(UUID(str(named))).id
    except (ValueError, NotFound):
        found = catalog.merchant_called(str(named))
    if found is None:
        raise InvalidInput(f"[[tolerance]] no merchant is called {named!r}.")
    return found


def _only(value: Any, where: str, names: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} holds names and values.")
    unknown = sorted(set(value) - set(names))
    if unknown:
        raise InvalidInput(f"{where} does not know {', '.join(unknown)}: only {', '.join(names)}.")
    return value
