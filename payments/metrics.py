"""What Prometheus counts as it happens. Gauges of stored state are read by config's collector."""

from prometheus_client import Counter, Histogram

PAYMENT_REQUESTS = Counter("everycent_payment_requests", "Payment attempts by how they ended.", ["outcome"])
PAYMENT_REQUEST_DURATION = Histogram(
    "everycent_payment_request_duration_seconds", "From the request for a payment to its answer."
)
STRIPE_REQUEST_DURATION = Histogram(
    "everycent_stripe_request_duration_seconds", "Calls to the provider.", ["call", "outcome"]
)
STRIPE_ERRORS = Counter("everycent_stripe_errors", "Calls to the provider that failed, by type.", ["type"])
CAPTURED = Counter("everycent_captured_minor", "Minor units captured.", ["currency"])
REFUNDED = Counter("everycent_refunded_minor", "Minor units refunded.", ["currency"])
