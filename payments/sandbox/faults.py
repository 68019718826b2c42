"""Faults on demand: the next so many requests that match are answered wrongly, late or not at all."""

from fnmatch import fnmatchcase

from payments.sandbox.account import Account
from payments.sandbox.store import Json

# Before the effect, on the way in: the request is as good as never received.
ON_THE_WAY = ("timeout_before", "rate_limit", "reset")
# While executing, so that the answer is kept under the idempotency key. `slow` holds the key for SLOW_S; of an answer that
# is `cut_short` the end does not arrive.
EXECUTING = ("error_500", "error_500_after", "timeout_after", "cut_short", "slow")
KINDS = (*ON_THE_WAY, *EXECUTING)
SLOW_S = 1.0


def add(account: Account, *, match: str, kind: str, times: int) -> None:
    """`match` is a method and the beginning of a path: `POST /v1/refunds`; `*` stands for anything."""
    account.set("faults", [*account.faults, {"match": match, "kind": kind, "times": times}])


def clear(account: Account) -> None:
    account.set("faults", [])


def due(account: Account, method: str, path: str, kinds: tuple[str, ...]) -> bool:
    return any(_matches(fault, method, path, kinds) for fault in account.faults)


def take(account: Account, method: str, path: str, kinds: tuple[str, ...]) -> str | None:
    """The kind of the first fault that matches, counted down; inside a transaction."""
    for fault in account.faults:
        if _matches(fault, method, path, kinds):
            rest = [{**other, "times": other["times"] - (other is fault)} for other in account.faults]
            account.set("faults", [other for other in rest if other["times"] > 0])
            return str(fault["kind"])
    return None


def _matches(fault: Json, method: str, path: str, kinds: tuple[str, ...]) -> bool:
    return fault["kind"] in kinds and fnmatchcase(f"{method} {path}", fault["match"] + "*")
