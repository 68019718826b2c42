"""The daily proofs of the books as the finance desk sees them."""

from django.contrib import admin
from django.utils.safestring import SafeString

from foundation import cells
from foundation.proofs import ProofAdmin
from payments.models import BooksCheck


@admin.register(BooksCheck)
class BooksCheckAdmin(ProofAdmin[BooksCheck]):
    list_display = ("day_cell", "verdict", "rows_cell", "finished")
    proves = "the books"
    about = "object"
    counted = ("Rows looked at", "rows")
    agrees = "The ledger agrees with itself, and payments, refunds and customers' balances with it."

    @admin.display(description="Rows looked at")
    def rows_cell(self, check: BooksCheck) -> SafeString:
        return cells.number(check.rows)
