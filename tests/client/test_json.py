"""What can be stored as JSON, and what is refused with its place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel

from perdure import _json
from perdure.errors import NotSerialisable


class Colour(Enum):
    RED = "red"
    VOID = float("nan")


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Box:
    label: str
    weight: float | None = None


class Model(BaseModel):
    at: datetime
    weight: float = 1.0


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (2**63 - 1, 9223372036854775807),
        ("é∑", "é∑"),
        ({1: [Colour.RED]}, {"1": ["red"]}),
        (Box("a"), {"label": "a", "weight": None}),
        (Point(1, 2), [1, 2]),
        ({"x"}, ["x"]),
        (Decimal("1.10"), "1.10"),
        (timedelta(minutes=1), 60.0),
        (PurePosixPath("/tmp"), "/tmp"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (Model(at=datetime(2026, 1, 2, tzinfo=UTC)), {"at": "2026-01-02T00:00:00Z", "weight": 1.0}),
        ("a backslash and u0000: \\u0000", "a backslash and u0000: \\u0000"),
        ([None, "null"], [None, "null"]),
    ],
)
def test_values_of_many_types_are_stored(value: object, stored: object) -> None:
    assert _json.loads(_json.encode(value, "input")) == stored


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "input is nan, which JSON does not know"),
        ({"a": [1, float("inf")]}, "input.a[1] is inf, which JSON does not know"),
        (Box("a", float("-inf")), "input.weight is -inf, which JSON does not know"),
        (Colour.VOID, "input is nan, which JSON does not know"),
        (Decimal("NaN"), "input cannot be stored as JSON: NaN is not a finite number"),
        ("a\0b", "input holds a NUL character"),
        ({"a": {"b": ["\0"]}}, "input.a.b[0] holds a NUL character"),
        ({"a\0": 1}, "input key 'a\\x00' holds a NUL character"),
        (Box("\0"), "input.label holds a NUL character"),
        (2**64, "input cannot be stored as JSON: Integer exceeds 64-bit range"),
        (b"raw", "input cannot be stored as JSON: a value of type bytes has no JSON form"),
        (object(), "input cannot be stored as JSON: a value of type object has no JSON form"),
    ],
)
def test_what_the_database_could_not_hold_is_refused_with_its_place(
    value: object, message: str
) -> None:
    with pytest.raises(NotSerialisable) as caught:
        _json.encode(value, "input")
    assert str(caught.value) == message
    assert caught.value.sqlstate == "QD033"


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotSerialisable, match="input cannot be stored as JSON"):
        _json.encode(loop, "input")


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(NotSerialisable, match="input cannot be stored as JSON"):
        _json.encode("\ud800", "input")


def test_a_model_with_a_number_that_is_none_is_refused() -> None:
    model = Model.model_construct(at=datetime(2026, 1, 2, tzinfo=UTC), weight=float("nan"))
    with pytest.raises(NotSerialisable, match=r"input\.weight is nan"):
        _json.encode(model, "input")
