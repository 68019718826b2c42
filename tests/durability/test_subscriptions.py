"""Handlers that are added to a system with a past. The toys: `count` starts at the oldest kept, `tell` at deployment."""

import pytest

from durability import registry, services, subscriptions
from durability.models import Delivery, Message, Subscription
from tests.durability.test_outbox import drop, work
from tests.durability.toys import CoinDropped, marks, script


@pytest.fixture
def old_release(monkeypatch: pytest.MonkeyPatch):
    """A process that knows no handler of the event; `upgrade` is the deployment of the release that does."""
    known = registry.handlers_of(CoinDropped.name)
    Subscription.objects.all().delete()  # what the migration of the tests' database, with all handlers, wrote down
    monkeypatch.setitem(registry._by_event, CoinDropped.name, [])

    def upgrade() -> None:
        subscriptions.catch_up()
        monkeypatch.setitem(registry._by_event, CoinDropped.name, known)

    return upgrade


def test_a_handler_added_later_starts_where_it_says(old_release):
    drop("j", "before")
    old_release()
    drop("j", "after")
    work()
    assert marks() == ["counted:after", "counted:before"]
    assert script.said == ["after"]


def test_what_an_old_process_still_publishes_reaches_the_new_handlers(old_release):
    subscriptions.catch_up()
    drop("j", "between two releases")
    services.subscribe_handlers()
    work()
    assert marks() == ["counted:between two releases"]
    assert script.said == ["between two releases"]


def test_catching_up_again_doubles_nothing(old_release, settings):
    settings.SUBSCRIPTION_BATCH = 2
    for number in range(5):
        drop("j", str(number))
    assert subscriptions.catch_up() == 5  # `count` alone: `tell` begins now
    assert subscriptions.catch_up() == 0
    work()
    assert len(marks()) == 5


def test_what_is_settled_is_not_looked_at_again(old_release):
    drop("j", "old")
    Message.objects.update(created_at="2020-01-01T00:00Z")
    subscriptions.catch_up()
    assert set(Subscription.objects.filter(handler__startswith="toys.").values_list("checked_to", flat=True)) == {
        Message.objects.get().pk
    }


def test_order_per_key_holds_between_what_was_caught_up_and_what_was_published(old_release, settings):
    drop("j", "1st")
    subscriptions._subscribe()  # the new release is on its way
    known = [handler for handler in registry.handlers() if handler.name == "toys.count"]
    registry._by_event[CoinDropped.name].extend(known)
    drop("j", "2nd")  # its own delivery is made before that of the first
    subscriptions.catch_up()
    seen: list[str] = []
    script.on_coin = lambda event: seen.append(event.coin)
    first, second = Delivery.objects.filter(handler="toys.count").order_by("message_id")
    assert first.pk > second.pk
    work()
    assert seen == ["1st", "2nd"]
