"""What PostgreSQL does to answer: the plan of each statement, carried out, and how often it touched which table."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connection

_EXPLAINED = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|CREATE TEMPORARY TABLE \w+ ON COMMIT DROP AS)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Scan:
    """A table's place in a plan. `loops`: how often it was begun; `rows`: how many it read in all, kept or not."""

    table: str
    how: str  # Seq Scan, Index Scan …
    loops: int
    rows: int
    statement: str

    def __str__(self) -> str:
        return f"{self.how} on {self.table}: {self.loops} times, {self.rows} rows, in {self.statement}"


@contextmanager
def scans() -> Iterator[list[Scan]]:
    """Collect the scans of every statement that this connection executes meanwhile.

    Each is carried out twice: to see its plan, which is undone, and as it was meant. So no estimate is looked at, and no time.
    """
    found: list[Scan] = []

    def explained(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not many and _EXPLAINED.match(sql):
            plan = _carried_out_and_undone(sql, params)
            found.extend(_scans_of(plan, " ".join(sql.split())[:200]))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explained):
        yield found


def _carried_out_and_undone(sql: str, params: Any) -> dict[str, Any]:
    in_transaction = not connection.get_autocommit()
    with connection.connection.cursor() as cursor:  # past the wrapper
        cursor.execute("SAVEPOINT explained" if in_transaction else "BEGIN")
        try:
            cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", params)
            (answer,) = cursor.fetchone()
        finally:
            cursor.execute(
                "ROLLBACK TO SAVEPOINT explained; RELEASE SAVEPOINT explained" if in_transaction else "ROLLBACK"
            )
    plan: dict[str, Any] = (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]
    return plan


def _scans_of(node: dict[str, Any], statement: str) -> Iterator[Scan]:
    for child in node.get("Plans", ()):
        yield from _scans_of(child, statement)
    loops = round(node["Actual Loops"])
    if loops and "Relation Name" in node and node["Node Type"] != "ModifyTable":
        read = (
            node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        )
        yield Scan(node["Relation Name"], node["Node Type"], loops, round(read * loops), statement)
