"""Reconciliation as the finance desk sees it. Importing a module registers its pages."""

from reconciliation.admin import bank, discrepancies, files, periods, runs, statements, walks

__all__ = ["bank", "discrepancies", "files", "periods", "runs", "statements", "walks"]
