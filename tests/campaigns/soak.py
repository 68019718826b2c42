"""`make soak MINUTES=30`: mixed load at 70 % of the measured limit, and a kill a minute; what grows, what waits, what is lost?

First a short closed loop finds how many visits a second this machine carries at most, and an open loop proves, or lowers, that.
Then visitors come in an open loop at 70 % of it, every minute a process dies, and memory, tables and latencies are written down. At the end the auditor looks.
"""

import contextlib
import os
import random
import shutil
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.campaigns import faults, memory, picture, report
from tests.campaigns.arrivals import Arrivals, Request, closed_loop, quantile
from tests.campaigns.audit import audit, audit_accepted
from tests.campaigns.memory import Sample
from tests.campaigns.rest import NeverAtRest, not_seen, restless, wait_for_rest
from tests.campaigns.shoppers import Addresses, Client, Told
from tests.stack_process import ROOT, RunningStack

FOLDER = ROOT / "var" / "soak"
PICTURE = ROOT / "docs" / "images" / "soak.svg"
SHARE_OF_LIMIT = 0.7
FIRST_VISITORS, MOST_VISITORS = 8, 512  # of the closed loop; twice as many each time
IN_VAIN = 2  # levels that carried no more than the best one before: one may be bad luck
LEVEL_S = 25.0
PROOF_S = 75.0  # orders have expired by then
PILED_UP_S = 20  # visits in work, in seconds' worth of arrivals: that no machine catches up with
NEXT_LIMIT = 0.8  # of one that was not carried
SAMPLE_EVERY_S = 5.0
KILL_AFTER_S = 30.0  # of each minute
DISTURBED_S = 20.0  # after a kill; what was wanted then is shown apart
BIN_S = 10.0  # of the picture's latencies
BOOKS = tuple(f"book-{number}" for number in range(1, 21))
ORDERS_EXPIRE_AFTER_S = 60  # so that expiry has its part in the load
RESTS_WITHIN_S = 180
SEEN_WITHIN_S = 30

# Not the product, or judged beside what they keep on purpose.
NOT_JUDGED = {
    "sandbox": "not the product: it stands for the provider",
    "valkey": "holds the stream, whose length is limited (`OUTBOX_STREAM_MAX_LENGTH`)",
}
STOOD_ON = ("postgres", "backend", "valkey", "sandbox")  # killed, every process feels it
# A table that grows must be here: kept on purpose, or cleaned.
MONEY = "kept: money is never deleted"
GOODS = "kept: the shop's books on orders and stock"
STAYS = {
    **dict.fromkeys(
        (
            "payments_account",
            "payments_balancesnapshot",
            "payments_bookcut",
            "payments_bookscheck",
            "payments_creditgrant",
            "payments_dispute",
            "payments_disputehistory",
            "payments_journalentry",
            "payments_kindtotal",
            "payments_payment",
            "payments_paymenthistory",
            "payments_payout",
            "payments_payouthistory",
            "payments_payouttransaction",
            "payments_posting",
            "payments_providertry",
            "payments_refund",
            "payments_refundhistory",
        ),
        MONEY,
    ),
    **dict.fromkeys(
        (
            "inventory_stock",
            "inventory_stockcheck",
            "inventory_stockhold",
            "inventory_stockmovement",
            "orders_dailysales",
            "orders_order",
            "orders_orderhistory",
            "orders_orderitem",
        ),
        GOODS,
    ),
    "orders_merchantcall": "cleaned after `MERCHANT_CALLS_KEPT_FOR_DAYS`",
    "durability_message": "cleaned after `MESSAGES_KEPT_FOR_DAYS`",
    "durability_delivery": "cleaned with its message",
    "durability_sagarun": "cleaned after `SAGAS_KEPT_FOR_DAYS`",
    "durability_sagastep": "cleaned with its saga",
    "durability_idempotencykey": "cleaned after `IDEMPOTENCY_KEY_KEPT_FOR_DAYS`",
    "payments_inboxevent": "cleaned after `INBOX_KEPT_FOR_DAYS`",
    "payments_inboxmark": "one row",
    "reconciliation_bulkaction": "kept: who did what to many; plans are cleaned after `RECONCILE_BULK_PLANS_KEPT_FOR_DAYS`",
    "reconciliation_bulkitem": "kept with its bulk action",
    **dict.fromkeys(
        (
            "reconciliation_bankline",
            "reconciliation_bankmatch",
            "reconciliation_bankstatement",
            "reconciliation_auditblock",
            "reconciliation_auditrow",
            "reconciliation_discrepancy",
            "reconciliation_discrepancyaction",
            "reconciliation_discrepancyhistory",
            "reconciliation_period",
            "reconciliation_periodclosing",
            "reconciliation_periodhistory",
            "reconciliation_periodreopening",
            "reconciliation_incident",
            "reconciliation_link",
            "reconciliation_match",
            "reconciliation_tolerance",
            "reconciliation_providerbalancereading",
            "reconciliation_daytotal",
            "reconciliation_providerread",
            "reconciliation_providertransaction",
            "reconciliation_rawpage",
            "reconciliation_rawrow",
            "reconciliation_reconciliationrun",
            "reconciliation_statementfile",
        ),
        MONEY,
    ),
}
GROWN_MB = 4.0  # a table of as many rows that is so much larger has grown as well

