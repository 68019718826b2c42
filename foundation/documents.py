"""What the API shows of an object, kept in Redis until the object changes. It saves reads, and is never the truth.

A document is kept under its object's public number. Whoever locks the object to change it calls `forget_after_commit`:
`locks.py` of each app does, so that no writer can leave it out. What must never be kept: a secret.

A reader that was slow must not put back what it read before a change. So forgetting leaves a mark, which no reader has
seen yet, and a reader keeps its document only where it finds what it found when it began. What a process that died right
after its commit left behind, or one that Redis did not answer, ends with DOCUMENT_KEPT_FOR_S.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from django.conf import settings
from prometheus_client import Counter
from redis.exceptions import RedisError

from foundation import redis

log = logging.getLogger(__name__)

READ = Counter("everycent_documents_read", "Documents of the API, by where they came from.", ["source"])
for _source in ("cache", "database", "without_redis"):
    READ.labels(_source)

Document = dict[str, Any]

_PREFIX = "everycent:document:1:"  # the number changes with the form of what is kept
_MARK = "-"  # no document begins with it
# A mark must outlive every reader that began before it: who read for longer than half of this keeps nothing.
_MARK_KEPT_FOR_S = 60
_PAUSE_S = 1.0  # after Redis did not answer, nobody waits for its time-out again and again
_resume_at = 0.0

# ARGV: what the reader found when it began ('' for nothing), its document, how long to keep it in ms.
_KEEP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


def kept_or_read(prefix: str, number: str, read: Callable[[], Document]) -> Document:
    """The document of an object, as it was kept or as `read` reads it now. Without Redis it is always read.

    A number without the prefix is none of these objects: what is kept under it is a document of another kind.
    """
    if not number.startswith(f"{prefix}_"):
        return read()
    found = _look(number)
    if found and not found.startswith(_MARK):
        READ.labels("cache").inc()
        document: Document = json.loads(found)
        return document
    began = time.monotonic()
    document = read()
    READ.labels("without_redis" if found is None else "database").inc()
    if found is not None and time.monotonic() - began < _MARK_KEPT_FOR_S / 2:
        _keep(number, document, found=found)
    return document


def forget_after_commit(*numbers: str) -> None:
    """The present transaction may change these objects: what is kept of them is forgotten when it commits."""
    mark = f"{_MARK}{uuid4().hex}"
    redis.after_commit(
        *(
            redis.Command(("SET", f"{_PREFIX}{number}", mark, "EX", _MARK_KEPT_FOR_S), once=f"forget {number}")
            for number in numbers
        )
    )


def _look(number: str) -> str | None:
    """What is kept, a mark, or '' for nothing. None without Redis."""
    global _resume_at  # noqa: PLW0603  one fact of this process, whichever thread learns it
    if time.monotonic() < _resume_at:
        return None
    try:
        return str(redis.client().get(f"{_PREFIX}{number}") or "")
    except RedisError as error:
        _resume_at = time.monotonic() + _PAUSE_S
        log.warning("documents are read from the database: %s", error)
        return None


def _keep(number: str, document: Document, *, found: str) -> None:
    try:
        text = json.dumps(document, separators=(",", ":"))
        redis.client().eval(_KEEP, 1, f"{_PREFIX}{number}", found, text, settings.DOCUMENT_KEPT_FOR_S * 1000)
    except RedisError as error:
        log.warning("a document was not kept: %s", error)
