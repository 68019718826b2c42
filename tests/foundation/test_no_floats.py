"""No float where money is counted: not in a type, a literal, a division, nor in a column. Times may be floats."""

import ast
import re
from pathlib import Path

import pytest
from django.apps import apps
from django.db import connection, models

ROOT = Path(__file__).resolve().parents[2]
MONEY = (
    "foundation/money.py",
    "foundation/numbers.py",
    "foundation/exports.py",
    "payments",
    "orders",
    "reconciliation",
)
NOT_MONEY = {
    "orders/timer.py",  # the scores of a sorted set are moments
    "orders/management/commands/preview_emails.py",  # divides folders
}
# Seconds and milliseconds, by the unit that stands last in the name; buckets of durations.
_TIME = re.compile(r"_(s|ms|S|MS)\b|\bbuckets=|\bbegan: float")


def sources() -> list[Path]:
    files: list[Path] = []
    for name in MONEY:
        path = ROOT / name
        files += [path] if path.is_file() else path.rglob("*.py")
    kept = [path for path in files if not {"migrations", "sandbox"} & set(path.parts)]
    return sorted(path for path in kept if str(path.relative_to(ROOT)) not in NOT_MONEY)


def floats_in(text: str) -> list[str]:
    """The lines that name float, hold a float, or divide into one; but for those that count time."""
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        is_float = (
            (isinstance(node, ast.Name) and node.id == "float")
            or (isinstance(node, ast.Constant) and isinstance(node.value, float | complex))
            or (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div))
            or (isinstance(node, ast.Attribute) and node.attr == "FloatField")
        )
        if is_float and isinstance(node, ast.expr | ast.stmt) and not _TIME.search(lines[node.lineno - 1]):
            found.append(f"{node.lineno}: {lines[node.lineno - 1].strip()}")
    return found


def test_no_money_is_a_float():
    assert len(sources()) > 60
    found = {str(path.relative_to(ROOT)): floats_in(path.read_text()) for path in sources()}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "amount = 1.5",
        "def f(amount_minor: float): ...",
        "half = total / 2",
        "total /= 2",
        "x = float(text)",
        "y = models.FloatField()",
    ],
)
def test_control_the_scan_sees_a_float(line):
    assert floats_in(line)


def test_control_the_scan_lets_time_pass():
    assert not floats_in("def wait(*, wait_s: float): ...\nLEASE_S = 0.5\nprint(duration_ms / 1000)")


def test_amounts_are_whole_numbers_in_models_and_in_postgresql(db):
    ours = [model for model in apps.get_models() if model.__module__.split(".")[0] in _APPS]
    amounts = [field for model in ours for field in model._meta.get_fields() if field.name.endswith("_minor")]
    assert len(amounts) > 25
    assert {type(field) for field in amounts} == {models.BigIntegerField}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
            " AND (column_name LIKE '%%\\_minor' OR data_type IN ('real', 'double precision', 'numeric', 'money'))"
            " AND table_name ~ '^(catalog|inventory|payments|orders|reconciliation)_'",
        )
        columns = cursor.fetchall()
    assert len(columns) > 25
    assert [column for column in columns if column[2] != "bigint"] == []


_APPS = {"catalog", "inventory", "payments", "orders", "reconciliation"}
