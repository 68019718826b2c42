"""`make bench`: every benchmark, one after the other; `make bench ONLY=expiry` one of them."""

import os
from importlib import import_module

from benchmarks.harness import start_servers

ALL = ("checkout", "hot", "reads", "outbox", "wakeup", "expiry", "saga")
ALONE = ("reconciliation",)  # a million payments take their time: only when it is asked for


def main() -> None:
    only = os.environ.get("ONLY", "")
    chosen = only.split(",") if only else ALL
    if unknown := set(chosen) - {*ALL, *ALONE}:
        known = ", ".join((*ALL, *ALONE))
        raise SystemExit(f"error: no benchmark is called {', '.join(sorted(unknown))}; there are {known}")
    start_servers()
    for name in chosen:
        import_module(f"benchmarks.{name}").run()


main()
