import pytest
from django.db import OperationalError, connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now

from durability import engine, selectors, services
from durability.models import SagaRun, SagaStep
from durability.types import Accepted, Lane, Refused, Unknown
from foundation.database import in_seconds
from foundation.errors import IllegalTransition
from tests.durability import toys
from tests.durability.toys import Definite, marks, script


def start(key: str = "k") -> None:
    with transaction.atomic():
        services.start_saga("toys.toy", key=key)


def work() -> None:
    for lane in (Lane.OWN, Lane.OUTSIDE, Lane.OWN):
        services.work(lane)


def run_due() -> None:
    SagaRun.objects.filter(state__in=["running", "compensating"]).update(available_at=Now())
    work()


def state(key: str = "k") -> str:
    return SagaRun.objects.get(key=key).state


def raise_(error: Exception):
    def raising(context) -> None:
        raise error

    return raising


def test_a_saga_goes_through_its_steps_in_order():
    start()
    run_due()
    assert state() == "completed"
    assert marks() == ["Succeeded:k:1", "first:k", "last:k"]
    assert list(SagaStep.objects.values_list("name", "state")) == [
        ("first", "done"),
        ("call", "done"),
        ("last", "done"),
    ]


def test_a_recipe_and_key_run_once():
    start()
    start()
    run_due()
    assert SagaRun.objects.count() == 1
    assert marks().count("first:k") == 1


def test_accepted_goes_on_like_succeeded():
    script.call = lambda context: Accepted()
    start()
    run_due()
    assert state() == "completed"


def test_unknown_is_not_a_failure_and_is_asked_again():
    script.call = lambda context: Unknown("timed out")
    start()
    run_due()
    assert state() == "running"
    assert marks() == ["Unknown:k:2", "first:k"] or marks() == ["Unknown:k:1", "first:k"]
    assert "timed out" in SagaRun.objects.get().error
    script.call = lambda context: Accepted()
    run_due()
    assert state() == "completed"


def test_a_refused_call_undoes_the_steps_before_it():
    script.call = lambda context: Refused("no", "never")
    start()
    run_due()
    assert state() == "compensated"
    assert "undone first:k" in marks()
    assert "last:k" not in marks()


def test_a_definite_failure_undoes_in_reverse_beginning_with_itself():
    script.before_last = raise_(Definite())
    start()
    run_due()
    assert state() == "compensated"
    assert "last:k" not in marks()
    assert {"undone first:k", "undone last:k"} <= set(marks())


def test_any_other_failure_is_tried_again_and_undoes_nothing():
    script.before_last = raise_(RuntimeError("flaky"))
    start()
    run_due()
    assert state() == "running"
    script.before_last = lambda context: None
    run_due()
    assert state() == "completed"
    assert not [mark for mark in marks() if mark.startswith("undone")]


def test_a_failing_undo_is_retried_then_given_to_a_person_who_can_retry_it():
    script.call = lambda context: Refused("no", "never")
    script.on_undo = raise_(RuntimeError("stuck"))
    start()
    for _ in range(12):
        run_due()
    assert state() == "compensation_failed"
    assert [run.key for run in selectors.stuck_sagas()] == ["k"]
    script.on_undo = lambda context: None
    services.retry_saga(run_id=SagaRun.objects.get().pk, by="operator")
    run_due()
    assert state() == "compensated"
    with pytest.raises(IllegalTransition):
        services.retry_saga(run_id=SagaRun.objects.get().pk, by="operator")


def test_a_zombie_that_lost_its_lease_commits_nothing():
    with transaction.atomic():
        zombie = services.hold_saga("toys.toy", key="k")
    SagaRun.objects.update(available_at=Now())  # its lease ended
    run_due()
    assert zombie is not None
    services.advance_saga(zombie)
    assert marks().count("first:k") == 1


@pytest.mark.guard(8)
def test_a_zombie_in_the_middle_of_a_call_commits_nothing():
    def overtaken(context):
        script.call = lambda context: Accepted()
        SagaRun.objects.update(available_at=Now())
        work()
        return Accepted()

    script.call = overtaken
    start()
    run_due()
    assert state() == "completed"
    assert len([mark for mark in marks() if mark.startswith("Accepted")]) == 1


