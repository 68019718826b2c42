"""`make history N=2000`: one random history of N operations, and every law of conservation.

[SEED=7: the same history again] [WRITE=1: the section of docs/reliability.md]
"""

import os
import random
import sys
import warnings


def main() -> int:
    asked = os.environ.get("N") or "2000"
    if not asked.isdecimal() or int(asked) == 0:
        print(f"error: N is a number of operations, not {asked!r}", file=sys.stderr)
        return 2
    from tests import servers

    servers.start_missing_servers()
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    os.environ["EMAIL_URL"] = "memorymail://"
    os.environ["STRIPE_API_BASE"] = "http://127.0.0.1:9"  # nothing listens: the history has a sandbox of its own
    os.environ.pop("STRIPE_API_KEY", None)
    warnings.filterwarnings("ignore", message="No directory at")  # static files, which nobody asks for
    import django

    django.setup()

    from tests.histories import campaign

    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10_000))
    return 0 if campaign.run(operations=int(asked), seed=seed) else 1


if __name__ == "__main__":
    sys.exit(main())
