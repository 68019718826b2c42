"""Each metric counts what it says, where it happens; each gauge is read from the rows, at a price that stays."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
import requests
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from durability import services as durability
from durability.models import Delivery, Heartbeat, Message, SagaRun
from payments import services as payments
from payments.models import Payment
from payments.types import Failure
from tests.exposition import Change, read
from tests.shop import open_shop, settle

pytestmark = pytest.mark.django_db(transaction=True)

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
DECLINED = {"method": "card", "payment_method": "pm_card_visa_chargeDeclined", "confirm": True}


@pytest.fixture
def shop(transactional_db, valkey, sandbox):
    """A shop with ten copies of one book at 15.00 USD, and a provider that answers."""
    sandbox.control("POST", "webhooks", {"mode": "drop"})  # no web process listens; events are listed instead
    shop = open_shop()
    shop.stock("book", 10)
    return shop


@pytest.fixture
def impatient(settings):
    settings.PROVIDER_READ_TIMEOUT_S = 0.5


def ago(seconds: int):
    return Now() - timedelta(seconds=seconds)


def fault(sandbox, kind: str, *, match: str = "POST /v1/payment_intents", times: int = 1) -> None:
    sandbox.control("POST", "faults", {"match": match, "kind": kind, "times": times})


# --- Payments ---------------------------------------------------------------------------------------------


def requests_by_outcome(before: Change) -> dict[str, float]:
    return before.each("everycent_payment_requests_total", "outcome")


def test_a_payment_that_succeeds_is_one_request_and_its_amount_is_captured(shop):
    before = Change()
    shop.bought(quantity=2)
    settle()
    assert requests_by_outcome(before) == {"success": 1}
    assert before.by("everycent_captured_minor_total", currency="usd") == 3000


def test_a_card_that_is_declined_is_a_failed_request(shop):
    before = Change()
    assert shop.checkout(payment=DECLINED).status_code == 402
    settle()
    assert requests_by_outcome(before) == {"failed": 1}
    assert before.by("everycent_captured_minor_total", currency="usd") == 0


def test_a_decline_in_the_browser_counts_once_however_often_its_news_arrives(shop, sandbox):
    before = Change()
    payment = shop.checkout().json()["payment"]
    requests.post(
        f"{sandbox.url}/v1/payment_intents/{payment['provider_reference']}/confirm",
        data={"client_secret": payment["client_secret"], "payment_method": "pm_card_visa_chargeDeclined"},
        auth=("pk_test_sandbox", ""),
        timeout=10,
    )
    settle()
    payments.sync_payment(payment["provider_reference"], by="test")
    assert requests_by_outcome(before) == {"failed": 1}


def test_what_nobody_could_ask_for_is_an_error_and_what_nobody_knows_unknown(shop, sandbox, settings):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    before = Change()
    fault(sandbox, "error_500")
    shop.checkout(payment=CONFIRMED)
    assert requests_by_outcome(before) == {"unknown": 1}
    settle()
    assert requests_by_outcome(before) == {"unknown": 1, "error": 1}


def test_what_is_rolled_back_did_not_happen(shop):
    number = shop.checkout().json()["payment"]["number"]
    before = Change()

    def fail_and_roll_back() -> None:
        with transaction.atomic():
            payment = Payment.objects.select_for_update().get(pk=Payment.id_of(number))
            payments.payment_news.fail(payment, Failure("card_declined", "generic_decline", "no"), by="test")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_and_roll_back()
    assert requests_by_outcome(before) == {}


def test_a_request_for_a_payment_is_timed_from_either_address(shop):
    before = Change()
    order = shop.checkout(payment=DECLINED).json()["order"]["number"]
    assert before.by("everycent_payment_request_duration_seconds_count") == 1
    again = shop.storefront.post(
        f"/api/v1/orders/{order}/payments", CONFIRMED, format="json", headers={"Idempotency-Key": str(uuid4())}
    )
    assert again.status_code == 201
    assert before.by("everycent_payment_request_duration_seconds_count") == 2
    assert read().has("everycent_payment_request_duration_seconds_bucket", le="3.0"), "the alert asks for 3 s"


def test_a_refund_is_counted_whoever_made_it(shop, sandbox):
    before = Change()
    payment = shop.bought()["payments"][0]
    shop.post(f"/payments/{payment['number']}/refunds", {"reason": "x", "amount": 400})
    settle()
    assert before.by("everycent_refunded_minor_total", currency="usd") == 400
    made = requests.post(
        f"{sandbox.url}/v1/refunds",
        data={"payment_intent": payment["provider_reference"], "amount": 100},
        auth=("sk_test_sandbox", ""),
        timeout=10,
    ).json()
    payments.adopt_refund(refund=made["id"], by="test", why="made in the provider's dashboard")
    assert before.by("everycent_refunded_minor_total", currency="usd") == 500


# --- The provider -----------------------------------------------------------------------------------------


def calls(before: Change, outcome: str, call: str = "payment_intents.create") -> float:
    return before.by("everycent_stripe_request_duration_seconds_count", call=call, outcome=outcome)


def errors(before: Change) -> dict[str, float]:
    return before.each("everycent_stripe_errors_total", "type")


def test_calls_are_timed_by_call_and_outcome_and_a_decline_is_no_error(shop):
    before = Change()
    shop.bought()
    shop.checkout(payment=DECLINED)
    assert (calls(before, "ok"), calls(before, "declined")) == (1, 1)
    assert errors(before) == {}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("timeout_after", "timeout"),
        ("reset", "connection"),
        ("rate_limit", "rate_limit"),
        ("error_500", "server_error"),
    ],
)
def test_an_error_of_the_provider_is_counted_by_its_type(shop, sandbox, impatient, kind, expected):
    before = Change()
    fault(sandbox, kind)
    shop.checkout()
    assert errors(before) == {expected: 1}
    assert calls(before, expected) == 1


def test_a_provider_that_cannot_be_reached_is_a_connection_error(shop, settings):
    settings.STRIPE_API_BASE = "http://127.0.0.1:9"
    before = Change()
    shop.checkout()
    assert errors(before) == {"connection": 1}


# --- Idempotency ------------------------------------------------------------------------------------------


def keys_by_outcome(before: Change) -> dict[str, float]:
    return before.each("everycent_idempotency_total", "outcome")


def test_a_replay_and_a_mismatch_are_counted(shop):
    before, key = Change(), str(uuid4())
    shop.checkout(key=key)
    assert keys_by_outcome(before) == {}
    shop.checkout(key=key)
    assert keys_by_outcome(before) == {"replayed": 1}
    assert shop.checkout(key=key, quantity=2).status_code == 422
    assert keys_by_outcome(before) == {"replayed": 1, "mismatch": 1}


@contextmanager
def held(sql: str):
    """Another session that holds what this statement locks."""
    address = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    with psycopg.connect(**{name: connection.settings_dict[ours] for name, ours in address.items()}) as other:
        other.execute(sql)
        yield
        other.rollback()


def test_a_twin_that_waited_too_long_for_the_key_is_a_conflict(shop):
    key = str(uuid4())
    with held(
        "INSERT INTO durability_idempotencykey (caller, key, method, path, body_hash, subject)"
        f" VALUES ('{shop.merchant_id}', '{key}', 'POST', '/api/v1/checkout', '', '')"
    ):
        before = Change()
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '100ms'")
        try:
            answer = shop.checkout(key=key)
        finally:
            connection.close()
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_use")
    assert keys_by_outcome(before) == {"conflict": 1}


def test_a_twin_that_meets_the_first_one_at_the_provider_is_a_conflict(shop, sandbox, impatient):
    """The first request has committed its key and waits for the provider: the second is told to come back."""
    before, key = Change(), str(uuid4())
    fault(sandbox, "timeout_before")
    entered = threading.Event()

    def first() -> int:
        entered.set()
        try:
            return int(shop.checkout(key=key).status_code)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(first)
        entered.wait()
        while not SagaRun.objects.filter(recipe="orders.checkout").exists():
            time.sleep(0.01)
        answer = shop.checkout(key=key)
        assert pending.result() == 201
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_use")
    assert keys_by_outcome(before) == {"conflict": 1}


# --- The database -----------------------------------------------------------------------------------------


def test_the_database_is_timed_by_django_prometheus():
    before = Change()
    Message.objects.count()
    assert before.by("django_db_query_duration_seconds_count", alias="default", vendor="postgresql") > 0


def test_connections_are_told_beside_their_limit():
    with held("SELECT 1"):
        seen = read()
    with connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        most = int(cursor.fetchone()[0])
    assert 2 <= seen.value("everycent_database_connections_used") < most
    assert 0 < seen.value("everycent_database_connections_limit") < most
    assert seen.value("everycent_database_up") == 1


def test_while_the_database_does_not_answer_the_counters_still_do(settings):
    settings.METRICS_STATEMENT_TIMEOUT_MS = 100
    with held("LOCK TABLE durability_delivery IN ACCESS EXCLUSIVE MODE"):
        seen = read()
    assert seen.has("everycent_database_up")
    assert seen.value("everycent_database_up") == 0
    assert seen.has("everycent_payment_requests_total", outcome="success")
    assert not seen.has("everycent_outbox_oldest_seconds")


# --- What is stored ---------------------------------------------------------------------------------------


def message(handler: str = "orders.mail_receipt", key: str = "k", state: str = "pending", age_s: int = 0) -> Delivery:
    made = Message.objects.create(name="orders.order_paid.v1", key=key, payload={})
    return Delivery.objects.create(message=made, handler=handler, key=key, state=state, due_since=ago(age_s))


def test_the_age_of_the_outbox_is_that_of_its_oldest_open_delivery():
    assert read().value("everycent_outbox_oldest_seconds") == 0
    message(age_s=500, state="done")
    message(age_s=100, state="running")
    message(age_s=50)
    assert read().value("everycent_outbox_oldest_seconds") == pytest.approx(100, abs=5)


def test_what_waits_behind_a_parked_delivery_does_not_age_the_outbox():
    """Or one parked delivery would sound two alarms, and the second would hide a backlog."""
    message(age_s=300, state="parked")
    message(age_s=200)
    message(age_s=100, handler="orders.mail_refund")
    message(age_s=90, key="another")
    assert read().value("everycent_outbox_oldest_seconds") == pytest.approx(100, abs=5)


def test_parked_deliveries_are_told_by_handler_and_fall_back_to_zero():
    one = message(state="parked")
    message(state="parked", key="k2")
    assert read().value("everycent_deliveries_parked", handler="orders.mail_receipt") == 2
    Delivery.objects.exclude(pk=one.pk).delete()
    durability.skip_delivery(delivery_id=one.pk, by="test", reason="a test")
    seen = read()
    assert seen.has("everycent_deliveries_parked", handler="orders.mail_receipt")
    assert seen.value("everycent_deliveries_parked", handler="orders.mail_receipt") == 0


def test_sagas_are_told_by_recipe_and_state_and_fall_back_to_zero():
    for number, state in enumerate(("running", "running", "compensating", "compensation_failed", "completed")):
        SagaRun.objects.create(recipe="payments.refund", version=1, key=str(number), subject="x", state=state)
    seen = read()
    states = ("running", "compensating", "compensation_failed")
    assert [seen.value("everycent_sagas", recipe="payments.refund", state=state) for state in states] == [2, 1, 1]
    assert seen.has("everycent_sagas", recipe="orders.checkout", state="running")


def test_sagas_that_no_worker_takes_are_told_by_lane():
    for key, outside, due_s in (("a", False, 100), ("b", False, 400), ("held", True, -10)):
        SagaRun.objects.create(
            recipe="orders.checkout", version=1, key=key, subject="x", outside=outside, available_at=ago(due_s)
        )
    seen = read()
    assert seen.value("everycent_sagas_overdue_seconds", lane="own") == pytest.approx(400, abs=5)
    assert seen.value("everycent_sagas_overdue_seconds", lane="outside") == 0


def test_sagas_that_are_tried_again_and_again_are_told(settings):
    tried = {"a": settings.SAGA_STUCK_AFTER_ATTEMPTS, "b": settings.SAGA_STUCK_AFTER_ATTEMPTS - 1}
    for key, attempts in tried.items():
        SagaRun.objects.create(recipe="payments.refund", version=1, key=key, subject="x", attempts=attempts)
    assert read().value("everycent_sagas_stuck", recipe="payments.refund") == 1
    assert read().has("everycent_sagas_stuck", recipe="orders.checkout")


def test_beat_and_workers_are_told_by_their_age_and_absent_until_seen():
    assert not read().has("everycent_beat_age_seconds")
    ages = {"beat": 30, "worker.own": 60, "something.else": 90}
    Heartbeat.objects.bulk_create(Heartbeat(name=name, seen_at=ago(age_s)) for name, age_s in ages.items())
    seen = read()
    assert seen.value("everycent_beat_age_seconds") == pytest.approx(30, abs=5)
    assert seen.value("everycent_worker_age_seconds", queue="own") == pytest.approx(60, abs=5)
    assert sum(name == "everycent_worker_age_seconds" for name, _ in seen.samples) == 1


# --- The price of a reading -------------------------------------------------------------------------------

ROWS = 30_000
# Much that is finished, a little that is open: how every table looks after a month.
_FILL = """
INSERT INTO durability_message (id, name, key, payload, request_id, state)
SELECT n, 'orders.order_paid.v1', 'k' || n, '{{}}', '', 'published' FROM generate_series(1, {rows}) n;
INSERT INTO durability_delivery (message_id, handler, key, outside, state, attempts, lease_version, last_error, resolved_by, resolved_reason)
SELECT n, 'orders.mail_receipt', 'k' || n, true, CASE WHEN n % 1000 = 0 THEN 'parked' WHEN n % {open_share} = 1 THEN 'pending' ELSE 'done' END,
       1, 1, '', '', '' FROM generate_series(1, {rows}) n;
