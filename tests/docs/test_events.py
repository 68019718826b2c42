"""docs/events.md against the code: every event that the product publishes, its key, and its members with their types."""

import re
import typing
from dataclasses import fields
from pathlib import Path

import pytest

from durability.types import Event

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "events.md").read_text()
SECTIONS = dict(re.findall(r"^### (\S+)$(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL))
JSON_TYPES = {str: "string", int: "integer", bool: "boolean"}


def published(base: type[Event] = Event) -> dict[str, type[Event]]:
    """Every named event of an app; tests have toys of their own."""
    found: dict[str, type[Event]] = {}
    for event in base.__subclasses__():
        if event.name and event.__module__.endswith(".events"):
            found[event.name] = event
        found |= published(event)
    return found


def test_every_event_has_a_section_and_every_section_an_event():
    assert len(published()) >= 13
    assert SECTIONS.keys() == published().keys()


@pytest.mark.parametrize("name", sorted(published()))
def test_the_members_of_an_event_are_those_of_its_payload(name):
    event = published()[name]
    types = typing.get_type_hints(event)
    listed = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", SECTIONS[name], re.MULTILINE))
    assert listed == {field.name: JSON_TYPES[types[field.name]] for field in fields(event)}


@pytest.mark.parametrize("name", sorted(published()))
def test_the_key_of_an_event_is_the_member_that_the_page_names(name):
    event = published()[name]
    made = event(**{field.name: f"the {field.name}" for field in fields(event)})
    (member,) = re.findall(r"Key: `(\w+)`", SECTIONS[name]) or re.findall(r"key is `(\w+)`", SECTIONS[name])
    assert made.key == f"the {member}"


@pytest.mark.parametrize("name", sorted(published()))
def test_a_name_is_versioned_and_belongs_to_its_app(name):
    app = published()[name].__module__.split(".")[0]
    assert re.fullmatch(rf"{app}\.[a-z_]+\.v\d+", name)
