"""Ends what a killed supervisor left behind: sessions, not only direct children.

Run as a process of its own. The supervisor writes `+pid signal` and `-pid` to our standard input as children come and
go; when that pipe closes and some are left, the supervisor was killed. We hold the stack's lock until they are gone.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from config.devstack.system import is_alive, signal_group, wait_until

# Enough for PostgreSQL to end its backends. A beat without a broker would wait for ever; what a worker was doing is
# taken up by the next stack.
GRACE_S = 5


def main(stack_file: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it goes when the supervisor goes, and last
    sessions: dict[int, signal.Signals] = {}
    for line in sys.stdin:
        pid, *rest = line[1:].split()
        if line.startswith("+"):
            sessions[int(pid)] = signal.Signals(int(rest[0]))
        else:
            sessions.pop(int(pid), None)
    if not sessions:
        return
    for pid, stop_signal in reversed(sessions.items()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, stop_signal)
    wait_until(lambda: not any(map(is_alive, sessions)), timeout_s=GRACE_S)
    for pid in sessions:
        signal_group(pid, signal.SIGKILL)
    stack_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
