"""What `/metrics` says, as numbers."""

import re
from dataclasses import dataclass
from functools import cached_property

from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Exposition:
    """One reading; `value` of a series that is not there is 0, as a rate would take it."""

    text: str

    @cached_property
    def samples(self) -> Samples:
        return _parsed(self.text)

    def of(self, name: str) -> Samples:
        """The series of one name: to parse all of a long text takes longer than to make it."""
        return _parsed("".join(line + "\n" for line in self.text.splitlines() if re.match(rf"{name}[{{ ]", line)))

    def value(self, name: str, **labels: str) -> float:
        return self.of(name).get((name, frozenset(labels.items())), 0)

    def has(self, name: str, **labels: str) -> bool:
        return (name, frozenset(labels.items())) in self.of(name)

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


def _parsed(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


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

    def each(self, name: str, label: str) -> dict[str, float]:
        """The same of all series of a name that grew, by a label."""
        now = read().of(name)
        return {
            dict(labels)[label]: grown
            for (_, labels), value in now.items()
            if (grown := value - self.before.value(name, **dict(labels)))
        }
