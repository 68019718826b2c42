"""The cache of documents: forgotten with each change, never older than the last one, and nothing without Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import transaction

from foundation import documents
from foundation.documents import forget_after_commit, kept_or_read

pytestmark = pytest.mark.django_db(transaction=True)


class Shelf:
    """Something with a document; counts how often it was read."""

    def __init__(self) -> None:
        self.value = 1
        self.reads = 0

    def read(self) -> dict[str, Any]:
        self.reads += 1
        return {"value": self.value}

    def change(self, value: int) -> None:
        with transaction.atomic():
            forget_after_commit("ord_1")
            self.value = value


@pytest.fixture
def shelf(valkey, monkeypatch) -> Shelf:
    monkeypatch.setattr(documents, "_resume_at", 0.0)
    return Shelf()


def seen(shelf: Shelf) -> int:
    return int(kept_or_read("ord", "ord_1", shelf.read)["value"])


def test_what_has_not_changed_is_read_once(shelf):
    assert [seen(shelf) for _ in range(3)] == [1, 1, 1]
    assert shelf.reads == 1


def test_a_change_is_seen_by_the_next_reader(shelf):
    assert seen(shelf) == 1
    shelf.change(2)
    assert [seen(shelf), seen(shelf)] == [2, 2]
    assert shelf.reads == 2


def test_what_is_rolled_back_forgets_nothing(shelf):
    seen(shelf)
    with pytest.raises(RuntimeError), transaction.atomic():
        forget_after_commit("ord_1")
        raise RuntimeError
    seen(shelf)
    assert shelf.reads == 1


def slow_reader(shelf: Shelf) -> int:
    """It reads, and before it can keep what it read, the object changes."""

    def read() -> dict[str, Any]:
        document = shelf.read()
        shelf.change(2)
        return document

    return int(kept_or_read("ord", "ord_1", read)["value"])


@pytest.mark.parametrize("known_before", [True, False])
def test_a_slow_reader_does_not_put_back_what_it_read_before_a_change(shelf, known_before):
    if known_before:  # there is a mark of an earlier change
        shelf.change(1)
    assert slow_reader(shelf) == 1
    assert seen(shelf) == 2


def test_control_a_reader_that_does_not_look_again_puts_an_old_document_back(shelf, monkeypatch):
    monkeypatch.setattr(documents, "_KEEP", "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1")
    assert slow_reader(shelf) == 1
    assert seen(shelf) == 1  # and it stays so until it ends by itself


def test_a_reader_that_was_slower_than_a_mark_lives_keeps_nothing(shelf, valkey, monkeypatch):
    def read() -> dict[str, Any]:
        document = shelf.read()
        shelf.change(2)
        valkey.flushdb()  # the mark has ended
        monkeypatch.setattr(documents, "_MARK_KEPT_FOR_S", 0)
        return dict(document)

    assert kept_or_read("ord", "ord_1", read) == {"value": 1}
    assert seen(shelf) == 2


@contextmanager
def commands_seen(valkey) -> Iterator[list[str]]:
    """What this database is told of documents meanwhile; other tests have databases of their own on the same server."""
    seen_there: list[str] = []
    number = valkey.connection_pool.connection_kwargs["db"]
    with valkey.monitor() as monitor:
        yield seen_there
        valkey.echo("the end")
        for command in monitor.listen():
            if command["db"] == number:
                if command["command"] == "ECHO the end":
                    break
                if "everycent:document:" in command["command"]:
                    seen_there.append(command["command"])


def test_many_objects_of_a_transaction_are_forgotten_once_each(shelf, valkey):
    for number in ("ord_1", "ord_2", "pay_1"):
        kept_or_read(number[:3], number, shelf.read)
    with commands_seen(valkey) as seen_there, transaction.atomic():
        forget_after_commit("ord_1")
        with transaction.atomic():
            forget_after_commit("ord_2", "ord_1")
        forget_after_commit("pay_1")
    assert [command.split()[:2] for command in seen_there] == [
        ["SET", f"everycent:document:1:{number}"] for number in ("ord_1", "ord_2", "pay_1")
    ]
    assert all(valkey.get(f"everycent:document:1:{number}")[0] == "-" for number in ("ord_1", "ord_2", "pay_1"))


def test_a_savepoint_that_is_rolled_back_takes_no_other_change_along(shelf):
    seen(shelf)
    with transaction.atomic():
        with pytest.raises(RuntimeError), transaction.atomic():
            forget_after_commit("pay_1")
            raise RuntimeError
        forget_after_commit("ord_1")
        shelf.value = 2
    assert seen(shelf) == 2


def test_what_a_dead_process_left_behind_ends_by_itself(shelf, valkey, settings):
    settings.DOCUMENT_KEPT_FOR_S = 7
    seen(shelf)
    assert 0 < valkey.pttl("everycent:document:1:ord_1") <= 7_000


def test_without_redis_everything_is_read(shelf, monkeypatch):
    from redis import Redis

    from foundation import redis

    nobody = Redis.from_url("redis://127.0.0.1:9")
    monkeypatch.setattr(redis, "client", lambda: nobody)
    assert [seen(shelf), seen(shelf)] == [1, 1]
    shelf.change(2)
    assert seen(shelf) == 2
    assert shelf.reads == 3


def test_the_number_of_another_kind_of_object_finds_none_of_its_documents(shelf):
    assert kept_or_read("ord", "ord_1", shelf.read)["value"] == 1
    with pytest.raises(LookupError):
        kept_or_read("pay", "ord_1", _no_such_payment)


def _no_such_payment() -> dict[str, Any]:
    raise LookupError
