"""Statements as tables: what an export of them holds, row by row, and what a script gets of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from foundation.exports import Amount, Value
from foundation.money import format_minor
from reconciliation.types import Proof, Proved, Statement

STATEMENT_COLUMNS = ("day", "currency", "line", "rows", "gross", "fee", "net", "balance", "residual", "note")

PROOFS = {
    Proved.BALANCE: "Stripe's balance",
    Proved.CLEARING: "Our clearing account",
    Proved.PAYOUTS: "Payouts collected",
}


def statement_rows(found: Iterable[Statement]) -> Iterator[Sequence[Value]]:
    """Per day and currency: the opening, a row for each category, the closing, a row for each proof."""
    for statement in found:
        day, currency = statement.day.isoformat(), statement.currency

        def of(minor: int | None, currency: str = currency) -> Amount:
            return Amount(minor, currency)

        blank = of(None)
        yield (day, currency, "opening", None, blank, blank, blank, of(statement.opening_minor), blank, "")
        balance_minor = statement.opening_minor
        for line in statement.lines:
            balance_minor += line.net_minor
            sums = (of(line.gross_minor), of(line.fee_minor), of(line.net_minor))
            yield (day, currency, line.category, line.rows, *sums, of(balance_minor), blank, "")
        yield (day, currency, "closing", None, blank, blank, blank, of(statement.closing_minor), blank, "")
        for proof in statement.proofs:
            amounts = (blank, blank, of(proof.explained_minor), of(proof.says_minor), of(proof.residual_minor))
            yield (day, currency, f"proof: {proof.name}", None, *amounts, how(proof.accepted, proof.note))


def how(accepted: bool, note: str) -> str:
    """What is to be said of a proof beside its numbers."""
    return "; ".join(filter(None, ["its residual is accepted" if accepted else "", note]))


def statement_document(statement: Statement) -> dict[str, Any]:
    """For scripts: amounts in minor units."""
    return asdict(statement) | {
        "day": statement.day.isoformat(),
        "residual_minor": statement.residual_minor,
        "proved": statement.is_proved,
    }


def told(proof: Proof, currency: str) -> str:
    """A proof in a line."""
    name = PROOFS[proof.name]
    if proof.residual_minor is None:
        return f"{name}: not proved yet: {proof.note}"
    parts = [format_minor(proof.says_minor or 0, currency)]
    if proof.explained_minor:
        parts.append(f"explained {format_minor(proof.explained_minor, currency)}")
    parts.append(f"residual {format_minor(proof.residual_minor, currency)}")
    note = how(proof.accepted, proof.note)
    return f"{name}: {', '.join(parts)}" + (f" ({note})" if note else "")


def not_made(found: Iterable[Statement]) -> dict[str, dict[str, str]]:
    """For scripts: currency → proof → why it could not be made. A residual of 0 says nothing about these."""
    reasons = {one.currency: {proof.name: proof.note for proof in one.proofs if not proof.is_made} for one in found}
    return {currency: reason for currency, reason in reasons.items() if reason}


def told_not_made(found: Iterable[Statement]) -> list[str]:
    """The same in a line for each proof and reason."""
    lines: dict[tuple[str, str], list[str]] = {}
    for currency, reasons in not_made(found).items():
        for proof, why in reasons.items():
            lines.setdefault((proof, why), []).append(currency.upper())
    return [f"{PROOFS[proof]} in {', '.join(currencies)} ({why})" for (proof, why), currencies in lines.items()]
