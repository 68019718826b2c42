"""`/livez`: this process answers. `/readyz`: what it needs answers too, and nothing piles up."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from durability import selectors as durability
from foundation.redis import client
from payments import selectors as payments

# Without these no sale is possible; without the others sales go on and work piles up.
_ESSENTIAL = {"database"}


@csrf_exempt  # whoever asks in another way gets a 405, not a page about forms
@require_safe
def livez(request: HttpRequest) -> JsonResponse:
    """200 while the process serves requests."""
    return JsonResponse({"status": "alive"})


@csrf_exempt
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """Status, duration and error of each part; healthy, degraded (200) or unhealthy (503) overall."""
    checks = {
        "database": _database,
        "redis": _redis,
        "stripe": _stripe,
        "beat": _beat,
        "workers": _workers,
        "outbox": _outbox,
    }
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        results = dict(zip(checks, pool.map(_checked, checks.values()), strict=True))
    failed = {name for name, result in results.items() if result["status"] != "ok"}
    overall = "unhealthy" if failed & _ESSENTIAL else "degraded" if failed else "healthy"
    return JsonResponse({"status": overall, "checks": results}, status=503 if overall == "unhealthy" else 200)


def _checked(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    started = time.monotonic()
    details: dict[str, Any] = {}
    error = None
    try:
        details = check()
        error = details.pop("error", None)
    except Exception as problem:  # noqa: BLE001  whatever it is, it is the finding
        error = f"{type(problem).__name__}: {problem}"
    finally:
        close_old_connections()
        connection.close()
    return {
        "status": "failed" if error else "ok",
        "duration_ms": round((time.monotonic() - started) * 1000, 1),
        "error": error,
        **details,
    }


def _database() -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return {}


def _redis() -> dict[str, Any]:
    client().ping()
    return {}


def _stripe() -> dict[str, Any]:
    payments.check_provider(timeout_s=settings.READYZ_TIMEOUT_S)
    return {}


def _beat() -> dict[str, Any]:
    age_s = durability.beat_age_s()
    if age_s is None:
        return {"error": "beat was never seen"}
    silent = age_s > settings.READYZ_BEAT_SILENT_S
    return {"age_s": round(age_s, 1), "error": f"silent for {age_s:.0f} s" if silent else None}


def _workers() -> dict[str, Any]:
    ages_s = durability.worker_ages_s()
    late = [queue for queue in settings.QUEUES if ages_s.get(queue, math.inf) > settings.READYZ_BEAT_SILENT_S]
    ages = {queue: round(age_s, 1) for queue, age_s in ages_s.items()}
    return {"ages_s": ages, "error": f"nobody serves the queue {', '.join(late)}" if late else None}


def _outbox() -> dict[str, Any]:
    oldest_s = durability.backlog().oldest_s
    late = oldest_s > settings.READYZ_OUTBOX_OLDEST_S
    return {"age_s": round(oldest_s, 1), "error": f"oldest delivery waits for {oldest_s:.0f} s" if late else None}
