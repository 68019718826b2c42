"""`make crash N=1000`: kill the product's processes N times under load, and look after each round whether a cent is missing.

A round: customers trade; a few waves of kills, of faults on the wire, of lost caches and turned clocks; then nothing but
the product's own retries and scans, until it is at rest; then the auditor. A finding ends the campaign.

An interrupted campaign goes on where it was: its data and its count are kept in var/crash. NEW=1 begins anew.
"""

import json
import os
import random
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis
import requests

from tests.campaigns import faults, proxy, report
from tests.campaigns.audit import Accepted, Audit, audit, audit_accepted
from tests.campaigns.proxy import Proxy
from tests.campaigns.rest import NeverAtRest, not_seen, wait_for_rest
from tests.campaigns.shoppers import Addresses, Client, Load, Told
from tests.campaigns.stack import FAKETIME, PROXY, provider_file
from tests.stack_process import ROOT, RunningStack

FOLDER = ROOT / "var" / "crash"
KILLS_A_ROUND = 16
SHOPPERS = 8
TRADES_FIRST_S = 6  # at most, until each customer had an answer: before the first wave there is something to lose
BOOKS = tuple(f"book-{number}" for number in range(1, 7))
SCARCE = BOOKS[-1]  # a few copies: some buyers are refused
ORDERS_EXPIRE_AFTER_S = 8
HEALS_WITHIN_S = 120  # longer, and it does not heal by itself
SLOW_CLIENTS_S = 15  # worth a line
SEEN_WITHIN_S = 30  # beat has every worker write a heartbeat each 10 s
# What the product lets us hurry, so that a round takes seconds; everything else is as `make up` has it. The grace stays
# longer than the proxy holds a request: what is not found after it was never made.
HURRY = {"PAYMENT_RECHECK_FIRST_S": "5", "PROVIDER_LOOKUP_GRACE_S": "20"}
COMMAND = (sys.executable, "-m", "tests.campaigns.stack", "up")


class Damage(Exception):
    """What a round found; the campaign ends with it."""


@dataclass
class Round:
    """What one round did. `healed_s`: from its last fault until the product was at rest."""

    number: int
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    did: Counter[str] = field(default_factory=Counter)
    healed_s: float = 0.0
    commit: str = field(default_factory=report.commit)
    trail: list[str] = field(default_factory=list)  # how it came to rest
    took_s: float = 0.0


@dataclass
class State:
    """What is kept of a campaign between two runs."""

    seed: int
    commit: str
    rounds: list[Round] = field(default_factory=list)
    starts: int = 0
    finding: str = ""
    audit: dict[str, Any] = field(default_factory=dict)

    @property
    def kills(self) -> int:
        return sum(sum(one.kills.values()) for one in self.rounds)

    @classmethod
    def read(cls, folder: Path) -> "State | None":
        try:
            kept = json.loads((folder / "state.json").read_text())
        except FileNotFoundError:
            return None
        counted = ("kills", "faults", "did")
        rounds = [Round(**{**one, **{name: Counter(one[name]) for name in counted}}) for one in kept.pop("rounds")]
        return cls(rounds=rounds, **kept)

    def write(self, folder: Path) -> None:
        new = folder / "state.new"
        new.write_text(json.dumps({**vars(self), "rounds": [vars(one) for one in self.rounds]}, indent=1))
        new.replace(folder / "state.json")


