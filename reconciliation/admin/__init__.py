"""Reconciliation as the finance desk sees it. Importing a module registers its pages."""

from reconciliation.admin import bank, bulk, discrepancies, files, incidents, matches, periods, runs, statements, walks

__all__ = ["bank", "bulk", "discrepancies", "files", "incidents", "matches", "periods", "runs", "statements", "walks"]
