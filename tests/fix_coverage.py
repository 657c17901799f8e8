"""Coverage of the PL/pgSQL statements by the whole run, where plpgsql_check is installed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

# routine → statement → (line, times executed), summed over the databases of the run
Counts = dict[str, dict[str, tuple[int, int]]]

_COUNTS = pytest.StashKey[Counts]()
_counts: Counts = defaultdict(dict)

_QUERY = """
select p.oid::regprocedure::text, s.stmtid::text, s.lineno, coalesce(s.exec_stmts, 0)
from pg_proc as p
join pg_language as l on l.oid = p.prolang
cross join lateral plpgsql_profiler_function_statements_tb(p.oid) as s
where p.pronamespace = 'perdure'::regnamespace and l.lanname = 'plpgsql'
"""


@pytest.fixture(scope="session")
def count_statements() -> Callable[[psycopg.Connection[Any]], None]:
    """Adds what ran in a database to the run's counts; its own start anew."""
    return _count


def _count(conn: psycopg.Connection[Any]) -> None:
    for routine, statement, line, times in conn.execute(_QUERY):
        _, so_far = _counts[routine].get(statement, (line, 0))
        _counts[routine][statement] = line, so_far + times
    # of this database only: another one may be in use at the same time
    conn.execute(
        "select plpgsql_profiler_reset(oid) from pg_proc"
        " where pronamespace = 'perdure'::regnamespace"
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--plpgsql-floor",
        type=float,
        default=None,
        metavar="PERCENT",
        help="fail under this PL/pgSQL statement coverage, and list what was not reached",
    )


def pytest_configure(config: pytest.Config) -> None:
    empty: Counts = {}
    config.stash[_COUNTS] = empty


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # a worker of pytest-xdist: its controller adds up
        output["plpgsql"] = {routine: dict(found) for routine, found in _counts.items()}
        return
    _add(session.config.stash[_COUNTS], _counts)
    floor = session.config.getoption("--plpgsql-floor")
    reached, total = _sum(session.config.stash[_COUNTS])
    if floor is not None and total and 100 * reached < floor * total and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _add(node.config.stash[_COUNTS], getattr(node, "workeroutput", {}).get("plpgsql", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts = config.stash[_COUNTS]
    reached, total = _sum(counts)
    floor = config.getoption("--plpgsql-floor")
    if not total:
        if floor is not None:
            terminalreporter.line("PL/pgSQL coverage: not measured, plpgsql_check is not installed")
        return
    if floor is not None:
        for routine, statements in sorted(counts.items()):
            missed = sorted({line for line, times in statements.values() if not times})
            if missed:
                lines = ", ".join(map(str, missed))
                terminalreporter.line(f"  {routine}: not reached in body line {lines}")
    share = 100 * reached / total
    verdict = f", below the floor of {floor:g} %" if floor is not None and share < floor else ""
    terminalreporter.line(
        f"PL/pgSQL coverage: {share:.1f} % ({reached} of {total} statements){verdict}"
    )


def _add(total: Counts, counts: Counts) -> None:
    for routine, statements in counts.items():
        for statement, (line, times) in statements.items():
            _, so_far = total.setdefault(routine, {}).get(statement, (line, 0))
            total[routine][statement] = line, so_far + times


def _sum(counts: Counts) -> tuple[int, int]:
    every = [times for statements in counts.values() for _, times in statements.values()]
    return sum(times > 0 for times in every), len(every)
