"""The day of trading from the first book to the summary: every kind of difference that there is waits at the desk in the end.

A shorter day than that of `make up`, played by the same loader against the API over HTTP and the sandbox as a process; a
thread does what workers and beat do.
"""

from collections import Counter
from collections.abc import Iterator
from io import StringIO
from threading import Event, Thread

import pytest
from django.db import connections
from rich.console import Console

from config.bootstrap import ensure_credentials
from config.trading_day import load, plan
from config.trading_day.evening import PLANTED
from config.trading_day.load import Loader
from config.trading_day.progress import Steps
from config.trading_day.provider import Provider
from config.trading_day.summary import summary
from durability import services as durability
from durability.types import Lane
from orders import services as orders
from reconciliation.models import BankMatch, Discrepancy, ReconciliationRun
from reconciliation.states import OPEN_STATES, DiscrepancyState
from reconciliation.types import KINDS, Kind
from tests.sandbox_process import ROOT, start_sandbox

_SHORT = {
    "_VISITS": 30,
    "_EURO_VISITS": 4,
    "_ABANDONED": 2,
    "_BROWSER_DECLINES_MENDED": 1,
    "_BROWSER_DECLINES_FOR_GOOD": 1,
    "_SERVER_DECLINES_MENDED": 1,
    "_SERVER_DECLINES_FOR_GOOD": 1,
    "_AUTHENTICATED": 1,
    "_SERVER_SALES": 4,
    "_SHIPPED": 2,
    "_COMPLETED": 1,
    "_PARTIAL_REFUNDS": 3,
    "_FULL_REFUNDS": 2,
}
# What happens beside what is planted in silence: both books hear of it, or our bank tells.
_HAPPENS = (
    Kind.REFUND_FAILED_LATE,
    Kind.OVER_REFUNDED,
    Kind.PAYOUT_NOT_AT_BANK,
    Kind.BANK_LINE_UNEXPLAINED,
    Kind.BANK_AMOUNT_MISMATCH,
)


@pytest.fixture
def provider(transactional_db, valkey, live_server, settings, tmp_path) -> Iterator[Provider]:
    handle = start_sandbox(tmp_path, webhook_url=f"{live_server.url}/api/v1/webhooks/stripe")
    settings.STRIPE_API_BASE = handle.url
    yield Provider(handle.url)
    handle.stop()


@pytest.fixture
def workers(provider) -> Iterator[None]:
    """What workers and beat do for sales, until the test is over."""
    over = Event()

    def work() -> None:
        try:
            while not over.wait(0.02):
                orders.expire_due()
                for lane in Lane:
                    durability.work(lane)
        finally:
            connections.close_all()

    thread = Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.fixture
def loader(provider, workers, live_server, monkeypatch) -> Loader:
    # Threads of the server outlive the test, as long as somebody could ask again; their connections must not.
    monkeypatch.setitem(connections.databases["default"], "CONN_MAX_AGE", 0)
    for name, value in _SHORT.items():
        monkeypatch.setattr(plan, name, value)
    monkeypatch.setattr(load, "_EXPIRY_WHILE_LOADING_S", 5)
    ensure_credentials(known={})  # `make up` has made the logins before the day
    return Loader(url=live_server.url, provider=provider, steps=Steps(Console(file=StringIO())))


def test_in_the_end_every_kind_of_difference_waits_at_the_desk(loader, provider, live_server):
    report = loader.load()

    at_desk = Counter(Discrepancy.objects.filter(state__in=OPEN_STATES).values_list("kind", flat=True))
    closed_by_hand = Counter({Kind.MISSING_IN_OUR_SYSTEM: 1})
    assert at_desk == Counter(PLANTED) + Counter(_HAPPENS) - closed_by_hand
    assert set(at_desk) == set(KINDS)
    assert max(at_desk.values()) <= 3
    waits = Discrepancy.objects.get(state=DiscrepancyState.TIMING)
    assert (waits.kind, waits.evidence["timing"]) == (Kind.MISSING_IN_STRIPE, "not booked by the provider yet")
    assert loader.closed() == closed_by_hand
    # What is planted explains the whole statement, but for the balance that was made not to add up.
    proofs = {
        (currency, proof["name"]): proof["residual_minor"]
        for currency, one in ReconciliationRun.objects.get(pk=report.run_id).statement.items()
        for proof in one["proofs"]
    }
    (residual,) = Discrepancy.objects.filter(kind=Kind.STATEMENT_RESIDUAL)
    assert residual.source == "eur:balance"
    assert {proof for proof, minor in proofs.items() if minor} == {("eur", "balance")}
    assert None not in proofs.values()
    assert set(BankMatch.objects.values_list("how", flat=True)) == {"trace_id"}

    out = StringIO()
    Console(file=out, width=100).print(summary(loader, report))
    printed = _words(out.getvalue().partition("discrepancies")[2])
    documented = (
        (ROOT / "docs" / "reconciliation.md").read_text().partition("```\ndiscrepancies")[2].partition("```")[0]
    )
    assert printed == _words(documented)
    assert len(printed) == 1 + len(KINDS)

    assert Loader(url=live_server.url, provider=provider, steps=Steps(Console(file=StringIO()))).already_loaded


def _words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]
