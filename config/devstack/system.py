"""What the operating system offers: children that die with their parent, free ports, whose process is whose."""

import contextlib
import ctypes
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

# Every child carries the stack it belongs to, so that what a killed supervisor left is recognised and nothing else is.
MARK = "EVERYCENT_CHILD_OF"

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522
_CLONE_NEWUSER = 0x10000000

_libc = ctypes.CDLL(None, use_errno=True)


class StackError(Exception):
    """Something that the person at the terminal can mend; its text is the one line that they see."""


def _call(function: str, *arguments: object) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def spawn(
    command: Sequence[str],
    *,
    log: Path | None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    become: Callable[[], None] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a child in its own session; it gets `death_signal` when this process dies, however that happens.

    Without a log it writes where we write. Call it from the main thread: the kernel watches the thread that forked.
    """
    with log.open("ab") if log else contextlib.nullcontext() as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            env=env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=bound_to_us(death_signal, become),  # noqa: PLW1509  the supervisor has one thread
        )


def bound_to_us(death_signal: signal.Signals, become: Callable[[], None] | None = None) -> Callable[[], None]:
    """What a child does between fork and exec so that it dies with this process."""
    parent = os.getpid()

    def in_child() -> None:
        if become:
            become()  # first: a change of credentials clears the death signal
        if _LINUX:
            _call("prctl", _PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return in_child


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the whole session that `pid` leads; it is fine if nothing of it is left."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


# --- Root: PostgreSQL refuses to run as root --------------------------------------------------------


def _other_uid() -> int:
    """A uid that is not root and has a name: initdb asks for it."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return next(user.pw_uid for user in pwd.getpwall() if user.pw_uid != 0)


def _enter_user_namespace() -> None:
    """Be another uid in a namespace of our own, which is still root for the files outside."""
    uid, gid, inside = os.getuid(), os.getgid(), _other_uid()
    _call("unshare", _CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{inside} {gid} 1")


def _change_uid() -> None:
    """Be another uid that keeps one capability, so that it reads the project and the binaries wherever they are."""
    uid = _other_uid()
    _call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    keep = 1 << _CAP_DAC_OVERRIDE
    sets = (ctypes.c_uint32 * 6)(keep, keep, keep, 0, 0, 0)  # effective, permitted, inheritable; low and high words
    _call("capset", header, sets)
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def _works(become: Callable[[], None]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            become()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def leave_root() -> tuple[Callable[[], None] | None, int]:
    """How a child stops being root, and who owns its files; (None, our uid) where we are not root."""
    if os.geteuid() != 0:
        return None, os.geteuid()
    if _LINUX and _works(_enter_user_namespace):
        return _enter_user_namespace, 0
    if _LINUX and _works(_change_uid):
        return _change_uid, _other_uid()
    raise StackError(
        "PostgreSQL does not run as root, and here root may neither make a user namespace nor change its uid:"
        " run as a normal user, or set DATABASE_URL to a server of your own."
    )


# --- Ports --------------------------------------------------------------------------------------------


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise StackError(f"Port {port} is for root alone; choose one above 1023: make up PORT=8000") from error
        except OSError:
            return True
        return False


def accepts_connections(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


# --- Whose process is whose -----------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Running, and not merely a zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return not _LINUX


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def leftovers(var: Path) -> Iterator[int]:
    """Processes of the stack in `var`. The servers overwrite their environment: they are known by where they run."""
    mark = f"{MARK}={var}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") or (
                (entry / "comm").read_text().strip() in ("postgres", "valkey-server")
                and ((entry / "cwd").readlink().is_relative_to(var))
            ):
                yield int(entry.name)
        except OSError:
            continue  # gone meanwhile, or another user's


def end_leftovers(var: Path) -> int:
    """Stop what a killed supervisor and its reaper left; returns how many processes that were."""
    found = [pid for pid in leftovers(var) if pid != os.getpid()]
    # SIGINT first: PostgreSQL's fast shutdown. The others take it as well.
    for number, grace_s in ((signal.SIGINT, 5), (signal.SIGTERM, 2), (signal.SIGKILL, 1)):
        for pid in leftovers(var):
            if pid != os.getpid():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        if wait_until(lambda: not any(is_alive(pid) for pid in found), timeout_s=grace_s):
            break
    return len(found)


def last_words(log: Path) -> str:
    """The last line of a log that says something, for an error message of one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
