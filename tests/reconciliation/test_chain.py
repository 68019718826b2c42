"""The audit chain: what changed is added, once; nothing of it is changed, whoever tries; each block names the one before."""

import hashlib
import json
from datetime import timedelta

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from foundation.database import database_now
from reconciliation import services
from reconciliation.models import AuditBlock, AuditRow, ProviderTransaction
from tests.races import orders
from tests.reconciliation.ledgers import both, the, theirs
from tests.reconciliation.months import JANUARY, LAST, NOON

pytestmark = pytest.mark.django_db(transaction=True)


def rows(kind: str) -> list[dict]:
    found = AuditRow.objects.filter(block__kind=kind).order_by("block_id", "position")
    return [json.loads(body) for body in found.values_list("body", flat=True)]


def assert_chained() -> None:
    before = bytes(32)
    for number, block in enumerate(AuditBlock.objects.order_by("number"), start=1):
        header = json.loads(block.header)
        assert (block.number, bytes(block.before), header["before"]) == (number, before, before.hex())
        bodies = block.contents.order_by("position").values_list("body", flat=True)
        root = hashlib.sha256(b"".join(hashlib.sha256(body.encode()).digest() for body in bodies))
        assert (root.digest(), header["rows"]) == (bytes(block.root), len(bodies))
        before = hashlib.sha256(block.header.encode()).digest()
        assert bytes(block.sha256) == before


def test_what_changed_is_chained_once_under_its_name(reconcile, settings):
    settings.AUDIT_BLOCK_ROWS = 2
    for number in range(5):
        both(f"ch_{number}", at=NOON)
    theirs("ch_9", at=NOON)
    reconcile(LAST)
    assert services.extend_chain() > 0
    assert [one["rows"] for one in map(json.loads, headers("raw"))] == [2, 2, 2]
    assert {one["was"] for one in rows("raw")} == {None}
    assert services.extend_chain() == 0
    services.perform(discrepancy_id=the("ch_9").pk, action="accept", by="clara", note="ours, of old")
    ProviderTransaction.objects.filter(source="ch_0").update(withdrawn_at=database_now())
    assert services.extend_chain() == 4  # the row, the item, the decision and its history
    last = rows("raw")[-1]
    assert (last["withdrawn"], last["net"], last["was"]["net"]) == (True, 0, 1426)
    assert [one["state"] for one in rows("item")] == ["open", "resolved"]
    assert [(one["action"], one["by"], one["note"]) for one in rows("decision")] == [
        ("accept", "clara", "ours, of old")
    ]
    assert services.extend_chain() == 0
    assert_chained()


def headers(kind: str) -> list[str]:
    return list(AuditBlock.objects.filter(kind=kind).order_by("number").values_list("header", flat=True))


def test_once_a_day_whoever_asks(reconcile):
    assert not services.extend_chain_of_today()  # no books yet
    both("ch_1", at=NOON)
    reconcile(LAST)
    assert services.extend_chain_of_today()
    both("ch_2", at=NOON)
    reconcile(LAST)
    assert not services.extend_chain_of_today()


def test_a_row_that_a_slow_import_committed_late_is_still_found(reconcile):
    """It bears a moment from before the last block was made."""
    both("ch_1", at=NOON)
    reconcile(LAST)
    services.extend_chain()
    both("ch_2", at=NOON)
    earlier = database_now() - timedelta(hours=12)
    ProviderTransaction.objects.filter(source="ch_2").update(seen_at=earlier)
    services.extend_chain()
    assert len(rows("raw")) == 2


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_two_jobs_at_once_make_one_chain(race, reconcile, turns):
    both("ch_1", at=NOON)
    theirs("ch_2", at=NOON)
    reconcile(LAST)
    race.stop("reconciliation.services.chain._extend", at="before")
    race.stop_before_commit()
    race.actor("a", services.extend_chain)
    race.actor("b", services.extend_chain)
    results = race.play(turns)
    assert sorted(results.values()) == [0, AuditBlock.objects.count()]
    assert len(rows("raw")) == 2
    assert_chained()


def test_control_of_that_race_without_the_lock_one_of_them_fails(race, reconcile, monkeypatch):
    """The chain itself stays one: its numbers are unique."""
    both("ch_1", at=NOON)
    reconcile(LAST)
    monkeypatch.setattr("reconciliation.services.chain.chain_writer", transaction.atomic)
    race.stop_before_commit()
    race.actor("a", services.extend_chain)
    race.actor("b", services.extend_chain)
    results = race.play("a b a b")
    assert sorted(type(result).__name__ for result in results.values()) == ["IntegrityError", "int"]
    assert_chained()


def test_postgresql_changes_removes_and_inserts_nothing(reconcile):
    both("ch_1", at=NOON)
    reconcile(LAST)
    services.extend_chain()
    block = AuditBlock.objects.latest("number")
    for tamper in (
        lambda: AuditRow.objects.update(body="{}"),
        lambda: AuditRow.objects.all().delete(),
        lambda: AuditBlock.objects.update(root=bytes(32)),
        lambda: AuditBlock.objects.filter(pk=block.pk).delete(),
        lambda: connection.cursor().execute("TRUNCATE reconciliation_auditrow"),
        lambda: AuditRow.objects.create(block=block, position=99, object="raw:more", body="{}"),
    ):
        with pytest.raises((DatabaseError, IntegrityError), match=r"Cannot|complete"), transaction.atomic():
            tamper()
    with pytest.raises(IntegrityError, match="not what its rows say"), transaction.atomic():
        AuditBlock.objects.create(
            number=0, kind="raw", period=JANUARY, rows=1, root=bytes(32), before=b"", header="", sha256=b""
        )
    assert_chained()