Tables = dict[str, tuple[int, int]]  # name → rows, bytes with indexes


@dataclass
class Soak:
    """What a soak saw. Times in seconds since the load began."""

    minutes: float
    seed: int
    limit: float = 0.0  # visits a second
    visitors: int = 0  # of the closed loop that reached it
    rate: float = 0.0
    kills: dict[float, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    told: Told = field(default_factory=Told)
    before: Tables = field(default_factory=dict)
    after: Tables = field(default_factory=dict)
    rested_s: float = 0.0
    cents_off: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def shaken_at(self) -> list[float]:
        return [at_s for at_s, target in self.kills.items() if target in STOOD_ON]


def run(minutes: float, seed: int, folder: Path) -> Soak:
    soak = Soak(minutes, seed)
    stack = RunningStack(folder / "var")
    try:
        stack.start()
        shop = open_shop(stack)
        measure_limit(soak, stack, shop)
        soak.before = tables(stack)
        load(soak, stack, shop)
        look_after(soak, stack)
    finally:
        stack.stop()
    return soak


def open_shop(stack: RunningStack) -> Addresses:
    info = stack.info
    shop = Addresses(
        info["url"], info["storefront_key"], info["operations_key"], lambda: str(info["stripe_api_base"]), BOOKS
    )
    with psycopg.connect(info["database_url"], autocommit=True) as connection:
        connection.execute("UPDATE catalog_merchant SET order_expires_after_s = %s", [ORDERS_EXPIRE_AFTER_S])
    clerk = Client(shop, Told(), random.Random(0))
    for book in BOOKS:
        offer = {"id": book, "title": book, "author": "A. Author", "price": 1500, "currency": "usd", "published": True}
        clerk.post("/products", offer)
        clerk.post(f"/stock/{book}/restock", {"quantity": 100_000})
    clerk.close()
    return shop


def measure_limit(soak: Soak, stack: RunningStack, shop: Addresses) -> None:
    """How many visits a second this machine carries, with the work that they leave to the workers.

    The median of the three best levels: a single one that was lucky would make the load one that nobody can carry.
    """
    level_s = min(LEVEL_S, max(15.0, soak.minutes * 5))
    visitors, in_vain, best, levels = FIRST_VISITORS, 0, 0.0, list[tuple[float, int]]()
    while visitors <= MOST_VISITORS and in_vain < IN_VAIN:
        per_s, told = closed_loop(shop, visitors=visitors, seconds=level_s, seed=f"{soak.seed}:limit:{visitors}")
        join(soak.told, told)
        ended = time.monotonic()
        wait_until_worked_off(stack)
        carried = per_s * level_s / (level_s + time.monotonic() - ended)
        say(f"closed loop, {visitors} visitors: {carried:.1f} visits/s")
        in_vain = 0 if carried > best else in_vain + 1
        best = max(best, carried)
        levels.append((carried, visitors))
        visitors *= 2
    three_best = sorted(levels, reverse=True)[:3]
    soak.limit, soak.visitors = three_best[len(three_best) // 2]
    while not carries(soak, stack, shop):
        say(f"open loop, {soak.limit:.1f} visits/s: they pile up")
        soak.limit *= NEXT_LIMIT
    soak.rate = soak.limit * SHARE_OF_LIMIT
    say(f"limit {soak.limit:.1f} visits/s; the load is {soak.rate:.1f} visits/s for {soak.minutes:g} minutes")


def carries(soak: Soak, stack: RunningStack, shop: Addresses) -> bool:
    """Whether visits at the limit do not pile up. A closed loop ends before orders expire, and before late news come."""
    arrivals = Arrivals(shop, per_s=soak.limit, seed=f"{soak.seed}:proof:{soak.limit:.1f}")
    waiting: list[int] = []
    ends = time.monotonic() + PROOF_S
    while time.monotonic() < ends and arrivals.in_work < PILED_UP_S * soak.limit:
        time.sleep(1)
        waiting.append(arrivals.in_work)
    piled_up = time.monotonic() < ends
    join(soak.told, arrivals.stop())
    wait_until_worked_off(stack)
    third = len(waiting) // 3
    before, after = statistics.median(waiting[third : 2 * third]), statistics.median(waiting[2 * third :])
    return not piled_up and after <= 2 * before + soak.limit


def wait_until_worked_off(stack: RunningStack) -> None:
    deadline = time.monotonic() + RESTS_WITHIN_S
    while time.monotonic() < deadline:
        left = restless(stack)
        if not any(left[name] for name in ("deliveries", "sagas", "messages")):
            return
        time.sleep(0.2)
    raise NeverAtRest(f"the workers are not done: {left}")


def load(soak: Soak, stack: RunningStack, shop: Addresses) -> None:
    """The load, with a sample of memory every few seconds, a kill a minute, and a line about each minute."""
    rng = random.Random(f"{soak.seed}:kills")
    arrivals = Arrivals(shop, per_s=soak.rate, seed=f"{soak.seed}:arrivals")
    began = arrivals.journal.began
    over = threading.Event()
    sampler = threading.Thread(target=_sample, args=(soak, stack, began, over), daemon=True)
    sampler.start()
    for minute in range(max(1, round(soak.minutes))):
        _sleep_until(began + minute * 60 + KILL_AFTER_S)
        target = kill_somebody(stack, rng)
        soak.kills[time.monotonic() - began] = target
        _sleep_until(began + (minute + 1) * 60)
        say(_minute(soak, arrivals, minute, target))
    join(soak.told, arrivals.stop())
    over.set()
    sampler.join()
    soak.requests, soak.errors = arrivals.journal.requests, arrivals.journal.errors


def kill_somebody(stack: RunningStack, rng: random.Random) -> str:
    """Others are drawn until one is alive."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        target = faults.draw_target(rng)
        if faults.kill(stack, target, rng):
            return target
        time.sleep(0.1)
    raise NeverAtRest("nobody of the stack is alive")


def _sample(soak: Soak, stack: RunningStack, began: float, over: threading.Event) -> None:
    while not over.wait(SAMPLE_EVERY_S):
        with contextlib.suppress(OSError, ValueError):  # a stack.json that is being written
            soak.samples += memory.take(stack.info, time.monotonic() - began)


def look_after(soak: Soak, stack: RunningStack) -> None:
    """Rest, tables, the auditor: whatever is wrong becomes a finding."""
    began, ended_at = time.monotonic(), time.time()
    provider = stack.info["stripe_api_base"]
    try:
        wait_for_rest(stack, provider, timeout_s=RESTS_WITHIN_S)
    except NeverAtRest as error:
        soak.findings.append(f"never at rest: {error}")
    soak.rested_s = time.monotonic() - began
    soak.findings += [
        f"no heartbeat since the load ended: {name}"
        for name in not_seen(stack, since=ended_at, timeout_s=SEEN_WITHIN_S)
    ]
    soak.after = tables(stack)
    soak.findings += [f"grows, and nobody cleans it: {name}" for name in grown(soak) if name not in STAYS]
    soak.findings += [
        f"memory of {role} grows by {trend.growth_mb_h:.0f} MB an hour"
        for role, trend in memory.trends(soak.samples, soak.shaken_at).items()
        if trend.verdict == "GROWS" and role not in NOT_JUDGED
    ]
    url = stack.info["database_url"]
    seen = audit(url, provider, slack_s=15)
    soak.cents_off = sum(seen.cents_off.values())
    told = soak.told
    soak.findings += [f"a client never had an answer: {one}" for one in told.unanswered]
    soak.findings += map(str, seen.findings)
    soak.findings += map(
        str,
        audit_accepted(url, told.accepted, refused=told.refused, statuses=told.statuses, refunds=told.refunds),
    )


def tables(stack: RunningStack) -> Tables:
    with psycopg.connect(stack.info["database_url"], autocommit=True) as connection:
        names = connection.execute(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'public'::regnamespace ORDER BY relname"
        ).fetchall()
        counted = {}
        for name, size in names:
            row = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()
            counted[name] = (row[0] if row else 0, size)
        return counted


def grown(soak: Soak) -> list[str]:
    def has_grown(name: str) -> bool:
        rows, size = soak.after[name]
        rows_before, size_before = soak.before.get(name, (0, 0))
        return rows > rows_before or (size - size_before) / memory.MB > GROWN_MB

    return [name for name in soak.after if has_grown(name)]


def join(all_told: Told, told: Told) -> None:
    all_told.accepted += told.accepted
    all_told.refused += told.refused
    all_told.refunds += told.refunds
    all_told.statuses |= told.statuses
    all_told.did.update(told.did)
    all_told.unanswered += told.unanswered


# --- What it says -----------------------------------------------------------------------------------------


def _minute(soak: Soak, arrivals: Arrivals, minute: int, killed: str) -> str:
    recent = [one.latency_s for one in arrivals.journal.requests if minute * 60 <= one.wanted_s < (minute + 1) * 60]
    latest: dict[str, float] = {}
    for sample in soak.samples:
        latest[sample.role] = sample.mb
    used = ", ".join(f"{role} {mb:.0f}" for role, mb in latest.items() if role != "sandbox")
    return (
        f"minute {minute + 1}: {len(recent):,} requests, p50 {quantile(recent, 0.5) * 1000:.0f} ms,"
        f" p99 {quantile(recent, 0.99) * 1000:.0f} ms; {arrivals.in_work} visits in work;"
        f" {sum(arrivals.journal.errors.values())} tries failed so far; killed: {killed}; MB: {used}"
    )


def disturbed(soak: Soak, wanted_s: float) -> bool:
    return any(0 <= wanted_s - at_s < DISTURBED_S for at_s in soak.kills)


def latency_rows(soak: Soak) -> list[list[object]]:
    kinds = Counter(one.kind for one in soak.requests)
    rows: list[list[object]] = []
    for kind, count in [*sorted(kinds.items(), key=lambda item: -item[1]), ("all", len(soak.requests))]:
        of_kind = [one for one in soak.requests if kind in ("all", one.kind)]
        every = [one.latency_s for one in of_kind]
        calm = [one.latency_s for one in of_kind if not disturbed(soak, one.wanted_s)]
        milliseconds = [quantile(every, 0.5), quantile(calm, 0.99), quantile(every, 0.99), max(every, default=0.0)]
        rows.append([kind, count, *(round(value * 1000) for value in milliseconds)])
    return rows


def memory_rows(soak: Soak) -> list[list[object]]:
    return [
        [
            role,
            round(trend.median_mb, 1),
            round(trend.growth_mb_h, 1),
            round(trend.measured_s / 60, 1),
            NOT_JUDGED.get(role, trend.verdict),
        ]
        for role, trend in memory.trends(soak.samples, soak.shaken_at).items()
    ]


def table_rows(soak: Soak) -> list[list[object]]:
    rows: list[list[object]] = []
    for name in grown(soak):
        rows_before, size_before = soak.before.get(name, (0, 0))
        now, size = soak.after[name]
        grew_mb = round((size - size_before) / memory.MB, 1)
        rows.append([f"`{name}`", rows_before, now, grew_mb, STAYS.get(name, "**nobody**")])
    return rows


def summary(soak: Soak) -> str:
    told = soak.told.did
    totals: list[list[object]] = [
        ["limit of this machine, visits/s", round(soak.limit, 1)],
        ["load, visits/s", round(soak.rate, 1)],
        ["minutes", soak.minutes],
        ["requests", len(soak.requests)],
        ["kills", len(soak.kills)],
        ["checkouts accepted", told["checkouts"]],
        ["seen paid", told["seen paid"]],
        ["refunds", told["refunds"]],
        ["at rest after the load, s", round(soak.rested_s, 1)],
        ["requests without a final answer", len(soak.told.unanswered)],
        ["findings", len(soak.findings)],
        ["**cents off**", soak.cents_off],
    ]
    errors = [[kind, why, count] for (kind, why), count in soak.errors.most_common()]
    kills = Counter(soak.kills.values())
    return "\n".join(
        [
            f"{report.heading(seed=soak.seed)}; `make soak MINUTES={soak.minutes:g} SEED={soak.seed}`.",
            "",
            f"![Memory by role and latency over {soak.minutes:g} minutes, with a kill a minute](images/{PICTURE.name})",
            "",
            report.table(["", "total"], totals),
            "",
            report.table(
                ["request", "count", "p50, ms", "p99 away from kills, ms", "p99, ms", "longest, ms"], latency_rows(soak)
            ),
            "",
            report.table(["memory of", "median, MB", "growth, MB/h", "measured, min", "verdict"], memory_rows(soak)),
            "",
            report.table(
                ["table that grew", "rows before", "rows after", "grown, MB", "stays or goes"], table_rows(soak)
            ),
            "",
            report.table(["tries without an answer, each repeated", "what came", "count"], errors),
            "",
            report.table(["killed", "times"], [[name, count] for name, count in kills.most_common()]),
            *(["", "Findings:", "", *(f"- {one}" for one in soak.findings)] if soak.findings else []),
        ]
    )


def draw(soak: Soak) -> str:
    shown = sorted({one.role for one in soak.samples} - {"sandbox", "valkey without the stream"})
    used = {role: [(one.at_s, one.mb) for one in soak.samples if one.role == role] for role in shown}
    return picture.draw(
        "Load held: memory and latency",
        f"{soak.rate:.1f} visits/s, 70 % of this machine's limit, for {soak.minutes:g} minutes; a process is killed each minute",
        [
            picture.Panel("Memory, MB (PSS without shared memory)", used),
            picture.Panel(
                "Latency of all requests, ms (from the intended arrival)", _over_time(soak.requests), log=True
            ),
        ],
        marks={at_s: f"{target} killed" for at_s, target in soak.kills.items()},
    )


def _over_time(requests_: Iterable[Request]) -> dict[str, list[tuple[float, float]]]:
    bins: dict[int, list[float]] = {}
    for one in requests_:
        bins.setdefault(int(one.wanted_s // BIN_S), []).append(one.latency_s * 1000)
    return {
        name: [((number + 0.5) * BIN_S, quantile(values, share)) for number, values in sorted(bins.items())]
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def say(line: str) -> None:
    print(line, flush=True)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def main() -> int:
    minutes, seed = float(os.environ.get("MINUTES") or 30), int(os.environ.get("SEED") or random.randrange(10_000))
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    try:
        soak = run(minutes, seed, FOLDER)
    except KeyboardInterrupt:
        print("\nInterrupted.")
        return 130
    text = summary(soak)
    print(f"\n{text}")
    drawn = PICTURE if report.told_to_write() else FOLDER / PICTURE.name
    drawn.write_text(draw(soak))
    print(f"\nPicture: {drawn.relative_to(ROOT)}")
    if report.told_to_write():
        report.write_section(report.RELIABILITY, "soak", text)
    return 1 if soak.findings else 0


if __name__ == "__main__":
    sys.exit(main())
