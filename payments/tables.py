"""The books as tables: what an export of a trial balance or a statement holds, row by row."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta

from foundation.exports import Amount, Value
from payments import books
from payments.models import Account

TRIAL_COLUMNS = ("currency", "account", "debits", "credits", "debit_balance", "credit_balance")
STATEMENT_COLUMNS = (
    *("posted_at", "entry", "kind", "order", "of", "memo", "by", "corrects", "currency", "debit", "credit", "balance"),
)


def trial_rows(trial: books.TrialBalance) -> Iterator[Sequence[Value]]:
    """The rows of its export; per currency the total comes last."""
    for currency in trial.currencies:
        lines = trial.of(currency)
        for line in lines:
            debit, credit = max(line.balance_minor, 0), max(-line.balance_minor, 0)
            sums = (line.debit_minor, line.credit_minor, debit, credit)
            yield (currency, line.kind, *(Amount(minor, currency) for minor in sums))
        yield (currency, "total", *(Amount(minor, currency) for minor in trial_totals(lines)))


def trial_totals(lines: Sequence[books.TrialLine]) -> tuple[int, int, int, int]:
    """Debits, credits, debit balances, credit balances: the first two are equal, and so are the others."""
    return (
        sum(line.debit_minor for line in lines),
        sum(line.credit_minor for line in lines),
        sum(max(line.balance_minor, 0) for line in lines),
        sum(max(-line.balance_minor, 0) for line in lines),
    )


def statement_rows(account: Account, since: datetime, until: datetime) -> Iterator[Sequence[Value]]:
    """The rows of its export: the opening balance, the lines, the closing balance, read as they are asked for."""
    currency = account.currency
    balance_minor = books.balance(account.pk, at=since)
    blank = (None,) * (len(STATEMENT_COLUMNS) - 6)
    yield (since, None, "opening balance", *blank, currency, None, Amount(balance_minor, currency))
    for line in books.statement_lines(account.pk, since=since, until=until):
        balance_minor = line.balance_minor
        yield (
            *(line.place.posted_at, str(line.entry_id), line.kind, line.reference, line.subject, line.memo, line.by),
            str(line.corrects or ""),
            currency,
            Amount(line.debit_minor or None, currency),
            Amount(line.credit_minor or None, currency),
            Amount(balance_minor, currency),
        )
    yield (until, None, "closing balance", *blank, currency, None, Amount(balance_minor, currency))


def day_begin(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def day_end(day: date) -> datetime:
    """The midnight after a day. A day at the end of time ends then."""
    return day_begin(day + timedelta(days=1)) if day < date.max else datetime.max.replace(tzinfo=UTC)
