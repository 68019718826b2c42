"""Other rules are tried on past days: what they would match, lose or match otherwise, and nothing is written."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection

from foundation.errors import InvalidInput
from reconciliation import matching, rules, services
from reconciliation.types import Rules, Tolerated
from tests import cleaning
from tests.factories import make_merchant
from tests.reconciliation.ledgers import DAY, NOON, both, found, ours, theirs
from tests.reconciliation.test_rules import named, nameless

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


def every_row() -> dict[str, tuple[int, str]]:
    """Of each table: how many rows, and a hash over which transaction wrote each, and where it stands."""
    with connection.cursor() as cursor:
        seen = {}
        for table in cleaning.tables():
            quoted = connection.ops.quote_name(table)
            cursor.execute(
                f"SELECT count(*), coalesce(md5(string_agg(xmin::text || ctid::text, ',' ORDER BY ctid)), '') FROM {quoted}"
            )
            seen[table] = cursor.fetchone()
    return seen


@pytest.fixture
def books_of_a_day(reconcile):
    """One by id, one by metadata, one by amount and date, and three that differ by 1, 2 and 3 cents."""
    merchant = make_merchant(name="Book shop").id
    both("ch_1")
    by_metadata = ours("ch_2", 700)
    named(by_metadata, "ch_9", 700)
    by_amount = ours("ch_3", 800)
    row = nameless(800, at=NOON + 2 * HOUR)
    for cents in (1, 2, 3):
        ours(f"ch_off{cents}", 1000, merchant_id=merchant)
        theirs(f"ch_off{cents}", 1000 + cents)
    reconcile()
    assert found().keys() == {"ch_off1", "ch_off2", "ch_off3"}
    return by_metadata, by_amount, row


def tried(document: Any) -> dict[str, Any]:
    (day,) = services.try_rules(days=[DAY.date()], by=rules.changed(rules.in_force(), document))
    changes = [(one.change, one.source, one.before, one.after) for one in day.changes]
    return {"counts": (day.gained, day.lost, day.flipped), "changes": changes, "open": day.open_after, "day": day}


def test_the_rules_in_force_change_nothing(books_of_a_day):
    now = tried({})
    assert (now["counts"], now["changes"], now["open"]) == ((0, 0, 0), [], 3)
    assert (now["day"].matched_before, now["day"].matched_after) == (3, 3)


def test_what_would_be_gained_and_lost_is_told(books_of_a_day):
    by_metadata, by_amount, row = books_of_a_day
    looser = tried({"tolerance": [{"merchant": "Book shop", "currency": "usd", "amount": "0.02"}]})
    assert looser["counts"] == (2, 0, 0)
    assert looser["changes"] == [
        ("gained", "ch_off1", "amount_mismatch", "id, within tolerance"),
        ("gained", "ch_off2", "amount_mismatch", "id, within tolerance"),
    ]
    assert [one.difference_minor for one in looser["day"].changes] == [1, 2]
    assert looser["open"] == 1
    stricter = tried({"match": {"metadata": False, "amount_and_date": False}})
    assert stricter["counts"] == (0, 2, 0)
    assert stricter["changes"] == [
        ("lost", "ch_9", "metadata", "missing_in_our_system"),
        ("lost", row, "amount_and_date", "missing_in_our_system"),
    ]
    assert [one.ours_before for one in stricter["day"].changes] == [by_metadata.number, by_amount.number]
    assert stricter["open"] == 3 + 4  # two movements are four items
    closer = tried({"match": {"hours_apart": 1}})
    assert closer["counts"] == (0, 1, 0)


def test_what_would_be_matched_otherwise_is_told(reconcile):
    """A charge that bears the intent of a dead attempt and the number of a paid one: by the intent, or by metadata."""
    dead = ours("ch_1", status="failed")
    paid = ours("ch_2")
    theirs("ch_9", payment_intent="pi_1", metadata={"payment": paid.number, "order": paid.reference})
    assert dead.provider_reference == "pi_1"
    reconcile()
    assert tried({"match": {"intent": False}})["changes"] == [("gained", "ch_9", "status_mismatch", "metadata")]
    neither = tried({"match": {"intent": False, "metadata": False}})
    assert neither["changes"] == [("flipped", "ch_9", "status_mismatch", "missing_in_our_system")]


@pytest.mark.parametrize("form", ["toml", "json"])
def test_trying_writes_nothing(books_of_a_day, tmp_path, form):
    file = tmp_path / f"looser.{form}"
    file.write_text(
        '[match]\nmetadata = false\n[[tolerance]]\ncurrency = "usd"\namount = "0.03"\n'
        if form == "toml"
        else json.dumps({"match": {"metadata": False}, "tolerance": [{"currency": "usd", "amount": "0.03"}]})
    )
    before = every_row()
    assert before["reconciliation_match"][0] == 3
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("reconcile", what_if=file, first=DAY.date(), last=(DAY + timedelta(days=1)).date(), stdout=out)
    assert every_row() == before
    assert ended.value.code == 1  # ch_2 and ch_9 would be open
    lines = out.getvalue().splitlines()
    assert lines[0] == ("2026-01-10: 3 gained, 1 lost, 0 flipped; 3 matched now, 5 with these rules, 2 would be open")
    assert "  lost    charge ch_9 $7.00 with" in lines[1]
    assert lines[1].endswith(": metadata → missing in our system")
    assert lines[2].endswith(": amount mismatch → id, within tolerance, $0.01 apart")
    assert lines[-1].startswith("2026-01-11: 0 gained, 0 lost, 0 flipped")


def test_postgresql_itself_refuses_to_write_meanwhile(books_of_a_day, monkeypatch):
    """Break it on purpose: what tries to write in there fails, and leaves nothing."""
    before = every_row()
    fill = matching.fill

    def writing(*args: Any, **options: Any) -> None:
        fill(*args, **options)
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM reconciliation_match")

    monkeypatch.setattr(matching, "fill", writing)
    with pytest.raises(DatabaseError, match="read-only transaction"):
        tried({})
    assert every_row() == before


def test_the_answer_for_scripts(books_of_a_day, tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text('[[tolerance]]\ncurrency = "usd"\namount = "0.03"\n')
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("reconcile", what_if=file, date=DAY.date(), json=True, stdout=out)
    assert ended.value.code == 0
    (day,) = json.loads(out.getvalue())["what_if"]
    assert (day["day"], day["gained"], day["open_after"], len(day["changes"])) == ("2026-01-10", 3, 0, 3)
    assert day["changes"][0]["after"] == "id, within tolerance"


# --- The file ---------------------------------------------------------------------------------------


def test_what_the_file_does_not_name_stays():
    shop, other = make_merchant(name="One").id, make_merchant(name="Two").id
    now = Rules(tolerances=(Tolerated(shop, "usd", 5), Tolerated(other, "usd", 7)))
    assert rules.changed(now, {}) == now
    changed = rules.changed(
        now,
        {
            "match": {"hours_apart": 2},
            "tolerance": [
                {"merchant": "One", "currency": "usd", "amount": "0"},
                {"merchant": str(other), "currency": "USD", "amount": "0.09"},
                {"currency": "jpy", "amount": "3"},
            ],
        },
    )
    assert changed == Rules(
        apart=timedelta(hours=2), tolerances=(Tolerated(other, "usd", 9), Tolerated(None, "jpy", 3))
    )


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"tolerances": []}, "does not know tolerances"),
        ({"match": {"luck": True}}, "does not know luck"),
        ({"match": {"metadata": "no"}}, "true or false"),
        ({"match": {"hours_apart": 0}}, "whole number"),
        ({"tolerance": [{"currency": "usd", "amount": 0.05}]}, "as text"),
        ({"tolerance": [{"currency": "usd", "amount": "0.001"}]}, "more decimals"),
        ({"tolerance": [{"currency": "usd", "amount": "10.01"}]}, "at most 1000"),
        ({"tolerance": [{"currency": "usx", "amount": "1"}]}, "not known"),
        ({"tolerance": [{"merchant": "Nobody", "currency": "usd", "amount": "1"}]}, "no merchant"),
        ([], "names and values"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(document, says):
    with pytest.raises(InvalidInput, match=says):
        rules.changed(Rules(), document)


def test_the_command_says_what_is_wrong_with_a_file(tmp_path):
    for name, text in (("torn.toml", "[match"), ("torn.json", "{"), ("other.toml", "a = 1")):
        (tmp_path / name).write_text(text)
        with pytest.raises(CommandError) as refused:
            call_command("reconcile", what_if=tmp_path / name, date=DAY.date())
        assert refused.value.returncode == 2
    with pytest.raises(CommandError):
        call_command("reconcile", what_if=tmp_path / "none.toml", date=DAY.date())
