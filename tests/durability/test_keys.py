import threading
from uuid import uuid4

import pytest
from django.db import connection, transaction

from durability import keys
from durability.errors import IdempotencyKeyMissing, IdempotencyKeyReused
from durability.types import Answer, Fingerprint

CALLER = uuid4()


def wanted(key: str | None = "k", body: dict | None = None, caller=CALLER) -> Fingerprint:
    return keys.fingerprint(caller=caller, key=key, method="POST", path="/x", body=body or {})


@pytest.mark.parametrize("key", [None, "", '""', "x" * 256, "a\nb"])
def test_a_key_that_is_missing_or_malformed_is_refused(key):
    with pytest.raises(IdempotencyKeyMissing):
        wanted(key)


def test_a_quoted_key_is_the_same_as_a_bare_one():
    assert wanted('"k"') == wanted("k")


def test_the_order_of_members_does_not_matter():
    assert wanted(body={"a": 1, "b": 2}) == wanted(body={"b": 2, "a": 1})


def test_a_second_use_gets_the_stored_answer():
    with transaction.atomic():
        keys.store(keys.claim(wanted()), Answer(201, {"n": 1}))
    with transaction.atomic():
        again = keys.claim(wanted())
    assert (again.is_new, again.answer) == (False, Answer(201, {"n": 1}))


def test_another_body_is_refused():
    with transaction.atomic():
        keys.claim(wanted())
    with pytest.raises(IdempotencyKeyReused), transaction.atomic():
        keys.claim(wanted(body={"other": 1}))


@pytest.mark.guard(4)
def test_keys_of_different_callers_have_nothing_in_common():
    with transaction.atomic():
        assert keys.claim(wanted()).is_new
        assert keys.claim(wanted(caller=uuid4())).is_new


def test_a_rolled_back_request_consumes_no_key():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        keys.claim(wanted())
        _ = 1 / 0
    with transaction.atomic():
        assert keys.claim(wanted()).is_new


def test_a_key_that_is_given_back_is_free_for_another_request():
    with transaction.atomic():
        claimed = keys.claim(wanted())
    keys.release(claimed)
    with transaction.atomic():
        assert keys.claim(wanted(body={"other": 1})).is_new


def test_a_key_with_an_answer_is_not_given_back():
    with transaction.atomic():
        claimed = keys.claim(wanted())
        keys.store(claimed, Answer(201, {"n": 1}))
    keys.release(claimed)
    with transaction.atomic():
        assert keys.claim(wanted()).answer == Answer(201, {"n": 1})


def test_an_answer_for_a_key_that_a_twin_gave_back_is_given_all_the_same():
    with transaction.atomic():
        claimed = keys.claim(wanted())
    keys.release(claimed)
    assert keys.store(claimed, Answer(201, {"n": 1})) == Answer(201, {"n": 1})


def test_a_path_of_any_length_is_told_from_another_one():
    long = [keys.fingerprint(caller=CALLER, key="k", method="POST", path="/x" * 500 + end, body={}) for end in "ab"]
    with transaction.atomic():
        assert keys.claim(long[0]).is_new
    with pytest.raises(IdempotencyKeyReused), transaction.atomic():
        keys.claim(long[1])


def test_a_twin_waits_for_the_first_and_then_replays():
    holding, answers = threading.Event(), []

    def twin() -> None:
        holding.wait(5)
        with transaction.atomic():
            answers.append(keys.claim(wanted()).answer)
        connection.close()

    thread = threading.Thread(target=twin)
    thread.start()
    with transaction.atomic():
        claimed = keys.claim(wanted())
        holding.set()
        thread.join(0.3)
        assert thread.is_alive(), "the twin did not wait"
        keys.store(claimed, Answer(200, {"n": 1}))
    thread.join(5)
    assert answers == [Answer(200, {"n": 1})]
