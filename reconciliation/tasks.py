"""Scheduled reconciliation: asked hourly whether a day is missing."""

from celery import shared_task

from reconciliation import services


@shared_task(name="reconciliation.nightly")
def nightly() -> None:
    """Reconcile every finished day that has no completed run yet."""
    services.reconcile_missing_days()
