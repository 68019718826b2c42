"""The day of trading from morning to the closed discrepancy, in order."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import islice
from threading import Lock

from config.trading_day import evening, finance
from config.trading_day.books import read_books
from config.trading_day.client import Json
from config.trading_day.diary import Diary
from config.trading_day.plan import BANKS_S, TRIAL_DAYS_BEFORE, TRIAL_S, Day, Visit, make_day
from config.trading_day.progress import Steps
from config.trading_day.provider import Provider
from config.trading_day.shops import Shop, open_shops, shelf_jobs
from config.trading_day.trading import run_errand, visit_shop
from durability import selectors as durability
from foundation.errors import DomainError
from reconciliation.types import RunReport

# Customers at once: as many as the web process has threads for, and a few to spare for staff who look already.
_CUSTOMERS_AT_ONCE = 6
# While loading, unpaid orders expire at once; afterwards they wait as long as is usual.
_EXPIRY_WHILE_LOADING_S, _EXPIRY_AFTERWARDS_S = 20, 900
_ONE_PERSON_REFUNDS = 2000  # minor units; above, a second one approves
# A payment that the provider takes its time with; it waits, and heals while somebody looks on.
BOOKED_AFTER_S = 6 * 3600
# Expiry, its tick and the workers' backlog on a slow machine; then something is wrong.
_REST_TIMEOUT_S = 120
_REST_POLL_S = 0.25


class NeverAtRest(DomainError):
    """The workers do not finish: are they running? The admin lists stuck sagas and parked deliveries."""


class Loader:
    """One load. Interrupted, it is run again: what was done is answered from where it was kept."""

    def __init__(self, *, url: str, provider: Provider, steps: Steps) -> None:
        self._provider = provider
        self._steps = steps
        self._day: Day = make_day()
        self._books = read_books()
        self._shops: dict[str, Shop] = open_shops(url)
        self._diary = Diary(self._shops["usd"].operations, self._books[0])
        self._orders: dict[int, str] = {}  # the number of each visit's order
        self._refunds: list[str] = []  # the numbers of the day's refunds
        self._clock = Lock()
        self._latest_second = 0

    @property
    def already_loaded(self) -> bool:
        return self._diary.page.loaded

    @property
    def since(self) -> date:
        """The day of the first sale."""
        return self.date - timedelta(days=TRIAL_DAYS_BEFORE)

    @property
    def date(self) -> date:
        return self._diary.day

    @property
    def shops(self) -> dict[str, Shop]:
        return self._shops

    def provider_books(self) -> dict[str, dict[str, int]]:
        """The provider's totals, minor units by currency: `captured`, `refunded`, `fees`."""
        return self._provider.books()

    def closed(self) -> Counter[str]:
        """How many of each kind were closed by hand."""
        return evening.closed(self._orders[self._day.late.number])

    def load(self) -> RunReport:
        """Trade, reconcile, close one discrepancy. Returns the report of the run that verified it."""
        with ThreadPoolExecutor(_CUSTOMERS_AT_ONCE) as self._pool:
            try:
                self._open()
                self._try_out()
                self._trade()
                self._work_on_orders()
                self._hear_from_banks()
                self._close()
                self._plant()
            finally:
                self._provider.turn_clock(None)
                self._set_expiry(_EXPIRY_AFTERWARDS_S)
            self._trade_today()
            self._settle_up()
        report = self._reconcile()
        self._diary.write(loaded=True)
        return report

    # --- The day --------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._set_expiry(_EXPIRY_WHILE_LOADING_S)
        jobs = shelf_jobs(self._shops, self._books)
        with self._steps.step("Putting books on the shelves", len(jobs)) as advance:
            self._all(jobs, advance)
        for currency, shop in self._shops.items():
            shop.watch_stock([book.isbn for book in self._books if currency in book.prices])
        self._diary.write()

    def _try_out(self) -> None:
        """The week before, each shop sells a book to see whether all works, and its money goes to the bank."""
        if self._diary.page.tried_out:
            return
        with self._steps.step("Each shop tries a sale, the week before", len(self._day.trials) + 1) as advance:
            finance.begin_books(self.date)
            self._provider.turn_clock(_moment(self.since, TRIAL_S))
            for visit in self._day.trials:
                self._visit_now(visit)
                advance()
            self._wait_for_rest(without_pending=False)
            finance.bank_tells_of_trial(self._provider.pay_out())
            self._diary.write(tried_out=True)
            advance()

    def _trade(self) -> None:
        with self._steps.step(f"Customers buy, {self.date:%A %-d %B}", len(self._day.visits)) as advance:
            self._all([partial(self._visit, visit) for visit in self._day.visits], advance)

    def _work_on_orders(self) -> None:
        self._rest("Webhooks arrive, sales are posted", without_pending=False)
        currencies = {visit.number: visit.wish.currency for visit in self._day.visits}
        with self._steps.step("Orders are shipped, refunded, cancelled", len(self._day.errands)) as advance:
            for errand in self._day.errands:  # in turn: what is shipped now may be completed later
                self._turn_clock(errand.second)
                shop = self._shops[currencies[errand.visit]]
                refund = run_errand(errand, shop=shop, order=self._orders[errand.visit])
                self._refunds += [refund] if refund else []
                advance()

    def _hear_from_banks(self) -> None:
        """What customers' banks do late on the day. Both books hear of it; how the dispute goes on, only the provider's will."""
        self._rest("Refunds are paid")
        if self._diary.page.banks_heard:
            return
        worked_on = {errand.visit for errand in self._day.errands}
        left_alone = [one for one in self._day.visits if one.wish.currency == "usd" and one.number not in worked_on]
        with self._steps.step("A payment is disputed, a refund comes back", 2) as advance:
            self._turn_clock(BANKS_S)
            self._dispute(left_alone, reason="unrecognized")
            advance()
            self._send_refund_back()
            advance()
        self._diary.write(banks_heard=True)

    def _send_refund_back(self) -> None:
        """The last one that was paid."""
        for number in reversed(self._refunds):
            refund = self._shops["usd"].operations.find(f"/refunds/{number}")
            if refund and refund["status"] == "succeeded":
                self._provider.send_refund_back(refund["provider_reference"])
                return

    def _close(self) -> None:
        self._rest("What nobody paid expires", without_pending=not self._diary.page.planted)

    def _plant(self) -> None:
        """A last order stays open: its payment will reach the provider, and not us. Another one is paid and not booked yet."""
        self._set_expiry(_EXPIRY_AFTERWARDS_S)
        self._visit(self._day.late)
        with self._provider.booking_after(BOOKED_AFTER_S):
            self._visit(self._day.unbooked)
        if self._diary.page.planted:
            return
        self._rest("The till is closed")
        self._turn_clock(self._day.planting_second)
        with self._steps.step("Stripe's books are made to differ", len(evening.PLANTED)) as advance:
            for kind, count in evening.PLANTED.items():
                self._provider.plant(kind, count)
                advance()
        finance.note_balance()
        self._diary.write(planted=True)

    def _trade_today(self) -> None:
        with self._steps.step("Customers buy, today", len(self._day.today)) as advance:
            for visit in self._day.today:
                self._visit_now(visit)
                advance()
        self._rest("Webhooks arrive, sales are posted")

    def _settle_up(self) -> None:
        """What customers and their banks do, and what goes to ours: today's, so that the day itself stays as it was."""
        paid_out: list[Json] = []
        with self._steps.step("A payment is disputed, refunds wait for approval, a payout arrives", 3) as advance:
            if not self._diary.page.disputed:
                self._dispute(self._day.today, reason="product_not_received")
                self._diary.write(disputed=True)
            advance()
            self._ask_for_much(self._day.today)
            advance()
            if not self._diary.page.paid_out:
                paid_out = self._provider.pay_out("usd")
                self._diary.write(paid_out=True)
            advance()
        self._rest("Finance hears of it")
        finance.bank_tells_of_today(paid_out)

    def _dispute(self, visits: Sequence[Visit], *, reason: str) -> None:
        """The first of these orders that was paid."""
        for _, payment in self._paid(visits):
            self._provider.dispute(payment["provider_reference"], reason=reason)
            return

    def _ask_for_much(self, visits: Sequence[Visit]) -> None:
        """The last two of these orders that were paid are refunded whole, which is more than one person decides. Somebody
        does not wait for the second person, and gives one of them back at the provider's dashboard.
        """
        asked = list(islice(self._paid(tuple(reversed(visits))), 2))
        for visit, payment in asked:
            shop = self._shops[visit.wish.currency]
            shop.approve_refunds_above(min(_ONE_PERSON_REFUNDS, *(paid["amount"] - 1 for _, paid in asked)))
            refund = {"reason": "the parcel is lost, says the carrier"}
            shop.operations.post(
                f"/payments/{payment['number']}/refunds", refund, key=f"trading-day-{visit.number}-lost"
            )
        for _, payment in asked[1:]:
            if not payment["amount_refunded"]:
                self._provider.refund_at_dashboard(payment["provider_reference"])

    def _paid(self, visits: Sequence[Visit]) -> Iterator[tuple[Visit, Json]]:
        """What was paid of these orders."""
        for visit in visits:
            order = self._shops[visit.wish.currency].operations.get(f"/orders/{self._orders[visit.number]}")
            for payment in order["payments"]:
                if payment["status"] == "succeeded":
                    yield visit, payment

    def _reconcile(self) -> RunReport:
        with self._steps.step("Reconciling, closing one discrepancy, reconciling again", 3) as advance:
            evening.reconcile(self.date)
            advance()
            evening.close_one(self._orders[self._day.late.number])
            self._wait_for_rest(without_pending=False)
            advance()
            return evening.reconcile(self.date)

    # --- Helpers --------------------------------------------------------------------------------------

    def _visit(self, visit: Visit) -> None:
        self._turn_clock(visit.second)
        self._visit_now(visit)

    def _visit_now(self, visit: Visit) -> None:
        self._orders[visit.number] = visit_shop(visit, shop=self._shops[visit.wish.currency], provider=self._provider)

    def _turn_clock(self, second: int) -> None:
        """Forward only: visits overlap."""
        with self._clock:
            if second > self._latest_second:
                self._latest_second = second
                self._provider.turn_clock(_moment(self.date, second))

    def _set_expiry(self, seconds: int) -> None:
        for shop in self._shops.values():
            shop.set_expiry(seconds)

    def _all(self, jobs: Sequence[Callable[[], None]], advance: Callable[[], object]) -> None:
        running = [self._pool.submit(job) for job in jobs]
        try:
            for done in running:
                done.result()
                advance()
        finally:
            for left in running:
                left.cancel()  # after a failure what has not begun need not begin; what has, ends under this clock
            wait(running)

    def _rest(self, text: str, *, without_pending: bool = False) -> None:
        with self._steps.step(text):
            self._wait_for_rest(without_pending=without_pending)

    def _wait_for_rest(self, *, without_pending: bool) -> None:
        """Until no webhook waits, no delivery is open and no saga runs; and, if asked, no order waits for its payment.

        Raises NeverAtRest.
        """
        deadline = time.monotonic() + _REST_TIMEOUT_S
        while not self._at_rest(without_pending):
            if time.monotonic() > deadline:
                raise NeverAtRest
            time.sleep(_REST_POLL_S)

    def _at_rest(self, without_pending: bool) -> bool:
        if self._provider.waiting_webhooks() or durability.backlog().oldest_s or _running_sagas():
            return False
        return not without_pending or not any(
            shop.operations.get("/orders", status="pending", limit="1")["data"] for shop in self._shops.values()
        )


def _moment(day: date, second: int) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC) + timedelta(seconds=second)


def _running_sagas() -> int:
    counts = durability.saga_counts()
    return sum(count for (_, state), count in counts.items() if state in ("running", "compensating"))
