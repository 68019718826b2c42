"""Floor and subject in turn, in one run: on a noisy machine only their ratio and the CPU per operation mean anything.

The servers are the embedded ones with fsync on, empty, and gone afterwards. A form is a function that does some
operations and says how many; before each round its `prepare` makes the same ground for it, which is not measured.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SEED = 1  # of every random choice in a benchmark
ROUNDS = int(os.environ.get("ROUNDS", "5").partition(",")[0])  # others are for later sizes (benchmarks.reconciliation)

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SETTLED_AFTER_S = 0.3  # the CPU of a backend that has just ended is nobody's until the postmaster has noticed
_postgres_pid = 0


# --- Servers ----------------------------------------------------------------------------------------


def start_servers() -> None:
    """PostgreSQL and Valkey of their own, then Django on them. They end with this process."""
    global _postgres_pid  # noqa: PLW0603  one run, one server
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
        if server is postgres:
            _postgres_pid = process.pid
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    os.environ["STRIPE_API_BASE"] = "http://127.0.0.1:9"  # nothing here calls the provider

    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def postgres_cpu_s() -> float:
    """CPU that the server has used so far: the postmaster, its children, and those that have ended."""
    return family_cpu_s(_postgres_pid)


def postgres_pids() -> list[int]:
    """The server's processes but the first: a backend a connection, parallel workers, and those that keep house."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _parent(int(entry)) == _postgres_pid]


def family_cpu_s(pid: int) -> float:
    """CPU that a process, its children, and those of them that have ended have used so far."""
    total = _cpu_ticks(pid, and_ended_children=True)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _parent(int(entry)) == pid:
            total += _cpu_ticks(int(entry))
    return total / _TICKS_PER_S


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parent(pid: int) -> int:
    stat = _stat(pid)
    return int(stat[1]) if stat else 0


def _cpu_ticks(pid: int, *, and_ended_children: bool = False) -> int:
    """utime + stime, columns 14 and 15 of /proc/PID/stat; cutime + cstime are the two after them."""
    stat = _stat(pid)
    return sum(map(int, stat[11 : 15 if and_ended_children else 13])) if stat else 0


def _our_cpu_s() -> float:
    """Of this process and of its children that have ended (pgbench, forked workers)."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# --- Measuring --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """One way to do the work: `run` returns how many operations it did."""

    name: str
    run: Callable[[], int]
    prepare: Callable[[], object] = lambda: None
    our_cpu_s: Callable[[], float] | None = None  # of whom, if not of this process: of a web server that it asks


@dataclass
class Seen:
    """What the rounds of one form showed: seconds, and CPU seconds of ours and of PostgreSQL, per operation."""

    name: str
    wall_s: list[float] = field(default_factory=list)
    our_cpu_s: list[float] = field(default_factory=list)
    postgres_cpu_s: list[float] = field(default_factory=list)

    def ratio(self, floor: "Seen") -> float:
        """The speed as a part of the floor's: the median over the rounds, each with its neighbour."""
        return statistics.median(base / mine for base, mine in zip(floor.wall_s, self.wall_s, strict=True))


def measure(forms: Sequence[Form], *, rounds: int = ROUNDS, warm_up: bool = True) -> list[Seen]:
    """Each form once per round, in turn; a round before them warms up, and does not count."""
    seen = [Seen(form.name) for form in forms]
    for number in range(0 if warm_up else 1, rounds + 1):
        for form, into in zip(forms, seen, strict=True):
            form.prepare()
            our_cpu_s = form.our_cpu_s or _our_cpu_s
            wall, ours, postgres = time.perf_counter(), our_cpu_s(), postgres_cpu_s()
            operations = form.run()
            wall, ours = time.perf_counter() - wall, our_cpu_s() - ours
            time.sleep(_SETTLED_AFTER_S)
            postgres = postgres_cpu_s() - postgres
            if number:
                into.wall_s.append(wall / operations)
                into.our_cpu_s.append(ours / operations)
                into.postgres_cpu_s.append(postgres / operations)
    return seen


def pgbench(
    script: str, *, transactions: int, clients: int = 1, jobs: int = 0, variables: dict[str, int] | None = None
) -> int:
    """Run a script with prepared statements, on a thread a client or on `jobs`. Returns how many transactions were done."""
    from config.devstack.servers import postgres_binary

    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        said = subprocess.run(
            [
                str(postgres_binary("pgbench")),
                *("--no-vacuum", "--protocol=prepared", f"--client={clients}", f"--jobs={jobs or clients}"),
                f"--transactions={transactions // clients}",
                *(f"--define={name}={value}" for name, value in (variables or {}).items()),
                f"--file={file.name}",
                os.environ["DATABASE_URL"],
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if said.returncode or "aborted" in said.stderr:
        raise SystemExit(f"error: pgbench: {said.stderr[-2_000:]}")
    return transactions // clients * clients


# --- Telling ----------------------------------------------------------------------------------------


class Section:
    """What one benchmark says: printed, and with `WRITE=1` kept in docs/performance.md between its markers."""

    def __init__(self, name: str, title: str) -> None:
        from tests.campaigns import report

        self.name = name
        self._parts = [report.heading(seed=SEED)]
        print(f"\n{title}\n{self._parts[0]}\n", flush=True)

    def say(self, markdown: str) -> None:
        self._parts.append(markdown)
        print(f"{markdown}\n", flush=True)

    def table(self, seen: Sequence[Seen], *, unit: str) -> None:
        """Medians; the first form is the floor."""
        from tests.campaigns import report

        rows = [
            [
                one.name,
                round(1 / statistics.median(one.wall_s)),
                round(one.ratio(seen[0]), 2),
                round(statistics.median(one.our_cpu_s) * 1e6),
                round(statistics.median(one.postgres_cpu_s) * 1e6),
            ]
            for one in seen
        ]
        header = [f"{unit}, {len(seen[0].wall_s)} rounds", "per second", "÷ floor", "our CPU µs", "PostgreSQL CPU µs"]
        self.say(report.table(header, rows))

    def aim(self, text: str, *, met: bool, measured: str) -> None:
        self.say(f"Aim: {text}. Measured: {measured}: {'met' if met else '**missed**'}.")

    def close(self) -> None:
        from tests.campaigns import report

        if report.told_to_write():
            report.write_section(report.PERFORMANCE, self.name, "\n\n".join(self._parts))


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]
