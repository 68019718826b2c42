"""The servers that tests run on: one PostgreSQL and one Valkey per session, where the environment names none.

With xdist the controller starts them and the workers inherit their addresses; each worker has a database and a
Valkey database number of its own.
"""

import atexit
import os
import re
import shutil
from pathlib import Path
from subprocess import TimeoutExpired
from urllib.parse import urlsplit, urlunsplit

from config.devstack import servers, system

TEST_DATA = Path(__file__).resolve().parent.parent / "var" / "tests"
# A crash of the machine may lose the tests' data; their speed matters more.
# Data that nobody needs after a crash; and room for fifty threads at once beside what another worker's tests have open.
UNSAFE_AND_FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    # Runs make temporary tables by the thousand here: with a minute between two clean-ups of the catalogue, each takes longer.
    "autovacuum_naptime": "5s",
    # Tests ask a few rows: compiling a query takes longer than the query.
    "jit": "off",
}


def start_missing_servers() -> None:
    """Set DATABASE_URL and REDIS_URL, starting what they do not name yet. Everything started here ends with us."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) + 1
        os.environ["REDIS_URL"] = with_redis_database(os.environ["REDIS_URL"], number)
        return
    _forget_dead_sessions()
    folder = TEST_DATA / str(os.getpid())
    missing: list[tuple[str, servers.EmbeddedServer]] = []
    if not os.environ.get("DATABASE_URL"):
        folder.mkdir(parents=True, exist_ok=True)
        port, password = system.free_port(), servers.new_password()
        postgres = servers.embedded_postgres(
            folder / "postgres", port=port, password=password, settings=UNSAFE_AND_FAST
        )
        missing.append(("DATABASE_URL", postgres))
    if not os.environ.get("REDIS_URL"):
        valkey = servers.embedded_valkey(
            folder / "valkey", port=system.free_port(), password=servers.new_password(), databases=64
        )
        missing.append(("REDIS_URL", valkey))
    started = [(server, start(server, folder)) for _, server in missing]
    for variable, server in missing:
        os.environ[variable] = server.url
    for server, process in started:
        if not system.wait_until(lambda s=server, p=process: s.is_ready(p.pid), timeout_s=30):  # type: ignore[misc]
            raise RuntimeError(f"{server.name} does not start: {system.last_words(folder / (server.name + '.log'))}")
    if started:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after the servers have stopped


def start(server: servers.EmbeddedServer, folder: Path):
    """Run an embedded server until this process ends; returns its process."""
    process = system.spawn(
        server.command, log=folder / f"{server.name}.log", death_signal=server.stop_signal, become=server.become
    )

    def stop() -> None:
        process.send_signal(server.stop_signal)
        try:
            process.wait(10)
        except TimeoutExpired:
            process.kill()

    atexit.register(stop)
    return process


def with_redis_database(url: str, number: int) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))


def _forget_dead_sessions() -> None:
    """Remove the files of sessions that were killed."""
    for path in TEST_DATA.glob("[0-9]*"):
        pid = re.match(r"\d+", path.name)
        if pid and not system.is_alive(int(pid.group())):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
