"""What a row's page on the desk is composed of. Each section knows its template; cells are text or safe HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from django.utils.safestring import SafeString

from foundation.cells import Tone

Cell = str | SafeString | int


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, one below the other."""

    template: ClassVar[str] = "admin/desk/facts.html"
    title: str
    facts: Sequence[tuple[str, Cell]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headers. `empty` says what it means that there are none; `footer` is a last row of totals."""

    template: ClassVar[str] = "admin/desk/table.html"
    title: str
    headers: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    empty: str
    footer: Sequence[Cell] = ()
    link: tuple[str, str] | None = None  # (address, text)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. `detail` says who and why."""

    at: datetime
    title: Cell
    detail: Cell = ""
    icon: str = "circle"
    tone: Tone = "quiet"


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened, in order."""

    template: ClassVar[str] = "admin/desk/timeline.html"
    title: str
    entries: Sequence[Entry]
    empty: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a recipe: what became of it, or nothing yet."""

    name: str
    state: str
    tone: Tone
    icon: str
    note: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """One run of a recipe, from its first step to its last."""

    title: Cell
    state: Cell
    stages: Sequence[Stage]
    note: Cell = ""


@dataclass(frozen=True, slots=True)
class Tracks:
    """Runs of recipes."""

    template: ClassVar[str] = "admin/desk/tracks.html"
    title: str
    tracks: Sequence[Track]
    empty: str


@dataclass(frozen=True, slots=True)
class Text:
    """A document as it is: a payload, an error."""

    template: ClassVar[str] = "admin/desk/text.html"
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Custom:
    """A section with a template of its own."""

    template: str
    title: str
    values: dict[str, Any] = field(default_factory=dict)


Section = Facts | Table | Timeline | Tracks | Text | Custom


@dataclass(frozen=True, slots=True)
class Page:
    """A row's page: what stands over it, its main column, and the column beside it under what may be done."""

    title: Cell
    lead: Sequence[Cell] = ()  # badges beside the title
    sub: Cell = ""
    figure: tuple[str, Cell] | None = None  # the one amount that the page is about: (name, amount)
    previous: str = ""  # addresses of the neighbours in the work list that this row stands in
    next: str = ""
    top: Sequence[Section] = ()
    main: Sequence[Section] = ()
    side: Sequence[Section] = ()