INSERT INTO durability_sagarun (id, recipe, version, key, subject, payload, request_id, state, current_step, attempts, lease_version, error)
SELECT gen_random_uuid(), 'payments.refund', 1, n, 's', '{{}}', '',
       CASE WHEN n % 1000 = 0 THEN 'running' WHEN n % 1000 = 1 THEN 'compensation_failed' ELSE 'completed' END,
       1, 1, 1, '' FROM generate_series(1, {rows}) n;
INSERT INTO reconciliation_reconciliationrun (id, date, provisional, state, by, lease_until, finished_at, duration_ms, imported,
    ours_count, ours_totals, theirs_count, theirs_totals, matched, kinds, residual, error)
SELECT gen_random_uuid(), current_date - n - 1, false, 'completed', 't', now(), now(), 1, 0, 0, '{{}}', 0, '{{}}', 0, '{{}}', '{{}}', ''
FROM generate_series(1, {rows}) n;
INSERT INTO reconciliation_discrepancy (id, fingerprint, kind, object_kind, business_date, severity, state, owner, source, intent,
    charge, order_reference, ours_currency, ours_status, theirs_currency, theirs_status, evidence, cycle, first_seen_run_id,
    last_seen_run_id, closed_as, resolved_at, resolved_by)
SELECT gen_random_uuid(), n, 'amount_mismatch', 'charge', '2026-01-01', 'high', CASE WHEN n % 1000 = 0 THEN 'open' ELSE 'resolved' END,
       '', 's', '', '', '', '', '', '', '', '{{}}', 1, run.id, run.id,
       CASE WHEN n % 1000 = 0 THEN '' ELSE 'auto' END, CASE WHEN n % 1000 = 0 THEN NULL ELSE now() END, ''
