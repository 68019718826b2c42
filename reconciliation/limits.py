"""What a transaction may use that works through a whole day or file: much time, little memory."""

from django.conf import settings
from django.db.backends.utils import CursorWrapper

# For each sort or hash table. What does not fit is cut into pieces that do, each small enough for the processor's cache: at a
# million rows faster than one large table, and the same memory at five million (docs/performance.md).
_MEMORY = "SET LOCAL work_mem = '4MB'; SET LOCAL hash_mem_multiplier = 1"
# A scan pins the blocks that it reads ahead: at PostgreSQL's 16, two scans of temporary tables pin all 128 buffers that a session has for
# them (temp_buffers), and the next block has none: "no empty local buffer available".
_AHEAD = "SET LOCAL effective_io_concurrency = 1"


def set_for_long_work(cursor: CursorWrapper) -> None:
    """Set them, to the end of the transaction."""
    cursor.execute(f"SET LOCAL statement_timeout = {int(settings.RECONCILE_STATEMENT_TIMEOUT_MS)}; {_MEMORY}; {_AHEAD}")
