"""Which processes make the stack, what each is told, and what is written about them."""

import hashlib
import http.client
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.devstack import external, servers, system
from config.devstack.folder import Files, write_private
from config.devstack.supervisor import Child, Supervisor
from config.devstack.system import StackError

PROJECT = Path(__file__).resolve().parent.parent.parent
HOST = "127.0.0.1"  # a development stack: nothing outside this machine may reach it
ROLES = ("supervisor", "web", "workers", "beat", "postgres", "valkey", "sandbox")
# Queue → processes of its pool. What waits for others needs no core while it waits. A large day's run has one of `long`: with
# less than two nobody would help it.
WORKERS = {"own": 2, "outside": 2, "long": 2}
WEB_WORKERS = 2
WEB_THREADS = 4
# Requests in work and waiting, per web worker; more are kept in the socket's backlog instead of in memory.
WEB_BACKPRESSURE = 64
# PostgreSQL's write-ahead log, logs and static files; with less the first checkpoint would fail.
DISK_NEEDED_MB = 200


@dataclass(frozen=True)
class Options:
    """What the environment says about one stack."""

    var: Path
    port: int
    demo: bool
    environ: Mapping[str, str]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Options":
        port = environ.get("PORT") or "8000"
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise StackError(f"PORT is a number from 1 to 65535, not {port!r}.")
        demo = environ.get("DEMO") or "1"
        if demo not in ("0", "1"):
            raise StackError(f"DEMO is 1 (with the day of trading) or 0 (without), not {demo!r}.")
        var = Path(environ.get("EVERYCENT_VAR_DIR") or PROJECT / "var").resolve()
        return cls(var=var, port=int(port), demo=demo == "1", environ=environ)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def web_command(port: int) -> list[str]:
    """What serves the API and the admin, after the name of the interpreter."""
    granian = ["-m", "granian", "--interface", "wsgi", "--host", HOST, "--port", str(port)]
    granian += ["--workers", str(WEB_WORKERS), "--blocking-threads", str(WEB_THREADS), "--no-ws", "--http", "1"]
    granian += ["--backpressure", str(WEB_BACKPRESSURE), "--respawn-failed-workers", "--workers-kill-timeout", "10"]
    granian += ["--log-config", str(PROJECT / "config" / "granian_log.json")]
    return [*granian, "config.wsgi:application"]


