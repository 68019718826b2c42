"""A short campaign: scenarios played, and some killed at a boundary drawn by lot. `make boundaries` kills at all of all."""

import logging
import random
from collections.abc import Iterator

import pytest

from durability import registry
from durability.registry import handles, register
from durability.types import Saga, Since, Step
from payments.events import PaymentCaptured
from tests.campaigns.boundaries.campaign import Kill, cross_all, performance
from tests.campaigns.boundaries.recorder import AFTER, BEFORE, COMMIT, DO, SAGA, SENT, Boundary, Place
from tests.campaigns.boundaries.runner import note, record
from tests.campaigns.boundaries.scenarios import REPAIRED, SCENARIOS
from tests.campaigns.boundaries.units import Unit, boundaries_of, missing, refusals, refusing
from tests.campaigns.boundaries.world import World

SEED = 1
# So many are killed, drawn by lot.
KILLS, REPAIRS = 12, 2
_LOT = random.Random(SEED)
SCENES = [name for name in SCENARIOS if name not in REPAIRED]
DRAWN = {*_LOT.sample(SCENES, KILLS), *_LOT.sample(REPAIRED, REPAIRS)}
KILLED = [name for name in SCENARIOS if name in DRAWN]
# Each is played; of a repair that several kinds offer, one: they cross the same steps.
PLAYED = [*SCENES, *{name.partition(": ")[0]: name for name in REPAIRED}.values()]
pytestmark = pytest.mark.xdist_group("boundaries")  # one process: what is noted once is used by all

Noted = dict[Unit, list[Boundary]]


@pytest.fixture(scope="module")
def noted() -> Noted:
    return {}


@pytest.fixture
def world(transactional_db, valkey, sandbox_process, tmp_path) -> Iterator[World]:
    world = World(sandbox_process, tmp_path / "mails")
    logging.disable(logging.CRITICAL)
    opened = world.open()
    yield world
    opened.disable()
    logging.disable(logging.NOTSET)
    world.close()
    sandbox_process.control("POST", "reset")


def killed_once(world: World, unit: Unit, noted: Noted) -> None:
    """At a boundary drawn by lot."""
    with refusing(unit):
        recording = record(performance(world, unit))
    noted[unit] = recording.boundaries
    assert recording.ending["unfinished"] == 0
    if not world.is_tampered and not unit.step:
        assert (recording.ending["audit"], recording.ending["cents off"]) == ([], {})
    drawn = random.Random(f"{SEED} {unit}").sample(boundaries_of(unit, noted), 1)
    assert cross_all(world, Kill(unit, drawn, recording, SEED)).findings == {}


@pytest.mark.parametrize("scenario", KILLED)
def test_a_process_killed_at_a_boundary_loses_and_doubles_nothing(world, noted, scenario):
    killed_once(world, Unit(scenario), noted)


def test_what_is_declared_is_crossed_and_what_is_refused_is_undone(world, noted, monkeypatch):
    """Each step with do and undo, each handler, each task: a new one without a scenario is named here."""
    for unit in map(Unit, PLAYED):
        if unit not in noted:
            noted[unit] = note(performance(world, unit))
    for unit in refusals(noted):
        with refusing(unit):
            noted[unit] = note(performance(world, unit))
    crossed = [boundary for found in noted.values() for boundary in found]
    assert missing(crossed) == []

    # And a new one is named.
    monkeypatch.setattr(registry, "_recipes", dict(registry._recipes))
    monkeypatch.setattr(registry, "_handlers", dict(registry._handlers))
    monkeypatch.setattr(registry, "_by_event", {name: list(known) for name, known in registry._by_event.items()})
    register(Saga("orders.wrap_gift", version=1, steps=(Step("wrap", do=wrap, undo=wrap),)))
    handles(PaymentCaptured, name="orders.send_flowers", since=Since.DEPLOYMENT)(wrap)
    assert missing(crossed) == [
        "no scenario crosses step “wrap” of orders.wrap_gift",
        "no scenario crosses the undo of step “wrap” of orders.wrap_gift",
        "no scenario crosses handler orders.send_flowers",
    ]


def wrap(_: object) -> None:
    pass


wrap.__module__ = "orders.gifts"  # as if the product declared it


def test_a_call_is_crossed_at_each_of_its_boundaries(world, noted):
    unit = Unit("checkout, we confirm")
    found = noted.get(unit) or note(performance(world, unit))
    opening = Place(SAGA, "orders.checkout", "open the payment at the provider", DO)
    own = [(one.what, one.when) for one in found if one.place == opening]
    call = "POST /v1/payment_intents"
    assert own == [
        (COMMIT, BEFORE),
        (COMMIT, AFTER),  # the intent
        (COMMIT, BEFORE),
        (COMMIT, AFTER),  # the moment of the first send
        (call, BEFORE),
        (call, SENT),
        (call, AFTER),
        (COMMIT, BEFORE),
        (COMMIT, AFTER),  # the outcome
    ]


def test_a_refusal_is_the_recipes_own_again_afterwards():
    kept = {saga.name: [step.do for step in saga.steps] for saga in registry.recipes()}
    with refusing(Unit("checkout, we confirm", "orders.checkout", "open the payment at the provider")):
        assert {saga.name: [step.do for step in saga.steps] for saga in registry.recipes()} != kept
    assert {saga.name: [step.do for step in saga.steps] for saga in registry.recipes()} == kept


def test_a_refused_step_is_undone_whatever_dies(world, noted):
    opening = Unit("checkout, we confirm", "orders.checkout", "open the payment at the provider")
    noted[Unit(opening.scenario)] = note(performance(world, Unit(opening.scenario)))
    killed_once(world, opening, noted)
