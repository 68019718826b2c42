"""What `/metrics` says, as numbers."""

from dataclasses import dataclass, field

from django.test import Client
from prometheus_client.parser import text_string_to_metric_families


@dataclass
class Exposition:
    """One reading; `value` of a series that is not there is 0, as a rate would take it."""

    text: str
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                self.samples[sample.name, frozenset(sample.labels.items())] = sample.value

    def value(self, name: str, **labels: str) -> float:
        return self.samples.get((name, frozenset(labels.items())), 0)

    def has(self, name: str, **labels: str) -> bool:
        return (name, frozenset(labels.items())) in self.samples

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


def read() -> Exposition:
    """Of this process, which counts what tests do."""
    answer = Client().get("/metrics")
    assert answer.status_code == 200, answer.content
    return Exposition(answer.content.decode())


class Change:
    """How much a series grew since: `before = Change(); …; before.by("everycent_…", outcome="success")`."""

    def __init__(self) -> None:
        self.before = read()

    def by(self, name: str, **labels: str) -> float:
        return read().value(name, **labels) - self.before.value(name, **labels)
