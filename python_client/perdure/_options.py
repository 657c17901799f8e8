"""Options of a task and of one call of it, and their form as fields of an item."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from perdure import _json
from perdure.errors import InvalidArgument, InvalidDuration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Duration: TypeAlias = float | timedelta  # seconds


class TaskOptions(TypedDict, total=False):
    """What a task declares; the engine's defaults hold for the rest."""

    queue: str
    priority: int
    max_attempts: int
    timeout: Duration
    deadline: Duration
    retry_delay: Duration
    retry_multiplier: float
    retry_max_delay: Duration
    retry_jitter: float
    retry_backoff: Literal["exponential", "linear"]
    max_crashes: int
    tags: Sequence[str]


class Options(TypedDict, total=False):
    """What one call may say, over what its task declares."""

    queue: str
    priority: int
    delay: Duration
    run_at: datetime
    max_attempts: int
    timeout: Duration
    deadline: Duration | datetime
    key: str
    key_for: Literal["live", "ever"] | Duration
    key_scope: str
    sleeping: bool
    retry_delay: Duration
    retry_multiplier: float
    retry_max_delay: Duration
    retry_jitter: float
    retry_backoff: Literal["exponential", "linear"]
    max_crashes: int
    headers: Mapping[str, Any]
    tags: Sequence[str]
    shard_key: str


def seconds(name: str, value: Any) -> float:
    """A duration as seconds; InvalidDuration when it is none."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidDuration(f"{name} is {value!r}, not a number of seconds or a timedelta")
    return value


def _moment(name: str, value: Any) -> str:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidArgument(f"{name} is {value!r}, not a datetime with a time zone")
    return value.isoformat()


def _moment_or_seconds(name: str, value: Any) -> str | float:
    return _moment(name, value) if isinstance(value, datetime) else seconds(name, value)


def _key_for(name: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{seconds(name, value)} seconds"


def _plain(name: str, value: Any) -> Any:
    return _json.embed(_json.encode(value, name))


_FORMS: dict[str, Callable[[str, Any], Any]] = {
    "delay": seconds,
    "timeout": seconds,
    "retry_delay": seconds,
    "retry_max_delay": seconds,
    "run_at": _moment,
    "deadline": _moment_or_seconds,
    "key_for": _key_for,
    "headers": _plain,
    "tags": _plain,
}


def item_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as fields of an item; those that are None are left to the defaults."""
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise InvalidArgument(f"there is no option {min(unknown)!r}")
    return {
        name: _FORMS[name](name, value) if name in _FORMS else value
        for name, value in options.items()
        if value is not None
    }
