"""`/metrics`: what was counted in every process, and gauges of what is stored, read when asked (docs/metrics.md)."""

import ipaddress
import logging
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any, cast

from django.conf import settings
from django.db import Error, connection, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from durability import registry
from durability import selectors as durability
from foundation.database import connections_used
from inventory import selectors as inventory
from orders import selectors as orders
from payments import selectors as payments
from reconciliation import selectors as reconciliation

log = logging.getLogger(__name__)


def metrics(request: HttpRequest) -> HttpResponse:
    """For the networks of METRICS_ALLOWED_NETWORKS only."""
    if not _allowed(request.META.get("REMOTE_ADDR", "")):
        return HttpResponseForbidden("metrics are not public\n", content_type="text/plain")
    stored = CollectorRegistry()
    stored.register(Readings())
    return HttpResponse(generate_latest(_counted()) + generate_latest(stored), content_type=CONTENT_TYPE_LATEST)


def _counted() -> CollectorRegistry:
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return REGISTRY
    counted = CollectorRegistry()
    MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    return counted


def _allowed(address: str) -> bool:
    try:
        caller = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(caller in ipaddress.ip_network(network) for network in settings.METRICS_ALLOWED_NETWORKS)


class Readings(Collector):
    """All gauges of rows in PostgreSQL, or the news that it does not answer: counters are worth having then, too."""

    def collect(self) -> Iterator[Metric]:
        try:
            read = _read()
        except Error as error:
            log.warning("gauges could not be read: %s", error)
            read = []
        yield _by(
            ["task"],
            "everycent_job_interval_seconds",
            "How often beat sends a job.",
            {
                (name,): cast("timedelta", job["schedule"]).total_seconds()
                for name, job in settings.CELERY_BEAT_SCHEDULE.items()
            },
        )
        yield GaugeMetricFamily("everycent_database_up", "1 if the gauges below could be read.", value=bool(read))
        yield from read


@transaction.atomic
def _read() -> list[Metric]:
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {settings.METRICS_STATEMENT_TIMEOUT_MS:d}")
    return [*_durable(), *_unsettled(), *_owed(), *_disputed(), *_reconciled(), *_booked(), *_stocked(), *_database()]


def _durable() -> Iterator[Metric]:
    oldest_s = durability.oldest_open_s()
    yield GaugeMetricFamily(
        "everycent_outbox_oldest_seconds", "Since when the oldest open delivery waits.", value=oldest_s
    )
    waits_s = durability.oldest_unmirrored_s()
    yield GaugeMetricFamily(
        "everycent_stream_oldest_seconds", "Age of the oldest message not in the stream.", value=waits_s
    )
    yield _by(
        ["lane"],
        "everycent_sagas_overdue_seconds",
        "Since the saga that is overdue most is due, and no worker takes it.",
        {(lane,): age_s for lane, age_s in durability.oldest_due_saga_s().items()},
    )
    parked = {handler.name: 0 for handler in registry.handlers()} | durability.parked_counts()
    yield _by(
        ["handler"],
        "everycent_deliveries_parked",
        "Deliveries that wait for an operator.",
        {(handler,): count for handler, count in parked.items()},
    )
    yield GaugeMetricFamily(
        "everycent_merchant_calls_given_up",
        "Calls to merchants' systems that wait for an operator.",
        value=orders.merchant_calls_given_up(),
    )
    yield _by(
        ["recipe", "state"],
        "everycent_sagas",
        "Sagas that run, go back, or failed to go back.",
        durability.saga_counts(),
    )
    yield _by(
        ["recipe"],
        "everycent_sagas_stuck",
        "Sagas that were tried often without success, and still are.",
        {(recipe,): count for recipe, count in durability.slow_saga_counts().items()},
    )
    beat = GaugeMetricFamily("everycent_beat_age_seconds", "Since beat was last seen.")
    age_s = durability.beat_age_s()
    if age_s is not None:  # absent until it was seen: the alert asks for that, too
        beat.add_metric([], age_s)
    yield beat
    yield _by(
        ["queue"],
        "everycent_worker_age_seconds",
        "Since a worker of the queue was last seen.",
        {(queue,): age_s for queue, age_s in durability.worker_ages_s().items()},
    )