def test_a_held_saga_is_not_taken_by_a_worker():
    with transaction.atomic():
        lease = services.hold_saga("toys.toy", key="k")
    work()
    assert marks() == []
    assert selectors.saga_is_held("toys.toy", key="k")
    assert lease is not None
    services.advance_saga(lease)
    assert state() == "completed"


def test_a_rolled_back_start_starts_nothing():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.start_saga("toys.toy", key="k")
        _ = 1 / 0
    assert not SagaRun.objects.exists()


def test_a_run_waits_for_the_processes_that_know_its_recipe(settings):
    start()
    SagaRun.objects.update(version=99)
    run_due()
    services.resume_saga("toys.toy", key="k")
    services.subscribe_handlers()
    run = SagaRun.objects.get()
    assert (run.state, run.attempts, run.lease_version, run.error) == ("running", 0, 0, "")
    SagaRun.objects.update(available_at=in_seconds(-settings.UNKNOWN_NAME_GRACE_S - 1))
    services.subscribe_handlers()
    assert "version 99" in SagaRun.objects.get().error
    SagaRun.objects.update(version=1)
    run_due()
    assert state() == "completed"


def test_a_run_that_no_worker_takes_is_seen(settings):
    assert selectors.oldest_due_saga_s() == {"own": 0, "outside": 0}
    start()
    SagaRun.objects.update(available_at=in_seconds(-100))
    assert selectors.oldest_due_saga_s() == {"own": pytest.approx(100, abs=5), "outside": 0}
    services.work(Lane.OWN)
    SagaRun.objects.update(available_at=in_seconds(-200))
    assert selectors.oldest_due_saga_s() == {"own": 0, "outside": pytest.approx(200, abs=5)}
    SagaRun.objects.update(available_at=in_seconds(5))  # held, or resting
    assert selectors.oldest_due_saga_s() == {"own": 0, "outside": 0}


def test_an_answer_that_cannot_be_recorded_is_no_refusal(settings):
    script.on_record = raise_(Definite())
    start()
    for _ in range(settings.SAGA_STUCK_AFTER_ATTEMPTS + 1):
        run_due()
    assert state() == "running"
    assert "could not be recorded" in SagaRun.objects.get().error
    assert [run.key for run in selectors.stuck_sagas()] == ["k"]  # which alarms
    script.on_record = lambda context: None
    run_due()
    assert state() == "completed"


# --- A commit whose answer is lost -------------------------------------------------------------------------


@pytest.fixture
def lose_the_answer(monkeypatch):
    """From inside of a transaction: its COMMIT will be done, and its answer lost with the connection."""
    commit = BaseDatabaseWrapper._commit  # type: ignore[attr-defined]

    def arm(_: object) -> None:
        def lost(self) -> None:
            commit(self)
            monkeypatch.setattr(BaseDatabaseWrapper, "_commit", commit)
            connection.close()
            raise OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(BaseDatabaseWrapper, "_commit", lost)

    return arm


def times_of_last(monkeypatch) -> list[str]:
    """Where a second time would be seen, and not refused by the toys' unique marks."""
    done: list[str] = []
    monkeypatch.setattr(toys, "write", done.append)
    return done


def test_a_step_whose_commit_got_no_answer_is_not_done_again(monkeypatch, lose_the_answer):
    done = times_of_last(monkeypatch)
    script.before_last = lose_the_answer
    start()
    work()
    assert state() == "completed"
    script.before_last = lambda context: None
    run_due()
    assert done.count("last:k") == 1


def test_an_undo_whose_commit_got_no_answer_is_not_done_again(monkeypatch, lose_the_answer):
    done = times_of_last(monkeypatch)
    script.call = lambda context: Refused("no", "never")
    script.on_undo = lose_the_answer
    start()
    work()
    assert state() == "compensated"
    script.on_undo = lambda context: None
    run_due()
    assert done.count("undone first:k") == 1


def test_control_a_saga_that_is_put_back_does_its_step_again(monkeypatch, lose_the_answer):
    done = times_of_last(monkeypatch)
    guard = " AND state = %(was)s AND current_step = %(stood_at)s"
    for name in ("_SAVE", "_SAVE_WITH_STEP"):
        statement = getattr(engine, name)
        assert guard in statement
        monkeypatch.setattr(engine, name, statement.replace(guard, ""))
    script.before_last = lose_the_answer
    start()
    work()
    script.before_last = lambda context: None
    run_due()
    assert done.count("last:k") == 2
