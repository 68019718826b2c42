"""The checks of the build files see what they are there for."""

import shutil

import pytest

from tests.check_build_files import ROOT, compose_problems, lock_problems

COMPOSE = (ROOT / "docker-compose.yml").read_text()


def test_the_compose_file_is_sound():
    assert list(compose_problems(COMPOSE)) == []


@pytest.mark.parametrize(
    ("sound", "broken", "said"),
    [
        ("  beat:\n", "  bet:\n", "no service beat"),
        ("image: postgres:18", "imago: postgres:18", "neither image nor build"),
        ("- postgres:/var", "- lost:/var", "volume lost"),
        ("      postgres:\n        condition", "      postgre:\n        condition", "depends on postgre,"),
        ("services:\n", "services: [\n", "docker-compose.yml:"),
    ],
)
def test_a_broken_compose_file_is_told(sound, broken, said):
    assert sound in COMPOSE
    assert any(said in problem for problem in compose_problems(COMPOSE.replace(sound, broken)))


def test_what_is_not_locked_is_told(tmp_path):
    for path in ROOT.glob("requirements*"):
        shutil.copy(path, tmp_path)
    assert list(lock_problems(tmp_path)) == []
    with (tmp_path / "requirements.in").open("a") as asked:
        asked.write("left-pad==1.*\n")
    assert list(lock_problems(tmp_path)) == ["requirements.in: left-pad is not locked; run: make lock"]
