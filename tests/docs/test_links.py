"""What the documents name has to exist: files behind relative links, headings behind #anchors, names in `backticks`."""

import os
import re
from functools import cache
from pathlib import Path

import pytest

from docs.screenshots import PICTURES

PROJECT = Path(__file__).resolve().parents[2]
APPS = ("config", "foundation", "durability", "catalog", "inventory", "payments", "orders", "reconciliation", "tests")
NOT_OURS = {".git", ".venv", "var", "__pycache__"}
CODE = {".py", ".toml", ".yml", ".in", ".html", ".txt", ".sh", ".svg", ".css", ".js"}

# Made by a running stack or by git itself; other people's names.
NOT_IN_THE_REPOSITORY = ("var/", ".venv/", ".env")
FOREIGN = {
    "acks=all",
    "apply_async",
    "django-viewflow",
    "djangorestframework-api-key",
    "event_type",
    "get_server()",
    "localstripe",
    "pg_notify",
}

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_BACKTICKS = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"(\.?[\w-]+/)+([\w.-]+\.\w+)?|[\w-]+\.(py|md|toml|yml|txt|in|sh)|\.[a-z-]+linter")
_IDENTIFIER = re.compile(r"[A-Za-z]+[a-z0-9]*(_[A-Za-z0-9]+)+|[A-Z][a-z]+([A-Z][a-z]+)+")
_DOTTED = re.compile(rf"({'|'.join(APPS)})(\.\w+)+")


def sources(*suffixes: str) -> list[Path]:
    """Files of the project itself, without what is installed or made."""
    found = []
    for folder, subfolders, names in os.walk(PROJECT):
        subfolders[:] = [name for name in subfolders if name not in NOT_OURS]
        found += [Path(folder, name) for name in names if Path(name).suffix in suffixes]
    return sorted(found)


DOCUMENTS = sources(".md")


@cache
def code() -> str:
    """All code as one text: good enough to tell a name that exists from one that was misspelt or renamed."""
    files = [file for file in sources(*CODE) if file != Path(__file__)]
    extra = [PROJECT / name for name in ("Makefile", ".importlinter")]
    return "\n".join(file.read_text() for file in [*files, *extra])


@cache
def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#{1,6} (.+)$", _FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def ids(document: Path) -> str:
    return str(document.relative_to(PROJECT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_relative_links_lead_somewhere(document):
    broken = []
    for target in _LINK.findall(_FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        if not file.exists() or (anchor and anchor not in anchors(file.resolve())):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_names_in_backticks_exist(document):
    missing = []
    for name in _BACKTICKS.findall(_FENCE.sub("", document.read_text())):
        if name in FOREIGN or name.startswith(NOT_IN_THE_REPOSITORY):
            continue
        if _PATH.fullmatch(name):
            found = (PROJECT / name).exists() or (document.parent / name).exists() or is_known_file_name(name)
        elif _DOTTED.fullmatch(name):
            found = f'"{name}"' in code() or is_path_of_code(name)
        elif _IDENTIFIER.fullmatch(name.removesuffix("()")):
            found = name.removesuffix("()") in code() or is_metric(name)
        else:
            continue
        if not found:
            missing.append(name)
    assert not missing


def is_known_file_name(name: str) -> bool:
    """`services.py` names the file of that name in every app."""
    return "/" not in name and any(file.name == name for file in sources(".py"))


def is_path_of_code(name: str) -> bool:
    """`durability.outbox.deliver`: a module, then a name that stands in it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = PROJECT.joinpath(*parts[:length])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.exists():
                return all(re.search(rf"\b{rest}\b", file.read_text()) for rest in parts[length:])
    return False


def is_metric(name: str) -> bool:
    """A counter is declared without the suffix that Prometheus shows."""
    return name.removesuffix("_total") in code()


def test_every_picture_is_shown_and_taken_by_make_screenshots():
    shown = {Path(target).name for document in DOCUMENTS for target in _LINK.findall(document.read_text())}
    pictures = {file.name for file in (PROJECT / "docs" / "images").iterdir()}
    assert pictures <= shown
    assert {name.removesuffix(".png") for name in pictures if name.endswith(".png")} == set(PICTURES)
