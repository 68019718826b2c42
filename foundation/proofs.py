"""The daily proofs as the finance desk sees them: what was added up, and what did not agree."""

from datetime import date, datetime
from typing import Any, ClassVar, Protocol, TypeVar

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import ReadOnlyAdmin
from foundation.sections import Page, Table


class Proof(Protocol):
    """One day's proof. `differences`: the `law` that is broken, of which object, and a `text` that says how."""

    day: date
    found: int
    differences: Any
    finished_at: datetime | None


Checked = TypeVar("Checked", bound=Any)


class ProofAdmin(ReadOnlyAdmin[Checked]):
    ordering = ("-day",)
    proves: ClassVar[str]  # "the books"
    about: ClassVar[str]  # the member of a difference that names its object
    counted: ClassVar[tuple[str, str]]  # what was looked at: how it is called, and the column with its number
    agrees: ClassVar[str]  # what a proof without differences says

    @admin.display(description="Day")
    def day_cell(self, check: Proof) -> str:
        return f"{check.day:%a %d %b %Y}"

    @admin.display(description="Result")
    def verdict(self, check: Proof) -> SafeString:
        if check.finished_at is None:
            return cells.badge("not finished", "warn")
        return cells.badge(f"{check.found} differences", "bad") if check.found else cells.badge("agree", "good")

    @admin.display(description="Finished")
    def finished(self, check: Proof) -> SafeString:
        return cells.moment(check.finished_at)

    def page(self, request: HttpRequest, row: Checked) -> Page:
        differences: list[dict[str, Any]] = row.differences
        name, column = self.counted
        return Page(
            title=f"Proof of {self.proves}, {row.day:%d %b %Y}",
            lead=[self.verdict(row)],
            sub=cells.beside("finished", cells.moment(row.finished_at)),
            figure=(name, cells.number(getattr(row, column))),
            main=[
                Table(
                    "Differences",
                    ["Law", self.about.capitalize(), "What is off"],
                    [[one["law"].replace("_", " "), cells.code(one[self.about]), one["text"]] for one in differences],
                    empty=self.agrees,
                )
            ],
        )
