"""Doorbells and scans. A task is a batch: it works until nothing is due."""

from celery import shared_task
from django.conf import settings

from durability import doorbell, keys, outbox, services, stream


@shared_task(name="durability.drain_outbox")
def drain_outbox() -> None:
    """Deliver what is due to our own handlers, then mirror it to the stream."""
    doorbell.answer("outbox")
    outbox.drain()
    while stream.mirror_batch() == settings.OUTBOX_STREAM_BATCH:
        pass


@shared_task(name="durability.resume_sagas")
def resume_sagas() -> None:
    """Go on with every saga that is due."""
    doorbell.answer("sagas")
    while services.resume_sagas() == settings.SAGA_BATCH:
        pass


@shared_task(name="durability.heartbeat")
def heartbeat() -> None:
    """Prove that beat and a worker are alive."""
    services.beat_seen()


@shared_task(name="durability.clean_up")
def clean_up() -> None:
    """Delete idempotency keys after the promised time, in batches."""
    while keys.delete_older_than(settings.IDEMPOTENCY_KEY_KEPT_FOR_DAYS):
        pass
