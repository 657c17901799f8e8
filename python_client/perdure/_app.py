"""The app: a registry of tasks, and the client that knows them."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from perdure._binding import Binding
from perdure._client_async import Client
from perdure._client_sync import SyncClient
from perdure._context import current
from perdure._options import seconds
from perdure._returns import Again, Done, Spawn, spawn
from perdure._task import Task, TaskCall, as_call
from perdure._unset import UNSET, Unset
from perdure._watches import OPERATIONS, declare
from perdure.errors import Fail, UnknownTask

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from typing import Protocol, TypeAlias, Unpack

    from perdure._options import Duration, TaskOptions
    from perdure._task import Spawnable
    from perdure._worker import WorkerOptions
    from perdure.records import LoopResult, Operation, Watch

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T")
    Promise: TypeAlias = Coroutine[Any, Any, T]

    class TaskDecorator(Protocol):
        """Makes a task of a function, whose own types stay known."""

        @overload  # the result of a parent is not always its own output
        def __call__(
            self, fn: Callable[P, Promise[Spawn[T]]]
        ) -> Task[P, Any, Promise[Spawn[T]]]: ...
        @overload
        def __call__(self, fn: Callable[P, Spawn[T]]) -> Task[P, Any, Spawn[T]]: ...
        @overload
        def __call__(self, fn: Callable[P, Promise[R]]) -> Task[P, R, Promise[R]]: ...
        @overload
        def __call__(self, fn: Callable[P, R]) -> Task[P, R, R]: ...

    class LoopDecorator(Protocol):
        """Makes a looping task of a function."""

        @overload
        def __call__(
            self, fn: Callable[P, Promise[Done[T] | Again | None]]
        ) -> Task[P, LoopResult[T], Promise[Done[T] | Again | None]]: ...
        @overload
        def __call__(
            self, fn: Callable[P, Done[T] | Again | None]
        ) -> Task[P, LoopResult[T], Done[T] | Again | None]: ...


_SEQUENCE_TIMEOUT = 30.0


class App(Client):
    """The tasks of one application; making one has no side effect.

    The database is `dsn`, else DATABASE_URL, else PG*, else the embedded server in ./.perdure.
    """

    def __init__(self, dsn: str | None = None) -> None:
        self.tasks: dict[str, Task[..., Any, Any]] = {}
        self.watches: list[Watch] = []
        super().__init__(self.tasks, dsn)
        self.sync = SyncClient(self.tasks, dsn)

    # Definitions

    @overload
    def task(self, fn: Callable[P, Promise[Spawn[T]]], /) -> Task[P, Any, Promise[Spawn[T]]]: ...
    @overload
    def task(self, fn: Callable[P, Spawn[T]], /) -> Task[P, Any, Spawn[T]]: ...
    @overload
    def task(self, fn: Callable[P, Promise[R]], /) -> Task[P, R, Promise[R]]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> Task[P, R, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        validate: Callable[[Any], Any] | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskDecorator: ...
    def task(  # type: ignore[misc]  # mypy takes the keyword options of the last one amiss
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        validate: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> Any:
        """Makes a task of a function: `async def` runs in the worker's loop, `def` in a thread.

        The worker calls `validate` with the stored input before each attempt: what it returns
        becomes the input, what it raises ends the execution `failed`.
        """
        if fn is not None:
            return self._define(fn, _names_around(fn), name, options)

        def decorate(fn: Callable[..., Any]) -> Task[..., Any, Any]:
            return self._define(fn, _names_around(fn), name, options, validate=validate)

        return decorate

    def sleeping(self, *, name: str | None = None, **options: Unpack[TaskOptions]) -> TaskDecorator:
        """Declares a sleeping task: its function gives the types, but never runs.

        Its executions end by `wake`, cancel, timeout or deadline. Each needs a key; without one
        its input, a string, is the key.
        """

        def decorate(fn: Callable[..., Any]) -> Any:
            return self._define(fn, _names_around(fn), name, options, is_sleeping=True)

        return decorate

    def loop(
        self,
        *,
        max_iterations: int,
        every: Duration | Callable[[int], Duration] = 0.0,
        name: str | None = None,
        validate: Callable[[Any], Any] | None = None,
        **options: Unpack[TaskOptions],
    ) -> LoopDecorator:
        """Makes a task whose body runs again and again until it returns `done(value)`.

        It returns None or `again(...)` to go on. `every` is the delay between two iterations, or
        a function of the coming iteration's number (1, 2, ...). The output is a LoopResult.
        """
        if max_iterations < 1:
            raise ValueError(f"max_iterations is {max_iterations}, but a loop runs at least once")

        def judge(returned: object) -> Again | dict[str, Any]:
            if isinstance(returned, Done):
                return {"done": True, "output": returned.output}
            if not (returned is None or isinstance(returned, Again)):
                raise Fail(
                    f"a loop's body returned {returned!r}, not done(value), again() or None",
                    error_type="invalid_return",
                )
            coming = current().iteration + 1
            if coming >= max_iterations:
                return {"done": False}
            delay = every(coming) if callable(every) else every
            if returned is None:
                return Again(delay, UNSET)
            return Again(delay if returned.delay is None else returned.delay, returned.input)

        def decorate(fn: Callable[..., Any]) -> Any:
            body = _then(fn, judge)
            names = _names_around(fn)
            return self._define(fn, names, name, options, validate=validate, loop_body=body)

        if not callable(every):
            seconds("every", every)
        return decorate

    def sequence(
        self,
        name: str,
        steps: Iterable[Spawnable],
        *,
        validate: Callable[[Any], Any] | None = None,
        **options: Unpack[TaskOptions],
    ) -> Task[[Any], Any, Any]:
        """Declares a task that runs its steps one after another, each fed the previous output.

        The first step gets the sequence's input; the sequence's output is the last step's.
        """
        children = [as_call(step) for step in steps]
        if not children:
            raise ValueError(f"sequence {name} has no steps")

        async def run(value: Any, /) -> Spawn[Any]:
            return spawn(children, output=value, sequential=True)

        options.setdefault("timeout", _SEQUENCE_TIMEOUT)
        return self._define(run, {}, name, options, validate=validate)

    def watch(
        self,
        table: str,
        task: str | Task[..., Any, Any],
        *,
        columns: Sequence[str] | None = None,
        condition: str | None = None,
        operations: Sequence[Operation] = OPERATIONS,
        queue: str | None = None,
    ) -> Watch:
        """Declares that every changed row of a table becomes an execution of a task.

        A worker of this app sees to it, also where the table is made later; `watch_table` does it
        at once, and says what the arguments mean.
        """
        watch = declare(
            table, task, columns=columns, condition=condition, operations=operations, queue=queue
        )
        if any((known.table, known.task) == (watch.table, watch.task) for known in self.watches):
            raise ValueError(f"this app watches {watch.table} for {watch.task} already")
        self.watches.append(watch)
        return watch

    def _define(
        self,
        fn: Callable[..., Any],
        names: Mapping[str, Any],
        name: str | None,
        options: Mapping[str, Any],
        *,
        validate: Callable[[Any], Any] | None = None,
        loop_body: Callable[..., Any] | None = None,
        is_sleeping: bool = False,
    ) -> Task[..., Any, Any]:
        name = fn.__name__ if name is None else name
        if name in self.tasks:
            raise ValueError(f"this app has a task {name!r} already")
        task: Task[..., Any, Any] = Task(
            self,
            name,
            fn,
            body=loop_body or fn,
            binding=Binding(name, fn, names, is_loop=loop_body is not None),
            options=options,
            validate=validate,
            is_sleeping=is_sleeping,
        )
        self.tasks[name] = task
        return task

    # Use

    def call(self, name: str, input: Any | Unset = UNSET) -> TaskCall[Any]:  # noqa: A002
        """A call of one of this app's tasks by name; UnknownTask when it has none of that name."""
        try:
            return self.tasks[name].with_input(input)
        except KeyError:
            raise UnknownTask(
                f"this app does not know the task {name!r}",
                hint="perdure.by_name(...) makes a call of a task that need not be known here",
            ) from None

    async def close(self) -> None:
        """Closes the connections, the blocking client's too; a later call opens another."""
        await super().close()
        self.sync.close()

    async def run_worker(self, **options: Unpack[WorkerOptions]) -> None:
        """Runs a worker until it is told to stop; see `Worker`."""
        from perdure._worker import Worker

        await Worker(self, **options).run()


def _names_around(fn: Callable[..., Any]) -> Mapping[str, Any]:
    """What a function defined inside another sees there: its annotations may name it."""
    if "<locals>" not in fn.__qualname__:
        return {}
    return dict(sys._getframe(2).f_locals)  # noqa: SLF001


def _then(fn: Callable[..., Any], judge: Callable[[Any], Any]) -> Callable[..., Any]:
    """The function followed by a judgement of what it returned."""
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def body(*args: Any, **kwargs: Any) -> Any:
            return judge(await fn(*args, **kwargs))
    else:

        @functools.wraps(fn)
        def body(*args: Any, **kwargs: Any) -> Any:
            return judge(fn(*args, **kwargs))

    return body
