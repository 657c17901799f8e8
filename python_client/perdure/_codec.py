"""From JSON to the type an annotation names: strict, with the place of the first misfit."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from pathlib import PurePath
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
)
from uuid import UUID

Decoder: TypeAlias = Callable[[Any, str], Any]


class Misfit(ValueError):  # noqa: N818
    """A value does not fit its declared type; `path` says where."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path


def misfit(path: str, expected: str, value: object) -> Misfit:
    """The Misfit of a value that is not what was expected."""
    found = "null" if value is None else f"{type(value).__name__} {_short(value)}"
    return Misfit(path, f"expected {expected}, found {found}")


def decoder(hint: Any) -> Decoder:
    """The function (value, path) -> typed value for an annotation; raises Misfit."""
    try:
        return _cached(hint)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _make(hint)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _make(hint: Any) -> Decoder:
    if hint is Any or hint is object:
        return _anything
    if isinstance(hint, TypeVar):
        return decoder(hint.__bound__ or Any)
    if (newtype := getattr(hint, "__supertype__", None)) is not None:
        return decoder(newtype)
    if (alias := getattr(hint, "__value__", None)) is not None:  # `type X = ...`
        return decoder(alias)
    origin = get_origin(hint)
    if origin is typing.Annotated:
        return _pydantic(hint) if _speaks_pydantic(hint) else decoder(get_args(hint)[0])
    if origin in (Required, NotRequired, typing.Final):
        return decoder(get_args(hint)[0])
    if origin is Literal:
        return _literal(get_args(hint))
    if origin in (Union, types.UnionType):
        return _union(get_args(hint))
    if hint in _scalars:
        return _scalars[hint]
    kind = origin or hint
    if not isinstance(kind, type):
        raise TypeError(f"the annotation {hint!r} cannot be read from JSON")
    if typing.is_typeddict(kind):
        return _typed_dict(kind)
    if _speaks_pydantic(kind):
        return _pydantic(hint)
    if dataclasses.is_dataclass(kind):
        return _dataclass(hint, kind)
    if issubclass(kind, Enum):
        return _enum(kind)
    if issubclass(kind, PurePath):
        return _parsed(str, kind, "a path")
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple(kind)
    if kind in _containers:
        return _containers[kind](kind, get_args(hint))
    raise TypeError(f"the annotation {hint!r} cannot be read from JSON")


_cached = functools.lru_cache(maxsize=4096)(_make)


def _lazy(hint: Any) -> Decoder:
    """A decoder made at its first use, so that a type may contain itself."""
    return lambda value, path: decoder(hint)(value, path)


def _anything(value: Any, path: str) -> Any:
    return value


def _none(value: Any, path: str) -> None:
    if value is not None:
        raise misfit(path, "null", value)


def _exactly(kind: type, name: str) -> Decoder:
    def decode(value: Any, path: str) -> Any:
        if type(value) is not kind:
            raise misfit(path, name, value)
        return value

    return decode


def _float(value: Any, path: str) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise misfit(path, "float", value)


def _parsed(source: Any, parse: Callable[[Any], Any], name: str) -> Decoder:
    def decode(value: Any, path: str) -> Any:
        if isinstance(value, source) and not isinstance(value, bool):
            try:
                return parse(value)
            except (ValueError, InvalidOperation, OverflowError):
                pass
        raise misfit(path, name, value)

    return decode


_scalars: dict[Any, Decoder] = {
    None: _none,
    type(None): _none,
    bool: _exactly(bool, "bool"),
    int: _exactly(int, "int"),
    float: _float,
    str: _exactly(str, "str"),
    datetime: _parsed(str, datetime.fromisoformat, "an ISO 8601 date and time"),
    date: _parsed(str, date.fromisoformat, "an ISO 8601 date"),
    time: _parsed(str, time.fromisoformat, "an ISO 8601 time"),
    timedelta: _parsed((int, float), lambda s: timedelta(seconds=s), "a number of seconds"),
    UUID: _parsed(str, UUID, "a UUID"),
    Decimal: _parsed((str, int, float), lambda v: Decimal(str(v)), "a decimal number"),
}


def _literal(allowed: tuple[Any, ...]) -> Decoder:
    stored = {_stored(choice): choice for choice in allowed}
    name = "one of " + ", ".join(repr(value) for _, value in stored)

    def decode(value: Any, path: str) -> Any:
        try:
            return stored[type(value), value]
        except (KeyError, TypeError):
            raise misfit(path, name, value) from None

    return decode


def _stored(choice: Any) -> tuple[type, Any]:
    value = choice.value if isinstance(choice, Enum) else choice
    return type(value), value


def _enum(kind: type[Enum]) -> Decoder:
    return _literal(tuple(kind))


def _union(members: tuple[Any, ...]) -> Decoder:
    choices = [_lazy(member) for member in members]
    name = " or ".join(_name(member) for member in members)
    # int before float, so that a whole number stays one
    if int in members and float in members:
        choices.insert(0, _scalars[int])

    def decode(value: Any, path: str) -> Any:
        inner = []  # where a member fitted outside but not inside, its reason says more
        for choice in choices:
            try:
                return choice(value, path)
            except Misfit as error:
                if error.path != path:
                    inner.append(error)
        raise inner[0] if len(inner) == 1 else misfit(path, name, value)

    return decode


def _name(hint: Any) -> str:
    if hint is None or hint is type(None):
        return "null"
    return getattr(hint, "__name__", None) or str(hint)


