"""Every error: the engine's by SQLSTATE, the client's own, and those a body may raise."""

# ruff: noqa: N818  (errors are named after what happened)

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

    from perdure.records import Outcome

_by_sqlstate: dict[str, type[PerdureError]] = {}


class PerdureError(Exception):
    """Base of all errors; `sqlstate` is the engine's code (class QD), None where it has none."""

    sqlstate: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __init_subclass__(cls, *, sqlstate: str | None = None) -> None:
        super().__init_subclass__()
        if sqlstate is not None:
            cls.sqlstate = sqlstate
            _by_sqlstate[sqlstate] = cls

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


def by_sqlstate() -> Mapping[str, type[PerdureError]]:
    """The error class of each SQLSTATE of class QD."""
    return _by_sqlstate


def from_code(sqlstate: str, message: str, hint: str | None = None) -> PerdureError:
    """The error for a code that a function returned for one item of a batch."""
    kind = _by_sqlstate.get(sqlstate, PerdureError)
    error = kind(message, hint=hint)
    if error.sqlstate is None:
        error.sqlstate = sqlstate
    return error


def from_psycopg(error: psycopg.Error) -> PerdureError | None:
    """The error of class QD behind a psycopg error, None when the engine did not raise it."""
    if error.sqlstate is None or not error.sqlstate.startswith("QD"):
        return None
    return from_code(
        error.sqlstate, error.diag.message_primary or str(error), error.diag.message_hint
    )


class ExecutionNotFound(PerdureError, sqlstate="QD001"):
    """No execution has this id."""


class KeyNotFound(PerdureError, sqlstate="QD002"):
    """No execution of this task has this key."""


class KeyConflict(PerdureError, sqlstate="QD003"):
    """The key belongs to an execution of another task or with another input."""


class NotSleeping(PerdureError, sqlstate="QD004"):
    """The execution with this key is not a sleeping one."""


class ParentEnded(PerdureError, sqlstate="QD005"):
    """The execution's parent has ended, so it cannot be retried within its tree."""


class NotFinished(PerdureError, sqlstate="QD006"):
    """The execution is live: only an ended one can be retried."""


class WorkerGone(PerdureError, sqlstate="QD007"):
    """This incarnation of the worker is not registered (any more)."""


class LeaseLost(PerdureError, sqlstate="QD008"):
    """The report's lease is not held (any more); nothing was changed."""


class StaleCall(PerdureError, sqlstate="QD009"):
    """The exchange was sent before the worker's connection was resumed."""


class WrongIsolationLevel(PerdureError, sqlstate="QD010"):
    """The function works under read committed only."""


class WrongState(PerdureError, sqlstate="QD011"):
    """The execution is not in a state from which this transition leads."""


class StillClosing(PerdureError, sqlstate="QD012"):
    """The consequences of an end are still being applied: try again."""


class Fenced(PerdureError, sqlstate="QD013"):
    """This leadership is over: another epoch has begun, or it was given back."""


class NoCron(PerdureError, sqlstate="QD015"):
    """pg_cron is not in this database, so it can schedule nothing here."""


class HotStandby(PerdureError, sqlstate="QD016"):
    """The server is a hot standby: leading and working need the primary."""


class ShardLost(PerdureError, sqlstate="QD014"):
    """This worker does not own the shard in this epoch (any more)."""


class TableNotFound(PerdureError, sqlstate="QD017"):
    """There is no such table to watch."""


class WatchBusy(PerdureError, sqlstate="QD018"):
    """The table is in use, or another session is changing its watches: try again."""


class InvalidName(PerdureError, sqlstate="QD020"):
    """A name is empty, longer than 255 characters or holds control characters."""


class InvalidInput(PerdureError, sqlstate="QD021"):
    """The input is not JSON, or does not fit what the task declares."""


class PayloadTooLarge(PerdureError, sqlstate="QD022"):
    """A value is larger than the payload limit."""


class InvalidDuration(PerdureError, sqlstate="QD023"):
    """A delay, timeout or other duration is negative, absurd or not a duration."""


class InvalidAttempts(PerdureError, sqlstate="QD024"):
    """A number of attempts or crashes is out of range."""


