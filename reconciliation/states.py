"""The tables of states: one line an edge, with who takes it. PostgreSQL refuses every other (`transition_guard`)."""

from typing import Final


class RunState:
    RUNNING: Final = "running"
    COMPLETED: Final = "completed"
    FAILED: Final = "failed"


RUN_EDGES = frozenset(
    {
        (RunState.RUNNING, RunState.COMPLETED),
        (RunState.RUNNING, RunState.FAILED),  # an error, or a later run found that its process had died
    }
)


class DiscrepancyState:
    TIMING: Final = "timing"  # there is evidence that it will heal by itself, and a moment when it becomes a break
    OPEN: Final = "open"
    INVESTIGATING: Final = "investigating"  # somebody has claimed it
    AWAITING_APPROVAL: Final = "awaiting_approval"
    RESOLVED: Final = "resolved"
    IGNORED: Final = "ignored"  # until a date


class ClosedAs:
    AUTO: Final = "auto"  # a later look found both sides equal
    FIXED: Final = "fixed"  # an action repaired it; the next run confirms, or reopens
    ACCEPTED: Final = "accepted"  # a person accepted the difference, with a note


_S = DiscrepancyState

DISCREPANCY_EDGES = frozenset(
    {
        (_S.TIMING, _S.OPEN),  # a run: its time is up
        (_S.TIMING, _S.INVESTIGATING),  # somebody does not want to wait
        (_S.TIMING, _S.AWAITING_APPROVAL),
        (_S.TIMING, _S.RESOLVED),
        (_S.OPEN, _S.INVESTIGATING),  # claimed
        (_S.OPEN, _S.AWAITING_APPROVAL),  # above what that person may settle alone
        (_S.OPEN, _S.IGNORED),  # a person, until a date
        (_S.OPEN, _S.RESOLVED),  # a run (auto), an action (fixed, accepted)
        (_S.INVESTIGATING, _S.OPEN),  # given back
        (_S.INVESTIGATING, _S.AWAITING_APPROVAL),
        (_S.INVESTIGATING, _S.IGNORED),
        (_S.INVESTIGATING, _S.RESOLVED),
        (
            _S.AWAITING_APPROVAL,
            _S.INVESTIGATING,
        ),  # refused by the second person; or approved, and the difference remains
        (_S.AWAITING_APPROVAL, _S.RESOLVED),  # approved by the second person
        (_S.AWAITING_APPROVAL, _S.IGNORED),
        (_S.IGNORED, _S.OPEN),  # a run: the date has passed, or its figures have changed
        (_S.IGNORED, _S.INVESTIGATING),
        (_S.IGNORED, _S.AWAITING_APPROVAL),
        (_S.IGNORED, _S.RESOLVED),
        (_S.RESOLVED, _S.OPEN),  # a run saw it again
    }
)
# Counts as open for exit codes, metrics and the dashboard: somebody has to do something.
OPEN_STATES = (_S.OPEN, _S.INVESTIGATING, _S.AWAITING_APPROVAL)
UNSETTLED_STATES = (*OPEN_STATES, _S.IGNORED)  # who puts an item aside has not settled it
UNRESOLVED_STATES = (_S.TIMING, *UNSETTLED_STATES)


class Outcome:
    """What became of an action that a person took."""

    WAITING: Final = "waiting"  # for a second person: nothing was done yet
    STARTED: Final = "started"
    OK: Final = "ok"
    FAILED: Final = "failed"
    REJECTED: Final = "rejected"  # the second person said no, or nothing was left to approve


NEVER_BEGUN = (Outcome.WAITING, Outcome.REJECTED)
ENDED = (Outcome.OK, Outcome.FAILED, Outcome.REJECTED)


class PeriodState:
    OPEN: Final = "open"
    CLOSED: Final = "closed"
    REOPENING: Final = "reopening"  # closed, and somebody asked to reopen it


_P = PeriodState

PERIOD_EDGES = frozenset(
    {
        (_P.OPEN, _P.CLOSED),
        (_P.CLOSED, _P.REOPENING),  # the first person
        (_P.REOPENING, _P.CLOSED),  # refused, or taken back
        (_P.REOPENING, _P.OPEN),  # the second person
    }
)


class BulkState:
    PLANNED: Final = "planned"  # a preview: nothing was done
    RUNNING: Final = "running"  # confirmed with a note; workers do row after row
    STOPPED: Final = "stopped"  # a person, half-way
    DONE: Final = "done"  # no row is left to do; some may have failed


_B = BulkState

BULK_EDGES = frozenset(
    {
        (_B.PLANNED, _B.RUNNING),  # confirmed
        (_B.RUNNING, _B.DONE),  # a worker found no row left
        (_B.RUNNING, _B.STOPPED),  # a person
        (_B.STOPPED, _B.RUNNING),  # a person: it goes on
        (_B.DONE, _B.RUNNING),  # a person: what failed is tried again
    }
)


class Decision:
    """What the second person said."""

    APPROVED: Final = "approved"
    REFUSED: Final = "refused"


class BulkItemState:
    PLANNED: Final = "planned"
    REFUSED: Final = "refused"  # the preview says why it cannot be done
    DONE: Final = "done"
    ASKED: Final = "asked"  # above the limit of who confirmed: a second person decides, on the discrepancy's page
    FAILED: Final = "failed"
