"""Reconciliation as the finance desk sees it. Importing a module registers its pages."""

from reconciliation.admin import discrepancies, runs, statements

__all__ = ["discrepancies", "runs", "statements"]
