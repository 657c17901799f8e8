"""Inputs and outputs bind by the annotations of the task's function."""

from __future__ import annotations

import collections.abc as c
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from perdure import Again, App, Done, Finalize, LoopResult, Spawn, again, done, spawn
from perdure._codec import Misfit, decoder
from perdure.errors import InvalidInput, NotSerialisable

T = TypeVar("T")
UserId = NewType("UserId", int)


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Item:
    name: str
    price: Decimal = Decimal(0)
    parts: list[Item] = field(default_factory=list)


@dataclass
class Order:
    id: UUID
    items: list[Item]
    size: Size = Size.SMALL


@dataclass
class Wrapped(Generic[T]):
    value: T
    more: list[T] = field(default_factory=list)


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Point(NamedTuple):
    x: int
    y: int


class Model(BaseModel):
    n: Annotated[int, Field(gt=0)]
    at: datetime | None = None


class Sealed:
    pass


@dataclass
class Astray:
    value: Nowhere  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("hint", "stored", "value"),
    [
        (Any, {"a": 1}, {"a": 1}),
        (object, [1], [1]),
        (None, None, None),
        (bool, True, True),
        (float, 1, 1.0),
        (UserId, 3, 3),
        (T, 3, 3),
        (Optional[int], None, None),  # noqa: UP045
        (int | float, 2, 2),
        (float | int, 2.5, 2.5),
        (str | None, "a", "a"),
        (Literal["a", 2], 2, 2),
        (Size, "l", Size.LARGE),
        (list[int], [1, 2], [1, 2]),
        (list, [1, "a"], [1, "a"]),
        (set[int], [1, 2], {1, 2}),
        (frozenset[int], [1], frozenset({1})),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple, [1, "a"], (1, "a")),
        (c.Sequence[int], [1], [1]),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (dict[bool, str], {"true": "a"}, {True: "a"}),
        (dict, {"a": 1}, {"a": 1}),
        (c.Mapping[str, Size], {"a": "s"}, {"a": Size.SMALL}),
        (datetime, "2026-01-02T03:04:05+00:00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (date, "2026-01-02", date(2026, 1, 2)),
        (time, "03:04", time(3, 4)),
        (timedelta, 1.5, timedelta(seconds=1.5)),
        (UUID, "00000000-0000-0000-0000-000000000001", UUID(int=1)),
        (Decimal, "1.10", Decimal("1.10")),
        (Decimal, 1.1, Decimal("1.1")),
        (Path, "/tmp/x", Path("/tmp/x")),
        (Item, {"name": "a", "price": "2"}, Item("a", Decimal(2))),
        (Item, {"name": "a", "parts": [{"name": "b"}]}, Item("a", parts=[Item("b")])),
        (Wrapped[int], {"value": 1, "more": [2]}, Wrapped(1, [2])),
        (Movie, {"title": "M"}, {"title": "M"}),
        (Point, [1, 2], Point(1, 2)),
        (Model, {"n": 1}, Model(n=1)),
        (Annotated[int, "a note"], 1, 1),
        (Annotated[int, Field(gt=3)], 4, 4),
        (Item | Movie, {"title": "M", "year": 1931}, {"title": "M", "year": 1931}),
    ],
)
def test_an_annotation_says_how_json_is_read(hint: Any, stored: Any, value: Any) -> None:
    read = decoder(hint)(stored, "x")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("hint", "stored", "message"),
    [
        (int, True, "x: expected int, found bool True"),
        (int, 1.0, "x: expected int, found float 1.0"),
        (float, "1", "x: expected float, found str '1'"),
        (str, None, "x: expected str, found null"),
        (None, 1, "x: expected null, found int 1"),
        (int | None, "a", "x: expected int or null, found str 'a'"),
        (Literal["a", 2], "b", "x: expected one of 'a', 2, found str 'b'"),
        (Literal["a"], [], "x: expected one of 'a', found list []"),
        (Size, "m", "x: expected one of 's', 'l', found str 'm'"),
        (list[int], [1, "a"], "x[1]: expected int, found str 'a'"),
        (list[int], {"a": 1}, "x: expected a list, found dict {'a': 1}"),
        (tuple[int, str], [1], "x: expected a list of 2, found list [1]"),
        (dict[int, str], {"a": "b"}, "x key: expected int, found str 'a'"),
        (dict[str, int], {"a": "b"}, "x.a: expected int, found str 'b'"),
        (dict[str, int], [], "x: expected an object, found list []"),
        (datetime, "yesterday", "x: expected an ISO 8601 date and time, found str 'yesterday'"),
        (UUID, 1, "x: expected a UUID, found int 1"),
        (Decimal, True, "x: expected a decimal number, found bool True"),
        (Item, {}, "x.name: Item needs it"),
        (Item, {"name": "a", "colour": 1}, "x.colour: Item has no such field"),
        (Item, {"name": "a", "parts": [{"name": 1}]}, "x.parts[0].name: expected str, found int 1"),
        (Item | None, {"name": 1}, "x.name: expected str, found int 1"),
        (Item | Movie, {"x": 1}, "x: expected Item or Movie, found dict {'x': 1}"),
        (Wrapped[int], {"value": "a"}, "x.value: expected int, found str 'a'"),
        (Movie, {"year": 1931}, "x.title: Movie needs it"),
        (Model, {"n": 0}, "x.n: Input should be greater than 0"),
        (Annotated[int, Field(gt=3)], 1, "x: Input should be greater than 3"),
    ],
)
def test_a_misfit_is_told_with_its_place(hint: Any, stored: Any, message: str) -> None:
    with pytest.raises(Misfit) as caught:
        decoder(hint)(stored, "x")
    assert str(caught.value) == message


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(Misfit) as caught:
        decoder(int)("a" * 1000, "x")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("hint", [Sealed, "int", bytes, list["Nowhere"], Astray])  # type: ignore[name-defined]  # noqa: F821
