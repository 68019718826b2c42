"""The stream mirror: once and in order while all is well, at least once and in order when it is not."""

import json
import os
import signal
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.db.models.functions import Now
from redis import Redis
from redis.exceptions import RedisError

from durability import services, stream
from durability.errors import LeaseLost, StreamBusy
from durability.models import Message, StreamWriter
from foundation.database import database_now, in_seconds
from tests.durability.toys import CoinDropped
from tests.races import orders, race  # noqa: F401  a fixture


@pytest.fixture(autouse=True)
def _small_batches(settings):
    settings.OUTBOX_STREAM_BATCH = 2


@pytest.fixture(params=orders("a", "a", "a", "b", "b", "b", alike=True))
def turns(request) -> str:
    return str(request.param)


def drop(*coins: str) -> list[int]:
    with transaction.atomic():
        return services.publish_many([CoinDropped(jar="j", coin=coin) for coin in coins])


def written(valkey) -> list[str]:
    """The coins in the stream, as a consumer reads them."""
    return [json.loads(fields["payload"])["coin"] for _, fields in valkey.xrange("everycent:events")]


def pending() -> int:
    return Message.objects.filter(state="pending").count()


def end_lease() -> None:
    StreamWriter.objects.update(leased_until=in_seconds(-1))


def test_an_entry_is_what_was_published(valkey):
    (one,) = drop("a")
    assert stream.mirror() == 1
    ((_, fields),) = valkey.xrange("everycent:events")
    assert json.loads(fields.pop("payload")) == {"jar": "j", "coin": "a"}
    assert fields == {"id": str(one), "type": "toys.coin_dropped.v1", "key": "j"}
    assert Message.objects.get().published_at is not None


def test_batch_after_batch_until_nothing_is_pending(valkey):
    drop(*"abcde")
    assert stream.mirror() == 5
    assert written(valkey) == [*"abcde"]
    assert stream.mirror() == 0
    assert written(valkey) == [*"abcde"]


def test_a_task_that_has_worked_long_enough_rings_for_another(valkey, settings):
    settings.WORK_FOR_S = 0
    drop(*"abc")
    valkey.delete("everycent:doorbell:mirror")
    assert stream.mirror() == 2
    assert valkey.exists("everycent:doorbell:mirror")


# --- Several workers --------------------------------------------------------------------------------


def let_two_mirror(race, turns: str) -> None:  # noqa: F811
    drop(*"abc")
    race.stop("durability.stream._Writer.write", at="before")
    race.stop("durability.stream._Writer.write", at="after")
    race.actor("a", stream.mirror)
    race.actor("b", stream.mirror)
    race.play(turns)
    stream.mirror()


def test_two_at_once_write_everything_once_and_in_order(race, turns, valkey):  # noqa: F811
    let_two_mirror(race, turns)
    assert written(valkey) == [*"abc"]
    assert pending() == 0


def test_control_without_the_lease_two_write_the_same(race, valkey, monkeypatch):  # noqa: F811
    monkeypatch.setattr(stream, "_TAKE", stream._TAKE.replace("WHERE writer.leased_until <= clock_timestamp()", ""))
    let_two_mirror(race, "a b a b")
    assert written(valkey) != [*"abc"]


