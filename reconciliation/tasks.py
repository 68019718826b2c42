"""Reconciliation in the background: asked hourly whether a day is missing, and by people for one day."""

from datetime import date
from uuid import UUID

from celery import shared_task

from reconciliation import services


@shared_task(name="reconciliation.nightly")
def nightly() -> None:
    """Reconcile every finished day that has no completed run yet."""
    services.reconcile_missing_days()


@shared_task(name="reconciliation.reconcile_day")
def reconcile_day(day: str, by: str) -> None:
    """Reconcile one day that a person asked for."""
    services.reconcile_day(day=date.fromisoformat(day), by=by)


@shared_task(name="reconciliation.help_run")
def help_run(run: str, look: str, snapshot: str, cuts: list[str]) -> None:
    """Look at parts of a large day for the run that asks for help, while there are any."""
    services.help_run(run_id=UUID(run), look_id=UUID(look), snapshot=snapshot, cuts=cuts)


@shared_task(name="reconciliation.read_balance")
def read_balance() -> None:
    """Write down what the provider holds for us now: statements are proved against it."""
    services.read_balance()


@shared_task(name="reconciliation.extend_chain")
def extend_chain() -> None:
    """Add what changed to the audit chain, once a day; and a row for each month of the books."""
    services.open_periods()
    services.extend_chain_of_today()


@shared_task(name="reconciliation.work_on_bulk")
def work_on_bulk() -> None:
    """Go on with what people asked for on many discrepancies at once."""
    services.work_on_bulk()


@shared_task(name="reconciliation.wake_ignored")
def wake_ignored() -> None:
    """Bring back what was ignored until today."""
    services.wake_ignored()
