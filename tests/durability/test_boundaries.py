"""The harness of `make boundaries` catches what it is there for: in a toy domain whose guards are taken away one by one."""

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import psycopg
import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from durability import services
from durability.models import Heartbeat, SagaRun
from durability.types import Context, Lane, Outcome, Succeeded
from tests.campaigns.boundaries.recorder import AFTER, DO, SAGA, SENT, Place
from tests.campaigns.boundaries.runner import (
    PLAYS,
    PassedByError,
    Recording,
    cross,
    leave_connections_to_the_parent,
    record,
)
from tests.campaigns.boundaries.units import may_come_later
from tests.durability.toys import marks, script

CALL = Place(SAGA, "toys.toy", "call", DO)
LAST = Place(SAGA, "toys.toy", "last", DO)


class Provider(BaseHTTPRequestHandler):
    """Charges once per id."""

    charged: set[str] = set()

    def do_POST(self) -> None:
        self.charged.add(self.headers["Id"])
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[int]:
    """The port on which somebody outside answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


class Toy:
    """A toy saga from its start to its end (runner.Stage)."""

    def set_up(self) -> None:
        SagaRun.objects.all().delete()
        Heartbeat.objects.all().delete()
        Provider.charged.clear()

    def in_child(self) -> None:
        leave_connections_to_the_parent()

    def play(self) -> None:
        with transaction.atomic():
            services.start_saga("toys.toy", key="k")
        self.work()

    def rest(self) -> None:
        SagaRun.objects.filter(state__in=["running", "compensating"]).update(available_at=Now())
        self.work()

    def work(self) -> None:
        while sum(services.work(lane) for lane in Lane):
            pass

    def state(self) -> dict[str, object]:
        return {
            "saga": list(SagaRun.objects.values_list("state", flat=True)),
            "marks": sorted({":".join(mark.split(":")[:2]) for mark in marks()}),
            "count": len(marks()),
            "charges": len(Provider.charged),
        }


def charge(port: int, charge_id: str) -> Outcome:
    asking = HTTPConnection("127.0.0.1", port)
    asking.request("POST", "/charges", headers={"Id": charge_id})
    asking.getresponse().read()
    asking.close()
    return Succeeded()


def findings(recording: Recording, *, of: Place | None = None) -> dict[str, list[str]]:
    """Kill at every boundary, or at those of one place; client and workers are the first to notice in turn."""
    found = {}
    early = may_come_later(recording.boundaries)
    for number, boundary in enumerate(recording.boundaries):
        if of and boundary.place != of:
            continue
        lines = cross(
            Toy(), boundary, recording.ending, client_first=bool(number % 2), may_come_later=boundary in early
        )
        if lines:
            found[str(boundary)] = lines
    return found


def test_nothing_is_found_where_every_guard_holds(provider):
    script.call = lambda context: charge(provider, context.key)
    recording = record(Toy())
    assert {(CALL, "POST /charges", when) for when in (SENT, AFTER)} <= {
        (one.place, one.what, one.when) for one in recording.boundaries
    }
    assert findings(recording) == {}
    assert len(recording.boundaries) > 15


def test_a_call_without_a_stable_id_is_caught(provider):
    script.call = lambda context: charge(provider, str(uuid4()))
    found = findings(record(Toy()), of=CALL)
    assert any("after sending POST" in boundary for boundary in found)
    assert all("charges: 2, undisturbed 1" in lines for lines in found.values())


def test_an_effect_outside_of_its_transaction_is_caught(provider):
    def write_by_itself(context: Context) -> None:
        with psycopg.connect(**connection.get_connection_params(), autocommit=True) as beside:
            beside.execute("INSERT INTO durability_heartbeat VALUES (%s, now())", [f"beside:k:{uuid4().hex[:8]}"])

    script.call = lambda context: charge(provider, context.key)
    script.before_last = write_by_itself
    found = findings(record(Toy()), of=LAST)
    assert list(found) == [f"{LAST}: before commit"]


def test_what_only_memory_knows_is_caught(provider):
    """A step that tells somebody after its commit, and nobody writes down that it has to."""
    script.call = lambda context: charge(provider, context.key)
    script.before_last = lambda context: transaction.on_commit(lambda: charge(provider, "told") and None)
    found = findings(record(Toy()), of=LAST)
    assert f"{LAST}: after commit" in found
    assert all("charges: 1, undisturbed 2" in lines for lines in found.values())


def test_a_scene_that_comes_to_a_boundary_unless_somebody_is_to_die_there_is_a_finding(provider):
    class Shy(Toy):
        played = 0

        def set_up(self) -> None:
            super().set_up()
            self.played += 1
            calls = self.played > PLAYS
            script.call = (lambda context: charge(provider, context.key)) if calls else (lambda context: Succeeded())

    script.call = lambda context: charge(provider, context.key)
    recording = record(Toy())
    boundary = next(one for one in recording.boundaries if one.when == SENT)
    lines = cross(Shy(), boundary, recording.ending, client_first=False, may_come_later=False)
    assert "was not reached" in lines[0]


def test_a_boundary_that_no_other_run_comes_to_is_passed_by(provider):
    script.call = lambda context: charge(provider, context.key)
    recording = record(Toy())
    script.call = lambda context: Succeeded()
    boundary = next(one for one in recording.boundaries if one.when == SENT)
    with pytest.raises(PassedByError):
        cross(Toy(), boundary, recording.ending, client_first=False, may_come_later=False)
