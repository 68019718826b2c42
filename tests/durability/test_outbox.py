import threading
import time

import pytest
from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now

from durability import outbox, selectors, services
from durability.errors import ReasonMissing
from durability.models import Delivery, Message
from durability.types import Lane
from foundation.database import in_seconds
from foundation.errors import IllegalTransition
from tests.durability.toys import CoinDropped, marks, script


def drop(jar: str, coin: str) -> int:
    with transaction.atomic():
        return services.publish(CoinDropped(jar=jar, coin=coin))


def work() -> None:
    for lane in Lane:
        services.work(lane)


def make_due() -> None:
    Delivery.objects.filter(state="pending").update(available_at=Now())


def fail(event: CoinDropped) -> None:
    raise RuntimeError("no")


def states(handler: str = "toys.count") -> list[str]:
    return list(Delivery.objects.filter(handler=handler).order_by("id").values_list("state", flat=True))


def test_publishing_outside_of_a_transaction_is_refused():
    with pytest.raises(RuntimeError, match="transaction"):
        services.publish(CoinDropped(jar="j", coin="a"))


def test_a_rolled_back_change_publishes_nothing():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.publish(CoinDropped(jar="j", coin="a"))
        _ = 1 / 0
    assert not Message.objects.exists()


def test_every_handler_gets_its_own_delivery_and_they_are_done_once():
    drop("j", "a")
    work()
    work()
    assert marks() == ["counted:a"]
    assert script.said == ["a"]
    assert set(Delivery.objects.values_list("state", flat=True)) == {"done"}


def test_many_events_are_published_at_once_in_their_order():
    coins = [f"{number:03}" for number in range(50)]
    with transaction.atomic():
        ids = services.publish_many([CoinDropped(jar="j", coin=coin) for coin in coins])
        assert services.publish_many([]) == []
    assert ids == sorted(ids)
    assert [Message.objects.get(pk=one).payload["coin"] for one in ids] == coins
    assert set(Delivery.objects.values_list("message", "handler", "outside")) == {
        *((one, "toys.count", False) for one in ids),
        *((one, "toys.tell", True) for one in ids),
    }
    for _ in coins:
        work()
    assert script.said == coins


def test_a_failing_handlers_effects_are_rolled_back_and_tried_again():
    script.on_coin = fail
    drop("j", "a")
    work()
    assert marks() == []
    script.on_coin = lambda event: None
    make_due()
    work()
    assert marks() == ["counted:a"]
    assert Delivery.objects.get(handler="toys.count").attempts == 2


def test_one_handler_failing_does_not_hold_up_another():
    script.outside = fail
    drop("j", "a")
    work()
    assert marks() == ["counted:a"]
    assert states("toys.tell") == ["pending"]


def test_order_holds_per_key_and_a_stuck_key_holds_up_itself_alone(settings):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    script.on_coin = lambda event: fail(event) if event.coin == "a" else None
    drop("stuck", "a")
    drop("stuck", "b")
    drop("free", "c")
    work()
    assert states() == ["parked", "pending", "done"]
    assert marks() == ["counted:c"]


def test_a_parked_delivery_is_seen_and_can_be_retried(settings):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    script.on_coin = fail
    drop("j", "a")
    work()
    assert selectors.backlog().parked == {"toys.count": 1}
    script.on_coin = lambda event: None
    services.retry_delivery(delivery_id=Delivery.objects.get(state="parked").pk, by="operator")
    work()
    assert marks() == ["counted:a"]


def test_a_parked_delivery_is_skipped_only_with_a_reason(settings):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    script.on_coin = fail
    drop("j", "a")
    drop("j", "b")
    work()
    parked = Delivery.objects.get(state="parked")
    with pytest.raises(ReasonMissing):
        services.skip_delivery(delivery_id=parked.pk, by="operator", reason=" ")
    script.on_coin = lambda event: None
    services.skip_delivery(delivery_id=parked.pk, by="operator", reason="a test coin")
    work()
    assert marks() == ["counted:b"]
    with pytest.raises(IllegalTransition):
        services.retry_delivery(delivery_id=parked.pk, by="operator")


def test_a_worker_that_lost_its_lease_commits_nothing(settings):
    settings.LEASE_S = 0
    drop("j", "a")
    [zombie] = [one for one in outbox.claim(Lane.OWN, limit=10) if one.handler == "toys.count"]
    [heir] = [one for one in outbox.claim(Lane.OWN, limit=10, of_the_dead=True) if one.handler == "toys.count"]
    outbox.deliver(heir)
    outbox.deliver(zombie)
    assert marks() == ["counted:a"]


def test_a_handler_that_kills_its_process_ends_parked(settings):
    settings.LEASE_S = 0
    settings.DELIVERY_MAX_ATTEMPTS = 2
    drop("j", "a")
    outbox.claim(Lane.OWN, limit=10)  # a worker died here
    outbox.claim(Lane.OWN, limit=10, of_the_dead=True)  # and here
    settings.LEASE_S = 30
    work()
    assert states() == ["parked"]
    assert marks() == []


# --- A handler that this process does not know -------------------------------------------------------


def of_another_release() -> Delivery:
    drop("j", "a")
    Delivery.objects.filter(handler="toys.count").update(handler="toys.other")
    return Delivery.objects.get(handler="toys.other")


