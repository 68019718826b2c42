"""`python -m tests.campaigns.stack up`: `make up` for campaigns.

The same processes with the same commands. What differs: the application reaches the provider by way of the campaign's
proxy, its clocks can be turned (by libfaketime, where it is installed), and a child may die more often before the
supervisor gives up, because here somebody kills it on purpose.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from config.devstack import supervisor
from config.devstack.__main__ import run
from config.devstack.folder import write_private
from config.devstack.stack import Stack
from config.devstack.supervisor import Child, Supervisor

PROXY = "CAMPAIGN_PROXY"  # http://127.0.0.1:… of the campaign's proxy
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)  # Debian's package libfaketime
TURNED_CLOCKS = Path(__file__).parent / "turned_clocks"  # what Python needs beside that library
DEATHS_ON_PURPOSE = 100  # within half a minute; a campaign kills far fewer


def provider_file(var: Path) -> Path:
    """Where the stack writes the sandbox's own address: STRIPE_API_BASE is the proxy's."""
    return var / "provider.url"


def clock_file(var: Path, child: str) -> Path:
    """What a child's clock is off by, in libfaketime's words: `+0`, `+90000`, `-90000` seconds."""
    return var / "clocks" / child


class CampaignStack(Stack):
    def missing_servers(self) -> list[Child]:
        children = super().missing_servers()
        provider_file(self.options.var).write_text(self._env["STRIPE_API_BASE"])
        self._env["STRIPE_API_BASE"] = self._env[PROXY]
        return children

    def prepare(self, supervisor: Supervisor) -> None:
        """Without collecting and compressing static files: nobody looks at a page here."""
        self.files.static.mkdir(exist_ok=True)
        write_private(self.files.static_stamp, self._sources_of_static_files())
        super().prepare(supervisor)

    def application(self) -> list[Child]:
        children = super().application()
        if FAKETIME:
            for child in children:
                file = clock_file(self.options.var, child.name)
                file.parent.mkdir(exist_ok=True)
                file.write_text("+0")
                child.env = own_clock(file, FAKETIME, child.env)
        return children


def own_clock(file: Path, library: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process whose clock is off by what stands in the file."""
    path = [str(TURNED_CLOCKS), *filter(None, [environment.get("PYTHONPATH")])]
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(path),
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",  # seconds until a running process sees that its clock was turned
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # nobody turns that one
    }


if __name__ == "__main__":
    supervisor.CRASH_LOOP_DEATHS = DEATHS_ON_PURPOSE
    Path(os.environ["EVERYCENT_VAR_DIR"]).mkdir(parents=True, exist_ok=True)
    sys.exit(run(sys.argv[1], make_stack=CampaignStack))
