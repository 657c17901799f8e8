"""Each code of class QD has a class, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from perdure import errors
from perdure.errors import PerdureError, by_sqlstate, from_code, from_psycopg
from perdure.records import Outcome, StoredError

SQL = Path(__file__).resolve().parents[2] / "sql"
PYTHON_ONLY = {"QD030", "QD031", "QD032", "QD033"}


def test_every_code_that_sql_raises_has_a_class() -> None:
    texts = (path.read_text(encoding="utf-8") for path in SQL.glob("*/*.sql"))
    raised = {code for text in texts for code in re.findall(r"'(QD\d{3})'", text)}
    assert raised <= by_sqlstate().keys()
    assert by_sqlstate().keys() - raised <= PYTHON_ONLY | {"QD008", "QD040"}


def test_every_class_says_what_happened() -> None:
    for kind in by_sqlstate().values():
        assert issubclass(kind, PerdureError)
        assert kind.__doc__


def test_an_error_of_the_engine_becomes_its_class(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select perdure.cancel(77)")
    error = from_psycopg(caught.value)
    assert isinstance(error, errors.ExecutionNotFound)
    assert error.sqlstate == "QD001"
    assert "77" in error.message


def test_other_errors_stay_what_they_are(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select 1 / 0")
    assert from_psycopg(caught.value) is None


def test_a_code_of_a_later_release_is_kept() -> None:
    error = from_code("QD099", "something new", "upgrade")
    assert type(error) is PerdureError
    assert error.sqlstate == "QD099"
    assert str(error) == "something new (upgrade)"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("failed", errors.ExecutionFailed),
        ("timed_out", errors.ExecutionTimedOut),
        ("cancelled", errors.ExecutionCancelled),
        ("finalize_failed", errors.FinalizeFailed),
    ],
)
def test_an_end_without_result_has_an_error_of_its_kind(status: Any, kind: type) -> None:
    error = errors.ExecutionFailed.of(Outcome(7, status, None, StoredError("x", "why")))
    assert type(error) is kind
    assert str(error) == f"execution 7 ended {status}: why"
