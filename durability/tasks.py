"""Doorbells and scans. A task is a batch: it works until nothing is due, or until others want their turn."""

from celery import shared_task

from durability import doorbell, services, stream
from durability.types import Lane


@shared_task(name="durability.work_own")
def work_own() -> None:
    """Handlers and steps of our own database."""
    doorbell.answer(Lane.OWN)
    services.work(Lane.OWN)


@shared_task(name="durability.work_outside")
def work_outside() -> None:
    """Handlers and calls that leave the process."""
    doorbell.answer(Lane.OUTSIDE)
    services.work(Lane.OUTSIDE)


@shared_task(name="durability.mirror")
def mirror() -> None:
    """Write what was published to the stream for consumers outside."""
    doorbell.answer("mirror")
    stream.mirror()


# One a queue: each proves that beat sends, the broker carries, and this queue's workers work.


@shared_task(name="durability.seen_own")
def seen_own() -> None:
    """Prove that beat and the workers of `own` are alive."""
    services.seen("beat", "worker.own")


@shared_task(name="durability.seen_outside")
def seen_outside() -> None:
    """Prove that beat and the workers of `outside` are alive."""
    services.seen("beat", "worker.outside")


@shared_task(name="durability.seen_long")
def seen_long() -> None:
    """Prove that beat and the workers of `long` are alive."""
    services.seen("beat", "worker.long")


@shared_task(name="durability.subscribe")
def subscribe() -> None:
    """Make the deliveries that publishers of an earlier release did not know of."""
    services.subscribe_handlers()


@shared_task(name="durability.clean_up")
def clean_up() -> None:
    """Delete what nobody needs any more."""
    services.clean_up()