class DeadlineInPast(PerdureError, sqlstate="QD025"):
    """The deadline has passed already."""


class InvalidArgument(PerdureError, sqlstate="QD026"):
    """An argument or option has a value that is not allowed, or is unknown."""


class InvalidChild(PerdureError, sqlstate="QD027"):
    """One of the children was not acceptable, so none was created."""


class InvalidOutcome(PerdureError, sqlstate="QD028"):
    """A report is malformed."""


class UnknownTask(PerdureError, sqlstate="QD030"):
    """This app does not know the task, and it was not given by name."""


class SchemaNewer(PerdureError, sqlstate="QD031"):
    """The database's schema is newer than this client: upgrade the client."""


class ClientNewer(PerdureError, sqlstate="QD032"):
    """This client is newer than the database's schema: upgrade the schema."""


class NotSerialisable(PerdureError, sqlstate="QD033"):
    """A value cannot be stored as JSON."""


class BrokenInvariant(PerdureError, sqlstate="QD040"):
    """A move's rows did not match; nothing was changed."""


class NoDatabase(PerdureError):
    """No database was named and no embedded server runs."""


class CannotConnect(PerdureError):
    """The database could not be reached."""


class ConnectionLost(PerdureError):
    """The connection broke during a call that writes: it may or may not have taken effect."""


class WaitTimedOut(PerdureError, TimeoutError):
    """The execution had not ended when the time to wait was up; it goes on."""


class ExecutionFailed(PerdureError):
    """The execution whose result was asked for did not complete; `outcome` says how it ended."""

    statuses: ClassVar[tuple[str, ...]] = ("failed",)

    def __init__(self, outcome: Outcome) -> None:
        reason = outcome.error.message if outcome.error is not None else "no reason was stored"
        super().__init__(f"execution {outcome.id} ended {outcome.status}: {reason}")
        self.outcome = outcome

    @staticmethod
    def of(outcome: Outcome) -> ExecutionFailed:
        """The error for an outcome that is not `completed`."""
        kinds = (ExecutionTimedOut, ExecutionCancelled, FinalizeFailed)
        return next((k for k in kinds if outcome.status in k.statuses), ExecutionFailed)(outcome)


class ExecutionTimedOut(ExecutionFailed):
    """The execution ended `timed_out`."""

    statuses = ("timed_out",)


class ExecutionCancelled(ExecutionFailed):
    """The execution ended `cancelled`."""

    statuses = ("cancelled",)


class FinalizeFailed(ExecutionFailed):
    """The execution's finalize, or a step of the sequence, did not complete."""

    statuses = ("finalize_failed",)


class BodyError(Exception):
    """Base of what a body raises to say how its attempt ends; any other exception is retryable."""

    default_message: ClassVar[str]
    default_type: ClassVar[str | None] = None
    is_retryable: bool = False

    def __init__(self, message: str | None = None) -> None:
        self.message = self.default_message if message is None else message
        self.type = self.default_type or type(self).__name__
        super().__init__(self.message)


class Fail(BodyError):
    """This attempt failed, by default without another one; `error_type` is stored with it."""

    default_message = "the body failed"

    def __init__(
        self, message: str | None = None, *, retryable: bool = False, error_type: str | None = None
    ) -> None:
        super().__init__(message)
        self.is_retryable = retryable
        self.type = error_type or self.type


class Retry(BodyError):
    """This attempt failed: try again while attempts are left, after `delay` (seconds) if given."""

    default_message = "the body asked for another attempt"
    is_retryable = True

    def __init__(
        self, message: str | None = None, *, delay: float | timedelta | None = None
    ) -> None:
        super().__init__(message)
        self.delay = delay.total_seconds() if isinstance(delay, timedelta) else delay


class Cancelled(BodyError):
    """The execution ends `cancelled`; also what `raise_if_cancelled()` raises."""

    default_message = "the execution was cancelled"
    default_type = "cancelled"


class TimedOut(BodyError):
    """This attempt timed out: retried while attempts are left."""

    default_message = "the attempt timed out"
    default_type = "timed_out"
    is_retryable = True
