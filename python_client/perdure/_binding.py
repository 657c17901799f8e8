"""Between a task's JSON input and the arguments of its function, by the function's signature."""

from __future__ import annotations

import inspect
import types
import typing
from functools import cached_property
from typing import TYPE_CHECKING, Any

from perdure import _codec, _json
from perdure._codec import Misfit
from perdure._finalize import Finalize
from perdure._returns import Again, Done, Spawn
from perdure.errors import InvalidInput, NotSerialisable
from perdure.records import LoopResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Binding:
    """Reads and writes one task's input and output; annotations are resolved at first use."""

    def __init__(
        self, task: str, fn: Callable[..., Any], names: Mapping[str, Any], *, is_loop: bool = False
    ) -> None:
        self._task = task
        self._fn = fn
        self._names = names  # what a function defined inside another one sees there
        self._is_loop = is_loop
        self._signature = inspect.signature(fn)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self._fn, localns=dict(self._names), include_extras=True)
        except NameError as error:
            raise TypeError(
                f"task {self._task}: an annotation cannot be resolved: {error}"
            ) from error

    @cached_property
    def finalize_parameter(self) -> str | None:
        """The parameter that takes the Finalize record, None for an ordinary task."""
        return next((name for name in self._signature.parameters if self._is_finalize(name)), None)

    def _is_finalize(self, name: str) -> bool:
        return self._hints.get(name) is Finalize

    @cached_property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        return {
            name: parameter
            for name, parameter in self._signature.parameters.items()
            if name != self.finalize_parameter and parameter.kind is not parameter.VAR_KEYWORD
        }

    @cached_property
    def _positional(self) -> list[str]:
        """What cannot be passed by name."""
        return [n for n, p in self._parameters.items() if p.kind is p.POSITIONAL_ONLY]

    @cached_property
    def _takes_extra(self) -> bool:
        return any(p.kind is p.VAR_KEYWORD for p in self._signature.parameters.values())

    @cached_property
    def _whole(self) -> str | None:
        """The only parameter, where it is positional-only: it takes the whole input."""
        match list(self._parameters.values()):
            case [only] if only.kind is only.POSITIONAL_ONLY and not self._takes_extra:
                return only.name
        return None

    @cached_property
    def _lone(self) -> str | None:
        """The parameter to which an input that is not an object binds."""
        required = [p for p in self._parameters.values() if p.default is p.empty]
        candidates = required or list(self._parameters.values())
        return candidates[0].name if len(candidates) == 1 else None

    @cached_property
    def _read_fields(self) -> Callable[[Any, str], dict[str, Any]]:
        decoders = {name: _codec.decoder(self._hints.get(name, Any)) for name in self._parameters}
        required = (name for name, p in self._parameters.items() if p.default is p.empty)
        return _codec.fields(decoders, frozenset(required), f"task {self._task}")

    @cached_property
    def _extra_decoder(self) -> _codec.Decoder | None:
        if not self._takes_extra:
            return None
        name = next(p.name for p in self._signature.parameters.values() if p.kind is p.VAR_KEYWORD)
        return _codec.decoder(self._hints.get(name, Any))

    def check_signature(self) -> None:
        """Refuses at definition what could never be called from JSON."""
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise TypeError(
                    f"task {self._task}: *{parameter.name} cannot be bound: inputs go by name"
                )

    def write_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The arguments of a call as JSON; InvalidInput when they do not fit."""
        bound = dict(zip(self._plain_names, args, strict=False))
        if (
            len(args) > len(self._plain_names)
            or not bound.keys().isdisjoint(kwargs)
            or not self._required <= bound.keys() | kwargs.keys() <= self._plain_set
        ):
            bound = self._bind(args, kwargs)  # out of the ordinary, or wrong
        else:
            bound |= kwargs
        value = bound.get(self._whole) if self._whole is not None else bound
        data = _json.encode(value, f"input of task {self._task}")
        self.read_input(_json.loads(data))
        return data

    @cached_property
    def _plain_names(self) -> tuple[str, ...]:
        """The parameters in order, where all of them may be given by place or by name; else none.

        Inspecting a call in full takes as long as all the rest that is done for it.
        """
        kinds = {p.kind for p in self._signature.parameters.values()}
        is_plain = kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
        return tuple(self._signature.parameters) if is_plain else ()

    @cached_property
    def _plain_set(self) -> frozenset[str]:
        return frozenset(self._plain_names)

    @cached_property
    def _required(self) -> frozenset[str]:
        parameters = self._signature.parameters.values()
        return frozenset(p.name for p in parameters if p.default is p.empty)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidInput(f"input of task {self._task}: {error}") from None
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                bound |= bound.pop(parameter.name, {})
        return bound

    def read_input(self, value: Any) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments from a stored input; InvalidInput on a misfit."""
        try:
            given = self._read(value)
        except Misfit as error:
            raise InvalidInput(f"input of task {self._task}: {error}") from error
        return [given.pop(name) for name in self._positional if name in given], given

    def _read(self, value: Any) -> dict[str, Any]:
        if self._whole is not None:
            return {self._whole: _codec.decoder(self._hints.get(self._whole, Any))(value, "")}
        if self.finalize_parameter is not None and not self._parameters:
            return {}
        if not isinstance(value, dict):
            if value is None and not any(p.default is p.empty for p in self._parameters.values()):
                value = {}
            elif self._lone is not None:
                value = {self._lone: value}
            else:
                raise _codec.misfit("", "an object of its parameters", value)
        if self._extra_decoder is None:
            return self._read_fields(value, "")
        named = {k: v for k, v in value.items() if k in self._parameters}
        extra = {k: self._extra_decoder(v, k) for k, v in value.items() if k not in named}
        return self._read_fields(named, "") | extra

    @cached_property
    def _result(self) -> Any:
        """What the result is declared to be: the return annotation without its verdicts."""
        hint = self._hints.get("return", Any)
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        values: list[Any] = []
        for part in typing.get_args(hint) if is_union else (hint,):
            kind = typing.get_origin(part) or part
            if kind is Spawn:  # finalize may put anything in its place
                return Any
            if kind is Done:
                values += typing.get_args(part) or (Any,)
            elif kind is not Again and not (self._is_loop and part in (None, type(None))):
                values.append(part)
        result = typing.Union[tuple(values)] if values else Any  # noqa: UP007
        return LoopResult[result] if self._is_loop else result  # type: ignore[valid-type]

    @cached_property
    def _read_output(self) -> _codec.Decoder | None:
        return None if self._result is Any else _codec.decoder(self._result)

    def write_output(self, value: Any) -> bytes:
        """What a body returned as JSON; NotSerialisable when it has no form or does not fit."""
        what = f"output of task {self._task}"
        data = _json.encode(value, what)
        if self._read_output is not None:
            try:
                self._read_output(_json.loads(data), "")
            except Misfit as error:
                raise NotSerialisable(f"{what}: {error}") from error
        return data

    def read_output(self, value: Any) -> Any:
        """A stored output as the type the function declares."""
        return value if self._read_output is None else self._read_output(value, "")
