"""The books as the finance desk sees them. Importing a module registers its pages."""

from payments.admin import inbox, ledger, payments, refunds

__all__ = ["inbox", "ledger", "payments", "refunds"]
