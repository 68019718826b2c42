"""Build, reconcile what is clean, plant, reconcile, judge, fix, reconcile again; print what came of it."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import cast

from django.test import override_settings

from foundation.database import database_now
from foundation.errors import DomainError
from orders.models import Order
from payments.models import JournalEntry, Payment, Refund
from payments.sandbox import balance
from payments.sandbox.account import Account
from reconciliation import services
from reconciliation.imports import Expected as Days
from reconciliation.models import Discrepancy, ProviderTransaction
from reconciliation.states import OPEN_STATES, ClosedAs, DiscrepancyState
from reconciliation.types import KINDS, Action, ActionInput, Kind, RunReport
from tests.campaigns import report
from tests.campaigns.drill import statement
from tests.campaigns.drill.copies import Copy, Mould, moulds, multiply, provider
from tests.campaigns.drill.originals import OPENING_MINOR, SMALL_CURRENCIES, Trade
from tests.campaigns.drill.plants import RESIDUALS, WAYS, Expected, Ground, Way, wanted
from tests.sandbox_process import SandboxProcess
from tests.shop import settle

NOTE = "drill"
_BY = "drill"
_LATE_SHARE = 1000  # one sale in so many is booked after midnight
_LATE_S = 20  # … so long after its charge
_HOUR = 3600
_SHOWN = 40  # troubles


@dataclass
class Planted:
    """One difference that was planted, and what became of it."""

    way: Way
    expected: Expected
    is_found: bool = False
    is_right: bool = False  # found with the very figures
    closed: str = ""  # how it stood after the last run: fixed, auto, accepted; empty: it did not close

    @property
    def fingerprint(self) -> str:
        return f"{self.way.kind}:{self.expected.source}"


@dataclass
class Drill:
    """Everything that a drill showed."""

    seed: int
    copies: int
    planted: list[Planted] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    clean: RunReport | None = None
    first: RunReport | None = None
    last: RunReport | None = None
    false_alarms: Counter[str] = field(default_factory=Counter)  # kind → what nobody planted
    followed: Counter[str] = field(default_factory=Counter)  # kind → what an action itself brought to light
    troubles: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.troubles

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.took_s[name] = time.monotonic() - began
        print(f"{name}: {self.took_s[name]:.1f} s", flush=True)


def run(
    sandbox: SandboxProcess,
    *,
    copies: int,
    count: int,
    seed: int,
    currencies: int = len(SMALL_CURRENCIES),
    clean_first: bool = True,
) -> Drill:
    """The whole drill on an empty database and an empty sandbox. `count`: how many of each way."""
    drill = Drill(seed, copies)
    day = database_now().date() - timedelta(days=1)
    # The sandbox allows what Stripe does not: a reading that waits for no rate limit.
    with override_settings(STRIPE_API_BASE=sandbox.url, RECONCILE_PAGES_PER_S=100_000):
        books = Books(drill, sandbox, day, random.Random(seed))
        with drill.timed("books built"):
            books.build(copies=copies, count=count, currencies=currencies)
        if clean_first:
            with drill.timed("clean books taken in as a file and reconciled"):
                books.take_in_statement()
                services.read_balance()
                drill.clean = services.reconcile_day(day=day, by=_BY, from_files=True)
            _nothing_found(drill, drill.clean, "clean books")
        with drill.timed("differences planted"):
            books.plant(count=count, currencies=currencies)
        with drill.timed("reconciled"):
            drill.first = services.reconcile_day(day=day, by=_BY)
        _judge(drill)
        with drill.timed("fixed"):
            _fix(drill)
        with drill.timed("reconciled again"):
            drill.last = services.reconcile_day(day=day, by=_BY)
        _nothing_found(drill, drill.last, "the next run")
        _confirm(drill)
        drill.counts |= _counted()
    return drill


# --- The books ----------------------------------------------------------------------------------------


@dataclass
class Books:
    """Both books, and what can be planted in them."""

    drill: Drill
    sandbox: SandboxProcess
    day: date
    choose: random.Random
    moulds: list[Mould] = field(default_factory=list)
    chosen: dict[str, list[Copy]] = field(default_factory=dict)  # shape → copies that something is planted in
    late: list[Copy] = field(default_factory=list)  # charged before midnight, booked after it

    @property
    def noon(self) -> datetime:
        return datetime(self.day.year, self.day.month, self.day.day, 12, tzinfo=UTC)

    def build(self, *, copies: int, count: int, currencies: int) -> None:
        trade = Trade(self.sandbox, self.day)
        trade.open(currencies=currencies)
        with self._open() as account:
            self.moulds = moulds(trade.made, account.store, theirs=self.noon, ours=trade.began_at)
            made = self._plan(copies, wanted(count))
            self.drill.counts["rows copied"] = multiply(made, account)
            with account.transaction():
                self._hold_before_the_start(account)
                self._book_late(account)

    def _plan(self, copies: int, needed: Mapping[str, int]) -> list[Copy]:
        """So many transactions by their weights, at random moments of the day; enough of each shape for what is planted."""
        shapes: dict[str, list[Mould]] = {}
        for mould in self.moulds:
            shapes.setdefault(mould.original.shape, []).append(mould)
        weights = [mould.original.weight for mould in self.moulds]
        drawn = self.choose.choices(self.moulds, weights, k=max(0, copies - sum(needed.values())))
        made = [Copy(mould, self._moment(0)) for mould in drawn]
        before_midnight = self.noon + timedelta(hours=12, seconds=3 - _LATE_S)
        self.late = [
            Copy(self.choose.choice(shapes["sale"]), before_midnight) for _ in range(1 + copies // _LATE_SHARE)
        ]
        for shape, number in needed.items():
            for _ in range(number):
                copy = Copy(self.choose.choice(shapes[shape]), self._moment(1))
                made.append(copy)
                self.chosen.setdefault(shape, []).append(copy)
        made += self.late
        self.choose.shuffle(made)
        asked_for = {id(copy) for copy in [*self.late, *(copy for some in self.chosen.values() for copy in some)]}
        for place, copy in enumerate(made, 1):
            if id(copy) in asked_for:
                copy.names = copy.mould.named(place)
        for mould in self.moulds:  # the originals in the small currencies: what is planted there needs no copy
            if mould.original.weight == 0:
                names = {name: name for name in mould.named(0)}
                self.chosen[mould.original.shape] = [Copy(mould, self.noon, names)]
        return made

    def _moment(self, away_h: int) -> datetime:
        """Some second of the day, at least so many hours from midnight."""
        # A transaction takes some seconds: the last minutes are for those that are booked late.
        seconds = self.choose.randrange(away_h * _HOUR + 60, (24 - away_h) * _HOUR - 120)
        return self.noon + timedelta(seconds=seconds - 12 * _HOUR)

    def _hold_before_the_start(self, account: Account) -> None:
        """What the provider held when the books began: the opening balance."""
        before = account.clock_offset_s
        account.clock_offset_s = before - 30 * 86400
        balance.record(account, kind="topup", source="", amount=OPENING_MINOR, currency="usd")
        account.clock_offset_s = before

    def _book_late(self, account: Account) -> None:
        for copy in self.late:
            row = account.store.get("balance_transaction", copy.balance_transaction)
            assert row
            row["created"] += _LATE_S
            account.store.update(row)
            account.store.execute("UPDATE objects SET created = ? WHERE id = ?", (row["created"], row["id"]))

    def take_in_statement(self) -> None:
        """Both ways in are tried: a file now, the provider's API once something is planted."""
        midnight = self.noon - timedelta(hours=12)
        path = self.sandbox.storage.with_name("statement.csv")
        with self._open() as account:
            statement.write(account.store, path, since=midnight, until=midnight + timedelta(days=2))
        expected = Days(self.day, self.day + timedelta(days=1))  # a few rows were booked after midnight
        with path.open("rb") as file:
            taken_in = services.import_statement(file=file, name=path.name, by=_BY, expected=expected)
        self.drill.troubles += [f"statement, line {one.line}: {one.reason}" for one in taken_in.problems]
        path.unlink()

    # --- Planting -------------------------------------------------------------------------------------

    def plant(self, *, count: int, currencies: int) -> None:
        with self._open() as account, account.transaction(), account.silence():
            ground = Ground(account, self.choose, self.noon, account.clock_offset_s)
            left = {shape: list(copies) for shape, copies in self.chosen.items()}
            ways = [(way, way.shape) for way in WAYS for _ in range(count)]
            ways += [
                (RESIDUALS, RESIDUALS.shape.format(currency=currency))
                for currency in SMALL_CURRENCIES[: min(count, currencies)]
            ]
            self.choose.shuffle(ways)
            for way, shape in ways:
                copy = left[shape].pop(self.choose.randrange(len(left[shape]))) if shape else None
                ground.at_random_moment()
                self.drill.planted.append(Planted(way, way.do(ground, copy or _NOBODY)))
            account.clock_offset_s = ground.real_offset_s

    @contextmanager
    def _open(self) -> Iterator[Account]:
        """The provider's books, while its process is not there."""
        self.sandbox.stop()
        with provider(self.sandbox) as account:
            yield account
        self.sandbox.restart()


