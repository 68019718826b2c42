"""What is deleted when, in batches that each commit on their own and wait for nobody's lock. Money is never deleted."""

from datetime import timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from durability.models import Delivery, IdempotencyKey, Message, SagaRun
from foundation.database import delete_in_batches


def clean_up() -> dict[str, int]:
    """Delete published messages with their receipts, finished sagas, and keys, each after its time."""
    return {
        "messages": delete_in_batches(_old_messages(), batch=settings.RETENTION_BATCH),
        "sagas": delete_in_batches(_old_sagas(), batch=settings.RETENTION_BATCH),
        "keys": delete_in_batches(_old_keys(), batch=settings.RETENTION_BATCH),
    }


def _old_messages() -> QuerySet[Message]:
    """In the stream, and through with every handler: what is open or parked stays, however old."""
    unfinished = Delivery.objects.filter(message=OuterRef("pk"), state__in=["pending", "running", "parked"])
    return Message.objects.filter(
        ~Exists(unfinished),
        state=Message.State.PUBLISHED,
        created_at__lt=Now() - timedelta(days=settings.MESSAGES_KEPT_FOR_DAYS),
    )


def _old_sagas() -> QuerySet[SagaRun]:
    old = Now() - timedelta(days=settings.SAGAS_KEPT_FOR_DAYS)
    finished = Q(state__in=[SagaRun.State.COMPLETED, SagaRun.State.COMPENSATED], finished_at__lt=old)
    return SagaRun.objects.filter(finished, created_at__lt=old)


def _old_keys() -> QuerySet[IdempotencyKey]:
    return IdempotencyKey.objects.filter(created_at__lt=Now() - timedelta(days=settings.IDEMPOTENCY_KEY_KEPT_FOR_DAYS))
