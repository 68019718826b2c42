"""An auditor's pack is checked without a database, and shows whatever was changed, removed, added or moved in it."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from django.core.management import CommandError, call_command

from reconciliation import packs, services
from reconciliation.errors import PeriodIsOpen
from reconciliation.models import AuditBlock, PeriodClosing, RawPage, RawRow
from reconciliation.packs import CHAIN, FILES, MANIFEST, NAMES, README
from reconciliation.types import Audited
from tests.reconciliation.ledgers import both, ours, the, theirs
from tests.reconciliation.months import FEBRUARY, JANUARY, LAST, NOON, as_reconciled, close, late_charge, reopened

PROJECT = Path(__file__).resolve().parents[2]
RAW = FILES[Audited.RAW]
_kept: dict[str, bytes] = {}  # one pack for all tests that only read it

FORMAT_1 = Path(__file__).parent / "packs" / "format-1.zip"  # as it was written before format 2 was
FORMAT_1_HEAD = "e6d8eacbc7dbee8117ccccd58e6fbca5fea630ef577dc531cf74c108ea657229"
Contents = dict[str, list[bytes]]  # name → lines with their breaks


def bank_statement(*lines: str) -> None:
    """Lines of nobody's: reference, day and minor units."""
    header = "reference,account,booked_on,currency,amount_minor,end_to_end,counterparty,text"
    told = [f"{name},ACCT,{day},usd,{minor},,Jane Doe," for name, day, minor in (one.split() for one in lines)]
    file = io.BytesIO("".join(f"{one}\n" for one in (header, *told)).encode())
    assert services.import_bank_statement(file=file, name="bank.csv", by="clara").added == len(lines)


@pytest.fixture
def pack(transactional_db, reconcile, tmp_path: Path, settings) -> Path:
    """January, in two currencies, with two items, closed, reopened and closed again: blocks of two rows."""
    path = tmp_path / "pack.zip"
    if not _kept:
        settings.AUDIT_BLOCK_ROWS = 2
        settings.BOOKS_SETTLE_WAIT_S = settings.BOOKS_REPORT_WAIT_S = 20
        both("ch_1", at=NOON)
        both("ch_2", 2000, at=NOON)
        theirs("ch_3", 700, at=NOON, currency="eur")
        theirs("ch_4", 800, at=NOON)
        bank_statement("L1 2026-01-30 5000", "L2 2026-01-31 600", "L3 2026-01-31 70")
        reconcile(LAST)
        for source in ("ch_3", "ch_4"):
            services.perform(discrepancy_id=the(source).pk, action="accept", by="clara", note="ours, of old")
        close()
        reopened()
        late_charge(reconcile)
        close(carry_open=True)
        services.write_pack(period=JANUARY, path=path)
        _kept["pack"] = path.read_bytes()
    path.write_bytes(_kept["pack"])
    return path


def contents(path: Path) -> Contents:
    with ZipFile(path) as archive:
        return {name: archive.read(name).splitlines(keepends=True) for name in archive.namelist()}


def rewritten(path: Path, files: Contents) -> Path:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, lines in files.items():
            archive.writestr(name, b"".join(lines))
    return path


def problems(path: Path, **options: str) -> list[str]:
    return packs.verify(path, **options).problems


def test_a_pack_is_intact_and_says_what_it_holds(pack):
    verdict = packs.verify(pack, period="2026-01")
    assert verdict.problems == []
    assert verdict.rows == {
        "closings.jsonl": 3,  # closed, reopened, closed
        "statement.jsonl": 4,  # two closings, two currencies
        "raw_rows.jsonl": 5,
        "items.jsonl": verdict.rows["items.jsonl"],
        "decisions.jsonl": 2,
        "history.jsonl": verdict.rows["history.jsonl"],
        "files.jsonl": 1,
        "bank_lines.jsonl": 3,
    }
    assert verdict.rows["items.jsonl"] >= 3
    assert verdict.rows["history.jsonl"] >= 5
    told = contents(pack)
    assert b"usd,closing,,,,,8004\r\n" in told["statement.csv"]  # 15.00 + 20.00 + 8.00 + 40.00 less 4 × 0.74
    assert b"eur,closing,,,,,626\r\n" in told["statement.csv"]  # 7.00 less 0.74