def test_an_annotation_that_json_cannot_fill_is_an_error_of_the_definition(hint: Any) -> None:
    with pytest.raises(TypeError):
        decoder(hint)([{}] if hint is not Astray else {}, "x")


# Tasks

app = App()


@app.task
def greet(name: str, times: int = 1, *, loud: bool = False) -> str:
    return name * times


@app.task
def step(order: Order, /) -> Order:
    return order


@app.task
def lone(order: Order) -> None: ...


@app.task
def nothing() -> None: ...


@app.task
def anything(**values: int) -> None: ...


@app.task
def mixed(first: int, /, second: int) -> None: ...


@app.task
def untyped(value, other=None):  # type: ignore[no-untyped-def]
    return value


@app.task
def summarise(finalize: Finalize, factor: int = 2) -> int:
    return factor


@pytest.mark.parametrize(
    ("call", "stored"),
    [
        (greet.call("a"), {"name": "a"}),
        (greet.call("a", loud=True), {"name": "a", "loud": True}),
        (nothing.call(), {}),
        (anything.call(a=1, b=2), {"a": 1, "b": 2}),
        (mixed.call(1, second=2), {"first": 1, "second": 2}),
        (untyped.call({"x": 1}), {"value": {"x": 1}}),
        (
            lone.call(Order(UUID(int=1), [Item("a")])),
            {
                "order": {
                    "id": "00000000-0000-0000-0000-000000000001",
                    "items": [{"name": "a", "price": "0", "parts": []}],
                    "size": "s",
                }
            },
        ),
    ],
)
def test_arguments_become_an_object_of_parameters_by_name(call: Any, stored: Any) -> None:
    import orjson

    assert orjson.loads(call.input) == stored


def test_a_single_positional_only_parameter_is_the_whole_input() -> None:
    order = Order(UUID(int=1), [])
    call = step.call(order)
    assert call.input is not None
    assert call.input.startswith(b'{"id":')
    assert step.binding.read_input({"id": str(UUID(int=1)), "items": []}) == ([order], {})


