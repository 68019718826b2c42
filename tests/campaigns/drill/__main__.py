"""`make drill`: a copy of books with 100,000 clean transactions, 20 of each way to differ, found, fixed, closed to zero.

[N=100000] [COUNT=20] [SEED=7: the same choices again] [CLEAN=0: no run before anything is planted]
[WRITE=1: the section of docs/reliability.md]
"""

import logging
import os
import random
import shutil
import sys
import warnings


def main() -> int:
    from tests import servers

    servers.start_missing_servers()
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    os.environ["EMAIL_URL"] = "memorymail://"
    os.environ["JOBS_THAT_SETTLE"] = "clara,drill"
    os.environ["STRIPE_API_BASE"] = "http://127.0.0.1:9"  # nothing listens: the drill has a sandbox of its own
    os.environ.pop("STRIPE_API_KEY", None)
    warnings.filterwarnings("ignore", message="No directory at")  # static files, which nobody asks for
    import django

    django.setup()
    from django.db import connections
    from django.test.utils import setup_databases, setup_test_environment

    from tests.campaigns import report
    from tests.campaigns.drill import campaign
    from tests.sandbox_process import start_sandbox

    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10_000))
    folder = servers.TEST_DATA / f"{os.getpid()}-drill"
    folder.mkdir(parents=True)
    setup_test_environment()
    logging.disable(logging.CRITICAL)
    setup_databases(verbosity=0, interactive=False)
    sandbox = start_sandbox(folder)
    try:
        drill = campaign.run(
            sandbox,
            copies=int(os.environ.get("N") or 100_000),
            count=int(os.environ.get("COUNT") or 20),
            seed=seed,
            clean_first=os.environ.get("CLEAN") != "0",
        )
    finally:
        sandbox.stop()
        connections.close_all()
        shutil.rmtree(folder, ignore_errors=True)
    text = campaign.summary(drill)
    print(f"\n{text}", flush=True)
    if drill.troubles:
        print(f"error: {len(drill.troubles)} troubles", file=sys.stderr)
        return 1
    if report.told_to_write():
        report.write_section(report.RELIABILITY, "drill", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
