"""How an attempt ended, in the words of the engine."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure import _json
from perdure._options import seconds
from perdure._returns import Again, Done, Spawn
from perdure._task import as_call
from perdure._unset import UNSET
from perdure.errors import (
    BodyError,
    Cancelled,
    Fail,
    InvalidInput,
    NotSerialisable,
    PerdureError,
    Retry,
    TimedOut,
)

if TYPE_CHECKING:
    from perdure._app import App
    from perdure._task import Task

_OURS = str(Path(__file__).parent)  # frames that no reader of a traceback asks for
_LONGEST_MESSAGE = 4_000
_LONGEST_TRACEBACK = 8_000


class Report(NamedTuple):
    """One outcome, ready to be sent; `data` is its JSON."""

    id: int
    token: int
    data: bytes

    def replaced(self, reason: str) -> Report:
        """The report of a failure, in place of one that the database refuses to take."""
        error = {"type": "invalid_outcome", "message": clean(reason), "retryable": False}
        return report(self.id, self.token, "failed", error=error)


def report(id_: int, token: int, outcome: str, **fields: Any) -> Report:
    """An outcome with its fields."""
    return Report(
        id_, token, _json.dumps({"id": id_, "token": token, "outcome": outcome, **fields})
    )


def completed(id_: int, token: int, output: bytes) -> Report:
    """The outcome that most have."""
    data = b'{"id":%d,"token":%d,"outcome":"completed","output":%b}' % (id_, token, output)
    return Report(id_, token, data)


def returned(app: App, task: Task[..., Any, Any], id_: int, token: int, value: Any) -> Report:
    """The report of what a body returned; of a failure, when it cannot be carried out."""
    try:
        if isinstance(value, Spawn):
            return report(id_, token, "spawned", **_spawned(app, task, value))
        if isinstance(value, Again):
            return report(id_, token, "again", **_again(task, value))
        if isinstance(value, Done):
            raise Fail("done() is for loops only", error_type="invalid_return")
        return completed(id_, token, task.binding.write_output(value))
    except NotSerialisable as error:
        return _refused(id_, token, "not_serialisable", error)
    except InvalidInput as error:
        return _refused(id_, token, "invalid_input", error)
    except PerdureError as error:
        return _refused(id_, token, "invalid_child", error)
    except Fail as error:
        return raised(id_, token, error)


def _spawned(app: App, task: Task[..., Any, Any], value: Spawn[Any]) -> dict[str, Any]:
    finalize = value.finalize
    return {
        "children": [app.resolve(child).item() for child in value.children],
        "output": _json.embed(_json.encode(value.output, f"output of task {task.name}")),
        "finalize": None if finalize is None else app.resolve(as_call(finalize)).item(),
        "sequential": value.sequential,
        "fail_fast": value.fail_fast,
    }


def _again(task: Task[..., Any, Any], value: Again) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if value.delay is not None:
        fields["delay"] = seconds("delay", value.delay)
    if value.input is not UNSET:
        call = task.with_input(value.input)
        assert call.input is not None
        fields["input"] = _json.embed(call.input)
    return fields


def raised(id_: int, token: int, error: BaseException) -> Report:
    """The report of an exception that ended a body."""
    if isinstance(error, BodyError):
        told: dict[str, Any] = {
            "type": error.type,
            "message": clean(error.message),
            "retryable": error.is_retryable,
        }
        if isinstance(error, Cancelled):
            return report(id_, token, "cancelled", error=told)
        if isinstance(error, TimedOut):
            return report(id_, token, "timed_out", error=told)
        delay = error.delay if isinstance(error, Retry) else None
        more = {} if delay is None else {"delay": delay}
        return report(id_, token, "failed", error=told, **more)
    told = {
        "type": type(error).__name__,
        "message": clean(str(error) or type(error).__name__),
        "retryable": True,
        "traceback": _traceback(error),
    }
    return report(id_, token, "failed", error=told)


def invalid_input(task: str, id_: int, token: int, error: BaseException) -> Report:
    """The report of an input that its task refuses: another attempt would refuse it too."""
    prefix = f"input of task {task}: "
    reason = str(error).removeprefix(prefix) or type(error).__name__
    return _refused(id_, token, "invalid_input", f"Invalid input to task {task}: {reason}")


def timed_out(id_: int, token: int) -> Report:
    """The report of an attempt that outlasted its timeout."""
    return raised(id_, token, TimedOut())


def _refused(id_: int, token: int, kind: str, reason: object) -> Report:
    told = {"type": kind, "message": clean(str(reason)), "retryable": False}
    return report(id_, token, "failed", error=told)


def _traceback(error: BaseException) -> str:
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename.startswith(_OURS):
        place = place.tb_next
    text = "".join(traceback.format_exception(type(error), error, place))
    text = _escaped(text)
    return text if len(text) <= _LONGEST_TRACEBACK else "...\n" + text[-_LONGEST_TRACEBACK:]


def clean(text: str) -> str:
    """A message without what JSON in PostgreSQL cannot hold, and not too long."""
    text = _escaped(text)
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 3] + "..."


def _escaped(text: str) -> str:
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
