"""Task definitions, and calls of them: what to run, with which input and options."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar

from perdure import _json
from perdure._options import Options, item_fields
from perdure._unset import UNSET, Unset
from perdure.errors import InvalidName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    from perdure._app import App
    from perdure._binding import Binding
    from perdure._client_async import Handle

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class TaskCall(Generic[R_co]):
    """A task with its input and options: to be enqueued, or spawned as a child.

    Without an input a child gets {}, and a step of a sequence the previous step's output.
    """

    name: str
    input: bytes | None
    fields: Mapping[str, Any]
    task: Task[..., R_co, Any] | None

    def options(self, **options: Unpack[Options]) -> TaskCall[R_co]:
        """The same call with these options over those it has."""
        if not options:
            return self
        return replace(self, fields={**self.fields, **item_fields(options)})

    def item(self) -> dict[str, Any]:
        """The call as the engine's functions take it."""
        item: dict[str, Any] = {"task": self.name, **self.fields}
        if self.input is not None:
            item["input"] = _json.embed(self.input)
        return item


class Task(Generic[P, R, B]):
    """A function under a name, run durably; called directly it is just the function."""

    def __init__(
        self,
        app: App,
        name: str,
        fn: Callable[P, B],
        *,
        body: Callable[..., Any],
        binding: Binding,
        options: Mapping[str, Any],
        validate: Callable[[Any], Any] | None = None,
        is_sleeping: bool = False,
    ) -> None:
        check_name("task", name)
        binding.check_signature()
        self.app = app
        self.name = name
        self.fn = fn
        self.body = body  # what a worker runs: the function, or what a loop makes of it
        self.binding = binding
        self.validate = validate
        self.is_sleeping = is_sleeping
        self.is_async = inspect.iscoroutinefunction(body)
        self.fields = item_fields(options) | ({"sleeping": True} if is_sleeping else {})
        self.__name__ = name
        self.__doc__ = fn.__doc__
        self.__module__ = fn.__module__
        self.__wrapped__ = fn

    @cached_property
    def is_plain(self) -> bool:
        """Whether its arguments are read from its input by its annotations alone."""
        return self.validate is None and self.binding.finalize_parameter is None

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> B:
        """Calls the function here and now."""
        return self.fn(*args, **kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> TaskCall[R]:
        """A call of this task; InvalidInput when the arguments do not fit its annotations."""
        return TaskCall(self.name, self.binding.write_input(args, kwargs), self.fields, self)

    def options(self, **options: Unpack[Options]) -> TaskCall[R]:
        """A call without input, with these options: a step, a finalize, a child without input."""
        return self.with_input(UNSET).options(**options)

    def with_input(self, value: Any | Unset) -> TaskCall[R]:
        """A call whose whole input is this value; InvalidInput when it does not fit."""
        if value is UNSET:
            return TaskCall(self.name, None, self.fields, self)
        data = _json.encode(value, f"input of task {self.name}")
        self.binding.read_input(_json.loads(data))
        return TaskCall(self.name, data, self.fields, self)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueues a call of this task through its app."""
        return await self.app.enqueue(self.call(*args, **kwargs))


Spawnable: TypeAlias = "Task[..., Any, Any] | TaskCall[Any]"


def by_name(name: str, input: Any | Unset = UNSET) -> TaskCall[Any]:  # noqa: A002
    """A call of a task that need not be known here; its input goes unchecked."""
    check_name("task", name)
    data = None if input is UNSET else _json.encode(input, f"input of task {name}")
    return TaskCall(name, data, {}, None)


def as_call(what: Spawnable) -> TaskCall[Any]:
    """A task alone is a call of it without input."""
    if isinstance(what, Task):
        return what.with_input(UNSET)
    if isinstance(what, TaskCall):
        return what
    raise TypeError(f"{what!r} is neither a task nor a call of one")


def check_name(kind: str, name: object) -> None:
    """The engine's rule for names, told before anything is sent."""
    if not isinstance(name, str) or not 1 <= len(name) <= 255 or any(map(_is_control, name)):
        shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
        raise InvalidName(
            f"{kind} name {shown} is not 1 to 255 characters without control characters"
        )


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"
