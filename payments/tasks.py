"""What is done on a schedule: reads at the provider that no webhook brought, and the books' own work."""

from celery import shared_task

from payments.services import books, inbox, rereads


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


@shared_task(name="payments.cut_books")
def cut_books() -> None:
    """Snapshot balances and totals of the books, where enough was posted."""
    books.cut_books()


@shared_task(name="payments.check_books")
def check_books() -> None:
    """Prove once a day that the books agree with themselves."""
    books.check_books_of_today()
