"""The audit chain: what changed is added, once; nothing of it is changed, whoever tries; each block names the one before."""

import hashlib
import io
import json
from datetime import timedelta

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from foundation.database import database_now
from payments.models import Payment
from reconciliation import services
from reconciliation.models import AuditBlock, AuditRow, BankLine, BankMatch, ProviderTransaction, RawRow, Tolerance
from reconciliation.types import MatchedBy
from tests.factories import make_merchant
from tests.races import orders
from tests.reconciliation.ledgers import both, our_payout, ours, the, theirs
from tests.reconciliation.months import FEBRUARY, JANUARY, LAST, NOON

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


@pytest.fixture
def decided(reconcile) -> Payment:
    """What people decide beside items: each is made and ended."""
    payment = ours("ch_1", 1400, at=NOON, merchant_id=make_merchant().id)
    theirs("row-1", at=NOON, id="row-1", payment_intent="", charge="", source_status="")
    payout = our_payout("po_1", 5000, at=NOON)
    told = b"reference,account,booked_on,currency,amount_minor,end_to_end,counterparty,text\nL1,ACCT,2026-02-20,usd,4990,,Jane Doe,\n"
    services.import_bank_statement(file=io.BytesIO(told), name="bank.csv", by="clara")
    reconcile(LAST)
    tolerance = services.set_tolerance(
        merchant_id=payment.merchant_id, currency="usd", amount_minor=5, by="maria", note="roundings"
    )
    services.end_tolerance(tolerance_id=tolerance, by="paul", note="none is left")
    item = the("row-1")
    services.link_row(item=item, number=payment.number, by="clara", why="the slip says so")
    services.end_link(object_kind="charge", source="row-1", by="dora", why="two sales")
    line = BankLine.objects.get()
    services.link_bank_line(line=line.number, payout=payout.number, by="clara", why="the advice says so")
    services.unlink_bank_line(line=line.pk, by="dora", why="it is Jane's")
    return payment


def test_what_people_set_and_linked_is_chained_with_who_when_why_and_the_figures(decided):
    services.extend_chain()
    told = rows("decision")
    assert [(one["action"], one["by"], one["note"]) for one in told] == [
        ("set_tolerance", "maria", "roundings"),
        ("end_tolerance", "paul", "none is left"),
        ("link", "clara", "the slip says so"),
        ("end_link", "dora", "two sales"),
        ("link_bank_line", "clara", "the advice says so"),
        ("unlink_bank_line", "dora", "it is Jane's"),
    ]
    assert sorted(one["at"] for one in told) == [one["at"] for one in told]
    assert {block.period for block in AuditBlock.objects.filter(kind="decision")} == {
        database_now().date().replace(day=1)
    }
    for one in told[:2]:
        assert (one["merchant"], one["amount_minor"], one["currency"]) == (str(decided.merchant_id), 5, "usd")
    for one in told[2:4]:
        assert (one["object"], one["source"], one["ours"], one["ours_source"]) == (
            "charge",
            "row-1",
            decided.number,
            "ch_1",
        )
        assert (one["theirs_minor"], one["theirs_currency"], one["ours_minor"], one["ours_currency"]) == (
            1500,
            "usd",
            1400,
            "usd",
        )
    for one in told[4:]:
        assert (one["line"], one["day"], one["leg"], one["matched_by"]) == (
            BankLine.objects.get().number,
            "2026-02-20",
            "arrival",
            "person",
        )
        assert (one["amount_minor"], one["currency"], one["source"], one["payout_minor"]) == (4990, "usd", "po_1", 5000)
    assert_chained()


def test_what_people_decided_is_chained_once_whatever_becomes_of_its_figures(decided):
    services.extend_chain()
    ProviderTransaction.objects.filter(source="row-1").update(amount_minor=1600, seen_at=database_now())
    assert services.extend_chain() > 0
    assert len(rows("decision")) == 6


