"""A program outside of Everycent that follows its stream of events: plain redis-py, nothing of ours imported.

    REDIS_URL=redis://… python docs/examples/consumer.py statistics.sqlite3

It keeps what was captured and refunded by currency, in a database of its own. What makes each event count once, whatever
is killed and whenever, is one transaction: the event's id is remembered together with its effect. See docs/events.md.
"""

import json
import os
import signal
import sqlite3
import sys
import time
from threading import Event
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

STREAM = os.environ.get("STREAM", "everycent:events")
GROUP = "statistics"  # one program, one group: its place in the stream is kept in Redis under this name
CONSUMER = "statistics-1"  # and one consumer a group: several would share the events, and lose the order of a key
BATCH = 100
BLOCK_MS = 1_000  # how long a read waits for news, and so how late a SIGTERM is noticed
PAUSE_S = 1  # before Redis is tried again
REMEMBERED_FOR_DAYS = 90  # longer than the shop keeps messages (30 days): nothing older can come again

Entry = tuple[str, dict[str, str]]

stopping = Event()


def main(path: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    database = open_database(path)
    redis = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True, protocol=2, socket_timeout=10)
    while not stopping.is_set():
        try:
            follow(redis, database)
        except (ConnectionError, TimeoutError) as error:
            print(f"Redis does not answer: {error}", file=sys.stderr)
            time.sleep(PAUSE_S)
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            # Redis lost its data: begin at the start of whatever it is refilled with.
    database.close()


def follow(redis: Redis, database: sqlite3.Connection) -> None:
    """First what an earlier run was given and did not acknowledge, then what is new."""
    join_group(redis)
    for entries in left_behind(redis):
        handle(redis, database, entries)
    while not stopping.is_set():
        answer: Any = redis.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=BATCH, block=BLOCK_MS)
        for _, entries in answer or []:
            handle(redis, database, entries)


def join_group(redis: Redis) -> None:
    try:
        redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)  # "0": from the oldest entry that is still there
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):  # it exists: go on where it stands
            raise


def left_behind(redis: Redis) -> Any:
    """Pages of entries that the group was given and nobody acknowledged: ours, since we are its only consumer."""
    start = "0-0"
    while not stopping.is_set():
        answer: Any = redis.xautoclaim(STREAM, GROUP, CONSUMER, min_idle_time=0, start_id=start, count=BATCH)
        start, entries, trimmed = answer
        if trimmed:
            print(f"trimmed before they were handled, ask for a refill: {trimmed}", file=sys.stderr)
        yield entries
        if start == "0-0":
            return


def handle(redis: Redis, database: sqlite3.Connection, entries: list[Entry]) -> None:
    """One by one, in order. An error ends the process; started again, it goes on with this very entry."""
    for entry_id, fields in entries:
        if stopping.is_set():
            return  # not acknowledged: the next run begins with it
        handle_once(database, fields)
        redis.xack(STREAM, GROUP, entry_id)  # killed before this line: it comes again, and is known


def handle_once(database: sqlite3.Connection, fields: dict[str, str]) -> None:
    """The event's id and its effect, in one transaction."""
    with database:
        known = database.execute(
            "INSERT INTO handled (id) VALUES (?) ON CONFLICT DO NOTHING RETURNING id", [int(fields["id"])]
        ).fetchone()
        if known is None:
            return
        apply(database, fields["type"], json.loads(fields["payload"]))


def apply(database: sqlite3.Connection, event: str, payload: dict[str, Any]) -> None:
    """What this program is there for. Types and members that it does not know, it leaves alone."""
    if event == "payments.payment_captured.v1":
        add(database, "captured", payload)
    elif event == "payments.refund_succeeded.v1":
        add(database, "refunded", payload)


def add(database: sqlite3.Connection, what: str, payload: dict[str, Any]) -> None:
    database.execute(
        "INSERT INTO total (what, currency, minor, events) VALUES (?, ?, ?, 1)"
        " ON CONFLICT (what, currency) DO UPDATE SET minor = minor + excluded.minor, events = events + 1",
        [what, payload["currency"], payload["amount_minor"]],
    )


def open_database(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=30)
    database.executescript(
        "PRAGMA journal_mode = WAL;"
        "CREATE TABLE IF NOT EXISTS handled (id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP);"
        "CREATE TABLE IF NOT EXISTS total (what TEXT, currency TEXT, minor INTEGER, events INTEGER,"
        " PRIMARY KEY (what, currency));"
    )
    with database:
        database.execute("DELETE FROM handled WHERE at < datetime('now', ?)", [f"-{REMEMBERED_FOR_DAYS} days"])
    return database


if __name__ == "__main__":
    main(sys.argv[1])