def test_one_that_is_killed_before_it_marks_is_followed_by_one_that_repeats_the_batch(valkey, monkeypatch):
    drop(*"abc")
    connections.close_all()
    if not (child := os.fork()):
        monkeypatch.setattr(stream._Writer, "mark", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        stream.mirror()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert stream.mirror() == 0  # the dead one's lease
    end_lease()
    assert stream.mirror() == 3
    assert written(valkey) == [*"ab", *"abc"]


def test_a_zombie_writes_nothing_behind_its_successors_back(valkey):
    drop(*"abc")
    with pytest.raises(LeaseLost), stream._writing() as zombie:
        assert zombie
        end_lease()
        assert stream.mirror() == 3
        zombie.write([(1, "toys.coin_dropped.v1", "j", '{"coin": "a"}')])
    assert written(valkey) == [*"abc"]


def test_a_zombies_late_mark_takes_nothing_back(valkey):
    (one,) = drop("a")
    with pytest.raises(LeaseLost), stream._writing() as zombie:
        assert zombie
        end_lease()
        assert stream.mirror() == 1
        Message.objects.update(state="pending")  # somebody wants it written once more
        zombie.mark([(one, "", "", "")])
    assert pending() == 1


def test_a_zombie_does_not_give_its_successors_lease_back(valkey):
    drop("a")
    with stream._writing():
        end_lease()
        with stream._writing() as successor:
            assert successor
            held_until = StreamWriter.objects.get().leased_until
    assert StreamWriter.objects.get().leased_until <= database_now() < held_until


# --- Redis is lost, away, or ahead ------------------------------------------------------------------


def test_after_redis_is_lost_it_goes_on_with_what_is_new(valkey):
    drop("a")
    stream.mirror()
    valkey.flushdb()
    drop("b")
    assert stream.mirror() == 1
    assert written(valkey) == ["b"]


def test_while_redis_is_away_nothing_is_marked_and_nobody_waits_for_a_lease(valkey, monkeypatch):
    drop("a")
    with monkeypatch.context() as away:
        away.setattr(stream, "client", lambda: Redis(port=1))
        with pytest.raises(RedisError):
            stream.mirror()
    assert pending() == 1
    assert stream.mirror() == 1
    assert written(valkey) == ["a"]


def test_a_stream_that_is_ahead_of_the_clock_is_caught_up_with(valkey):
    ahead = int(database_now().timestamp() * 1000) + 3_600_000
    valkey.xadd("everycent:events", {"payload": '{"coin": "from the future"}'}, id=f"{ahead}-0")
    drop("a")
    stream.mirror()  # refused
    assert pending() == 1
    assert stream.mirror() == 1
    assert written(valkey) == ["from the future", "a"]


# --- Refilling --------------------------------------------------------------------------------------


@pytest.fixture
def lost(valkey) -> list[int]:
    """Five messages that were in a stream that is gone."""
    ids = drop(*"abcde")
    stream.mirror()
    valkey.flushdb()
    return ids


def refill(*arguments: str) -> str:
    out = StringIO()
    call_command("refill_stream", *arguments, stdout=out)
    return out.getvalue()


def test_a_refill_writes_all_that_is_kept_again_in_order(lost, valkey):
    drop("f")
    assert "5 messages" in refill()
    assert written(valkey) == [*"abcde"]
    assert stream.mirror() == 1
    assert written(valkey) == [*"abcdef"]


def test_a_refill_begins_where_it_is_told_to(lost, valkey):
    refill("--from-id", str(lost[3]))
    assert written(valkey) == [*"de"]


def test_a_refill_begins_at_a_moment(lost, valkey):
    Message.objects.filter(pk__lte=lost[1]).update(created_at=Now() - timedelta(hours=1))
    refill("--since", (database_now() - timedelta(minutes=30)).isoformat())
    assert written(valkey) == [*"cde"]
    assert "No message" in refill("--since", (database_now() + timedelta(hours=1)).isoformat())


def test_nothing_new_overtakes_a_refill(lost, valkey):
    drop("f")
    seen = []
    stream.refill(tell=lambda written, at, to: seen.append((written, at, stream.mirror())))
    assert seen == [(2, lost[1], 0), (4, lost[3], 0), (5, lost[4], 0)]
    assert stream.mirror() == 1
    assert written(valkey) == [*"abcdef"]


def test_a_refill_that_lost_its_turn_says_where_to_go_on(lost, valkey, monkeypatch):
    def sleep_too_long(_: stream._Writer) -> None:
        end_lease()
        drop("f")
        stream.mirror()

    monkeypatch.setattr(stream._Writer, "renew", sleep_too_long)
    with pytest.raises(CommandError, match=f"--from-id {lost[2]}"):
        refill()
    assert written(valkey) == [*"abf"]


def test_a_refill_does_not_begin_beside_another_writer(lost):
    drop("f")
    with stream._writing(), pytest.raises(StreamBusy):
        stream.refill()
