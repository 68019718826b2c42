"""Expiry: every few seconds the timer is asked, and the database re-arms what Redis may have lost."""

from celery import shared_task

from orders import services


@shared_task(name="orders.expire_due")
def expire_due() -> None:
    """Cancel orders whose time to pay is over."""
    services.expire_due()


@shared_task(name="orders.rearm_timer")
def rearm_timer() -> None:
    """Put back into the timer what Redis may have lost."""
    services.rearm()
