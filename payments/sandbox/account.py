"""The one account of the sandbox: its storage, clock, settings and books-in-memory, behind one lock."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from payments.sandbox.store import Json, Store

API_VERSION = "2026-10-28.endive"
ACCOUNT_ID = "acct_sandbox"


@dataclass(frozen=True)
class Config:
    """What the command line says; everything else is a setting in the storage and changed by control calls."""

    secret_key: str = "sk_test_sandbox"  # noqa: S105  (opens nothing)
    publishable_key: str = "pk_test_sandbox"
    webhook_url: str | None = None
    webhook_secret: str = "whsec_sandbox"  # noqa: S105
    # Seconds until a charge gets its balance transaction; 0: with the charge.
    settle_after_s: float = 0.0
    # Seconds until a `processing` intent succeeds, a pending refund succeeds, a refund fails late.
    news_after_s: float = 1.0


@dataclass(frozen=True)
class Cause:
    """The API request that an event tells of; both None for what happens by itself."""

    request_id: str | None = None
    idempotency_key: str | None = None


class Account:
    """State. Everything but `lock` is touched only while holding it; writes only inside `transaction()`."""

    def __init__(self, store: Store, config: Config) -> None:
        self.store = store
        self.config = config
        self.lock = threading.Lock()
        self.cause = Cause()
        self.silent = False
        # Rung after a commit that left something to send or to do; counted, so that no ring is missed.
        self.doorbell = threading.Condition()
        self.rings = 0
        self.work_left = False
        self._load()

    def _load(self) -> None:
        self.clock_offset_s: int = self.store.read_setting("clock_offset_s", 0)
        self.success_percent: int = self.store.read_setting("success_percent", 100)
        self.success_seed: int = self.store.read_setting("success_seed", 0)
        self.success_draws: int = self.store.read_setting("success_draws", 0)
        self.webhook_mode: str = self.store.read_setting("webhook_mode", "normal")
        self.webhook_copies: int = self.store.read_setting("webhook_copies", 2)
        self.faults: list[Json] = self.store.read_setting("faults", [])
        self.settle_after_s: float = self.store.read_setting("settle_after_s", self.config.settle_after_s)
        self.payout_schedule: str = self.store.read_setting("payout_schedule", "manual")
        self.payouts_run_until: int = self.store.read_setting("payouts_run_until", 0)  # a midnight; 0: never
        self.idempotent_replays: int = self.store.read_setting("idempotent_replays", 0)

    @contextmanager
    def transaction(self, cause: Cause | None = None) -> Iterator[None]:
        """The lock and one SQLite transaction; rings the doorbell after the commit."""
        with self.lock:
            self.cause = cause or Cause()
            try:
                with self.store.transaction():
                    yield
            except BaseException:
                self._load()  # settings in memory follow the rollback
                raise
            finally:
                work_left, self.work_left = self.work_left, False
                self.cause = Cause()
        if work_left:
            self.ring()

    @contextmanager
    def undo_on_error(self) -> Iterator[None]:
        """Inside a transaction: an exception takes back what was written since, settings included."""
        execute = self.store.execute
        execute("SAVEPOINT attempt")
        try:
            yield
        except BaseException:
            execute("ROLLBACK TO attempt")
            execute("RELEASE attempt")
            self._load()
            raise
        execute("RELEASE attempt")

    def ring(self) -> None:
        """Wake the background thread."""
        with self.doorbell:
            self.rings += 1
            self.doorbell.notify_all()

    def set(self, name: str, value: Any) -> None:
        """Change a setting, in memory and in the running transaction."""
        setattr(self, name, value)
        self.store.write_setting(name, value)

    def reset(self) -> None:
        """Back to an empty account with the settings of a first start."""
        self.store.forget_everything()
        self._load()

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Inside, nothing becomes an event: differences are planted so."""
        self.silent = True
        try:
            yield
        finally:
            self.silent = False

    def now(self) -> int:
        """Seconds since the epoch by the sandbox's clock: for its objects' times only."""
        return int(time.time()) + self.clock_offset_s

    def later(self, job: str, object_id: str, after_s: float) -> None:
        self.work_left = True
        self.store.execute(
            "INSERT INTO jobs (due_at, name, object_id) VALUES (?, ?, ?)", (time.time() + after_s, job, object_id)
        )

    def draw_success(self) -> bool:
        """The next outcome of the seeded series; the n-th draw of a seed is always the same, restarts included."""
        if self.success_percent >= 100:
            return True
        self.set("success_draws", self.success_draws + 1)
        return random.Random(f"{self.success_seed}:{self.success_draws}").random() * 100 < self.success_percent


def new_id(prefix: str, length: int = 24) -> str:
    """A random id that begins with the time, as Stripe's do: new rows land on the same few pages of an index."""
    moment = f"{time.time_ns() // 1_000_000:011x}"  # milliseconds
    digits = length - len(moment)
    return f"{prefix}_{moment}{random.getrandbits(4 * digits):0{digits}x}"