def _unsettled() -> Iterator[Metric]:
    yield _by(
        ["what"],
        "everycent_needs_a_person",
        "Payments and refunds that nobody but a person can settle.",
        {(what,): count for what, count in payments.needing_a_person().items()},
    )


def _owed() -> Iterator[Metric]:
    yield _by(
        ["currency"],
        "everycent_refunds_owed_minor",
        "Minor units that refunds which failed left as a debt to customers.",
        {(currency,): minor for currency, minor in payments.refunds_owed().items()},
    )


def _disputed() -> Iterator[Metric]:
    waiting = payments.disputes_waiting()
    yield GaugeMetricFamily("everycent_disputes_waiting", "Disputes that wait for our answer.", value=waiting.all)
    yield GaugeMetricFamily(
        "everycent_disputes_due_soon",
        "Those of them that can be answered for a short time only.",
        value=waiting.due_soon,
    )
    yield GaugeMetricFamily("everycent_disputes_overdue", "Those that nobody answered in time.", value=waiting.overdue)


def _reconciled() -> Iterator[Metric]:
    yield _by(
        ["kind"],
        "everycent_discrepancies_open",
        "Open discrepancies.",
        {(kind,): count for kind, count in reconciliation.open_counts().items()},
    )
    yield _by(
        ["cause"],
        "everycent_incidents_open",
        "Open incidents: differences that one cause explains.",
        {(cause,): count for cause, count in reconciliation.open_incident_counts().items()},
    )
    yield GaugeMetricFamily(
        "everycent_days_not_reconciled",
        "Finished days of the last ones that no completed run covers.",
        value=len(reconciliation.days_without_a_run()),
    )
    until = GaugeMetricFamily(
        "everycent_reconciled_until_timestamp_seconds", "The end (midnight UTC) of the newest reconciled day."
    )
    if day := reconciliation.last_reconciled_on():
        until.add_metric([], datetime.combine(day + timedelta(days=1), time(), UTC).timestamp())
    yield until
    yield _by(
        ["currency"],
        "everycent_statement_residual_minor",
        "Minor units that neither a match nor a discrepancy accounts for.",
        {(currency,): minor for currency, minor in reconciliation.residuals().items()},
    )
    yield _by(
        ["proof"],
        "everycent_proofs_not_made",
        "Currencies in which a proof of the newest reconciled day could not be made.",
        {(proof,): count for proof, count in reconciliation.proofs_not_made().items()},
    )


def _booked() -> Iterator[Metric]:
    found = GaugeMetricFamily("everycent_books_differences", "What the newest proof of the books found.")
    finished = GaugeMetricFamily("everycent_books_checked_timestamp_seconds", "When that proof finished.")
    if check := payments.last_books_check():  # absent until there was one: the alert asks for that, too
        found.add_metric([], check.found)
        finished.add_metric([], check.finished_at.timestamp())
    yield found
    yield finished


def _stocked() -> Iterator[Metric]:
    found = GaugeMetricFamily("everycent_stock_differences", "What the newest proof of the stock found.")
    finished = GaugeMetricFamily("everycent_stock_checked_timestamp_seconds", "When that proof finished.")
    if check := inventory.last_stock_check():  # absent until there was one: the alert asks for that, too
        found.add_metric([], check.found)
        finished.add_metric([], check.finished_at.timestamp())
    yield found
    yield finished


def _database() -> Iterator[Metric]:
    used, limit = connections_used()
    yield GaugeMetricFamily("everycent_database_connections_used", "Connections to PostgreSQL.", value=used)
    yield GaugeMetricFamily("everycent_database_connections_limit", "Most connections that it gives us.", value=limit)


def _by(labels: list[str], name: str, help_text: str, values: Mapping[Any, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family
