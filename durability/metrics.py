"""What Prometheus counts about idempotency keys."""

from prometheus_client import Counter

IDEMPOTENCY = Counter("everycent_idempotency", "Requests whose key was known, by what became of them.", ["outcome"])
for _outcome in ("replayed", "conflict", "mismatch"):
    IDEMPOTENCY.labels(_outcome)  # there from the start: or Prometheus would miss the first of each
