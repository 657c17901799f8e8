"""JSON that PostgreSQL can store: no NUL, no non-finite number, no integer beyond 64 bits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

import orjson

from perdure.errors import NotSerialisable

_OPTIONS = orjson.OPT_NON_STR_KEYS

loads = orjson.loads


def encode(value: object, what: str) -> bytes:
    """The value as JSON; NotSerialisable, naming `what` and where in it, when it has no form."""
    if value is None:
        return b"null"
    try:
        data = orjson.dumps(value, default=_default, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise NotSerialisable(
            f"{what} cannot be stored as JSON: {error.__cause__ or error}"
        ) from error
    # orjson writes a non-finite number as null, so only a text with a null in it can hide one
    if (b"null" in data or b"\\u0000" in data) and (offence := _offence(value)) is not None:
        raise NotSerialisable(f"{what}{offence[0]} {offence[1]}")
    return data


def embed(data: bytes) -> orjson.Fragment:
    """JSON made by `encode`, as a part of a greater value."""
    return orjson.Fragment(data)


def dumps(value: object) -> bytes:
    """A value of our own making, with embedded parts."""
    return orjson.dumps(value)


def _default(value: object) -> object:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise TypeError(f"{value} is not a finite number")
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    dump = getattr(value, "model_dump", None)  # a pydantic model
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"a value of type {type(value).__qualname__} has no JSON form")


def _offence(value: Any, path: str = "") -> tuple[str, str] | None:
    """Where in the value stands what JSON would swallow, and what it is."""
    if isinstance(value, Enum):
        return _offence(value.value, path)
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, f"is {value}, which JSON does not know")
    if isinstance(value, str):
        return (path, "holds a NUL character") if "\0" in value else None
    if isinstance(value, Mapping):
        parts = [(f".{key}", part) for key, part in value.items()]
        parts += [(f" key {key!r}", key) for key in value if not isinstance(key, Mapping)]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = [(f"[{index}]", part) for index, part in enumerate(value)]
    elif dataclasses.is_dataclass(value):
        parts = [(f".{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value)]
    elif hasattr(value, "model_dump"):
        return _offence(value.model_dump(), path)
    else:
        return None
    found = (_offence(part, path + step) for step, part in parts)
    return next((offence for offence in found if offence is not None), None)
