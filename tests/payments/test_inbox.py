"""The inbox after the door: two events of one change, catching up without a gap, replaying, types that nobody knows."""

import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from durability.models import Message
from foundation.database import database_now
from payments import gateway, metrics
from payments import services as payments
from payments.models import InboxEvent, InboxMark, JournalEntry, Payment
from payments.services import inbox
from payments.tasks import catch_up_events
from payments.types import ProviderEvent
from tests.payments.test_contradictions import pay_in_browser
from tests.payments.test_webhooks import send
from tests.shop import settle

LONG_AGO = timedelta(days=20)


def told() -> int:
    return Message.objects.filter(name="payments.provider_event_received.v1").count()


def event_of(event_id: str, kind: str, intent: str) -> bytes:
    changed = {"id": intent, "object": "payment_intent", "client_secret": f"{intent}_secret_x"}
    return json.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": kind,
            "created": int(database_now().timestamp()),
            "livemode": False,
            "data": {"object": changed},
        }
    ).encode()


@pytest.fixture
def paid_elsewhere(shop, sandbox, settings) -> dict[str, Any]:
    """Paid in the browser; no news have come."""
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_sandbox"]
    body: dict[str, Any] = shop.checkout().json()
    pay_in_browser(sandbox, body["payment"])
    return body


def test_two_event_objects_of_one_change_have_one_effect(shop, client, paid_elsewhere):
    reference = paid_elsewhere["payment"]["provider_reference"]
    for name in ("evt_a", "evt_b", "evt_a"):
        assert send(client, event_of(name, "payment_intent.succeeded", reference)).status_code == 200
    assert (InboxEvent.objects.count(), told()) == (2, 2)
    settle(webhooks=False)
    assert JournalEntry.objects.filter(kind="capture").count() == 1
    assert Message.objects.filter(name="payments.payment_captured.v1").count() == 1
    assert shop.level() == (9, 0)


def test_a_webhook_that_could_not_be_stored_is_not_acknowledged(shop, client, paid_elsewhere, monkeypatch):
    payload = event_of("evt_a", "payment_intent.succeeded", paid_elsewhere["payment"]["provider_reference"])

    def full(*_: Any, **__: Any) -> int:
        raise OperationalError("the disk is full")

    client.raise_request_exception = False
    with monkeypatch.context() as minute:
        minute.setattr("payments.services.inbox.durability.publish", full)
        assert send(client, payload).status_code >= 500
    assert not InboxEvent.objects.exists()
    assert send(client, payload).json() == {"received": True, "new": True}  # the provider sends it again
    settle(webhooks=False)
    assert shop.order(paid_elsewhere["order"]["number"])["status"] == "paid"


# --- Catching up ------------------------------------------------------------------------------------


@pytest.mark.guard(12)
def test_what_no_webhook_brought_is_listed(shop, paid_elsewhere):
    catch_up_events()
    settle(webhooks=False)
    assert shop.order(paid_elsewhere["order"]["number"])["status"] == "paid"


def test_a_webhook_that_came_after_an_outage_does_not_hide_what_was_lost_in_it(shop, client, paid_elsewhere):
    """Hours ago the list was read; since then all webhooks were lost, but for the newest one."""
    InboxMark.objects.create(listed_until=database_now() - LONG_AGO)
    send(client, event_of("evt_new", "payment_intent.created", "pi_somebody"))
    assert inbox.catch_up_since() < database_now() - LONG_AGO
    catch_up_events()
    settle(webhooks=False)
    assert shop.order(paid_elsewhere["order"]["number"])["status"] == "paid"
    assert InboxMark.objects.get().listed_until > database_now() - timedelta(minutes=1)


def test_a_list_that_broke_off_is_listed_again_from_where_it_began(shop, paid_elsewhere, monkeypatch):
    began = database_now() - timedelta(hours=5)
    InboxMark.objects.create(listed_until=began)
    real = list(gateway.list_events(since=began))
    assert len(real) > 2

    def breaks(*, since: Any) -> Any:
        yield real[0]  # the newest comes first
        raise gateway_error()

    with monkeypatch.context() as minute:
        minute.setattr(inbox, "_PAGE", 1)
        minute.setattr(gateway, "list_events", breaks)
        with pytest.raises(Exception, match="went away"):
            catch_up_events()
    assert InboxEvent.objects.count() == 1
    assert InboxMark.objects.get().listed_until == began
    catch_up_events()
    assert InboxEvent.objects.count() == len(real)


