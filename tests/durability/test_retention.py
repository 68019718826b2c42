import threading

from django.db import connection, transaction

from durability import keys, services
from durability.models import Delivery, IdempotencyKey, Message, SagaRun, SagaStep
from durability.types import Lane
from tests.durability.test_keys import wanted
from tests.durability.test_outbox import drop, fail, work
from tests.durability.test_sagas import start
from tests.durability.toys import script

LONG_AGO = "2020-01-01T00:00Z"


def published_and_old() -> None:
    Message.objects.update(state="published", created_at=LONG_AGO)


def test_what_every_handler_has_seen_goes_with_its_receipts(settings):
    settings.RETENTION_BATCH = 2
    for number in range(5):
        drop("j", str(number))
    work()
    published_and_old()
    drop("j", "fresh")
    work()
    Message.objects.update(state="published")
    assert services.clean_up()["messages"] == 5
    assert [message.payload["coin"] for message in Message.objects.all()] == ["fresh"]
    assert Delivery.objects.count() == 2


def test_what_is_parked_or_not_yet_in_the_stream_stays_however_old(settings):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    script.on_coin = fail
    drop("parked", "a")
    work()
    published_and_old()
    script.on_coin = lambda event: None
    drop("unpublished", "b")
    work()
    Message.objects.update(created_at=LONG_AGO)
    assert services.clean_up()["messages"] == 0
    assert Message.objects.count() == 2


def test_finished_sagas_go_with_their_steps_and_unfinished_ones_stay():
    start("finished")
    for lane in (Lane.OWN, Lane.OUTSIDE):
        services.work(lane)
    start("running")
    SagaRun.objects.update(created_at=LONG_AGO)
    SagaRun.objects.filter(finished_at__isnull=False).update(finished_at=LONG_AGO)
    assert services.clean_up()["sagas"] == 1
    assert SagaRun.objects.get().key == "running"
    assert not SagaStep.objects.exists()


def test_keys_go_after_the_promised_time(settings):
    settings.RETENTION_BATCH = 1
    with transaction.atomic():
        for number in range(3):
            keys.claim(wanted(f"k{number}"))
    IdempotencyKey.objects.filter(key__in=["k0", "k1"]).update(created_at=LONG_AGO)
    assert services.clean_up()["keys"] == 2
    assert IdempotencyKey.objects.get().key == "k2"


def test_cleaning_up_waits_for_nobodys_lock():
    drop("j", "locked")
    drop("j", "free")
    work()
    published_and_old()
    locked, done = threading.Event(), threading.Event()

    def hold_the_first() -> None:
        with transaction.atomic():
            Message.objects.select_for_update().earliest("pk")
            locked.set()
            done.wait(10)
        connection.close()

    holder = threading.Thread(target=hold_the_first)
    holder.start()
    locked.wait(10)
    try:
        assert services.clean_up()["messages"] == 1
    finally:
        done.set()
        holder.join()
    assert services.clean_up()["messages"] == 1