class Campaign:
    """One stack, round after round, until so many kills are done."""

    def __init__(self, folder: Path, state: State, *, say: Any = print) -> None:
        self.folder = folder
        self.state = state
        self.say = say
        self.told = Told()
        self._read_told()

    @contextmanager
    def running(self) -> Iterator[None]:
        """The stack and its proxy, up; both gone afterwards, the data kept."""
        self.state.starts += 1
        self.state.write(self.folder)
        var = self.folder / "var"
        self.proxy = Proxy(lambda: provider_file(var).read_text(), seed=f"{self.state.seed}:{self.state.starts}")
        self.stack = RunningStack(var, command=COMMAND, **HURRY, **{PROXY: self.proxy.url})
        try:
            self.stack.start()
            self._open_shop()
            yield
        finally:
            self.stack.stop()
            self.proxy.stop()

    @property
    def provider(self) -> str:
        return provider_file(self.stack.var).read_text()

    def _open_shop(self) -> None:
        info = self.stack.info
        self.shop = Addresses(info["url"], info["storefront_key"], info["operations_key"], lambda: self.provider, BOOKS)
        with psycopg.connect(info["database_url"], autocommit=True) as connection:
            connection.execute("UPDATE catalog_merchant SET order_expires_after_s = %s", [ORDERS_EXPIRE_AFTER_S])
        clerk = Client(self.shop, Told(), random.Random(f"{self.state.seed}:{self.state.starts}"))
        for book in BOOKS:
            offer = {
                "id": book,
                "title": book,
                "author": "A. Author",
                "price": 1500,
                "currency": "usd",
                "published": True,
            }
            clerk.post("/products", offer)
            clerk.post(f"/stock/{book}/restock", {"quantity": 5 if book == SCARCE else 5_000})
        clerk.close()

    # --- A round --------------------------------------------------------------------------------------

    def round(self, *, kills: int) -> Round:
        """Raises Damage."""
        done = Round(number=len(self.state.rounds) + 1)
        began = time.monotonic()
        rng = random.Random(f"{self.state.seed}:{done.number}")
        hit_before = Counter(self.proxy.hit)
        load = Load(self.shop, shoppers=SHOPPERS, seed=f"{self.state.seed}:{done.number}:{self.state.starts}")
        trading_until = began + TRADES_FIRST_S
        while load.told.did["checkouts"] < SHOPPERS and time.monotonic() < trading_until:
            time.sleep(0.1)
        self._break(done, rng, kills)
        self.proxy.behave()
        faults.turn_clocks_back(self.stack)
        load.stop()
        ended, ended_at = time.monotonic(), time.time()
        done.faults.update(self.proxy.hit - hit_before)
        told = load.wait()
        answered = time.monotonic()
        try:
            done.trail = wait_for_rest(self.stack, self.provider, timeout_s=HEALS_WITHIN_S)
        except NeverAtRest as error:
            raise Damage(f"never at rest: {error}") from error
        done.healed_s = round(time.monotonic() - ended, 2)
        done.trail.insert(0, f"clients had their answers after {answered - ended:.1f} s")
        if answered - ended > SLOW_CLIENTS_S:
            done.trail.insert(1, f"slowest: {told.slowest[1]}, {told.slowest[0]:.0f} s")
        done.did = told.did
        self._keep_told(told)
        self._audit(told)
        silent = not_seen(self.stack, since=ended_at, timeout_s=SEEN_WITHIN_S)
        if silent:
            raise Damage(f"no heartbeat since the last fault: {', '.join(silent)}")
        done.took_s = round(time.monotonic() - began, 2)
        self.state.rounds.append(done)
        self.state.write(self.folder)
        return done

    def _break(self, done: Round, rng: random.Random, kills: int) -> None:
        """A few waves. The plan is the seed's; what it meets is up to the moment."""
        waves = min(kills, rng.choice((2, 3, 4)))
        for wave in range(waves):
            share = kills // waves + (wave < kills % waves)
            if rng.random() < 0.7:
                self.proxy.misbehave(rng.choice(proxy.KINDS), seconds=rng.uniform(1.5, 4), share=rng.uniform(0.3, 0.9))
            clocks = faults.clocks(self.stack)
            if clocks and rng.random() < 0.5:
                faults.turn_clock(self.stack, rng.choice(clocks), rng.choice(faults.CLOCKS_S))
                done.faults["clock turned by 25 h"] += 1
            if rng.random() < 0.3:
                done.faults["FLUSHALL"] += self._forget_caches()
            time.sleep(rng.uniform(0.2, 0.8))
            for _ in range(share):
                self._kill_one(done, rng)
                time.sleep(rng.choice((0, 0, 0.1, 0.4)))
            time.sleep(rng.uniform(0.8, 2.0))

    def _kill_one(self, done: Round, rng: random.Random) -> None:
        """Somebody who is alive: others are drawn until one is."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self._stack_is_up()
            target = faults.draw_target(rng)
            if faults.kill(self.stack, target, rng):
                done.kills[target] += 1
                return
            time.sleep(0.05)
        raise Damage("nobody of the stack is alive")

    def _forget_caches(self) -> bool:
        try:
            with redis.Redis.from_url(self.stack.info["redis_url"], socket_timeout=2) as client:
                return bool(client.flushall())
        except redis.RedisError:
            return False

    def _stack_is_up(self) -> None:
        try:
            self.stack.info  # noqa: B018
        except FileNotFoundError as error:
            raise Damage(f"the stack has ended: {self.stack.output.read_text()[-500:]}") from error

    # --- The auditor ----------------------------------------------------------------------------------

    def _audit(self, told: Told) -> None:
        database_url = self.stack.info["database_url"]
        seen: Audit = audit(database_url, self.provider, slack_s=15)
        findings = [
            *(f"a client never had an answer: {one}" for one in told.unanswered),
            *map(str, seen.findings),
            *map(
                str,
                audit_accepted(
                    database_url,
                    self.told.accepted,
                    refused=self.told.refused,
                    statuses=self.told.statuses,
                    refunds=self.told.refunds,
                ),
            ),
        ]
        books = requests.get(f"{self.provider}/_sandbox/books", timeout=30).json()
        self.state.audit = {
            "orders": dict(seen.orders),
            "charges": seen.charges,
            "refunds": seen.refunds,
            "cents_off": sum(seen.cents_off.values()),
            "captured": sum(books["captured"].values()),
            "refunded": sum(books["refunded"].values()),
            "replays": books["idempotent_replays"],
        }
        if findings:
            raise Damage("\n".join(findings))

    def _keep_told(self, told: Told) -> None:
        kept = {
            "accepted": [(one.key, one.order) for one in told.accepted],
            "refused": told.refused,
            "refunds": told.refunds,
            "statuses": told.statuses,
        }
        with (self.folder / "told.jsonl").open("a") as file:
            file.write(json.dumps(kept) + "\n")
        self._remember(kept)

    def _read_told(self) -> None:
        file = self.folder / "told.jsonl"
        for line in file.read_text().splitlines() if file.exists() else ():
            self._remember(json.loads(line))

    def _remember(self, kept: dict[str, Any]) -> None:
        self.told.accepted += [Accepted(key, order) for key, order in kept["accepted"]]
        self.told.refused += kept["refused"]
        self.told.refunds += kept["refunds"]
        self.told.statuses |= kept["statuses"]


# --- What it says -----------------------------------------------------------------------------------------


def progress(state: State, done: Round, *, wanted: int) -> str:
    hit = ", ".join(f"{count} {name}" for name, count in done.faults.items()) or "none"
    killed = ", ".join(f"{count} {name}" if count > 1 else name for name, count in done.kills.items())
    return (
        f"round {done.number}: {state.kills}/{wanted} kills ({killed}); faults: {hit};"
        f" {done.did['checkouts']} checkouts; healed in {done.healed_s:.1f} s"
        f"; cents off: {state.audit['cents_off']}"
    )


def summary(state: State) -> str:
    """Everything so far, in Markdown."""
    kills, hits = Counter[str](), Counter[str]()
    for one in state.rounds:
        kills.update(one.kills)
        hits.update(one.faults)
    healed = sorted(one.healed_s for one in state.rounds)
    seen = state.audit
    sold = sum(seen["orders"].get(status, 0) for status in ("paid", "shipped", "completed"))
    told = Counter[str]()
    for one in state.rounds:
        told.update(one.did)
    rows: list[list[object]] = [
        ["rounds", len(state.rounds)],
        ["kills", state.kills],
        ["checkouts accepted", told["checkouts"]],
        ["orders sold", sold],
        ["orders cancelled or expired", seen["orders"].get("cancelled", 0)],
        ["charges", seen["charges"]],
        ["refunds", seen["refunds"]],
        ["captured, cents", seen["captured"]],
        ["refunded, cents", seen["refunded"]],
        ["requests that the provider recognised by their key", seen["replays"]],
        ["time to heal, median, s", round(statistics.median(healed), 1)],
        ["time to heal, p99, s", round(healed[min(len(healed) - 1, int(len(healed) * 0.99))], 1)],
        ["**cents off**", seen["cents_off"]],
    ]
    lines = [
        f"{report.heading(seed=state.seed)}; `make crash N={state.kills} SEED={state.seed}`.",
        *_commits(state),
        "",
        report.table(["", "total"], rows),
        "",
        report.table(["killed", "times"], [[name, kills[name]] for name in faults.TARGETS]),
        "",
        report.table(["fault", "times"], [[name, count] for name, count in sorted(hits.items())]),
    ]
    return "\n".join(lines)


def _commits(state: State) -> list[str]:
    """A campaign that was interrupted may go on with a newer product: which kills hit which."""
    kills: Counter[str] = Counter()
    for one in state.rounds:
        kills[one.commit] += sum(one.kills.values())
    if set(kills) <= {report.commit()}:
        return []
    return ["Kills by commit: " + ", ".join(f"{count} on `{commit}`" for commit, count in kills.items()) + "."]


def main() -> int:
    asked = os.environ.get("N") or "1000"
    if not asked.isdecimal() or int(asked) == 0:
        print(f"error: N is a number of kills, not {asked!r}", file=sys.stderr)
        return 2
    wanted = int(asked)
    state = begin_or_go_on(FOLDER)
    if state.finding:
        print(
            f"This campaign ended in round {len(state.rounds) + 1} (seed {state.seed}) with a finding:\n{state.finding}"
        )
        print(f"Its data are in {FOLDER}. NEW=1 begins anew.")
        return 1
    if not FAKETIME:
        print("Clocks are not turned: libfaketime is missing (apt-get install libfaketime).")
    if state.kills < wanted:
        campaign = Campaign(FOLDER, state)
        try:
            with campaign.running():
                while state.kills < wanted:
                    done = campaign.round(kills=min(KILLS_A_ROUND, wanted - state.kills))
                    print(progress(state, done, wanted=wanted), flush=True)
        except Damage as damage:
            state.finding = str(damage)
            state.write(FOLDER)
            print(f"FINDING in round {len(state.rounds) + 1}, seed {state.seed}:\n{damage}")
            print(f"Everything is kept in {FOLDER}: {FOLDER}/var/log, and its data.")
            return 1
        except KeyboardInterrupt:
            print(f"\nInterrupted after {state.kills} kills; the same command goes on.")
            return 130
    text = summary(state)
    print(f"\n{text}")
    if report.told_to_write():
        report.write_section(report.RELIABILITY, "crash", text)
    return 0


def begin_or_go_on(folder: Path) -> State:
    """SEED of another campaign, or NEW=1, begins anew and forgets the old one."""
    seed = int(os.environ["SEED"]) if os.environ.get("SEED") else None
    state = None if os.environ.get("NEW") == "1" else State.read(folder)
    if state and seed in (None, state.seed):
        print(f"Going on after round {len(state.rounds)}, {state.kills} kills, seed {state.seed} (NEW=1 begins anew).")
        return state
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    state = State(seed=seed if seed is not None else random.SystemRandom().randrange(10_000), commit=report.commit())
    state.write(folder)
    print(f"Seed {state.seed}.")
    return state


if __name__ == "__main__":
    sys.exit(main())
