"""What is done on a schedule: the daily proof of the stock."""

from celery import shared_task

from inventory import services


@shared_task(name="inventory.check_stock")
def check_stock() -> None:
    """Prove once a day that stock, log and holds agree."""
    services.check_stock_of_today()
