"""Compares both books with SQL alone, both ways, set-based: memory stays flat however many rows a day has.

Works in the caller's transaction on temporary tables, which end with it:

0. `recon_agreed`: the great mass, which agrees at first sight (`agreement`), and is not looked at again;
1. `recon_item`: what is looked at: (object kind, source) of everything else in the day on either side, and of every
   discrepancy that is not settled yet, whatever its day;
2. `recon_pair`: each item with the provider's rows and our movement beside it, and the rule that put them there
   (`types.Rule`): first by id, in any window (a pair around midnight is a match, not two breaks), then what is left by
   weaker rules, one after the other. What fits more than once is never chosen: it becomes candidates for a person
   (`proposals`);
3. `recon_found`: the pairs that differ, each with the kind of difference.

Gross is compared with gross, fees with fees. One charge can have several rows (a partial capture is two, a refund that
fails late is two, a dispute that was won is two): the rows of one source are added up. Amounts in `recon_pair` are positive
for what came from a customer, and for what went to one, to a bank, or to our own.

Every step is a join of whole sets: PostgreSQL hashes both sides of a large day, and looks up the few rows of a small one.
What is asked of leftovers alone is asked after them, in a statement of its own.
"""

from reconciliation.matching.categories import CATEGORIES, KIND, KNOWN, LINKED, MOVEMENT_VIEWS, PAIRED
from reconciliation.matching.days import parameters_of_day, window
from reconciliation.matching.fees import fee_differences, fees_of_nothing, unposted_fees, unposted_fees_of_matches
from reconciliation.matching.judging import difference_of, is_found
from reconciliation.matching.looks import clear, fill, match_day, match_objects, start
from reconciliation.matching.notes import add_residuals, note_found
from reconciliation.matching.totals import DayTotals, awaiting_booking, day_totals

__all__ = [
    "CATEGORIES",
    "KIND",
    "KNOWN",
    "LINKED",
    "MOVEMENT_VIEWS",
    "PAIRED",
    "DayTotals",
    "add_residuals",
    "awaiting_booking",
    "clear",
    "day_totals",
    "difference_of",
    "fee_differences",
    "fees_of_nothing",
    "fill",
    "is_found",
    "match_day",
    "match_objects",
    "note_found",
    "parameters_of_day",
    "start",
    "unposted_fees",
    "unposted_fees_of_matches",
    "window",
]