_NOBODY = Copy(cast("Mould", None), datetime.min.replace(tzinfo=UTC))  # for what is planted in no transaction


# --- The verdict --------------------------------------------------------------------------------------


def _nothing_found(drill: Drill, said: RunReport, which: str) -> None:
    """Timing is no finding."""
    if any(counts.new or counts.persisting for counts in said.kinds.values()):
        drill.troubles.append(f"{which}: {said.kinds}")
    drill.troubles += [
        f"{which}: {statement.currency} does not close: {proof}"
        for statement in said.statement.values()
        for proof in statement.proofs
        if proof.residual_minor != 0
    ]


def _judge(drill: Drill) -> None:
    found = {item.fingerprint: item for item in Discrepancy.objects.filter(state__in=OPEN_STATES)}
    for one in drill.planted:
        item = found.pop(one.fingerprint, None)
        one.is_found = item is not None
        one.is_right = item is not None and item.difference_minor == one.expected.difference_minor
        if item is None:
            drill.troubles.append(f"not found: {one.fingerprint} ({one.way.text})")
        elif not one.is_right:
            drill.troubles.append(
                f"{one.fingerprint} ({one.way.text}): off by {item.difference_minor}, not {one.expected.difference_minor}"
            )
    for item in found.values():
        drill.false_alarms[item.kind] += 1
        drill.troubles.append(f"nobody planted {item.fingerprint}: {item.evidence}")


