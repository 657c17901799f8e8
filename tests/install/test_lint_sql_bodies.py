"""The linter of function bodies finds what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from lint_sql_bodies import lint, main

GOOD = """\
-- answer: nothing -> something

create or replace function perdure.answer(p_x perdure.task, p_y perdure.task[]) returns int
language plpgsql
volatile
as $$
declare
  v_sum int := 0;
  v_row perdure.task;
begin
  for v_row in select t.* from perdure.task as t loop
    v_sum := v_sum + 1;
  end loop;
  return v_sum;
end
$$;

comment on function perdure.answer(perdure.task, perdure.task[]) is 'The answer.';
"""


def _findings(
    folder: Path, text: str, name: str = "30_transitions/answer.any-any.sql"
) -> list[str]:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return [f"{finding.line}: {finding.text}" for finding in lint(file)]


def test_a_good_file_passes(tmp_path: Path) -> None:
    assert _findings(tmp_path, GOOD) == []
    assert main([str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("v_sum := v_sum + 1;", "v_sum := v_sum + ;", "6: perdure.answer: syntax error"),
        ("return v_sum;", "return v_sun +;", "6: perdure.answer: syntax error"),
        ("end loop;", "end lop;", "6: perdure.answer: syntax error"),
        ("v_sum := v_sum + 1;", "v_unknown := 1;", "6: perdure.answer: "),
        ("return v_sum;", "RETURN v_sum;", "14: keyword RETURN is not in lower case"),
        ("v_sum int := 0;", "v_sum int := 0; ", "8: space at the end"),
        ("  v_sum int", "\tv_sum int", "8: tab"),
        ("v_sum + 1;", f"v_sum + 1{' + 1' * 25};", "more than 100"),
        ("-- answer: nothing -> something\n\n", "", "1: no header comment"),
        ("create or replace", "create", "1: create without or replace"),
        ("function perdure.answer(p_x", "function perdure.reply(p_x", "not named after it"),
        ("$$;\n\ncomment", "$$;\nbegin;\ncommit;\ncomment", "1: begin or commit"),
        ("$$;\n\ncomment", "$$;\n\nselect 1;\n\ncomment", "1: not one function and its comment"),
        ("$$;\n\ncomment", "$$;\n\\set x 1\n\ncomment", "psql command"),
        ("The answer.';\n", "The answer.';", "no newline at the end"),
    ],
)
def test_a_bad_file_is_found(tmp_path: Path, old: str, new: str, finding: str) -> None:
    assert GOOD.count(old) >= 1
    found = _findings(tmp_path, GOOD.replace(old, new, 1))
    assert any(finding in each for each in found), found
    assert main([str(tmp_path)]) == 1


def test_a_body_in_sql_is_parsed_too(tmp_path: Path) -> None:
    text = """\
-- answer: of the whole world

create or replace function perdure.answer() returns int
language sql
immutable
as $$ selec 42 $$;

comment on function perdure.answer() is 'The answer.';
"""
    assert any("syntax error" in each for each in _findings(tmp_path, text))
