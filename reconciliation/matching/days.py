"""A day, and what the statements about it name."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from reconciliation.matching.categories import CATEGORIES, LINKED, PAIRED
from reconciliation.states import UNRESOLVED_STATES
from reconciliation.types import FUZZY, Rule, Rules

Parameters = dict[str, Any]


def window(day: date) -> tuple[datetime, datetime]:
    """[00:00, 24:00) UTC."""
    since = datetime.combine(day, time.min, UTC)
    return since, since + timedelta(days=1)


def parameters_of_day(day: date, starts_on: date | None, by: Rules) -> Parameters:
    """What the statements about a day name."""
    since, until = window(day)
    near = {"near_first": (since - by.apart).date(), "near_last": (until + by.apart).date()}
    # What fits something of the day, and what fits that: whether it is alone is seen from both sides.
    around = {
        "around_first": (since - 2 * by.apart).date(),
        "around_last": (until + 2 * by.apart).date(),
        "around_days": (2 * by.apart).days + 1,
    }
    return parameters_of((since, until), starts_on, by) | near | around


def parameters_of(bounds: tuple[datetime, datetime], starts_on: date | None, by: Rules | None = None) -> Parameters:
    """The same for any window."""
    by = by or Rules()
    return {
        "since": bounds[0],
        "first": max(bounds[0], window(starts_on)[0]) if starts_on else bounds[0],
        "until": bounds[1],
        "instance": settings.INSTANCE_ID,
        **{kind: list(categories) for kind, categories in CATEGORIES.items()},
        "paired": [category for kind in PAIRED for category in CATEGORIES[kind]],
        "apart_from_sales": [category for kind in PAIRED if kind not in LINKED for category in CATEGORIES[kind]],
        "linked": list(LINKED),
        "compared": [*CATEGORIES["charge"], *CATEGORIES["refund"]],
        "stand_beside": [category for kind in (*PAIRED, "cost") for category in CATEGORIES[kind]],
        "unresolved": list(UNRESOLVED_STATES),
        "fuzzy": list(FUZZY),
        "joins": [Rule.PERSON, *FUZZY],
        "tolerant": [one.merchant_id for one in by.tolerances],
        "of_currency": [one.currency for one in by.tolerances],
        "tolerated": [one.amount_minor for one in by.tolerances],
    }


def run(statement: str, parameters: Parameters | None = None) -> int:
    """One of those statements; how many rows it wrote."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return int(cursor.rowcount)
