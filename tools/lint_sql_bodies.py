"""Lints what sqlfluff leaves alone: the inside of function bodies, and what a file may hold.

Usage: python tools/lint_sql_bodies.py FOLDER…
Prints `file:line: finding` and exits 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pglast import ast, parse_plpgsql, parse_sql
from pglast.parser import ParseError, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 100
FUNCTION_FOLDERS = re.compile(r"(10|25|30|40|45|50|55|57)_")

# What libpg_query cannot look up: arrays of our types, and types outside of two known schemas.
_OUR_ARRAYS = re.compile(r"\bperdure\.\w+\[\]")
_OUR_SCHEMA = re.compile(r"\bperdure\.")

# What PL/pgSQL calls the places of an expression (RawParseMode)
_STATEMENT, _ASSIGNMENTS = 0, (3, 4, 5)


class Finding(NamedTuple):
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class Body(NamedTuple):
    name: str
    language: str
    text: str
    line: int
    statement: str  # the whole `create function`


def lint(path: Path) -> Iterator[Finding]:
    text = path.read_text(encoding="utf-8")
    name = str(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > WIDTH:
            yield Finding(name, number, f"{len(line)} characters, more than {WIDTH}")
        if line != line.rstrip():
            yield Finding(name, number, "space at the end of the line")
        if "\t" in line:
            yield Finding(name, number, "tab")
        if line.startswith("\\"):
            yield Finding(name, number, "psql command")
    if not text.endswith("\n"):
        yield Finding(name, text.count("\n") + 1, "no newline at the end of the file")
    try:
        statements = parse_sql(text)
    except ParseError as error:
        yield Finding(name, _line_of(text, error), f"syntax: {error.args[0]}")
        return
    yield from _lint_shape(path, text, [raw.stmt for raw in statements])
    for body in _bodies(text, statements):
        yield from (Finding(name, body.line + line, what) for line, what in _lint_body(body))


def _lint_shape(path: Path, text: str, statements: list[Any]) -> Iterator[Finding]:
    """A function's file: its header, it alone, its comment; named after it."""
    if any(isinstance(each, ast.TransactionStmt) for each in statements):
        yield Finding(str(path), 1, "begin or commit: the caller decides on the transaction")
    if not text.startswith("-- "):
        yield Finding(str(path), 1, "no header comment")
    if not FUNCTION_FOLDERS.match(path.parent.name):
        return
    kinds = [type(each).__name__ for each in statements]
    if set(kinds) == {"VariableSetStmt"}:
        return  # a setting for the files after it
    if kinds != ["CreateFunctionStmt", "CommentStmt"]:
        yield Finding(str(path), 1, f"not one function and its comment, but {', '.join(kinds)}")
    for each in statements:
        if isinstance(each, ast.CreateFunctionStmt):
            function = _name(each)[-1]
            if path.name.split(".")[0] != function:
                yield Finding(str(path), 1, f"defines {function}, and is not named after it")
            if not each.replace:
                yield Finding(str(path), 1, "create without or replace: upgrades run it again")


def _bodies(text: str, statements: Any) -> Iterator[Body]:
    encoded = text.encode()
    for raw in statements:
        each: Any = raw.stmt
        if isinstance(each, ast.CreateFunctionStmt):
            name, settings = ".".join(_name(each)), each.options
        elif isinstance(each, ast.DoStmt):
            name, settings = "do", each.args
        else:
            continue
        options = {option.defname: option.arg for option in settings or ()}
        if (code := options.get("as")) is None:
            continue  # `return …` and `begin atomic` are plain SQL, parsed with the file
        body = str(code.sval if isinstance(code, ast.String) else code[0].sval)
        language = options.get("language")
        end = raw.stmt_location + raw.stmt_len if raw.stmt_len else len(encoded)
        statement = encoded[raw.stmt_location : end].decode()
        start = text.index(body, len(encoded[: raw.stmt_location].decode()))
        line = text.count("\n", 0, start) + 1
        yield Body(name, language.sval if language else "plpgsql", body, line, statement)


def _name(function: Any) -> list[str]:
    return [part.sval for part in function.funcname]


def _lint_body(body: Body) -> Iterator[tuple[int, str]]:
    if body.language == "plpgsql":
        yield from _lint_plpgsql(body)
    elif body.language == "sql":
        try:
            parse_sql(body.text)
        except ParseError as error:
            yield _line_of(body.text, error) - 1, f"{body.name}: {error.args[0]}"
    yield from _lint_case(body.text)


def _lint_plpgsql(body: Body) -> Iterator[tuple[int, str]]:
    try:
        known = _OUR_SCHEMA.sub("public.", _OUR_ARRAYS.sub("text[]", body.statement))
        tree = parse_plpgsql(known)
    except ParseError as error:
        yield 0, f"{body.name}: {error.args[0]}"
        return
    for expression in _expressions(tree):
        query, mode = expression["query"], expression.get("parseMode", _STATEMENT)
        if mode in _ASSIGNMENTS:
            query = "select " + re.split(r":?=", query, maxsplit=1)[1]
        elif mode != _STATEMENT:
            query = f"select {query}"
        try:
            parse_sql(query)
        except ParseError as error:
            first = query.strip().split("\n")[0]
            yield 0, f"{body.name}: {error.args[0]} in: {first}"


def _expressions(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "PLpgSQL_expr" in tree:
            yield tree["PLpgSQL_expr"]
        tree = list(tree.values())
    if isinstance(tree, list):
        for each in tree:
            yield from _expressions(each)


def _lint_case(text: str) -> Iterator[tuple[int, str]]:
    encoded = text.encode()
    try:
        tokens = scan(text)
    except ParseError as error:
        yield 0, str(error.args[0])
        return
    for token in tokens:
        word = encoded[token.start : token.end + 1].decode(errors="replace")
        if token.kind != "NO_KEYWORD" and word != word.lower():
            yield encoded.count(b"\n", 0, token.start), f"keyword {word} is not in lower case"


def _line_of(text: str, error: ParseError) -> int:
    position = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else 0
    return text.count("\n", 0, position) + 1


def main(folders: list[str]) -> int:
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.sql"))]
    findings = [finding for file in files for finding in lint(file)]
    for finding in findings:
        print(finding)
    print(f"{len(files)} SQL files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
