"""The books as the finance desk sees them. Importing a module registers its pages."""

from payments.admin import checks, credit, disputes, inbox, ledger, payments, payouts, refunds

__all__ = ["checks", "credit", "disputes", "inbox", "ledger", "payments", "payouts", "refunds"]
