"""Bad input from Python: a clear error with its code, and nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure import App, TaskCall, Worker, errors

MANY = "a" * 256


@pytest.fixture
async def app(app: App) -> AsyncIterator[App]:
    @app.task
    def known(n: int = 0) -> int:
        return n

    @app.sleeping(timeout=60)
    def approval(who: str) -> bool:
        raise NotImplementedError

    yield app
    assert await app.executions() == []


@pytest.mark.parametrize("name", ["", MANY, "a\nb", "a\0b", "a\x7f", "a\x85", 5])
async def test_a_task_name_that_is_none(app: App, name: Any) -> None:
    with pytest.raises((errors.InvalidName, TypeError)) as caught:
        await app.enqueue(name)
    if isinstance(name, str):
        assert isinstance(caught.value, errors.InvalidName)
        assert caught.value.sqlstate == "QD020"
        assert len(str(caught.value)) < 200


async def test_a_task_name_that_is_none_at_its_definition() -> None:
    with pytest.raises(errors.InvalidName):
        App().task(name="")(lambda: None)


async def test_a_task_that_the_app_does_not_know(app: App) -> None:
    with pytest.raises(errors.UnknownTask, match="does not know the task 'unknown'") as caught:
        app.call("unknown")
    assert caught.value.sqlstate == "QD030"


async def test_a_task_of_another_app(app: App) -> None:
    other = App()

    @other.task
    def theirs() -> None: ...

    @other.task(name="known")
    def namesake() -> None: ...

    for task in (theirs, theirs.call(), namesake, namesake.options(delay=1)):
        with pytest.raises(errors.UnknownTask, match="belongs to another app"):
            await app.enqueue(task)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"n": "a"}, errors.InvalidInput),
        ({"m": 1}, errors.InvalidInput),
        ("a", errors.InvalidInput),
        ({"n": float("nan")}, errors.NotSerialisable),
        ({"n": 2**70}, errors.NotSerialisable),
        ({"n": object()}, errors.NotSerialisable),
        ({"n": "\0"}, errors.NotSerialisable),
    ],
)
async def test_an_input_that_the_task_would_refuse(app: App, value: Any, error: type) -> None:
    with pytest.raises(error):
        await app.enqueue("known", value)


async def test_an_input_over_the_size_limit(app: App) -> None:
    with pytest.raises(errors.PayloadTooLarge) as caught:
        await app.enqueue("x", "a" * (2 << 20))
    assert caught.value.sqlstate == "QD022"


async def test_an_input_apart_from_a_call(app: App) -> None:
    with pytest.raises(TypeError, match=r"use task\.call"):
        await app.enqueue(app.call("known", {"n": 1}), {"n": 2})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"delay": -1}, errors.InvalidDuration),
        ({"delay": float("nan")}, errors.InvalidDuration),
        ({"delay": float("inf")}, errors.InvalidDuration),
        ({"delay": "soon"}, errors.InvalidDuration),
        ({"delay": True}, errors.InvalidDuration),
        ({"delay": 1e12}, errors.InvalidDuration),
        ({"timeout": 0}, errors.InvalidDuration),
        ({"timeout": timedelta(days=365)}, errors.InvalidDuration),
        ({"retry_delay": -0.5}, errors.InvalidDuration),
        ({"max_attempts": 0}, errors.InvalidAttempts),
        ({"max_attempts": 1001}, errors.InvalidAttempts),
        ({"max_crashes": -1}, errors.InvalidAttempts),
        ({"deadline": datetime(2020, 1, 1, tzinfo=UTC)}, errors.DeadlineInPast),
        ({"deadline": -5}, (errors.DeadlineInPast, errors.InvalidDuration)),
        ({"deadline": datetime(2040, 1, 1)}, errors.InvalidArgument),  # noqa: DTZ001
        ({"run_at": "2040-01-01"}, errors.InvalidArgument),
        ({"run_at": datetime(2040, 1, 1)}, errors.InvalidArgument),  # noqa: DTZ001
        ({"priority": 100_000}, (errors.InvalidArgument, errors.InvalidInput)),
        ({"retry_jitter": 2}, errors.InvalidArgument),
        ({"retry_backoff": "cubic"}, errors.InvalidArgument),
        ({"colour": "red"}, errors.InvalidArgument),
        ({"key": ""}, errors.InvalidName),
        ({"key": MANY}, errors.InvalidName),
        ({"queue": ""}, errors.InvalidName),
        ({"tags": ["a\nb"]}, errors.InvalidName),
        ({"headers": {"a": float("nan")}}, errors.NotSerialisable),
    ],
)
async def test_an_option_that_cannot_be(app: App, options: Any, error: Any) -> None:
    with pytest.raises(error) as caught:
        await app.enqueue("known", {"n": 1}, **options)
    assert caught.value.sqlstate.startswith("QD")


@pytest.mark.parametrize("options", [{"timeout": -1}, {"max_attempts": 0}, {"queue": ""}])
async def test_what_a_task_declares_is_checked_when_a_worker_starts(app: App, options: Any) -> None:
    app.task(name="odd", **options)(lambda: None)
    with pytest.raises(errors.PerdureError) as caught:
        await Worker(app, install_signals=False).run()
    assert caught.value.sqlstate in {"QD020", "QD023", "QD024"}


async def test_a_wake_for_an_unknown_key(app: App) -> None:
    for task in ("approval", app.tasks["approval"], "never heard of"):
        with pytest.raises(errors.KeyNotFound) as caught:
            await app.wake(task, "nobody", True)
        assert caught.value.sqlstate == "QD002"


async def test_a_wake_with_an_output_that_does_not_fit(app: App) -> None:
    with pytest.raises(errors.NotSerialisable, match="expected bool, found str 'yes'"):
        await app.wake("approval", "nobody", "yes")


@pytest.mark.parametrize("act", ["cancel", "retry", "get", "status", "wait"])
async def test_an_unknown_id(app: App, act: str) -> None:
    with pytest.raises(errors.ExecutionNotFound) as caught:
        await getattr(app, act)(4711)
    assert caught.value.sqlstate == "QD001"
    assert "4711" in str(caught.value)


async def test_a_sleeping_task_without_a_key(app: App) -> None:
    with pytest.raises(errors.PerdureError) as caught:
        await app.enqueue(TaskCall("approval", b"5", {"sleeping": True}, None))
    assert caught.value.sqlstate is not None


def test_a_loop_that_never_runs_and_a_sequence_without_steps() -> None:
    with pytest.raises(ValueError, match="runs at least once"):
        App().loop(max_iterations=0)
    with pytest.raises(errors.InvalidDuration):
        App().loop(max_iterations=1, every="often")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no steps"):
        App().sequence("s", [])


def test_a_name_that_is_taken(app: App) -> None:
    with pytest.raises(ValueError, match="has a task 'known' already"):
        app.task(name="known")(lambda: None)


def test_worker_options_that_cannot_be(app: App) -> None:
    for options in ({"concurrency": 0}, {"batch": 0}, {"prefetch": -1}, {"drain_timeout": -1}):
        with pytest.raises(ValueError, match="at least"):
            Worker(app, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a list of names"):
        Worker(app, queues="mail")
    with pytest.raises(ValueError, match="no tasks"):
        Worker(App())
