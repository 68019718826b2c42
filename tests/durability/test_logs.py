"""Work that a request caused says whose it is: the request's id follows through messages, sagas and deliveries."""

import json
import logging

import pytest
from django.db import transaction

from durability import services
from durability.types import Lane, Unknown
from foundation.ids import public_id, uuid7
from foundation.logs import JsonFormatter, begin, bound
from foundation.middleware import current_request_id
from tests.durability.toys import CoinDropped, script

ORDER, PAYMENT = public_id("ord", uuid7()), public_id("pay", uuid7())
log = logging.getLogger("toys")


@pytest.fixture
def lines():
    """What was logged, as our formatter writes it at that moment."""
    found: list[dict[str, object]] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(JsonFormatter().format(record)))

    handler = Keeping()
    log.addHandler(handler)
    begin()
    yield found
    log.removeHandler(handler)
    begin()


def test_a_delivery_carries_the_request_the_handler_and_the_objects(lines):
    script.on_coin = lambda event: log.warning("coin")
    with bound(request_id="req-1"), transaction.atomic():
        services.publish(CoinDropped(jar=ORDER, coin="penny"))
    services.work(Lane.OWN)
    (line,) = lines
    assert str(line["delivery"]).startswith("toys.count ")
    assert (line["request_id"], line["order"]) == ("req-1", ORDER)
    assert current_request_id() == "-", "what was bound ended with the delivery"


def test_a_saga_carries_the_request_its_key_and_the_objects(lines):
    script.before_last = lambda context: log.warning("last")
    with bound(request_id="req-2"), transaction.atomic():
        services.start_saga("toys.toy", key="k", subject=ORDER, payload={"payment": PAYMENT})
    services.work(Lane.OWN)
    services.work(Lane.OUTSIDE)
    services.work(Lane.OWN)
    (line,) = lines
    assert line["saga"] == "toys.toy k"
    assert (line["request_id"], line["order"], line["payment"]) == ("req-2", ORDER, PAYMENT)
    assert current_request_id() == "-"


def test_a_call_without_an_answer_is_told_with_its_saga(lines):
    logging.getLogger("durability.engine").addHandler(log.handlers[0])
    script.call = lambda context: Unknown("the line is dead")
    with transaction.atomic():
        services.start_saga("toys.toy", key="k", subject=ORDER)
    services.work(Lane.OWN)
    services.work(Lane.OUTSIDE)
    logging.getLogger("durability.engine").removeHandler(log.handlers[0])
    (line,) = lines
    assert "the line is dead" in str(line["message"])
    assert (line["saga"], line["order"], line["level"]) == ("toys.toy k", ORDER, "warning")
