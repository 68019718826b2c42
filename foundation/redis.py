"""The one Redis or Valkey client of this process. Redis saves work and wakes workers; losing it loses nothing."""

from functools import cache

from django.conf import settings
from redis import Redis


@cache
def client() -> Redis:
    """A thread-safe client with a small pool; connections are made on first use, so after a fork."""
    return Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=settings.REDIS_TIMEOUT_S,
        socket_connect_timeout=settings.REDIS_TIMEOUT_S,
        decode_responses=True,
    )
