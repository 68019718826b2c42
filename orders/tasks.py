"""What beat asks for: expiry (the timer, and what Redis may have lost of it), calls to merchants, cleaning up."""

from celery import shared_task

from orders import services
from orders.services import merchant_calls


@shared_task(name="orders.expire_due")
def expire_due() -> None:
    """Cancel orders whose time to pay is over."""
    services.expire_due()


@shared_task(name="orders.rearm_timer")
def rearm_timer() -> None:
    """Put back into the timer what Redis may have lost."""
    services.rearm()


@shared_task(name="orders.call_merchants")
def call_merchants() -> None:
    """Make the calls to merchants' own systems that are due."""
    merchant_calls.call_due()


@shared_task(name="orders.clean_up")
def clean_up() -> None:
    """Delete calls to merchants of long ago."""
    merchant_calls.clean_up()
