"""A look at a day, or at a few objects: every step of matching in its order."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from django.db import connection

from reconciliation import rules
from reconciliation.matching import agreement, judging, pairs, proposals
from reconciliation.matching.days import parameters_of, parameters_of_day, run
from reconciliation.types import Rules


def match_day(
    day: date,
    *,
    now: datetime,
    asked: Mapping[str, str] | None = None,
    starts_on: date | None = None,
    look: agreement.Look = agreement.look_at_all,
) -> None:
    """Fill `recon_pair` and `recon_found` for a day and for everything that is not settled yet.

    `asked`: charges about which the provider was asked, and what it said (`payments.types.Booked`). `look`: sees to what agrees at
    first sight. Belongs inside a transaction.
    """
    start()
    fill(day, now=now, asked=asked or {}, starts_on=starts_on, by=rules.in_force(), look=look)


def start() -> None:
    """Make the tables, empty. Belongs inside a transaction, and ends with it."""
    run(pairs.TABLES)
    agreement.start()
    proposals.start()


def fill(
    day: date,
    *,
    now: datetime,
    asked: Mapping[str, str],
    starts_on: date | None,
    by: Rules,
    look: agreement.Look = agreement.look_at_all,
) -> None:
    """Fill the tables, which may hold an earlier look. Writes nothing else: a read-only transaction will do."""
    for table in ("recon_item", "recon_pair", "recon_found"):
        run(f"DELETE FROM {table}")  # noqa: S608  constants
    agreement.clear()
    parameters = parameters_of_day(day, starts_on, by)
    look(parameters)
    agreement.take_off_fees(parameters)
    run("ANALYZE recon_item")
    run(pairs.ITEMS_OF_DAY, parameters)
    pairs.pair(parameters, by)
    proposals.propose(by, join=lambda: pairs.join_fuzzy(parameters))
    judging.judge(parameters, now=now, asked=asked)


def match_objects(objects: Sequence[tuple[str, str]], *, now: datetime) -> None:
    """The same for a few (object kind, source). Belongs inside a transaction.

    Among so few nothing can be called unique: what a fuzzy rule would put together waits for a run. What it has put together before
    stays, while both halves are what they were.
    """
    start()
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO recon_item VALUES (%s, %s)", sorted(set(objects)))
    by = rules.in_force()
    parameters = parameters_of((now, now), None, by)
    pairs.pair(parameters, by)
    pairs.keep_stored(parameters)
    judging.judge(parameters, now=now, asked={})


def clear() -> None:
    """Forget what was looked at and found: the next thing that is stored stands alone. Belongs inside a transaction."""
    run("TRUNCATE recon_item, recon_found")