def test_what_was_decided_before_the_chain_knew_of_it_is_not_left_out(reconcile):
    """Its moment is long before the last block of decisions."""
    payment = both("ch_1", at=NOON)
    theirs("ch_9", at=NOON)
    reconcile(LAST)
    services.perform(discrepancy_id=the("ch_9").pk, action="accept", by="clara", note="ours, of old")
    services.extend_chain()
    Tolerance.objects.create(
        merchant_id=payment.merchant_id, currency="usd", amount_minor=5, by="maria", note="roundings", since=LAST
    )
    assert services.extend_chain() == 1
    assert rows("decision")[-1]["action"] == "set_tolerance"
    assert AuditBlock.objects.latest("number").period == JANUARY
    assert services.extend_chain() == 0


def test_what_rules_matched_at_the_bank_is_no_decision_until_a_person_takes_it_back(reconcile):
    both("ch_1", at=NOON)
    our_payout("po_1", 5000, at=NOON)
    told = b"reference,account,booked_on,currency,amount_minor,end_to_end,counterparty,text\nL1,ACCT,2026-02-02,usd,5000,,Stripe,\n"
    services.import_bank_statement(file=io.BytesIO(told), name="bank.csv", by="test")
    reconcile(LAST)
    assert BankMatch.objects.get().how == MatchedBy.AMOUNT
    services.extend_chain()
    assert rows("decision") == []
    services.unlink_bank_line(line=BankLine.objects.get().pk, by="dora", why="it is Jane's")
    services.extend_chain()
    assert [(one["action"], one["by"], one["matched_by"]) for one in rows("decision")] == [
        ("unlink_bank_line", "dora", MatchedBy.AMOUNT)
    ]


def test_files_and_lines_of_a_bank_are_chained_once_by_their_hashes(reconcile):
    ours("ch_1", at=NOON)
    header = "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id"
    of_stripe = f"{header}\ntxn_1,{NOON:%Y-%m-%d %H:%M:%S},usd,15.00,0.74,14.26,charge,ch_1\n".encode()
    assert services.import_statement(file=io.BytesIO(of_stripe), name="january.csv", by="maria").added == 1
    head = "reference,account,booked_on,currency,amount_minor,end_to_end,counterparty,text"
    of_bank = f"{head}\nL1,ACCT,2026-01-31,usd,5000,,Jane Doe,\nL2,ACCT,2026-02-02,usd,70,,Jane Doe,\n".encode()
    services.import_bank_statement(file=io.BytesIO(of_bank), name="bank.csv", by="clara")
    services.import_bank_statement(
        file=io.BytesIO(b"what is this?\n"), name="bad.csv", by="clara"
    )  # refused: it changed nothing
    reconcile(LAST)
    services.extend_chain()
    assert [
        (one["name"], one["sha256"], one["whose"], one["rows"], one["first_day"], one["last_day"], one["by"])
        for one in rows("file")
    ] == [
        ("january.csv", sha256(of_stripe), "provider", 1, "2026-01-31", "2026-01-31", "maria"),
        ("bank.csv", sha256(of_bank), "bank", 2, "2026-01-31", "2026-02-02", "clara"),
    ]
    lines = rows("bank_line")
    assert [(one["day"], one["amount_minor"], one["place"]) for one in lines] == [
        ("2026-01-31", 5000, 2),
        ("2026-02-02", 70, 3),
    ]
    for one in lines:
        voucher = RawRow.objects.get(pk=bytes.fromhex(one["sha256"])).body
        assert (sha256(voucher.encode()), one["file"]) == (one["sha256"], sha256(of_bank))
    months = [(block.kind, block.period) for block in AuditBlock.objects.filter(kind__in=["file", "bank_line"])]
    assert sorted(months) == [("bank_line", JANUARY), ("bank_line", FEBRUARY), ("file", JANUARY), ("file", FEBRUARY)]
    assert services.extend_chain() == 0
    services.import_bank_statement(
        file=io.BytesIO(of_bank + b"L3,ACCT,2026-02-03,usd,7,,Jane Doe,\n"), name="more.csv", by="clara"
    )
    assert services.extend_chain() == 2  # the file, and the line that is new in it
    assert (len(rows("file")), [one["amount_minor"] for one in rows("bank_line")]) == (3, [5000, 70, 7])
    assert_chained()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
