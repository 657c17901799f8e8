"""What can be typed after an option: durations, moments, JSON, lists, an app."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from perdure import App

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_DURATION = re.compile(rf"[+-]?(?:{_PART.pattern})+", re.ASCII)
_SECONDS = re.compile(r"[+-]?\d+(?:\.\d+)?", re.ASCII)


def duration(text: str) -> float:
    """Seconds, or numbers with units: 30s, 5m, 1h30m, 500ms."""
    if (found := _seconds(text)) is None:
        raise click.BadParameter(f"{text!r} is not a duration such as 30s, 5m, 1h30m or 2.5")
    return found


def moment(text: str) -> datetime:
    """A point in time in ISO 8601; without a zone it is local time."""
    if (found := _time(text)) is None:
        raise click.BadParameter(f"{text!r} is not a time such as 2030-01-31T18:00")
    return found


def moment_or_duration(text: str) -> datetime | float:
    """A point in time, or a duration from now."""
    for read in (_seconds, _time):  # digits alone are seconds
        if (found := read(text)) is not None:
            return found
    raise click.BadParameter(f"{text!r} is neither a time nor a duration such as 2h")


def key_for(text: str) -> str | float:
    """`live`, `ever`, or a duration."""
    if text in ("live", "ever"):
        return text
    if (found := _seconds(text)) is None:
        raise click.BadParameter(f"{text!r} is not live, ever or a duration such as 2h")
    return found


def names(text: str) -> list[str]:
    """Names, separated by commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise click.BadParameter(f"{text!r} has an empty name")
    return found


def json_text(text: str) -> str:
    """JSON, kept as it was typed; `-` reads it from standard input."""
    _parsed(text := sys.stdin.read() if text == "-" else text)
    return text


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    found = _parsed(text)
    if not isinstance(found, dict):
        raise click.BadParameter(f"{_shortened(text)} is not a JSON object")
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{_shortened(text)} is not JSON: {error}") from error


def _seconds(text: str) -> float | None:
    if _SECONDS.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return -total if text.startswith("-") else total


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def load_app(place: str) -> App:
    """The app at `module:name`; a module alone means its `app`."""
    from importlib import import_module

    from perdure import App

    module_name, _, name = place.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*(:\w+(\.\w+)*)?", place):
        raise click.UsageError(f"{place!r} is not of the form module:app")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: object = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise click.UsageError(f"cannot import {module_name}: {error}") from error
        raise click.UsageError(f"there is no module {error.name!r} here") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise click.UsageError(f"cannot import {module_name}: {reason}") from error
    for part in (name or "app").split("."):
        if not hasattr(found, part):
            raise click.UsageError(f"module {module_name!r} has no {name or 'app'!r}")
        found = getattr(found, part)
    if not isinstance(found, App):
        kind = type(found).__name__
        raise click.UsageError(f"{module_name}:{name or 'app'} is a {kind}, not a perdure.App")
    return found