@pytest.mark.parametrize(
    ("task", "stored", "arguments"),
    [
        (greet, {"name": "a", "times": 2}, ([], {"name": "a", "times": 2})),
        (greet, "a", ([], {"name": "a"})),
        (nothing, None, ([], {})),
        (nothing, {}, ([], {})),
        (anything, {"a": 1}, ([], {"a": 1})),
        (mixed, {"first": 1, "second": 2}, ([1], {"second": 2})),
        (untyped, [1], ([], {"value": [1]})),
        (summarise, {"parent": 1, "generation": 1}, ([], {})),
    ],
)
def test_a_stored_input_becomes_arguments(task: Any, stored: Any, arguments: Any) -> None:
    if task is summarise:
        assert task.binding.finalize_parameter == "finalize"
    else:
        assert task.binding.read_input(stored) == arguments


@pytest.mark.parametrize(
    ("task", "stored", "message"),
    [
        (greet, {"name": 1}, "input of task greet: name: expected str, found int 1"),
        (greet, {}, "input of task greet: name: task greet needs it"),
        (greet, {"name": "a", "x": 1}, "input of task greet: x: task greet has no such field"),
        (greet, 1, "input of task greet: name: expected str, found int 1"),
        (greet, None, "input of task greet: name: expected str, found null"),
        (nothing, 1, "input of task nothing: expected an object of its parameters, found int 1"),
        (anything, {"a": "b"}, "input of task anything: a: expected int, found str 'b'"),
        (mixed, 1, "input of task mixed: expected an object of its parameters, found int 1"),
    ],
)
def test_a_stored_input_that_does_not_fit_is_refused(task: Any, stored: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        task.binding.read_input(stored)
    assert str(caught.value) == message
    assert caught.value.sqlstate == "QD021"


def test_wrong_arguments_are_refused_at_the_call() -> None:
    with pytest.raises(InvalidInput, match="missing a required argument: 'name'"):
        greet.call()  # type: ignore[call-arg]
    with pytest.raises(InvalidInput, match="name: expected str, found int 5"):
        greet.call(5)  # type: ignore[arg-type]
    with pytest.raises(NotSerialisable, match=r"input of task untyped.value is nan"):
        untyped.call(float("nan"))


def test_types_of_the_enclosing_function_are_found() -> None:
    @dataclass
    class Local:
        n: int

    local_app = App()

    @local_app.task
    def take(value: Local) -> Local:
        return value

    assert take.binding.read_input({"value": {"n": 1}}) == ([], {"value": Local(1)})


def test_an_annotation_that_cannot_be_resolved_is_named() -> None:
    local_app = App()

    @local_app.task
    def lost(value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="task lost: an annotation cannot be resolved"):
        lost.call(1)


def test_star_arguments_are_refused_at_definition() -> None:
    with pytest.raises(TypeError, match=r"\*values cannot be bound"):

        @App().task
        def many(*values: int) -> None: ...


# Results


def test_an_output_that_does_not_fit_is_refused() -> None:
    with pytest.raises(NotSerialisable, match="output of task greet: expected str, found int 1"):
        greet.binding.write_output(1)


def test_an_output_comes_back_as_its_type() -> None:
    order = Order(UUID(int=1), [Item("a", Decimal("1.5"))], Size.LARGE)
    import orjson

    assert step.binding.read_output(orjson.loads(step.binding.write_output(order))) == order


def test_verdicts_are_no_part_of_the_result() -> None:
    local = App()

    @local.task
    def poll(n: int) -> int | Again:
        return again()

    @local.task
    def parent() -> Spawn[None] | int:
        return spawn([])

    @local.loop(max_iterations=3)
    def loop() -> Done[int] | None:
        return done(1)

    @local.loop(max_iterations=3)
    def bare() -> Done | None:  # type: ignore[type-arg]
        return done(1)

    assert poll.binding.read_output(1) == 1
    with pytest.raises(Misfit):
        poll.binding.read_output("a")
    assert parent.binding.read_output("finalize decides") == "finalize decides"
    assert loop.binding.read_output({"done": True, "output": 1}) == LoopResult(True, 1)
    assert loop.binding.read_output({"done": False}) == LoopResult(False)
    assert bare.binding.read_output({"done": True, "output": "x"}) == LoopResult(True, "x")