def test_each_row_of_the_providers_is_there_by_the_hash_of_its_voucher(pack):
    """The voucher itself stays with us: whoever is shown one can tell that it is the one."""
    (row,) = [one for line in contents(pack)[RAW] if (one := json.loads(line))["gross"] == 1500]
    assert (row["net"], row["day"], row["was"], len(row["sha256"])) == (1426, "2026-01-31", None, 64)


@pytest.mark.django_db(transaction=True)
def test_the_hash_is_of_the_row_as_it_was_read(reconcile, tmp_path):
    both("ch_1", at=NOON)
    reconcile(LAST)
    close()
    services.write_pack(period=JANUARY, path=tmp_path / "pack.zip")
    (line,) = contents(tmp_path / "pack.zip")[RAW]
    voucher = RawRow.objects.get(sha256=bytes.fromhex(json.loads(line)["sha256"]))
    assert hashlib.sha256(voucher.body.encode()).hexdigest() == json.loads(line)["sha256"]


@pytest.mark.django_db(transaction=True)
def test_a_row_of_a_file_names_its_page_by_hash_and_its_place_there(reconcile, tmp_path):
    ours("ch_1", at=NOON)
    told = f"txn_1,{NOON:%Y-%m-%d %H:%M:%S},usd,15.00,0.74,14.26,charge,ch_1"
    header = "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id"
    services.import_statement(file=io.BytesIO(f"{header}\n{told}\n".encode()), name="january.csv", by="test")
    reconcile(LAST)
    close()
    services.write_pack(period=JANUARY, path=tmp_path / "pack.zip")
    row = json.loads(contents(tmp_path / "pack.zip")[RAW][0])
    page = RawPage.objects.get()
    assert (row["page"], row["row"], "sha256" in row) == (page.sha256.hex(), 1, False)
    assert hashlib.sha256(zlib.decompress(page.body)).hexdigest() == row["page"]
    assert problems(tmp_path / "pack.zip") == []


