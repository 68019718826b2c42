"""Scheduled reads at the provider: what no webhook brought."""

from celery import shared_task

from payments.services import inbox, rereads


@shared_task(name="payments.recheck")
def recheck() -> None:
    """Read open payments and refunds again."""
    rereads.recheck_due()


@shared_task(name="payments.catch_up_events")
def catch_up_events() -> None:
    """List events that no webhook brought."""
    inbox.replay_events(since=inbox.catch_up_since())


@shared_task(name="payments.clean_up")
def clean_up() -> None:
    """Delete events of the inbox that cannot come again."""
    inbox.clean_up_inbox()
