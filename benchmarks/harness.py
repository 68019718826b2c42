"""Floor and subject in turn, in one run: on a noisy machine only their ratio means anything.

The servers are the embedded ones with fsync on, empty, and gone afterwards.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROUNDS = 5


@dataclass(frozen=True)
class Result:
    """Medians over the rounds: operations per second, and CPU of this process in µs per operation."""

    name: str
    per_s: float
    cpu_us: float


def start_servers() -> None:
    """PostgreSQL and Valkey of their own, then Django on them. They end with this process."""
    from config.devstack import servers, system
    from tests.servers import start

    folder = Path(tempfile.mkdtemp(prefix="everycent-bench-"))
    postgres = servers.embedded_postgres(
        folder / "postgres", port=system.free_port(), password=servers.new_password(), settings={}
    )
    valkey = servers.embedded_valkey(folder / "valkey", port=system.free_port(), password=servers.new_password())
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for variable, server in (("DATABASE_URL", postgres), ("REDIS_URL", valkey)):
        process = start(server, folder)
        os.environ[variable] = server.url
        if not system.wait_until(lambda s=server, p=process: s.is_ready(p.pid), timeout_s=30):  # type: ignore[misc]
            raise SystemExit(f"error: {server.name} does not start")
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    os.environ["STRIPE_API_BASE"] = "http://127.0.0.1:9"  # nothing here calls the provider

    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def compare(title: str, *, operations: int, **forms: Callable[[int], None]) -> None:
    """Run each form `operations` times per round, in turn, and print them beside the first one, the floor."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for _ in range(ROUNDS):
        for name, form in forms.items():
            wall, cpu = time.perf_counter(), time.process_time()
            form(operations)
            seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    results = [
        Result(
            name.replace("_", " "),
            operations / statistics.median(wall for wall, _ in rounds),
            statistics.median(cpu for _, cpu in rounds) / operations * 1e6,
        )
        for name, rounds in seen.items()
    ]
    table = Table(title=f"{title} ({ROUNDS} rounds of {operations}, one connection)")
    for heading in ("form", "per second", "our CPU µs", "÷ floor"):
        table.add_column(heading, justify="left" if heading == "form" else "right")
    for one in results:
        table.add_row(one.name, f"{one.per_s:,.0f}", f"{one.cpu_us:,.0f}", f"{one.per_s / results[0].per_s:.2f}")
    Console().print(table)
