"""A provider with books of its own for each test, whose clock says noon of yesterday: a finished day, far from midnight."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from foundation.database import database_now
from payments.types import Booked
from reconciliation import services
from reconciliation.services import runs
from reconciliation.types import RunReport
from tests.reconciliation.ledgers import DAY
from tests.sandbox_process import SandboxProcess, start_sandbox
from tests.shop import Shop, open_shop, settle


@dataclass
class Books:
    """A shop, the provider's books, and the day on which it trades."""

    shop: Shop
    sandbox: SandboxProcess
    day: date

    def sell(self, count: int = 1) -> list[dict[str, Any]]:
        """Paid orders of 15.00 USD, in both books."""
        body = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
        answers = [self.shop.checkout(payment=body) for _ in range(count)]
        settle(webhooks=False)
        return [self.shop.order(answer.json()["order"]["number"]) for answer in answers]

    def abandon(self) -> dict[str, Any]:
        """An order that nobody paid, its intent open at the provider."""
        order: dict[str, Any] = self.shop.checkout().json()["order"]
        return order

    def refund(self, order: dict[str, Any], amount: int | None = None) -> str:
        body: dict[str, Any] = {"reason": "came damaged"}
        answer = self.shop.post(
            f"/payments/{order['payments'][0]['number']}/refunds",
            body if amount is None else {**body, "amount": amount},
        )
        assert answer.status_code == 201, answer.json()
        settle(webhooks=False)
        return str(answer.json()["number"])

    def plant(self, kind: str, count: int = 1) -> list[str]:
        """Make the provider's books differ in silence; the ids of the charges or refunds that differ."""
        ids: list[str] = self.sandbox.control("POST", "plant", {"kind": kind, "count": count})["ids"]
        return ids

    def reconcile(self, **options: Any) -> RunReport:
        return services.reconcile_day(day=self.day, by="test", **options)


@pytest.fixture
def settle_after_s() -> float:
    """How long the provider takes to book a capture."""
    return 0


@pytest.fixture
def provider_process(
    request: pytest.FixtureRequest, settings, monkeypatch: pytest.MonkeyPatch, tmp_path, settle_after_s
):
    """The session's sandbox, empty; one of its own for a test that has it book later."""
    if not settle_after_s:
        yield request.getfixturevalue("sandbox")
        return
    handle = start_sandbox(tmp_path, settle_after_s=settle_after_s)
    settings.STRIPE_API_BASE = handle.url
    monkeypatch.setenv("STRIPE_API_BASE", handle.url)
    yield handle
    handle.stop()


@pytest.fixture
def books(transactional_db, valkey, provider_process: SandboxProcess) -> Books:
    provider_process.control("POST", "webhooks", {"mode": "drop"})
    now = database_now()
    day = now.date() - timedelta(days=1)
    back = datetime.combine(day, time(12), UTC) - now
    provider_process.control("POST", "clock", {"advance_s": int(back.total_seconds())})
    shop = open_shop()
    shop.stock("book", 100)
    return Books(shop, provider_process, day)


@pytest.fixture
def reconcile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunReport]:
    """A run over the rows that are there (importing has tests of its own), at a moment of our choice."""

    def run(
        day: datetime = DAY,
        *,
        now: datetime | None = None,
        unbooked: tuple[str, ...] = (),
        never: tuple[str, ...] = (),
        booked: tuple[str, ...] = (),
    ) -> RunReport:
        asked = {Booked.NOT_YET: unbooked, Booked.NEVER: never, Booked.YES: booked}
        monkeypatch.setattr(runs, "import_day", lambda day, progress: 0)
        answers = {charge: answer for answer, charges in asked.items() for charge in charges}
        monkeypatch.setattr(runs, "_ask", lambda day: answers)
        monkeypatch.setattr(runs, "database_now", lambda: now or day + timedelta(days=3))
        return services.reconcile_day(day=day.date(), by="test")

    return run
