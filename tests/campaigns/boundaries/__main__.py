"""`make boundaries`: kill a process at every boundary of every scenario, resume it, compare.

[JOBS=2] [SEED=1] [ONLY="part of a scenario's name|of another's"] [WRITE=1: the section of docs/reliability.md]
"""

import os
import sys
import warnings


def main() -> int:
    from tests import servers

    servers.start_missing_servers()
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    os.environ["EMAIL_URL"] = "memorymail://"
    os.environ["JOBS_THAT_SETTLE"] = "clara,drill"
    os.environ["STRIPE_API_BASE"] = "http://127.0.0.1:9"  # nothing listens: each process has a sandbox of its own
    os.environ.pop("STRIPE_API_KEY", None)
    warnings.filterwarnings("ignore", message="No directory at")  # static files, which nobody asks for
    import django

    django.setup()

    from tests.campaigns.boundaries import campaign

    findings = campaign.run(
        processes=int(os.environ.get("JOBS") or os.cpu_count() or 1),
        seed=int(os.environ.get("SEED") or 1),
        only=os.environ.get("ONLY", ""),
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
