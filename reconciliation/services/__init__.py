"""Everything that writes: imports, runs, what they find, and what people do about it."""

from reconciliation.services.actions import perform, wake_ignored
from reconciliation.services.approvals import approve_action, reject_action
from reconciliation.services.balances import read_balance
from reconciliation.services.bank import (
    import_bank_statement,
    link_bank_line,
    match_bank_lines,
    unlink_bank_line,
)
from reconciliation.services.bulk import carry_out, plan_bulk, stop, work_on_bulk
from reconciliation.services.chain import extend_chain, extend_chain_of_today
from reconciliation.services.links import end_link, link_row
from reconciliation.services.news import (
    note_contradiction,
    note_dispute_contradiction,
    note_late_failure,
    note_over_refunded,
    note_refund_contradiction,
    open_discrepancy,
)
from reconciliation.services.opening import start_books
from reconciliation.services.packing import write_pack
from reconciliation.services.periods import (
    approve_reopening,
    ask_reopening,
    close_period,
    open_periods,
    refuse_reopening,
)
from reconciliation.services.runs import reconcile_day, reconcile_missing_days, request_run
from reconciliation.services.sharing import help_run
from reconciliation.services.statements import import_statement
from reconciliation.services.tolerances import end_tolerance, set_tolerance
from reconciliation.services.what_if import try_rules

__all__ = [
    "approve_action",
    "approve_reopening",
    "ask_reopening",
    "carry_out",
    "close_period",
    "end_link",
    "end_tolerance",
    "extend_chain",
    "extend_chain_of_today",
    "help_run",
    "import_bank_statement",
    "import_statement",
    "link_bank_line",
    "link_row",
    "match_bank_lines",
    "note_contradiction",
    "note_dispute_contradiction",
    "note_late_failure",
    "note_over_refunded",
    "note_refund_contradiction",
    "open_discrepancy",
    "open_periods",
    "perform",
    "plan_bulk",
    "read_balance",
    "reconcile_day",
    "reconcile_missing_days",
    "refuse_reopening",
    "reject_action",
    "request_run",
    "set_tolerance",
    "start_books",
    "stop",
    "try_rules",
    "unlink_bank_line",
    "wake_ignored",
    "work_on_bulk",
    "write_pack",
]