def _fix(drill: Drill) -> None:
    for one in drill.planted:
        _close(drill, one.fingerprint, one.way.action, _given(one))
    settle(webhooks=False)
    # That a bank sent a refund back is known to the product as soon as it is told: the customer still waits.
    for item in Discrepancy.objects.filter(kind=Kind.REFUND_FAILED_LATE, state__in=OPEN_STATES):
        drill.followed[item.kind] += 1
        _close(drill, item.fingerprint, Action.REFUND_CUSTOMER, ActionInput())
    settle(webhooks=False)


def _given(one: Planted) -> ActionInput:
    """What a person says besides the note."""
    parts: tuple[tuple[str, int], ...] = ()
    if one.way.action == Action.SPLIT:
        total_minor = one.expected.difference_minor or 0
        parts = (("fees", total_minor // 3), ("write_offs", total_minor - total_minor // 3))
    return ActionInput(order_number=one.expected.order, number=one.expected.payment, parts=parts)


def _close(drill: Drill, fingerprint: str, action: str, given: ActionInput) -> None:
    item = Discrepancy.objects.filter(fingerprint=fingerprint).first()
    if item is None or item.state == DiscrepancyState.RESOLVED:
        return
    try:
        services.perform(discrepancy_id=item.pk, action=action, by=_BY, note=NOTE, given=given)
    except DomainError as error:
        drill.troubles.append(f"{action} of {fingerprint}: {error.detail}")


def _confirm(drill: Drill) -> None:
    """Fixed, and seen by the last run; or accepted by a person."""
    closed = {item.fingerprint: item for item in Discrepancy.objects.filter(state=DiscrepancyState.RESOLVED)}
    for one in drill.planted:
        item = closed.get(one.fingerprint)
        if item and (item.closed_as == ClosedAs.ACCEPTED or item.verified_at):
            one.closed = item.closed_as
        elif one.is_found:
            drill.troubles.append(f"not closed: {one.fingerprint} ({one.way.text})")
    for item in Discrepancy.objects.filter(state__in=OPEN_STATES):
        drill.troubles.append(f"still open: {item.fingerprint}")


def _counted() -> dict[str, int]:
    return {
        "orders": Order.objects.count(),
        "payments": Payment.objects.count(),
        "refunds": Refund.objects.count(),
        "ledger entries": JournalEntry.objects.count(),
        "rows of the provider's": ProviderTransaction.objects.count(),
    }


# --- What is printed ----------------------------------------------------------------------------------


def summary(drill: Drill) -> str:
    found = sum(one.is_found for one in drill.planted)
    facts = ", ".join(f"{count:,} {name}" for name, count in drill.counts.items())
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in drill.took_s.items())
    return "\n\n".join(
        [
            f"{report.heading(seed=drill.seed)}; `make drill N={drill.copies} SEED={drill.seed}`.",
            f"Books: {facts}. {took[:1].upper()}{took[1:]}.",
            _by_kind(drill),
            _by_way(drill),
            f"{found:,} of {len(drill.planted):,} found, {sum(drill.false_alarms.values())} false alarms, "
            f"{len(drill.troubles)} troubles. The next run: "
            + ("nothing open, every statement closes." if drill.is_clean else "**not clean**."),
            *(f"- {trouble}" for trouble in drill.troubles[:_SHOWN]),
        ]
    )


def _by_kind(drill: Drill) -> str:
    rows: list[list[object]] = []
    for kind in KINDS:
        of_kind = [one for one in drill.planted if one.way.kind == kind]
        followed = drill.followed[kind]
        if of_kind or followed or drill.false_alarms[kind]:
            found = sum(one.is_found for one in of_kind) + followed
            right = sum(one.is_right for one in of_kind) + followed
            closed = sum(bool(one.closed) for one in of_kind) + followed
            rows.append([kind, len(of_kind) + followed, found, right, drill.false_alarms[kind], closed])
    totals = [sum(int(str(row[column])) for row in rows) for column in range(1, 6)]
    header = ["kind", "planted", "found", "with the right figures", "false alarms", "closed and confirmed"]
    return report.table(header, [*rows, ["**all**", *totals]])


def _by_way(drill: Drill) -> str:
    rows: list[list[object]] = []
    for way in (*WAYS, RESIDUALS):
        of_way = [one for one in drill.planted if one.way is way]
        if of_way:
            how = Counter(one.closed or "open" for one in of_way)
            came = ", ".join(f"{count} {name}" for name, count in how.most_common())
            rows.append([way.kind, way.text, len(of_way), way.action, came])
    return report.table(["kind", "how they differ", "planted", "closed by", "in the end"], rows)