FROM generate_series(1, {rows}) n, (SELECT id FROM reconciliation_reconciliationrun LIMIT 1) run;
ANALYZE {tables};
"""
_FILLED = (
    "durability_message",
    "durability_delivery",
    "durability_sagarun",
    "reconciliation_reconciliationrun",
    "reconciliation_discrepancy",
)
_LARGE = ("durability_message", "durability_delivery", "durability_sagarun", "reconciliation_", "payments_")


@pytest.mark.parametrize("open_share", [1000, 2])
def test_no_gauge_reads_a_whole_table(open_share):
    """Explained on tables that are worth an index: the plan for 10 million rows is the same. With a long backlog, too."""
    with connection.cursor() as cursor:
        cursor.execute(_FILL.format(rows=ROWS, open_share=open_share, tables=", ".join(_FILLED)))
    with CaptureQueriesContext(connection) as captured:
        seen = read()
    assert seen.value("everycent_sagas", recipe="payments.refund", state="running") == ROWS / 1000
    statements = [query["sql"] for query in captured.captured_queries if query["sql"].startswith("SELECT")]
    assert 8 <= len(statements) <= 25, len(statements)
    for statement in statements:
        with transaction.atomic(), connection.cursor() as cursor:
            # An empty table is read whole, whatever its indexes, unless that is forbidden.
            empty = not any(f'FROM "{table}"' in statement or f"FROM {table}" in statement for table in _FILLED)
            cursor.execute(f"SET LOCAL enable_seqscan = {'off' if empty else 'on'}")
            cursor.execute(f"EXPLAIN {statement.replace('%', '%%')}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert not any(f"Seq Scan on {table}" in plan for table in _LARGE), f"{statement}\n{plan}"
        if open_share < 1000:  # a few may well be sorted
            assert "Sort" not in plan or "durability_delivery" not in plan, f"the oldest is looked for\n{plan}"
