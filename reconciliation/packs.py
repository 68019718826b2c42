"""An auditor's pack: what its files are, and how it is verified. Pure: no table, no setting, no database.

A pack is a ZIP. `chain.jsonl` holds the header of every block of the audit chain, from the first to the head; the sha256 of
a line is the block's hash, and the next header names it. The other `.jsonl` files hold the rows of this month's blocks, each
line one row: the sha256 of the lines' sha256s is the root in the block's header. So a row that was changed, added, removed
or moved makes a root, and with it the chain, wrong. What is left of the pack (the CSV, the README, the manifest) follows from
those files, and is made anew to compare.

What hashes cannot tell: whether the whole chain was written anew. For that its head is held against one that was noted
elsewhere (`head`), or against an older pack.
"""

import csv
import hashlib
import io
import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

from reconciliation.types import Audited

FORMAT = 2
CHAIN, STATEMENT_CSV, README, MANIFEST = "chain.jsonl", "statement.csv", "README.txt", "manifest.json"
FILES = {
    Audited.CLOSING: "closings.jsonl",
    Audited.STATEMENT: "statement.jsonl",
    Audited.RAW: "raw_rows.jsonl",
    Audited.ITEM: "items.jsonl",
    Audited.DECISION: "decisions.jsonl",
    Audited.HISTORY: "history.jsonl",
    Audited.FILE: "files.jsonl",
    Audited.BANK_LINE: "bank_lines.jsonl",
}
_SINCE_FORMAT_2 = (Audited.FILE, Audited.BANK_LINE)
_SHOWN = 50  # problems that are listed
_OF_CLOSINGS = (Audited.CLOSING, Audited.STATEMENT)
_START = "0" * 64
_LINE_LONGEST = 16 * 1024 * 1024  # bytes; nothing that we write comes near it
_CSV_COLUMNS = ("currency", "line", "rows", "gross_minor", "fee_minor", "net_minor", "balance_minor")


@dataclass(frozen=True, slots=True)
class Scope:
    """What of the chain a month's pack holds: its own blocks that its closing has seen, and those of earlier months that
    came after the closing before (late ones). Closings and statements of the month: all of them.
    """

    period: str  # "2026-10"
    after: int
    head: int

    def holds(self, kind: str, period: str, number: int) -> bool:
        if kind in _OF_CLOSINGS:
            return period == self.period
        is_late = period < self.period and number > self.after
        return number <= self.head and (period == self.period or is_late)


@dataclass(slots=True)
class Verdict:
    """What verifying a pack found. Intact without problems."""

    period: str = ""
    head: str = ""  # the hash of the chain's last block
    blocks: int = 0
    rows: Counter[str] = field(default_factory=Counter)  # file → lines
    problems: list[str] = field(default_factory=list)

    def found(self, problem: str) -> None:
        if len(self.problems) < _SHOWN:
            self.problems.append(problem)


# --- What follows from the chained rows --------------------------------------------------------------


