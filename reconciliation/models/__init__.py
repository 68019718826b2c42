"""The provider's and the bank's books as we imported them, the runs that compared them with ours, and what they found."""

from reconciliation.models.bank import BankLine, BankMatch, BankStatement, BankStatementLine
from reconciliation.models.bulk import BulkAction, BulkItem
from reconciliation.models.chain import AuditBlock, AuditRow
from reconciliation.models.discrepancies import (
    Discrepancy,
    DiscrepancyAction,
    DiscrepancyHistory,
    Incident,
    ReconciliationRun,
)
from reconciliation.models.matches import Link, Match, RunPart, RunPartLeft, Tolerance
from reconciliation.models.periods import Period, PeriodClosing, PeriodHistory, PeriodReopening
from reconciliation.models.provider import (
    TOLD_BY_A_FILE,
    BooksStart,
    ChangedDay,
    DayTotal,
    ProviderBalanceReading,
    ProviderRead,
    ProviderTransaction,
    RawPage,
    RawRow,
    StatementFile,
)

__all__ = [
    "TOLD_BY_A_FILE",
    "AuditBlock",
    "AuditRow",
    "BankLine",
    "BankMatch",
    "BankStatement",
    "BankStatementLine",
    "BooksStart",
    "BulkAction",
    "BulkItem",
    "ChangedDay",
    "DayTotal",
    "Discrepancy",
    "DiscrepancyAction",
    "DiscrepancyHistory",
    "Incident",
    "Link",
    "Match",
    "Period",
    "PeriodClosing",
    "PeriodHistory",
    "PeriodReopening",
    "ProviderBalanceReading",
    "ProviderRead",
    "ProviderTransaction",
    "RawPage",
    "RawRow",
    "ReconciliationRun",
    "RunPart",
    "RunPartLeft",
    "StatementFile",
    "Tolerance",
]