def change(lines: list[bytes]) -> list[bytes]:
    """One figure or letter, in the middle."""
    for at in range(len(lines) // 2, len(lines)):
        for place, byte in enumerate(lines[at]):
            if chr(byte).isalnum():
                other = b"7" if chr(byte) != "7" else b"8"
                return [*lines[:at], lines[at][:place] + other + lines[at][place + 1 :], *lines[at + 1 :]]
    raise AssertionError(lines)


WAYS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a line changed": change,
    "the first line removed": lambda lines: lines[1:],
    "the last line removed": lambda lines: lines[:-1],
    "a line doubled": lambda lines: [*lines[:1], *lines],
    "a line added": lambda lines: [*lines, lines[0]],
    "two lines swapped": lambda lines: [lines[-1], *lines[1:-1], lines[0]],
    "cut short": lambda lines: [*lines[:-1], lines[-1][:-2]],
    "emptied": lambda lines: [],
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_done_to_a_file_is_found(pack, way):
    whole = contents(pack)
    for name, lines in whole.items():
        assert problems(rewritten(pack, {**whole, name: WAYS[way](lines)})), name
    assert problems(rewritten(pack, whole)) == []


def test_a_file_that_is_missing_or_there_twice_is_found(pack):
    whole = contents(pack)
    assert set(whole) == set(NAMES)
    for name, lines in whole.items():
        others = {other: whole[other] for other in whole if other != name}
        assert problems(rewritten(pack, others)) == [f"{name} is missing"]
        with ZipFile(rewritten(pack, whole), "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(name, b"".join(lines))
        assert problems(pack) == [f"{name} is there more than once"]


def test_a_file_that_does_not_belong_there_is_found(pack):
    assert problems(rewritten(pack, {**contents(pack), "more.jsonl": [b"{}\n"]})) == [
        "more.jsonl does not belong to a pack"
    ]


def test_damage_of_the_file_itself_is_found(pack, tmp_path):
    whole = pack.read_bytes()
    for spoilt in (b"", b"not a ZIP", whole[: len(whole) // 2], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        pack.write_bytes(spoilt)
        assert problems(pack)
    with pytest.raises(OSError, match="nowhere"):
        packs.verify(tmp_path / "nowhere.zip")


def listed_anew(files: Contents, form: int = packs.FORMAT) -> Contents:
    """With a manifest that lists the files as they are: for whoever knows how a pack is made."""
    told = json.loads(b"".join(files[MANIFEST]))
    noted = {
        name: (b"".join(files[name]).count(b"\n"), hashlib.sha256(b"".join(files[name])).hexdigest())
        for name in packs.names_of(form)
        if name != MANIFEST
    }
    head = hashlib.sha256(files[CHAIN][-1][:-1]).hexdigest()
    text = packs.manifest(told["period"], head, len(files[CHAIN]), noted, form)
    return {**files, MANIFEST: text.encode().splitlines(keepends=True)}


def test_a_pack_of_format_1_stays_intact_and_shows_what_was_changed(tmp_path):
    """The file itself, as it was written: without files, bank lines and pages."""
    assert packs.verify(FORMAT_1, period="2026-01", head=FORMAT_1_HEAD).problems == []
    files, copy = contents(FORMAT_1), tmp_path / "pack.zip"
    assert set(files) == set(packs.names_of(1)) < set(NAMES)
    for name, lines in files.items():
        assert problems(rewritten(copy, {**files, name: change(lines)})), name


def test_a_pack_says_of_which_format_it_is(tmp_path):
    files, copy = contents(FORMAT_1), tmp_path / "pack.zip"
    for told, found in {
        b"2": ["files.jsonl is missing", "bank_lines.jsonl is missing"],
        b"3": ["it is of format 3, which is not known here"],
        b"null": [f"{MANIFEST} does not say of which format the pack is"],
    }.items():
        manifest = [line.replace(b'"format": 1', b'"format": ' + told) for line in files[MANIFEST]]
        assert problems(rewritten(copy, {**files, MANIFEST: manifest})) == found
    assert problems(rewritten(copy, {**files, "files.jsonl": []})) == ["files.jsonl does not belong to a pack"]


def test_rows_cannot_be_left_out_by_calling_the_pack_one_of_an_older_format(pack):
    files = contents(pack)
    told = json.loads(b"".join(files[MANIFEST]))
    files[README] = packs.readme(told["period"], told["head"], 1).encode().splitlines(keepends=True)
    for kind in (Audited.FILE, Audited.BANK_LINE):
        del files[FILES[kind]]
    assert problems(rewritten(pack, listed_anew(files, 1))) == [
        f"{CHAIN}: a pack of format 1 has no file for its blocks of {kind}" for kind in ("bank_line", "file")
    ]


def test_lines_of_a_bank_and_their_file_are_there_by_hash(pack):
    told = contents(pack)
    (file,) = map(json.loads, told["files.jsonl"])
    assert (file["name"], file["whose"], file["rows"], file["by"]) == ("bank.csv", "bank", 3, "clara")
    assert (file["first_day"], file["last_day"], len(file["sha256"])) == ("2026-01-30", "2026-01-31", 64)
    lines = [json.loads(line) for line in told["bank_lines.jsonl"]]
    assert [(one["day"], one["amount_minor"], one["currency"], one["account"], one["place"]) for one in lines] == [
        ("2026-01-30", 5000, "usd", "ACCT", 2),
        ("2026-01-31", 600, "usd", "ACCT", 3),
        ("2026-01-31", 70, "usd", "ACCT", 4),
    ]
    assert {one["file"] for one in lines} == {file["sha256"]}


@pytest.mark.django_db(transaction=True)
def test_what_a_bank_told_of_a_closed_month_is_in_the_next_ones_pack(reconcile, tmp_path):
    both("ch_1", at=NOON)
    bank_statement("L1 2026-01-31 600")
    reconcile(LAST)
    close()
    bank_statement("L2 2026-01-31 70")
    as_reconciled(FEBRUARY, date(2026, 2, 28))
    close(FEBRUARY)
    for month, amount in ((JANUARY, 600), (FEBRUARY, 70)):
        path = tmp_path / f"{month}.zip"
        services.write_pack(period=month, path=path)
        assert problems(path) == []
        (line,) = map(json.loads, contents(path)["bank_lines.jsonl"])
        assert (line["amount_minor"], len(contents(path)["files.jsonl"])) == (amount, 1)


@pytest.mark.parametrize("rows", [b'"3"', b"null", b"-1", b"1.5", b"true"])
def test_a_header_whose_rows_are_no_number_is_found(pack, rows):
    files = contents(pack)
    files[CHAIN][2] = re.sub(rb'"rows": ?\d+', b'"rows": ' + rows, files[CHAIN][2])
    assert f"{CHAIN}, line 3: it is no header of a block" in problems(rewritten(pack, files))


def test_a_file_that_sends_its_reader_to_nowhere_is_found(pack):
    """The end of the archive says where its list of files begins: before the beginning of the file, the seek is an OSError."""
    whole = bytearray(pack.read_bytes())
    at = whole.rindex(b"PK\x01\x02") + 42  # where the last file begins, in the list of them
    for offset in (0xFFFFFFF0, 0x7FFFFFFF, len(whole)):
        whole[at : at + 4] = offset.to_bytes(4, "little")
        pack.write_bytes(bytes(whole))
        assert problems(pack), offset


def test_an_error_of_reading_is_damage_once_the_file_is_open(pack, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(ZipFile, "namelist", fail)
    assert problems(pack) == ["it is damaged: [Errno 22] Invalid argument"]
    with pytest.raises(FileNotFoundError):
        packs.verify(pack.with_name("no such pack"))


def test_a_new_manifest_hides_nothing(pack):
    files = contents(pack)
    assert listed_anew(files) == files
    for name in FILES.values():
        assert problems(rewritten(pack, listed_anew({**files, name: change(files[name])}))), name


def forged(files: Contents) -> Contents:
    """A row of the provider's left out everywhere, and the whole chain written anew, with all that follows from it."""
    gone = next(line for line in files[RAW] if json.loads(line)["gross"] == 800)
    rows = [line for line in files[RAW] if line != gone]
    statement = []
    for line in files[FILES[Audited.STATEMENT]]:
        row = json.loads(line)
        if row["currency"] == "usd":
            row["closing_minor"] -= 726
            (charge,) = row["lines"]
            charge["rows"] -= 1
            for column, minor in (("gross_minor", 800), ("fee_minor", 74), ("net_minor", 726)):
                charge[column] -= minor
        statement.append(json.dumps(row).encode() + b"\n")
    left = {name: list(lines) for name, lines in {**files, RAW: rows, FILES[Audited.STATEMENT]: statement}.items()}
    queues = {name: list(left[name]) for name in FILES.values()}
    chain, before = [], "0" * 64
    raw_blocks = sum(json.loads(line)["kind"] == Audited.RAW for line in files[CHAIN])
    seen = 0
    for line in files[CHAIN]:
        header = json.loads(line)
        queue = queues[FILES[header["kind"]]]
        if header["kind"] == Audited.RAW:
            seen += 1
            header["rows"] = len(queue) if seen == raw_blocks else min(header["rows"], len(queue) - (raw_blocks - seen))
        mine, queue[:] = queue[: header["rows"]], queue[header["rows"] :]
        header["root"] = hashlib.sha256(b"".join(hashlib.sha256(row[:-1]).digest() for row in mine)).hexdigest()
        header["before"] = before
        chain.append(json.dumps(header).encode() + b"\n")
        before = hashlib.sha256(chain[-1][:-1]).hexdigest()
    left[CHAIN] = chain
    last = [row for row in map(json.loads, statement) if row["closing"] == 2]
    left["statement.csv"] = packs.statement_csv(last).encode().splitlines(keepends=True)
    left[README] = packs.readme("2026-01", before).encode().splitlines(keepends=True)
    return listed_anew(left)


def test_a_chain_that_was_written_anew_is_told_by_a_head_from_elsewhere(pack):
    """What no hash within the pack can tell, and why the head is to be noted elsewhere."""
    head = packs.verify(pack).head
    an_older_head = hashlib.sha256(contents(pack)[CHAIN][2][:-1]).hexdigest()
    for noted in (head, an_older_head, head.upper()):
        assert problems(pack, head=noted) == []
    rewritten(pack, forged(contents(pack)))
    assert problems(pack) == []
    assert problems(pack, head=head) == [f"the chain does not pass through {head}: it is another one, or ends before"]


def test_it_is_the_pack_of_its_month(pack):
    assert problems(pack, period="2026-02") == ["it is the pack of 2026-01, not of 2026-02"]


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "ignore", "manage.py", "audit_pack", *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_is_checked_where_no_database_is(pack):
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing", "REDIS_URL": "redis://127.0.0.1:9/0"}
    done = run("2026-01", "--verify", str(pack), **nowhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pack.zip is intact: 2026-01" in done.stdout


def test_a_pack_that_is_not_intact_ends_the_command_with_1(pack, capsys):
    files = contents(pack)
    files[RAW] = change(files[RAW])
    with pytest.raises(CommandError) as refused:
        call_command("audit_pack", "--verify", str(rewritten(pack, files)))
    assert refused.value.returncode == 1
    assert "raw_rows.jsonl: lines" in capsys.readouterr().err


@pytest.mark.django_db(transaction=True)
def test_by_command(reconcile, tmp_path, capsys):
    both("ch_1", at=NOON)
    reconcile(LAST)
    with pytest.raises(CommandError) as refused:
        call_command("audit_pack", "2026-01", "--output", str(tmp_path / "pack.zip"))
    assert (refused.value.returncode, "not closed" in str(refused.value)) == (2, True)
    close()
    call_command("audit_pack", "2026-01", "--output", str(tmp_path / "pack.zip"))
    head = AuditBlock.objects.latest("number")
    assert f"head of the chain: {bytes(head.sha256).hex()} (block {head.number})" in capsys.readouterr().out
    first = (tmp_path / "pack.zip").read_bytes()
    services.write_pack(period=JANUARY, path=tmp_path / "pack.zip")
    assert (tmp_path / "pack.zip").read_bytes() == first  # the same month and head: the same bytes
    call_command("audit_pack", "--verify", str(tmp_path / "pack.zip"), "--head", bytes(head.sha256).hex())
    for arguments in ([], ["--verify", str(tmp_path / "nowhere.zip")]):
        with pytest.raises(CommandError) as refused:
            call_command("audit_pack", *arguments)
        assert refused.value.returncode == 2


@pytest.mark.django_db(transaction=True)
def test_a_reopened_month_has_no_pack(reconcile, tmp_path):
    both("ch_1", at=NOON)
    reconcile(LAST)
    close()
    reopened()
    with pytest.raises(PeriodIsOpen):
        services.write_pack(period=JANUARY, path=tmp_path / "pack.zip")
    assert PeriodClosing.objects.count() == 1
