"""How long to wait before something is tried again."""

import random

from django.conf import settings


def backoff_s(attempt: int, *, first_s: float) -> float:
    """Doubling from the first to BACKOFF_LONGEST_S, ±20 %, so that what failed together does not return together."""
    pause_s: float = min(settings.BACKOFF_LONGEST_S, first_s * 2 ** min(attempt - 1, 30))
    return pause_s * random.uniform(0.8, 1.2)  # noqa: S311  jitter
