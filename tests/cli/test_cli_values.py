from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from perdure.cli import _output as out
from perdure.cli._values import duration, key_for, moment, moment_or_duration, names


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("2.5", 2.5),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1d", 86_400.0),
        ("-5s", -5.0),
    ],
)
def test_a_duration_is_seconds_or_numbers_with_units(text: str, seconds: float) -> None:
    assert duration(text) == seconds
    assert moment_or_duration(text) == seconds
    assert key_for(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5 m", "1e3", "nan", "5w", "1h30", "٣s", "--5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    for read in (duration, moment_or_duration, key_for):
        with pytest.raises(click.BadParameter):
            read(text)


def test_a_time_without_a_zone_is_local() -> None:
    assert moment("2030-01-31T18:00:00+02:00") == datetime(2030, 1, 31, 16, tzinfo=UTC)
    assert moment("2030-01-31T18:00") == datetime(2030, 1, 31, 18).astimezone()
    assert moment_or_duration("2030-01-31") == moment("2030-01-31T00:00")
    with pytest.raises(click.BadParameter, match="not a time"):
        moment("tomorrow")


def test_names_are_separated_by_commas() -> None:
    assert names("a, b") == ["a", "b"]
    with pytest.raises(click.BadParameter, match="empty name"):
        names("a,,b")


def test_lengths_of_time_are_short_words() -> None:
    lengths = [0.0123, 3.44, 45, 300, 7300, 200_000]
    assert [out.seconds(length) for length in lengths] == [
        *("12 ms", "3.4 s", "45 s", "5 min", "2 h", "2 d"),
    ]
    now = datetime.now(UTC)
    assert out.age(now) == "just now"
    assert out.age(now - timedelta(minutes=10)) == "10 min ago"
    assert out.age(now + timedelta(hours=5)) == "in 5 h"


def test_control_characters_are_shown_not_obeyed() -> None:
    assert out.text("a\x1b[31mb\nc").plain == "a\\x1b[31mb\nc"


def test_long_values_are_cut() -> None:
    assert out.value({"a": 1}).plain == '{"a":1}'
    assert out.value({"a": "x" * 80}).plain.startswith('{\n  "a"')
    assert out.value(list(range(100))).plain.startswith("[0,1,")
    assert out.value("x" * 5000).plain.endswith("… (5,002 characters: see --json)")
