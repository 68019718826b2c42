"""`/metrics`: what was counted in every process, and gauges of what is stored, read when asked."""

import ipaddress
import os
from collections.abc import Iterator

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from durability import selectors as durability
from reconciliation import selectors as reconciliation


class StoredState(Collector):
    """Gauges of rows in PostgreSQL: the same whichever process is asked."""

    def collect(self) -> Iterator[Metric]:
        backlog = durability.backlog()
        yield GaugeMetricFamily(
            "everycent_outbox_oldest_seconds", "Age of the oldest open delivery.", value=backlog.oldest_s
        )
        parked = GaugeMetricFamily(
            "everycent_deliveries_parked", "Deliveries that wait for an operator.", labels=["handler"]
        )
        for handler, count in backlog.parked.items():
            parked.add_metric([handler], count)
        yield parked
        sagas = GaugeMetricFamily("everycent_sagas", "Sagas that are not finished.", labels=["recipe", "state"])
        for (recipe, state), count in durability.saga_counts().items():
            sagas.add_metric([recipe, state], count)
        yield sagas
        discrepancies = GaugeMetricFamily("everycent_discrepancies_open", "Open discrepancies.", labels=["kind"])
        for kind, count in reconciliation.open_counts().items():
            discrepancies.add_metric([kind], count)
        yield discrepancies
        beat_age_s = durability.beat_age_s()
        if beat_age_s is not None:
            yield GaugeMetricFamily("everycent_beat_age_seconds", "Since beat was last seen.", value=beat_age_s)


def metrics(request: HttpRequest) -> HttpResponse:
    """For the networks of METRICS_ALLOWED_NETWORKS only."""
    if not _allowed(request.META.get("REMOTE_ADDR", "")):
        return HttpResponseForbidden("metrics are not public\n", content_type="text/plain")
    stored = CollectorRegistry()
    stored.register(StoredState())
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    else:
        counted = REGISTRY
    return HttpResponse(generate_latest(counted) + generate_latest(stored), content_type=CONTENT_TYPE_LATEST)


def _allowed(address: str) -> bool:
    try:
        caller = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(caller in ipaddress.ip_network(network) for network in settings.METRICS_ALLOWED_NETWORKS)
