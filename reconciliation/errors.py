"""What reconciliation refuses."""

from foundation.errors import DomainError, MissingInput


class RunInProgress(DomainError):
    """This date is being reconciled at the moment: wait for that run to end."""

    code = "run_in_progress"
    status = 409


class RunTakenOver(DomainError):
    """Another run of this date took over, because this one was silent for too long: it stored nothing."""

    code = "run_taken_over"
    status = 409


class NoteMissing(MissingInput):
    """Say why: the note is kept with the action, and an auditor will read it."""


class ActionNotOffered(DomainError):
    """This action does not fit this kind of discrepancy."""

    code = "action_not_offered"
    status = 409


class ActionInProgress(DomainError):
    """Somebody is working on this discrepancy at this very moment: look again in a minute."""

    code = "action_in_progress"
    status = 409


class ActionTakenOver(DomainError):
    """This took so long that somebody else went on with the discrepancy: nothing more of it was done."""

    code = "action_taken_over"
    status = 409


class FiguresChanged(DomainError):
    """The figures have changed since this was asked for, and more would be settled than was agreed to. Nothing was done: look
    at them, and ask anew."""

    code = "figures_changed"
    status = 409


class AlreadyResolved(DomainError):
    """This discrepancy is resolved already: there is nothing left to do."""

    code = "already_resolved"
    status = 409


class BooksBusy(DomainError):
    """A reconciliation run is storing its results: try again in a minute."""

    code = "books_busy"
    status = 503
    retry_after_s = 30


class WorkersUnreachable(DomainError):
    """No worker can be reached at the moment: try again in a minute, and tell an operator if it stays so."""

    code = "workers_unreachable"
    status = 503
    retry_after_s = 60


class BooksStarted(DomainError):
    """The books have begun already: their start and opening balances were written down, and stay."""

    code = "books_started"
    status = 409


class StatementRefused(DomainError):
    """The statement file has lines that cannot be right. Nothing of it was taken in."""

    code = "statement_refused"
    status = 422


class StatementNotKept(DomainError):
    """What was stored of the statement file is not what it says: nothing of it was taken in. Tell an operator."""

    code = "statement_not_kept"
    status = 500


class AlreadyLinked(DomainError):
    """The bank line, or the payout, is linked to another one: take that back first."""

    code = "already_linked"
    status = 409


class NotLinked(DomainError):
    """The bank line is linked to no payout: there is nothing to take back."""

    code = "not_linked"
    status = 409


class ApprovalPending(DomainError):
    """An action on this item waits for a second person: approve or refuse that one first."""

    code = "approval_pending"
    status = 409


class NothingToApprove(DomainError):
    """Nothing of this item waits for a second person any more: look at how it stands now."""

    code = "nothing_to_approve"
    status = 409


class PeriodNotReady(DomainError):
    """Something stands in the way of closing or reopening this month."""

    code = "period_not_ready"
    status = 409


class PeriodIsClosed(DomainError):
    """This month is closed already."""

    code = "period_is_closed"
    status = 409


class PeriodIsOpen(DomainError):
    """This month is not closed: close it first."""

    code = "period_is_open"
    status = 409


class NothingToDo(DomainError):
    """None of these rows can be done: the preview says why."""

    code = "nothing_to_do"
    status = 409


class TooMany(DomainError):
    """These are more rows than one bulk action takes: narrow the list down, or do it in several steps."""

    code = "too_many"
    status = 409


class RowLinked(DomainError):
    """One of the two is linked with something else already: end that link first."""

    code = "row_linked"
    status = 409


class ToleranceSet(DomainError):
    """This merchant has a tolerance in this currency already: end that one first."""

    code = "tolerance_set"
    status = 409


class ToleranceEnded(DomainError):
    """This tolerance has ended already."""

    code = "tolerance_ended"
    status = 409
