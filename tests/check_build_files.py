"""`python -m tests.check_build_files`: what no linter checks of docker-compose.yml, pyproject.toml and the locks."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SERVICES = {"web", "worker-own", "worker-outside", "worker-long", "beat", "postgres", "valkey"}
PIN = re.compile(r"^([a-z0-9][a-z0-9.-]*)(?:\[[^]]*])?==(\S+)", re.MULTILINE)
NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)", re.MULTILINE)


def compose_problems(text: str) -> Iterator[str]:
    """Structural faults of a compose file; no Docker engine is needed."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield f"docker-compose.yml: {error}"
        return
    services = document.get("services", {})
    if missing := SERVICES - services.keys():
        yield f"docker-compose.yml: no service {', '.join(sorted(missing))}"
    for name, service in services.items():
        if not {"image", "build"} & service.keys():
            yield f"docker-compose.yml: {name} has neither image nor build"
        if "test" not in service.get("healthcheck", {}):
            yield f"docker-compose.yml: {name} has no healthcheck"
        for other in service.get("depends_on", {}):
            if other not in services:
                yield f"docker-compose.yml: {name} depends on {other}, which is no service"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if re.fullmatch(r"\w+", source) and source not in document.get("volumes", {}):
                yield f"docker-compose.yml: {name} uses the volume {source}, which is not declared"


def lock_problems(root: Path) -> Iterator[str]:
    """Everything asked for is locked, and both locks agree."""
    production = dict(PIN.findall((root / "requirements.txt").read_text()))
    development = dict(PIN.findall((root / "requirements-dev.txt").read_text()))
    for asked, locked in (("requirements.in", production), ("requirements-dev.in", development)):
        for name in NAME.findall((root / asked).read_text()):
            if re.sub(r"[._]", "-", name.lower()) not in locked:
                yield f"{asked}: {name} is not locked; run: make lock"
    for name, version in production.items():
        if development.get(name) != version:
            yield f"{name} is {version} in requirements.txt, {development.get(name)} in requirements-dev.txt"


def python_problems(root: Path) -> Iterator[str]:
    """Linter, type checker and locks mean the same oldest Python."""
    tools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    oldest = tools["mypy"]["python_version"]
    if tools["ruff"]["target-version"] != "py" + oldest.replace(".", ""):
        yield "pyproject.toml: ruff's target-version is not mypy's python_version"
    for lock in ("requirements.txt", "requirements-dev.txt"):
        if f"--python-version {oldest} " not in (root / lock).read_text()[:300]:
            yield f"{lock} was locked for another Python than {oldest}"


def main() -> int:
    compose = (ROOT / "docker-compose.yml").read_text()
    problems = [*compose_problems(compose), *lock_problems(ROOT), *python_problems(ROOT)]
    for problem in problems:
        sys.stderr.write(f"error: {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
