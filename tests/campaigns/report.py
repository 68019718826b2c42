"""What a campaign says about itself: on which commit, seed, day and machine; its table, printed or kept in a document."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from config.devstack.servers import postgres_binary

PROJECT = Path(__file__).resolve().parent.parent.parent
RELIABILITY = PROJECT / "docs" / "reliability.md"
PERFORMANCE = PROJECT / "docs" / "performance.md"


class SectionMissing(Exception):
    """The document has no such section: it needs a line `<!-- begin NAME -->` and, below it, `<!-- end NAME -->`."""


def heading(*, seed: int | None = None) -> str:
    """One line of Markdown: commit, seed, date, machine, versions. A number without it cannot be compared."""
    parts = [
        f"Commit `{commit()}`",
        *([f"seed {seed}"] if seed is not None else []),
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"{os.cpu_count()} cores",
        f"{memory_gb():.0f} GB",
        f"Python {platform.python_version()}",
        f"PostgreSQL {postgres_version()}",
    ]
    return ", ".join(parts)


def commit() -> str:
    """The commit's short id; with `+` where the tree differs from it (the reports themselves do not count)."""
    reports = [f":!{path.relative_to(PROJECT)}" for path in (RELIABILITY, PERFORMANCE)]
    changed = _git("status", "--porcelain", "--", ".", *reports)
    return _git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def postgres_version() -> str:
    """Of the embedded server that campaigns run on."""
    said = subprocess.run([postgres_binary("postgres"), "--version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[-1]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table that also reads well on a terminal. Columns of numbers stand to the right."""
    cells = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(header), *cells]) for column in range(len(header))]
    right = [bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in range(len(header))]

    def line(texts: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(texts, widths, right, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    ruler = [
        "-" * (width - 1) + ":" if to_right else "-" * width for width, to_right in zip(widths, right, strict=True)
    ]
    return "\n".join([line(header), line(ruler), *map(line, cells)])


def write_section(path: Path, name: str, markdown: str) -> None:
    """Replace what stands between `<!-- begin name -->` and `<!-- end name -->`. Raises SectionMissing."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text, found = section.subn(lambda _: f"{begin}\n\n{markdown.strip()}\n\n{end}", path.read_text())
    if not found:
        raise SectionMissing(f"{path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path}: {name}")
    path.write_text(text)


def told_to_write() -> bool:
    """`WRITE=1 make …`: the section is written; otherwise a campaign only prints."""
    return os.environ.get("WRITE") == "1"


def _shown(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int | float) else str(cell)


def _git(*arguments: str) -> str:
    said = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    return said.stdout.strip() or ("unknown" if said.returncode else "")
