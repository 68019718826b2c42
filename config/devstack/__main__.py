"""`python -m config.devstack up|down|reset`: what `make up`, `make down` and `make reset` call."""

import contextlib
import errno
import os
import sys
import time

from config.devstack import stack as stacks
from config.devstack import system
from config.devstack.stack import Files, Options, Stack
from config.devstack.supervisor import GRACE_S, Stopped, Supervisor, stop_process
from config.devstack.system import StackError


def say(line: str) -> None:
    """To the terminal, even to one that has gone away."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


def up(options: Options) -> None:
    """Start everything, then watch it until somebody ends it."""
    began = time.monotonic()
    with stacks.lock(options) as lock_fd:
        stale = system.end_leftovers(options.var)
        if stale:
            say(f"Ended {stale} processes that a killed stack had left.")
        Files(options.var).stack.unlink(missing_ok=True)
        stacks.check_machine(options)
        stack = Stack(options)
        supervisor = Supervisor(cwd=stacks.PROJECT, stack_file=stack.files.stack, lock_fd=lock_fd, say=say)
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
    stack.prepare(supervisor)
    supervisor.wait_ready(servers)
    say("Starting web, workers and beat …")
    application = stack.application()
    supervisor.start(application)
    supervisor.wait_ready(application)
    if stack.options.demo:
        stack.load_trading_day(supervisor)
    stack.write(supervisor.children)
    supervisor.on_change = lambda: stack.write(supervisor.children)


def _welcome(stack: Stack, seconds: float) -> str:
    told = stack.credentials()
    logins = [f"  {role:<9} {login['username']} / {login['password']}" for role, login in told["admin"].items()]
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
    running = stacks.holder(options.var)
    if not running:
        ended = system.end_leftovers(options.var)
        say(f"Ended {ended} processes that a killed stack had left." if ended else "Nothing is running.")
        return
    # Role after role may take its whole grace, hence the factor.
    if not stop_process(running["pid"], timeout_s=4 * GRACE_S):
        raise StackError(f"The supervisor (pid {running['pid']}) does not stop; look at {Files(options.var).logs}.")
    system.wait_until(lambda: not stacks.holder(options.var), timeout_s=2 * GRACE_S)
    say("Stopped; the data are kept.")


def reset(options: Options) -> None:
    """Forget all data of this folder. A server that DATABASE_URL names is not ours to empty."""
    if options.var.exists():
        down(options)
        with stacks.lock(options):
            Files(options.var).forget()
    say("All data are forgotten; `make up` begins anew.")
    if options.environ.get("DATABASE_URL"):
        say("The database that DATABASE_URL names was left as it is.")


def main(arguments: list[str]) -> int:
    commands = {"up": up, "down": down, "reset": reset}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python -m config.devstack {'|'.join(commands)}", file=sys.stderr)
        return 2
    try:
        commands[arguments[0]](Options.from_environ(os.environ))
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(
            f"error: {error.strerror}: {error.filename or Files(Options.from_environ(os.environ).var).logs}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
