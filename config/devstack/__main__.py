"""`python -m config.devstack up|down|reset`: what `make up`, `make down` and `make reset` call."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable

from config.devstack import folder, system
from config.devstack.folder import Files
from config.devstack.stack import PROJECT, Options, Stack, check_machine
from config.devstack.supervisor import GRACE_S, Stopped, Supervisor, stop_process
from config.devstack.system import StackError

# A full disk, a folder that is not ours or is none: no fault of the program.
MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EPERM)


def say(line: str) -> None:
    """To the terminal, even to one that has gone away."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


def up(options: Options, make_stack: Callable[[Options], Stack] = Stack) -> None:
    """Start everything, then watch it until somebody ends it."""
    began = time.monotonic()
    with folder.lock(options.var, url=options.url) as lock_fd:
        stale = system.end_leftovers(options.var)
        if stale:
            say(f"Ended {stale} processes that a killed stack had left.")
        Files(options.var).stack.unlink(missing_ok=True)
        check_machine(options)
        stack = make_stack(options)
        supervisor = Supervisor(cwd=PROJECT, stack_file=stack.files.stack, lock_fd=lock_fd, say=say)
        try:
            _start(stack, supervisor)
            say(_welcome(stack, time.monotonic() - began))
            supervisor.watch()
        except Stopped:
            say("Stopping …")
        finally:
            supervisor.stop()
            stack.files.stack.unlink(missing_ok=True)
    say("Stopped; the data are kept.")


def _start(stack: Stack, supervisor: Supervisor) -> None:
    servers = stack.missing_servers()
    say(f"Starting {', '.join(child.name for child in servers) or 'on the servers that the environment names'} …")
    supervisor.start(servers)
    supervisor.wait_ready(servers)
    stack.prepare(supervisor)
    say("Starting web, workers and beat …")
    application = stack.application()
    supervisor.start(application)
    supervisor.wait_ready(application)
    if stack.options.demo and stack.has_sandbox and not stack.load_trading_day(supervisor):
        say("The day of trading did not load to its end; the stack runs on, and the next `make up` goes on loading.")
    stack.write(supervisor.children)
    supervisor.on_change = lambda: stack.write(supervisor.children)


def _welcome(stack: Stack, seconds: float) -> str:
    told = stack.credentials()
    logins = [f"  {role:<14} {login['username']} / {login['password']}" for role, login in told["admin"].items()]
    return "\n".join(
        [
            f"\nEverycent is up after {seconds:.1f} s.",
            f"  admin     {stack.options.url}/admin/",
            *logins,
            f"  API       {stack.options.url}/api/v1   (described at /api/docs)",
            f"  keys      storefront {told['storefront_key']}",
            f"            operations {told['operations_key']}",
            f"  logs      {stack.files.logs}",
            "Ctrl-C or `make down` stops it and keeps the data.",
        ]
    )


def down(options: Options) -> None:
    """Stop the stack of this folder, wherever it was started."""
    running = folder.holder(options.var)
    if not running:
        ended = system.end_leftovers(options.var)
        say(f"Ended {ended} processes that a killed stack had left." if ended else "Nothing is running.")
        return
    # Role after role may take its whole grace, hence the factor.
    if not stop_process(running["pid"], timeout_s=4 * GRACE_S):
        raise StackError(f"The supervisor (pid {running['pid']}) does not stop; look at {Files(options.var).logs}.")
    system.wait_until(lambda: not folder.holder(options.var), timeout_s=2 * GRACE_S)
    say("Stopped; the data are kept.")


def reset(options: Options) -> None:
    """Forget all data of this folder. A server that DATABASE_URL names is not ours to empty."""
    if options.var.exists():
        down(options)
        with folder.lock(options.var):
            Files(options.var).forget()
    say("All data are forgotten; `make up` begins anew.")
    if options.environ.get("DATABASE_URL"):
        say("The database that DATABASE_URL names was left as it is.")


def run(command: str, make_stack: Callable[[Options], Stack] = Stack) -> int:
    """One command; what a person can mend is told in one line. Returns the exit code."""
    try:
        options = Options.from_environ(os.environ)
        try:
            if command == "up":
                up(options, make_stack)
            elif command == "down":
                down(options)
            else:
                reset(options)
        except OSError as error:
            if error.errno not in MENDABLE:
                raise
            raise StackError(f"{error.strerror}: {error.filename or options.var}") from error
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the supervisor listens to signals
        return 130
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("up", "down", "reset"):
        sys.exit("usage: python -m config.devstack up|down|reset")
    sys.exit(run(sys.argv[1]))