def test_what_is_known_is_asked_for_once_a_page_and_not_once_an_event(
    shop, paid_elsewhere, monkeypatch, django_assert_max_num_queries
):
    payments.replay_events(since=database_now() - LONG_AGO)
    known = list(gateway.list_events(since=database_now() - LONG_AGO))[:3] * 10
    monkeypatch.setattr(gateway, "list_events", lambda *, since: iter(known))
    with django_assert_max_num_queries(8):  # of which one asks what is known; the others keep the mark
        assert payments.replay_events(since=database_now() - LONG_AGO) == (len(known), 0)


def gateway_error() -> Exception:
    from payments.errors import ProviderUnsure

    return ProviderUnsure("the provider went away")


def test_a_list_that_begins_behind_a_gap_does_not_close_it(shop, paid_elsewhere):
    began = database_now() - timedelta(hours=5)
    InboxMark.objects.create(listed_until=began)
    payments.replay_events(since=database_now() - timedelta(minutes=5))
    assert InboxMark.objects.get().listed_until == began


def test_an_inbox_that_was_never_listed_begins_a_little_before_its_newest_event(shop, client, paid_elsewhere, settings):
    assert inbox.catch_up_since() < database_now() - timedelta(days=1)
    send(client, event_of("evt_new", "payment_intent.created", "pi_somebody"))
    margin = timedelta(seconds=settings.INBOX_CATCH_UP_MARGIN_S)
    assert database_now() - 2 * margin < inbox.catch_up_since() <= database_now() - margin


# --- Replaying --------------------------------------------------------------------------------------


def test_a_stored_event_is_worked_on_again(shop, paid_elsewhere, monkeypatch):
    with monkeypatch.context() as defect:
        defect.setattr("payments.services.rereads.apply_intent", lambda *_, **__: False)
        settle()
    assert Payment.objects.get().status == "pending"
    reference = paid_elsewhere["payment"]["provider_reference"]
    event = InboxEvent.objects.get(type="payment_intent.succeeded", object_id=reference)
    for _ in range(2):
        payments.replay_event(event.pk)
    settle(webhooks=False)
    assert shop.order(paid_elsewhere["order"]["number"])["status"] == "paid"
    assert JournalEntry.objects.filter(kind="capture").count() == 1


def command(*arguments: str) -> str:
    out = io.StringIO()
    call_command("replay_events", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_stores_what_is_new_and_says_so(shop, paid_elsewhere):
    since = (database_now() - timedelta(seconds=5)).isoformat()
    said = command("--since", since)
    count = InboxEvent.objects.count()
    assert f"{count} events since" in said
    assert f"{count} new, 0 known before" in said
    assert "0 new" in command("--since", since)
    assert told() == count
    assert "worked on again" in command("--since", since, "--again")
    assert told() == 2 * count
    settle(webhooks=False)
    assert shop.order(paid_elsewhere["order"]["number"])["status"] == "paid"


def test_the_command_says_when_it_could_not_run(shop, sandbox):
    sandbox.control("POST", "faults", {"match": "GET /v1/events", "kind": "error_500", "times": 9})
    with pytest.raises(CommandError) as refused:
        command()
    assert refused.value.returncode == 2
    sandbox.control("DELETE", "faults")


# --- Types that nobody knows ------------------------------------------------------------------------


def test_an_unknown_type_is_stored_and_counted_and_nothing_is_read_for_it(shop, monkeypatch):
    event = ProviderEvent("evt_x", "radar.early_fraud_warning.created", "issfr_1", "pi_1", False, database_now())
    asked: list[str] = []
    monkeypatch.setattr(gateway, "list_events", lambda since: iter([event]))
    monkeypatch.setattr(gateway, "retrieve_intent", asked.append)
    counter = metrics.UNKNOWN_EVENTS.labels(event.type)
    before = counter._value.get()
    for _ in range(2):
        payments.replay_events(since=database_now())
    settle(webhooks=False)
    assert InboxEvent.objects.get().type == event.type
    assert asked == []
    assert counter._value.get() == before + 1