class Stack:
    """The processes of one stack, and what is told about them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.files = Files(options.var)
        self.files.logs.mkdir(exist_ok=True)
        shutil.rmtree(self.files.ready, ignore_errors=True)
        self.files.ready.mkdir()
        self._secrets = self._load_secrets()
        self._env = {**options.environ, system.MARK: str(options.var), "EVERYCENT_VAR_DIR": str(options.var)}
        # What every process counted, added up at /metrics; a stack begins at zero.
        shutil.rmtree(self.files.metrics, ignore_errors=True)
        self.files.metrics.mkdir()
        self._env["PROMETHEUS_MULTIPROC_DIR"] = str(self.files.metrics)
        # One heap of malloc for all threads but the first: one each would keep what a busy moment took, for good.
        self._env.setdefault("MALLOC_ARENA_MAX", "2")
        # make's own; and without compiled modules every process of ours would load for a second longer.
        for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "PYTHONDONTWRITEBYTECODE"):
            self._env.pop(name, None)

    def missing_servers(self) -> list[Child]:
        """The embedded ones, where the environment names no others."""
        env, children = self._env, []
        if not env.get("DATABASE_URL"):
            postgres = servers.embedded_postgres(
                self.files.postgres, port=system.free_port(), password=self._secrets["postgres"]
            )
            env["DATABASE_URL"] = postgres.url
            children.append(self._embedded(postgres))
        else:
            external.check_database(env["DATABASE_URL"])
        if not env.get("REDIS_URL"):
            valkey = servers.embedded_valkey(
                self.files.valkey, port=system.free_port(), password=self._secrets["valkey"]
            )
            env["REDIS_URL"] = valkey.url
            children.append(self._embedded(valkey))
        else:
            external.check_redis(env["REDIS_URL"])
        if not env.get("STRIPE_API_KEY") and not env.get("STRIPE_API_BASE"):
            children.append(self._sandbox())
        return children

    def _embedded(self, server: servers.EmbeddedServer) -> Child:
        return Child(
            name=server.name,
            role=server.name,
            command=server.command,
            log=self.files.logs / f"{server.name}.log",
            is_ready=server.is_ready,
            env=self._env,
            stop_signal=server.stop_signal,
            become=server.become,
        )

    def _sandbox(self) -> Child:
        port = system.free_port()
        self._env["STRIPE_API_BASE"] = f"http://{HOST}:{port}"
        self._env["STRIPE_WEBHOOK_SECRETS"] = self._secrets["webhook"]
        webhook_url = f"{self.options.url}/api/v1/webhooks/stripe"
        arguments = ["--port", str(port), "--storage", str(self.files.sandbox), "--webhook-url", webhook_url]
        return self._child(
            "sandbox",
            "sandbox",
            ["-m", "payments.sandbox", *arguments, "--webhook-secret", self._secrets["webhook"]],
            is_ready=lambda _pid: system.accepts_connections(HOST, port),
        )

    def application(self) -> list[Child]:
        """Web, workers and beat."""
        celery = ["-m", "celery", "-A", "config", "--quiet"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return [
            self._child("web", "web", web_command(self.options.port), is_ready=lambda _pid: self._web_answers()),
            *(
                self._child(
                    f"worker-{queue}",
                    "workers",
                    [*celery, "worker", "-n", f"{queue}@%h", "-Q", queue, "--concurrency", str(processes), *quiet],
                )
                for queue, processes in WORKERS.items()
            ),
            self._child("beat", "beat", [*celery, "beat", "--pidfile="]),
        ]

    def _child(
        self, name: str, role: str, arguments: list[str], is_ready: Callable[[int], bool] | None = None
    ) -> Child:
        ready = self.files.ready / name
        return Child(
            name=name,
            role=role,
            command=[sys.executable, *arguments],
            log=self.files.logs / f"{name}.log",
            # Celery's processes write their pid there when they consume or schedule.
            is_ready=is_ready or (lambda pid: ready.exists() and ready.read_text() == str(pid)),
            # `make check` runs the checks; in a worker they would load every view.
            env={**self._env, "READY_FILE": str(ready), "CELERY_SKIP_CHECKS": "1"},
        )

    def _web_answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.options.port, timeout=5)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    # --- Jobs ----------------------------------------------------------------------------------------------

    def prepare(self, supervisor: Supervisor) -> None:
        """Migrate, collect the static files, make the demo merchant and the logins.

        Django takes two seconds to find that there is nothing to do, so what was done is remembered beside the data.
        """
        data, static = self._sources_of_data(), self._sources_of_static_files()
        static_is_old = static != _read(self.files.static_stamp)
        if data and data == _read(self.files.prepared_stamp) and self.files.credentials.exists() and not static_is_old:
            return
        self.files.prepared_stamp.unlink(missing_ok=True)
        command = self._manage("prepare_stack", "--credentials", str(self.files.credentials))
        if static_is_old:
            command.append("--static")
        log = self.files.logs / "prepare.log"
        if supervisor.run(command, env=self._env, log=log) != 0:
            raise StackError(f"{system.last_words(log)} (see {log})")
        write_private(self.files.static_stamp, static)
        if data:
            write_private(self.files.prepared_stamp, data)

    def load_trading_day(self, supervisor: Supervisor) -> bool:
        """On our terminal, because it shows its progress; once per data folder. Returns whether it is there now."""
        if not self.files.trading_day.exists():
            command = self._manage("load_trading_day", "--url", self.options.url)
            if supervisor.run(command, env=self._env, log=None) != 0:
                return False
            self.files.trading_day.touch()
        return True

    @property
    def has_sandbox(self) -> bool:
        """Whether sales are pretended; with a key of Stripe's nobody trades for show."""
        return bool(self._env.get("STRIPE_API_BASE"))

    def _manage(self, *arguments: str) -> list[str]:
        return [sys.executable, str(PROJECT / "manage.py"), *arguments]

    def _sources_of_data(self) -> str:
        """Changes when something may have to be migrated or made; empty where the data are not in our folder."""
        if self.options.environ.get("DATABASE_URL"):
            return ""
        paths = [PROJECT / "requirements.txt", *PROJECT.glob("*/migrations/*.py"), *PROJECT.glob("config/**/*.py")]
        return _fingerprint(paths)

    def _sources_of_static_files(self) -> str:
        """Changes when our own static files, the packages that bring theirs, or the settings change."""
        ours = [path for app in PROJECT.glob("*/apps.py") for path in app.parent.glob("static/**/*") if path.is_file()]
        return _fingerprint([PROJECT / "requirements.txt", PROJECT / "config" / "settings.py", *ours])

    # --- What is told --------------------------------------------------------------------------------------

    def credentials(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.files.credentials.read_text())
        return found

    def write(self, children: list[Child]) -> None:
        pids: dict[str, Any] = {role: [] for role in ROLES}
        pids["supervisor"] = os.getpid()
        for child in children:
            if child.pid:
                pids[child.role].append(child.pid)
        described = {
            "url": self.options.url,
            **self.credentials(),
            "database_url": self._env["DATABASE_URL"],
            "redis_url": self._env["REDIS_URL"],
            "stripe_api_base": self._env.get("STRIPE_API_BASE", ""),
            "pids": pids,
        }
        write_private(self.files.stack, json.dumps(described, indent=2) + "\n")

    def _load_secrets(self) -> dict[str, str]:
        """Made once and kept: PostgreSQL's password lives in its data, sessions are signed with the key."""
        if not self.files.secrets.exists():
            made = {name: servers.new_password() for name in ("postgres", "valkey")}
            made["webhook"] = f"whsec_{secrets.token_urlsafe(24)}"
            write_private(self.files.secrets, json.dumps(made))
        if not self.files.secret_key.exists():
            write_private(self.files.secret_key, secrets.token_urlsafe(48))
        found: dict[str, str] = json.loads(self.files.secrets.read_text())
        return found


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _fingerprint(paths: Iterable[Path]) -> str:
    seen = [f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in sorted(paths)]
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()


def check_machine(options: Options) -> None:
    """What would otherwise fail later and less clearly."""
    free_mb = shutil.disk_usage(options.var).free // 2**20
    if free_mb < DISK_NEEDED_MB:
        raise StackError(
            f"The disk is full: {options.var} has {free_mb} MB left, the stack needs {DISK_NEEDED_MB} MB to start."
        )
    if system.port_is_taken(HOST, options.port):
        raise StackError(f"Port {options.port} is taken; choose another: make up PORT={_other_port(options.port)}")


def _other_port(port: int) -> int:
    return 9000 if port != 9000 else 9001
