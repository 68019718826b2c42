"""`make history N=2000`: one random history of N operations, and every law of conservation.

[SEED=7: the same history again] [ON=stack: beside the processes of a running stack] [WRITE=1: the section of
docs/reliability.md]
"""

import json
import os
import random
import shutil
import sys
import warnings
from typing import Any


def main() -> int:
    asked = os.environ.get("N") or "2000"
    if not asked.isdecimal() or int(asked) == 0:
        print(f"error: N is a number of operations, not {asked!r}", file=sys.stderr)
        return 2
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10_000))
    if os.environ.get("ON") != "stack":
        return tell(int(asked), seed)

    from tests.servers import TEST_DATA
    from tests.stack_process import RunningStack

    TEST_DATA.mkdir(parents=True, exist_ok=True)
    stack = RunningStack(TEST_DATA / f"{os.getpid()}-history-stack")
    try:
        stack.start()
        return tell(int(asked), seed, stack)
    finally:
        stack.stop()
        shutil.rmtree(stack.var, ignore_errors=True)
        stack.output.unlink(missing_ok=True)


def tell(operations: int, seed: int, stack: Any = None) -> int:
    from tests import servers

    if stack:
        os.environ |= as_in(stack)
    else:
        servers.start_missing_servers()
        os.environ["STRIPE_API_BASE"] = "http://127.0.0.1:9"  # nothing listens: the history has a sandbox of its own
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    os.environ["EMAIL_URL"] = "memorymail://"
    os.environ.pop("STRIPE_API_KEY", None)
    warnings.filterwarnings("ignore", message="No directory at")  # static files, which nobody asks for
    import django

    django.setup()

    from tests.histories import campaign

    return 0 if campaign.run(operations=operations, seed=seed, stack=stack) else 1


def as_in(stack: Any) -> dict[str, str]:
    """What a process has to be told to work beside the stack's own."""
    info = stack.info
    return {
        "EVERYCENT_VAR_DIR": str(stack.var),
        "DATABASE_URL": info["database_url"],
        "REDIS_URL": info["redis_url"],
        "STRIPE_API_BASE": info["stripe_api_base"],
        "STRIPE_WEBHOOK_SECRETS": json.loads((stack.var / "secrets.json").read_text())["webhook"],
    }


if __name__ == "__main__":
    sys.exit(main())
