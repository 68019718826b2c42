"""`python -m tests.stack.tiny`: `make up` with a small child in place of Django's processes, so that it starts at once.

The supervisor, the reaper, the lock and the embedded servers are the real ones.
"""

import json
import os
import sys
from pathlib import Path

from config.devstack.__main__ import run
from config.devstack.folder import write_private
from config.devstack.stack import Stack
from config.devstack.supervisor import Child, Supervisor

# A child with a child of its own that ignores every polite signal.
WITH_GRANDCHILD = """
import os, pathlib, signal, sys, time
if os.fork() == 0:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)
pathlib.Path(os.environ["READY_FILE"]).write_text(str(os.getpid()))
time.sleep(600)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + WITH_GRANDCHILD
DIES_AT_ONCE = "import sys; sys.exit('cannot find my hat')"
# Starts well once, and never again.
DIES_LATER = (
    "import os, pathlib, sys, time; ready = pathlib.Path(os.environ['READY_FILE']);"
    "ready.exists() and sys.exit('lost my hat'); ready.write_text(str(os.getpid())); time.sleep(1)"
)
CHILDREN = {
    "with_grandchild": WITH_GRANDCHILD,
    "stubborn": STUBBORN,
    "dies_at_once": DIES_AT_ONCE,
    "dies_later": DIES_LATER,
}


class TinyStack(Stack):
    def missing_servers(self) -> list[Child]:
        return [child for child in super().missing_servers() if child.role != "sandbox"]

    def prepare(self, supervisor: Supervisor) -> None:
        told = {"storefront_key": "s", "operations_key": "o", "admin": {}}
        write_private(self.files.credentials, json.dumps(told))

    def application(self) -> list[Child]:
        return [self._child("web", "web", ["-c", CHILDREN[os.environ["TINY_CHILD"]]])]


if __name__ == "__main__":
    Path(os.environ["EVERYCENT_VAR_DIR"]).mkdir(parents=True, exist_ok=True)
    sys.exit(run(sys.argv[1], make_stack=TinyStack))
