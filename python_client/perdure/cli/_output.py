"""How answers look: one JSON document, or calm tables that fit a terminal and a pipe alike."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES = {
    "ready": "default",
    "running": "cyan",
    "sleeping": "magenta",
    "waiting_for_children": "blue",
    "waiting_for_finalize": "blue",
    "completed": "green",
    "failed": "red",
    "timed_out": "red",
    "finalize_failed": "red",
    "cancelled": "bright_black",
    "crashed": "red",
}
_UNBOUNDED = 10_000  # columns of a pipe
_SHORT_VALUE = 72
_LONGEST_VALUE = 800
_MOST_LINES = 16


def print_json(document: object) -> None:
    """The answer as one JSON document: records as objects, durations as seconds."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
    sys.stdout.write(orjson.dumps(document, default=_plain, option=options).decode())


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def show(*parts: RenderableType) -> None:
    """Prints for a person; into a pipe without a width to keep to, and without padding."""
    console = make_console()
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    lines = capture.get().splitlines()
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))


def make_console() -> Console:
    from rich.console import Console

    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def table(*headers: str, rows: Iterable[Sequence[RenderableType]]) -> Table:
    """Columns under quiet headings, cut rather than wrapped; `#` begins a heading of numbers."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for header in headers:
        name = header.removeprefix("#")
        made.add_column(
            name,
            justify="right" if header.startswith("#") else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        made.add_row(*row)
    return made


def facts(rows: Iterable[tuple[str, RenderableType | None]]) -> Table:
    """Labels and values, one below the other; what is None is left out."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    made.add_column(style="bright_black", no_wrap=True)
    made.add_column(overflow="fold")
    for label, value in rows:
        if value is not None:
            made.add_row(label, value)
    return made


def text(value: object, style: str = "") -> Text:
    """A value as it is, whatever marks of formatting or control characters it has."""
    from rich.text import Text

    shown = "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in str(value))
    return Text(shown, style=style)


def status(value: str) -> Text:
    return text(value, STYLES.get(value, ""))


def value(given: Any) -> Text:
    """A JSON value: on one line when short, indented when not, cut when huge."""
    short = orjson.dumps(given).decode()
    if len(short) <= _SHORT_VALUE:
        return text(short)
    indented = orjson.dumps(given, option=orjson.OPT_INDENT_2).decode()
    if indented.count("\n") < _MOST_LINES and len(indented) <= _LONGEST_VALUE:
        return text(indented)
    if len(short) <= _LONGEST_VALUE:
        return text(short)
    return text(f"{short[:_LONGEST_VALUE]}… ({len(short):,} characters: see --json)")


def seconds(amount: float) -> str:
    """A length of time for people: 12 ms, 3.4 s, 5 min, 2 h, 3 d."""
    for unit, size, below in (
        ("ms", 0.001, 1.0),
        ("s", 1.0, 120.0),
        ("min", 60.0, 7200.0),
        ("h", 3600.0, 172_800.0),
    ):
        if abs(amount) < below:
            number = amount / size
            decimals = 1 if unit == "s" and abs(number) < 10 else 0
            return f"{number:.{decimals}f} {unit}"
    return f"{amount / 86400:.0f} d"


def age(at: datetime | None) -> str:
    """How long ago, or in how long, a moment is."""
    if at is None:
        return ""
    ago = (datetime.now(UTC) - at).total_seconds()
    if abs(ago) < 1:
        return "just now"
    return f"{seconds(ago)} ago" if ago > 0 else f"in {seconds(-ago)}"


def clock(at: datetime | None) -> str | None:
    """A moment in local time with how long ago it is."""
    if at is None:
        return None
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S} ({age(at)})"


def between(started: datetime | None, finished: datetime | None) -> str:
    """How long it ran; for what runs, until now."""
    if started is None:
        return ""
    return seconds(((finished or datetime.now(UTC)) - started).total_seconds())


def counted(progress: dict[str, int]) -> Text:
    """How many have which status, on one line."""
    from rich.text import Text

    parts = [text(f"{number:,} {name}", STYLES.get(name, "")) for name, number in progress.items()]
    return Text(", ").join(parts)