def statement_csv(statements: Sequence[dict[str, Any]]) -> str:
    """The statements of the last closing as a table; amounts in minor units."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_CSV_COLUMNS)
    for one in sorted(statements, key=lambda one: str(one["currency"])):
        currency, balance = one["currency"], one["opening_minor"]
        writer.writerow([currency, "opening", "", "", "", "", balance])
        for prefix, lines in (("late ", one["late"]), ("", one["lines"])):
            for line in lines:
                balance += line["net_minor"]
                sums = [line[name] for name in ("rows", "gross_minor", "fee_minor", "net_minor")]
                writer.writerow([currency, prefix + line["category"], *sums, balance])
        writer.writerow([currency, "closing", "", "", "", "", one["closing_minor"]])
    return out.getvalue()


def files_of(form: int) -> dict[str, str]:
    """Kind → file, in a pack of that format."""
    return {kind: name for kind, name in FILES.items() if form > 1 or kind not in _SINCE_FORMAT_2}


def names_of(form: int) -> tuple[str, ...]:
    return (CHAIN, *files_of(form).values(), STATEMENT_CSV, README, MANIFEST)


NAMES = names_of(FORMAT)
_ROWS_TOLD = {  # by format
    1: (
        "raw_rows.jsonl   the provider's rows: the sha256 of each as it was read, what it moved, and what was known of it before\n"
        "items.jsonl      differences between both books, each time that they had changed\n"
        "decisions.jsonl  what people did about them, who approved it, and why\n"
        "history.jsonl    each change of state\n"
    ),
    2: (
        "raw_rows.jsonl   the provider's rows: the sha256 of each as it was read (or, of a statement file's, that of the page of the file\n"
        "                 on which it stands, and which row of it it is), what it moved, and what was known of it before\n"
        "items.jsonl      differences between both books, each time that they had changed\n"
        "decisions.jsonl  what people did about them, who approved it, and why; tolerances, and links between records, set and ended\n"
        "history.jsonl    each change of state\n"
        "files.jsonl      statement files whose last day is of the month, the provider's and banks': the sha256 of each, and who took it in\n"
        "bank_lines.jsonl lines of our banks: the sha256 of each as it stood in its file, which file that is, and what it moved\n"
    ),
}


def readme(period: str, head: str, form: int = FORMAT) -> str:
    """`form`: as which the pack was written. What was written stays intact."""
    return (
        f"Auditor's pack of {period}.\n\n"
        f"The audit chain ended with the block whose sha256 is\n{head}\n\n"
        "Check this pack, without a database, with\n\n"
        "    manage.py audit_pack --verify FILE --head HASH\n\n"
        "where HASH is that of any block that was noted elsewhere (the log of the daily job, an older pack). Without --head it is\n"
        "checked that the pack agrees with itself; that the whole chain was not written anew, only a hash from elsewhere tells.\n\n"
        "chain.jsonl      every block's header; its sha256 is named by the next one\n"
        "closings.jsonl   who closed and reopened the month, and what changed in between\n"
        "statement.jsonl  the month as it was closed; statement.csv is the last of them as a table\n"
        + _ROWS_TOLD[form]
        + "\nEach line is one row: its bytes without the line break are what is hashed. Amounts are minor units.\n"
    )


def manifest(period: str, head: str, blocks: int, files: dict[str, tuple[int, str]], form: int = FORMAT) -> str:
    """`files`: name → (lines, sha256) of each file but the manifest."""
    listed = {name: {"lines": lines, "sha256": sha256} for name, (lines, sha256) in files.items()}
    whole = {"format": form, "period": period, "head": head, "blocks": blocks, "files": listed}
    return json.dumps(whole, sort_keys=True, indent=1) + "\n"


# --- Verification ------------------------------------------------------------------------------------


_DAMAGE = (BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


def verify(path: Path, *, period: str = "", head: str = "") -> Verdict:
    """Check a pack: that every line of every file is where the chain says, that the statement follows from the rows, and
    that nothing is left over. `period`: it has to be that month's. `head`: the chain has to pass through that hash.

    Raises OSError where the file cannot be read.
    """
    verdict = Verdict()
    with path.open("rb") as file:
        _check(file, verdict, period, head.lower())
    return verdict


def _check(file: IO[bytes], verdict: Verdict, period: str, head: str) -> None:
    try:
        with ZipFile(file) as archive:
            _Checker(archive, verdict, period, head).check()
    # What zipfile raises over bytes that were changed: a flipped bit may say "encrypted" (RuntimeError) or name a compression
    # that does not exist (NotImplementedError), or that the file goes on where it does not (OSError: the file itself is open).
    # ValueError: what was unpacked is no text, or no JSON.
    except _DAMAGE as error:
        verdict.found(f"it is damaged: {error}")


@dataclass(frozen=True, slots=True)
class _Block:
    number: int
    kind: str
    period: str
    rows: int
    root: str


class _Checker:
    def __init__(self, archive: ZipFile, verdict: Verdict, period: str, head: str) -> None:
        self._archive, self._verdict = archive, verdict
        self._wanted, self._noted = period, head
        self._files: dict[str, tuple[int, str]] = {}
        self._form = FORMAT
        self._moved: Counter[tuple[bool, str, str, str]] = Counter()  # late, currency, category, column

    def check(self) -> None:
        names = self._archive.namelist()
        form = self._told_form(names)
        if form is None:
            return
        self._form = form
        for name in sorted(set(names) - set(names_of(form))):
            self._verdict.found(f"{name} does not belong to a pack")
        for name in names_of(form):
            if names.count(name) != 1:
                self._verdict.found(f"{name} {'is missing' if name not in names else 'is there more than once'}")
        if self._verdict.problems:
            return
        blocks = self._chain()
        # Else rows could be left out by calling the pack one of a format that had no file for them.
        for kind in sorted({block.kind for block in blocks} - set(files_of(form))):
            self._verdict.found(f"{CHAIN}: a pack of format {form} has no file for its blocks of {kind}")
        scope = self._scope()
        if scope is None:
            return
        closings: list[dict[str, Any]] = []
        statements: list[dict[str, Any]] = []

        def closing(row: dict[str, Any]) -> None:
            if row["what"] == "closing":
                closings.append(row)

        def statement(row: dict[str, Any]) -> None:
            if row["closing"] == closings[-1]["number"]:
                statements.append(row)

        def raw(row: dict[str, Any]) -> None:
            if row["day"] >= closings[-1]["books_begin"]:
                self._count(row, scope.period)

        reads: dict[str, Callable[[dict[str, Any]], None]] = {
            Audited.CLOSING: closing,
            Audited.STATEMENT: statement,
            Audited.RAW: raw,
        }
        for kind, name in files_of(form).items():
            mine = [block for block in blocks if block.kind == kind and scope.holds(kind, block.period, block.number)]
            self._rows(name, mine, reads.get(kind, _looked_at))
        self._add_up(statements)
        self._follows(scope.period, statements)

    def _told_form(self, names: list[str]) -> int | None:
        """As which the pack was written, where it says so and we know it. Believed for now, like the month."""
        if MANIFEST not in names:
            self._verdict.found(f"{MANIFEST} is missing")
            return None
        try:
            form = int(json.loads(self._archive.read(MANIFEST))["format"])
        except (ValueError, LookupError, TypeError):
            self._verdict.found(f"{MANIFEST} does not say of which format the pack is")
            return None
        if form not in _ROWS_TOLD:
            self._verdict.found(f"it is of format {form}, which is not known here")
            return None
        return form

    def _chain(self) -> list[_Block]:
        """Every header, each naming the one before."""
        blocks: list[_Block] = []
        before, passed = _START, self._noted == ""
        for line in self._lines(CHAIN):
            number = len(blocks) + 1
            try:
                header = json.loads(line)
                block = _Block(*(header[name] for name in ("number", "kind", "period", "rows", "root")))
                if type(block.rows) is not int or block.rows < 0:
                    raise TypeError
                is_next = (block.number, header["before"]) == (number, before)
            except (ValueError, LookupError, TypeError):
                self._verdict.found(f"{CHAIN}, line {number}: it is no header of a block")
                return blocks
            if not is_next:
                self._verdict.found(f"{CHAIN}, line {number}: it does not follow the block before")
                return blocks
            before = hashlib.sha256(line).hexdigest()
            passed = passed or before == self._noted
            blocks.append(block)
        self._verdict.blocks, self._verdict.head = len(blocks), before
        if not passed:
            self._verdict.found(f"the chain does not pass through {self._noted}: it is another one, or ends before")
        return blocks

    def _scope(self) -> Scope | None:
        """As the last closing in the pack says. It is believed for now: its line is checked like every other."""
        found: Scope | None = None
        try:
            listed = json.loads(self._archive.read(MANIFEST))
            period = str(listed["period"])
            rows = [json.loads(line) for line in self._archive.read(FILES[Audited.CLOSING]).splitlines()]
            closings = [row for row in rows if row["what"] == "closing"]
            last = max(closings, key=lambda row: int(row["number"]))
            found = Scope(period, int(last["after"]), int(last["head"]))
        except (ValueError, LookupError, TypeError):
            self._verdict.found(f"{MANIFEST} or {FILES[Audited.CLOSING]} does not say which month was closed")
            return None
        self._verdict.period = period
        if self._wanted not in ("", period):
            self._verdict.found(f"it is the pack of {period}, not of {self._wanted}")
        return found

    def _rows(self, name: str, blocks: list[_Block], read: Callable[[dict[str, Any]], None]) -> None:
        """The file's lines are the blocks' rows, all of them and no others."""
        lines = self._lines(name)
        count = 0
        for block in blocks:
            root = hashlib.sha256()
            for _ in range(block.rows):
                line = next(lines, None)
                if line is None:
                    self._verdict.found(f"{name}: rows of block {block.number} are missing at its end")
                    break
                count += 1
                root.update(hashlib.sha256(line).digest())
                try:
                    read(json.loads(line))
                except (ValueError, LookupError, TypeError, AttributeError):
                    self._verdict.found(f"{name}, line {count}: it is no row")
            if root.hexdigest() != block.root:
                first = count - block.rows + 1
                self._verdict.found(
                    f"{name}: lines {first} to {count} are not what block {block.number} of the chain says"
                )
        left = sum(1 for _ in lines)
        if left:
            self._verdict.found(f"{name}: {left} lines stand in no block of the chain")
        self._verdict.rows[name] = count + left

    def _count(self, row: dict[str, Any], period: str) -> None:
        """What a row moved: what is known of it now less what was known before."""
        is_late = str(row["day"])[:7] < period
        for one, sign in ((row, 1), (row["was"], -1)):
            if one is None:
                continue
            key = (is_late, one["currency"], one["category"])
            self._moved[*key, "rows"] += sign * (not one["withdrawn"])
            for column in ("gross", "fee", "net"):
                self._moved[*key, f"{column}_minor"] += sign * one[column]

    def _add_up(self, statements: list[dict[str, Any]]) -> None:
        """Opening and lines lead to the closing balance, and the lines are the sums of the raw rows."""
        told: Counter[tuple[bool, str, str, str]] = Counter()
        try:
            for one in statements:
                net = 0
                for is_late, lines in ((True, one["late"]), (False, one["lines"])):
                    for line in lines:
                        net += line["net_minor"]
                        for column in ("rows", "gross_minor", "fee_minor", "net_minor"):
                            told[is_late, one["currency"], line["category"], column] += line[column]
                if one["opening_minor"] + net != one["closing_minor"]:
                    self._verdict.found(f"the statement in {one['currency']} does not add up to its closing balance")
        except (LookupError, TypeError):
            self._verdict.found(f"{FILES[Audited.STATEMENT]}: it is no statement")
            return
        for key in sorted({*told, *self._moved}):
            if told[key] != self._moved[key]:
                is_late, currency, category, column = key
                line = f"{'late ' if is_late else ''}{category} in {currency}"
                self._verdict.found(f"{column} of {line}: the statement says {told[key]}, its rows {self._moved[key]}")

    def _follows(self, period: str, statements: list[dict[str, Any]]) -> None:
        """The files that are made of the others."""
        expected = {README: readme(period, self._verdict.head, self._form)}
        try:
            expected[STATEMENT_CSV] = statement_csv(statements)
        except (LookupError, TypeError):
            self._verdict.found(f"{FILES[Audited.STATEMENT]}: it is no statement")
        for name, text in expected.items():
            content = self._archive.read(name)
            self._files[name] = _lines_and_hash([content])
            if content != text.encode():
                self._verdict.found(f"{name} is not what follows from the chained rows")
        files = {name: self._files[name] for name in names_of(self._form) if name in self._files}
        text = manifest(period, self._verdict.head, self._verdict.blocks, files, self._form)
        if self._archive.read(MANIFEST) != text.encode():
            self._verdict.found(f"{MANIFEST} does not list the files as they are")

    def _lines(self, name: str) -> Iterator[bytes]:
        """A file's lines without their breaks; its length and hash are noted when it is read to its end."""
        count, sha256 = 0, hashlib.sha256()
        with self._archive.open(name) as file:
            while line := file.readline(_LINE_LONGEST):
                count += 1
                sha256.update(line)
                if not line.endswith(b"\n"):
                    self._verdict.found(f"{name}, line {count}: it is cut short")
                yield line.removesuffix(b"\n")
        self._files[name] = (count, sha256.hexdigest())


def _looked_at(row: dict[str, Any]) -> None:
    """A row whose content nothing follows from."""
    row.keys()


def _lines_and_hash(chunks: Iterable[bytes]) -> tuple[int, str]:
    count, sha256 = 0, hashlib.sha256()
    for chunk in chunks:
        count += chunk.count(b"\n")
        sha256.update(chunk)
    return count, sha256.hexdigest()


class NotedFile:
    """Writes lines into a file of the pack, and notes how many, and their hash."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._sha256, self.lines = file, hashlib.sha256(), 0

    def write(self, text: str) -> None:
        content = text.encode()
        self._file.write(content)
        self._sha256.update(content)
        self.lines += content.count(b"\n")

    @property
    def noted(self) -> tuple[int, str]:
        return self.lines, self._sha256.hexdigest()
