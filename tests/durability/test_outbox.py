import time

import pytest
from django.db import transaction
from django.db.models.functions import Now

from durability import outbox, selectors, services
from durability.errors import ReasonMissing
from durability.models import Delivery, Message
from durability.types import Lane
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


def test_a_message_of_a_handler_that_is_gone_is_kept():
    drop("j", "a")
    Delivery.objects.filter(handler="toys.count").update(handler="toys.removed")
    work()
    assert states("toys.removed") == ["pending"]
    assert "toys.removed" in Delivery.objects.get(handler="toys.removed").last_error


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