def _sequence(make: Callable[[list[Any]], Any]) -> Callable[[type, tuple[Any, ...]], Decoder]:
    def build(kind: type, args: tuple[Any, ...]) -> Decoder:
        item = _lazy(args[0]) if args else _anything

        def decode(value: Any, path: str) -> Any:
            if not isinstance(value, list):
                raise misfit(path, "a list", value)
            return make([item(part, f"{path}[{i}]") for i, part in enumerate(value)])

        return decode

    return build


def _tuple(kind: type, args: tuple[Any, ...]) -> Decoder:
    if not args or args[-1] is ...:
        return _sequence(tuple)(kind, args[:1])
    items = [_lazy(arg) for arg in args if arg != ()]

    def decode(value: Any, path: str) -> Any:
        if not isinstance(value, list) or len(value) != len(items):
            raise misfit(path, f"a list of {len(items)}", value)
        parts = zip(items, value, strict=True)
        return tuple(item(part, f"{path}[{i}]") for i, (item, part) in enumerate(parts))

    return decode


def _mapping(kind: type, args: tuple[Any, ...]) -> Decoder:
    key, item = (_key(args[0]), _lazy(args[1])) if args else (_anything, _anything)

    def decode(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise misfit(path, "an object", value)
        return {key(k, f"{path} key"): item(v, f"{path}.{k}") for k, v in value.items()}

    return decode


def _key(hint: Any) -> Decoder:
    """Keys are strings in JSON; a number or a boolean is read from its text."""
    text = decoder(hint)
    if hint not in (int, float, bool):
        return text

    def decode(value: Any, path: str) -> Any:
        try:
            if hint is bool:
                return {"true": True, "false": False}[value]
            return hint(value)
        except (ValueError, KeyError):
            raise misfit(path, _name(hint), value) from None

    return decode


_containers: dict[type, Callable[[type, tuple[Any, ...]], Decoder]] = {
    list: _sequence(list),
    set: _sequence(set),
    frozenset: _sequence(frozenset),
    tuple: _tuple,
    dict: _mapping,
    collections.abc.Mapping: _mapping,
    collections.abc.MutableMapping: _mapping,
    collections.abc.Set: _sequence(set),
    **dict.fromkeys(
        (
            collections.abc.Sequence,
            collections.abc.MutableSequence,
            collections.abc.Iterable,
            collections.abc.Collection,
        ),
        _sequence(list),
    ),
}


def fields(
    decoders: Mapping[str, Decoder], required: frozenset[str], name: str
) -> Callable[[Any, str], dict[str, Any]]:
    """Reads an object that has exactly these fields; optional ones may be absent."""

    def decode(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise misfit(path, name, value)
        inner = f"{path}." if path else ""
        result = {}
        for key, part in value.items():
            if (field := decoders.get(key)) is None:
                raise Misfit(inner + key, f"{name} has no such field")
            result[key] = field(part, inner + key)
        if not required <= result.keys():
            missing = next(key for key in decoders if key in required - result.keys())
            raise Misfit(inner + missing, f"{name} needs it")
        return result

    return decode


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"an annotation of {kind.__qualname__} cannot be resolved: {error}"
        ) from error


def _dataclass(hint: Any, kind: Any) -> Decoder:
    hints = _hints(kind)
    given = dict(zip(getattr(kind, "__parameters__", ()), get_args(hint), strict=False))
    members = [f for f in dataclasses.fields(kind) if f.init]
    optional = (f for f in members if _has_default(f))
    read = fields(
        {f.name: _lazy(_filled(hints[f.name], given)) for f in members},
        frozenset(f.name for f in members).difference(f.name for f in optional),
        kind.__name__,
    )
    return lambda value, path: kind(**read(value, path))


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _filled(hint: Any, given: Mapping[Any, Any]) -> Any:
    """The annotation with the type variables of its generic class replaced."""
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple(given.get(p, Any) for p in parameters)] if parameters else hint


def _typed_dict(kind: Any) -> Decoder:
    hints = _hints(kind)
    decoders = {key: _lazy(hint) for key, hint in hints.items()}
    # postponed annotations hide the markers from the class itself
    marked = {key: get_origin(hint) for key, hint in hints.items()}
    required = kind.__required_keys__ | {k for k, mark in marked.items() if mark is Required}
    optional = {key for key, mark in marked.items() if mark is NotRequired}
    return fields(decoders, required - optional, kind.__name__)


def _named_tuple(kind: Any) -> Decoder:
    hints = _hints(kind)
    items = _tuple(tuple, tuple(hints.get(name, Any) for name in kind._fields))
    return lambda value, path: kind(*items(value, path))


def _speaks_pydantic(hint: Any) -> bool:
    if get_origin(hint) is typing.Annotated:
        base, *notes = get_args(hint)
        modules = {type(note).__module__.partition(".")[0] for note in notes}
        return bool(modules & {"pydantic", "annotated_types"}) or _speaks_pydantic(base)
    return isinstance(hint, type) and (
        "__pydantic_core_schema__" in vars(hint) or hasattr(hint, "__get_pydantic_core_schema__")
    )


def _pydantic(hint: Any) -> Decoder:
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(hint)

    def decode(value: Any, path: str) -> Any:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(step) for step in first["loc"])
            inner = f"{path}.{place}" if path and place else path or place
            raise Misfit(inner, first["msg"]) from None

    return decode
