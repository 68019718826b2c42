"""The daily proofs of the books as the finance desk sees them."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import ReadOnlyAdmin
from foundation.sections import Page, Table
from payments.models import BooksCheck


@admin.register(BooksCheck)
class BooksCheckAdmin(ReadOnlyAdmin[BooksCheck]):
    list_display = ("day_cell", "verdict", "rows_cell", "finished")
    ordering = ("-day",)

    @admin.display(description="Day")
    def day_cell(self, check: BooksCheck) -> str:
        return f"{check.day:%a %d %b %Y}"

    @admin.display(description="Result")
    def verdict(self, check: BooksCheck) -> SafeString:
        if check.finished_at is None:
            return cells.badge("not finished", "warn")
        return cells.badge(f"{check.found} differences", "bad") if check.found else cells.badge("agree", "good")

    @admin.display(description="Rows looked at")
    def rows_cell(self, check: BooksCheck) -> SafeString:
        return cells.number(check.rows)

    @admin.display(description="Finished")
    def finished(self, check: BooksCheck) -> SafeString:
        return cells.moment(check.finished_at)

    def page(self, request: HttpRequest, row: BooksCheck) -> Page:
        differences: list[dict[str, Any]] = row.differences
        return Page(
            title=f"Proof of the books, {row.day:%d %b %Y}",
            lead=[self.verdict(row)],
            sub=cells.beside("finished", cells.moment(row.finished_at)),
            figure=("Rows looked at", cells.number(row.rows)),
            main=[
                Table(
                    "Differences",
                    ["Law", "Object", "What is off"],
                    [[one["law"].replace("_", " "), cells.code(one["object"]), one["text"]] for one in differences],
                    empty="The ledger agrees with itself, and payments, refunds and customers' balances with it.",
                )
            ],
        )
