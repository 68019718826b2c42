"""The outbox: what publishing and delivering cost, and the mirror to the stream against the database-only drain."""

from dataclasses import dataclass
from typing import ClassVar

from django.conf import settings
from django.db import connection, transaction

from benchmarks.harness import Form, Section, measure
from durability import outbox, services, shares, stream
from durability.registry import handles
from durability.types import Event, Lane, Since
from foundation.redis import client

MESSAGES = 50_000
EVENTS = 500

_SEED = """
TRUNCATE durability_message, durability_delivery CASCADE;
INSERT INTO durability_message (name, key, payload, request_id, state)
SELECT 'payments.payment_captured.v1', 'pay_' || lpad(n::text, 26, '0'), jsonb_build_object(
           'payment', 'pay_' || lpad(n::text, 26, '0'), 'merchant_id', gen_random_uuid(),
           'reference', 'ord_' || lpad(n::text, 26, '0'), 'amount_minor', n, 'currency', 'usd',
           'provider_reference', 'pi_' || md5(n::text), 'settling', true),
       'req_' || n, 'pending'
FROM generate_series(1, %s) n
"""
# The floor: claim and finish a batch in SQL alone.
_CLAIM = "SELECT id FROM durability_message WHERE state = 'pending' ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED"
_FINISH = "UPDATE durability_message SET state = 'published', published_at = clock_timestamp() WHERE id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Ticked(Event):
    name: ClassVar[str] = "benchmarks.ticked.v1"
    number: int

    @property
    def key(self) -> str:
        return str(self.number)


@handles(Ticked, name="benchmarks.nothing", since=Since.DEPLOYMENT)
def nothing(event: Ticked) -> None:
    """The cost of a delivery itself."""


def run() -> None:
    section = Section("outbox", "The outbox")
    _events(section)
    _mirror(section)
    section.close()


def _events(section: Section) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS benchmark_outbox (id bigserial PRIMARY KEY, payload jsonb)")

    def insert() -> int:
        for number in range(EVENTS):
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("INSERT INTO benchmark_outbox (payload) VALUES (%s::jsonb)", [f'{{"number": {number}}}'])
        return EVENTS

    def publish() -> int:
        for number in range(EVENTS):
            with transaction.atomic():
                services.publish(Ticked(number))
        return EVENTS

    def publish_many() -> int:
        with transaction.atomic():
            services.publish_many([Ticked(number) for number in range(EVENTS)])
        return EVENTS

    def deliver() -> int:
        delivered = 0
        while taken := outbox.deliver_batch(Lane.OWN):
            delivered += taken
        return delivered

    shares.forget()
    seen = measure(
        [
            Form("floor: insert one row, commit", insert),
            Form("publish one event to one handler, commit", publish),
            Form("publish them in one transaction", publish_many),
            Form("deliver", deliver),
        ]
    )
    section.table(seen, unit=f"{EVENTS:,} events")


def _mirror(section: Section) -> None:
    def prepare() -> None:
        with connection.cursor() as cursor:
            cursor.execute(_SEED, [MESSAGES])
            cursor.execute("VACUUM (ANALYZE) durability_message")
            cursor.execute("CHECKPOINT")
        client().flushdb()

    def drain_in_sql() -> int:
        drained = 0
        while True:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(_CLAIM, [settings.OUTBOX_STREAM_BATCH])
                ids = [row[0] for row in cursor.fetchall()]
                if not ids:
                    return drained
                cursor.execute(_FINISH, [ids])
            drained += len(ids)

    def mirror() -> int:
        mirrored = 0
        while written := stream.mirror_batch():
            mirrored += written
        if client().xlen(settings.OUTBOX_STREAM) != MESSAGES:
            raise SystemExit("error: not every message is in the stream")
        return mirrored

    seen = measure(
        [Form("floor: claim and finish in SQL alone", drain_in_sql, prepare), Form("mirror", mirror, prepare)]
    )
    section.table(seen, unit=f"{MESSAGES:,} messages in batches of {settings.OUTBOX_STREAM_BATCH:,}")
    ratio = seen[1].ratio(seen[0])
    section.aim("the mirror ≥ 0.4 × the database-only drain", met=ratio >= 0.4, measured=f"{ratio:.2f} ×")