def test_the_handlers_of_another_release_are_left_to_its_processes():
    of_another_release()
    for _ in range(3):
        work()
    services.subscribe_handlers()
    left = Delivery.objects.get(handler="toys.other")
    assert (left.state, left.attempts) == ("pending", 0)


def test_what_nobody_has_known_for_long_is_parked_and_a_person_can_retry_it(settings, caplog):
    one = of_another_release()
    Delivery.objects.filter(pk=one.pk).update(due_since=in_seconds(-settings.UNKNOWN_NAME_GRACE_S - 1))
    services.subscribe_handlers()
    assert states("toys.other") == ["parked"]
    assert "nobody knows" in caplog.text
    services.retry_delivery(delivery_id=one.pk, by="olga")
    services.subscribe_handlers()
    assert states("toys.other") == ["pending"]  # it has its time again


# --- For how long the oldest waits ---------------------------------------------------------------------


def long_ago() -> None:
    Message.objects.update(created_at="2020-01-01T00:00Z")
    Delivery.objects.update(due_since="2020-01-01T00:00Z")


def test_what_waits_is_seen_however_often_it_was_tried():
    script.on_coin = fail
    drop("j", "a")
    long_ago()
    assert selectors.oldest_open_s() > 1e6
    work()
    assert states("toys.tell") == ["done"]
    assert selectors.oldest_open_s() > 1e6


def test_an_old_delivery_that_a_person_lets_go_on_waits_since_then(settings):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    script.on_coin = fail
    drop("j", "a")
    drop("j", "b")
    drop("k", "c")
    work()
    long_ago()
    first, third = Delivery.objects.filter(state="parked").order_by("pk")
    services.retry_delivery(delivery_id=first.pk, by="olga")
    assert selectors.oldest_open_s() < 60  # nor does what comes behind it count from the beginning
    services.skip_delivery(delivery_id=third.pk, by="olga", reason="a test coin")
    assert selectors.oldest_open_s() < 60


def test_what_is_late_is_seen_behind_what_a_person_let_go_on(settings):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    script.on_coin = fail
    drop("j", "a")
    work()
    drop("k", "b")
    long_ago()
    services.retry_delivery(delivery_id=Delivery.objects.get(state="parked").pk, by="olga")
    assert selectors.oldest_open_s() > 1e6


def test_an_old_message_for_a_new_handler_waits_since_it_was_made(monkeypatch):
    drop("j", "a")
    work()
    Message.objects.update(created_at="2020-01-01T00:00Z")
    Delivery.objects.all().delete()
    services.subscribe_handlers()
    assert states() == ["pending"]
    assert selectors.oldest_open_s() < 60


def test_what_a_slow_batch_has_no_time_for_is_given_back_at_no_cost(settings):
    settings.LEASE_S = 0.2
    script.outside = lambda event: time.sleep(0.2)
    for number in range(4):
        drop(f"jar {number}", str(number))
    while outbox.deliver_batch(Lane.OUTSIDE):
        pass
    assert len(script.said) == 4
    assert set(Delivery.objects.filter(outside=True).values_list("state", "attempts")) == {("done", 1)}


def test_what_was_claimed_with_a_killer_is_delivered_without_it(settings):
    settings.DELIVERY_MAX_ATTEMPTS = 2
    for jar in ("a", "killer", "b"):
        drop(jar, jar)
    settings.LEASE_S = 0
    outbox.claim(Lane.OWN, limit=10)  # the worker died of one of them
    for _ in range(3):  # and the next ones too, each with what it had claimed
        claims = outbox.claim(Lane.OWN, limit=1, of_the_dead=True)
        assert len(claims) <= 1
        settings.LEASE_S = 30
        for one in claims:
            if one.payload["jar"] != "killer":
                outbox.deliver(one)
        settings.LEASE_S = 0
    settings.LEASE_S = 30
    Delivery.objects.filter(state="running").update(available_at=Now())
    work()
    work()
    assert set(states()) <= {"done", "parked"}
    assert "counted:a" in marks()


@pytest.mark.guard(6)
def test_a_process_that_dies_right_after_its_commit_has_told_of_it(monkeypatch):
    """What waits for the commit in memory dies with the process: Django's hooks, and with them the doorbell."""
    monkeypatch.setattr(BaseDatabaseWrapper, "run_and_clear_commit_hooks", lambda self: self.run_on_commit.clear())
    drop("j", "a")
    monkeypatch.undo()
    work()
    assert marks() == ["counted:a"]


@pytest.mark.guard(7)
def test_a_message_that_commits_late_is_delivered_after_ones_with_higher_ids():
    published, may_commit = threading.Event(), threading.Event()

    def slow_publisher() -> None:
        with transaction.atomic():
            services.publish(CoinDropped(jar="slow", coin="late"))
            published.set()
            may_commit.wait(10)
        connection.close()

    slow = threading.Thread(target=slow_publisher)
    slow.start()
    assert published.wait(10)
    drop("fast", "early")
    work()
    assert marks() == ["counted:early"]
    may_commit.set()
    slow.join()
    work()
    assert marks() == ["counted:early", "counted:late"]
