"""What Prometheus counts as it happens; docs/metrics.md tells what each number means.

What a transaction did is counted after its commit: one that rolls back and is tried again did it once. Labels whose
values are known are there from the start at 0, or Prometheus would miss the first event of each.
"""

from functools import partial

from django.db import transaction
from prometheus_client import Counter, Histogram

from payments.states import DISPUTE_CLOSED

PAYMENT_OUTCOMES = ("success", "failed", "error", "unknown")
STRIPE_ERROR_TYPES = (
    *("timeout", "connection", "rate_limit", "conflict", "server_error"),
    *("authentication", "idempotency", "invalid_request", "other"),
)

PAYMENT_REQUESTS = Counter("everycent_payment_requests", "Payment attempts by what came of them.", ["outcome"])
PAYMENT_REQUEST_DURATION = Histogram(
    "everycent_payment_request_duration_seconds",
    "From a POST that asks for a payment to its answer.",
    # 3 is what the alert asks for; a provider that connects late and answers late takes 13.
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 15),
)
STRIPE_REQUEST_DURATION = Histogram(
    "everycent_stripe_request_duration_seconds",
    "Calls to the provider.",
    ["call", "outcome"],
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 15),
)
STRIPE_ERRORS = Counter("everycent_stripe_errors", "Calls to the provider that failed, by type.", ["type"])
UNKNOWN_EVENTS = Counter(
    "everycent_provider_events_unknown", "Events of the provider that nothing here handles, by type.", ["type"]
)
CAPTURED = Counter("everycent_captured_minor", "Minor units captured.", ["currency"])
REFUNDED = Counter("everycent_refunded_minor", "Minor units refunded.", ["currency"])
REFUNDS_FAILED_LATE = Counter(
    "everycent_refunds_failed_late", "Refunds that came back after their success.", ["currency"]
)

DISPUTES_OPENED = Counter("everycent_disputes_opened", "Disputes that the provider told of.", ["kind"])
DISPUTES_CLOSED = Counter("everycent_disputes_closed", "Disputes by how they ended.", ["outcome"])
PAYOUTS = Counter("everycent_payouts", "Payouts by what came of them.", ["outcome"])

for _kind in ("dispute", "inquiry"):
    DISPUTES_OPENED.labels(_kind)
for _outcome in DISPUTE_CLOSED:
    DISPUTES_CLOSED.labels(_outcome)
for _outcome in ("paid", "failed"):
    PAYOUTS.labels(_outcome)
for _outcome in PAYMENT_OUTCOMES:
    PAYMENT_REQUESTS.labels(_outcome)
for _type in STRIPE_ERROR_TYPES:
    STRIPE_ERRORS.labels(_type)


def count_after_commit(counter: Counter, label: str, amount: int = 1) -> None:
    """Count what the present transaction did, once it is true."""
    transaction.on_commit(partial(counter.labels(label).inc, amount), robust=True)
