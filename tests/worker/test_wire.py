"""The wire over which a worker exchanges: what comes in pieces, what fails, what is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import psycopg
import pytest

from fix_app import eventually
from perdure._calls import RawCall
from perdure._wire import Wire

Conn = psycopg.Connection[Any]


@pytest.fixture
async def connection(db: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    connection = await psycopg.AsyncConnection.connect(db, autocommit=True)
    yield connection
    await connection.close()


@pytest.fixture
async def wire(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[Wire]:
    wire = Wire(connection)
    yield wire
    wire.close()


def call(statement: str, *params: bytes | None) -> RawCall[bytes | None]:
    def first(row: Sequence[bytes | None]) -> bytes | None:
        return row[0]

    return RawCall(statement, params, first)


async def ask(wire: Wire, statement: str, *params: bytes | None) -> bytes | None:
    answer = await wire.send(call(statement, *params))
    return answer.get_value(0, 0)


ECHO = "select $1::text"
HOLD = "select pg_advisory_lock(1)"


@pytest.fixture
def lock(conn: Conn) -> Callable[[], None]:
    """Has HOLD wait until it is called."""

    def unlock() -> None:
        conn.execute("select pg_advisory_unlock(1)")

    conn.execute(HOLD)
    return unlock


async def test_a_statement_is_prepared_once_and_runs_unprepared_too(
    wire: Wire, connection: psycopg.AsyncConnection[Any]
) -> None:
    assert await ask(wire, ECHO, b"plain") == b"plain"
    await wire.prepare(ECHO)
    await wire.prepare(ECHO)
    assert [await ask(wire, ECHO, text) for text in (b"a", None, b"")] == [b"a", None, b""]
    async with wire.aside() as psycopgs:
        cursor = await psycopgs.execute("select count(*) from pg_prepared_statements")
        assert await cursor.fetchone() == (1,)
        psycopgs.prepare_threshold = None  # as behind a pooler
    await wire.prepare("select 2")
    assert await ask(wire, "select 2") == b"2"
    async with wire.aside() as psycopgs:
        cursor = await psycopgs.execute("select count(*) from pg_prepared_statements")
        assert await cursor.fetchone() == (1,)


async def test_what_is_larger_than_any_buffer_goes_both_ways(wire: Wire) -> None:
    text = b"x" * 20_000_000
    await wire.prepare(ECHO)
    assert await ask(wire, ECHO, text) == text
    assert await ask(wire, ECHO, b"small") == b"small"


async def test_an_error_leaves_the_wire_as_it_was(wire: Wire) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero"):
        await ask(wire, "select 1 / $1::int", b"0")
    with pytest.raises(psycopg.errors.UndefinedTable):
        await wire.prepare("select * from nowhere")
    assert await ask(wire, ECHO, b"on") == b"on"


async def test_calls_are_answered_in_their_order_each_by_itself(
    wire: Wire, lock: Callable[[], None], conn: Conn
) -> None:
    await wire.prepare(ECHO)
    held = wire.send(call(HOLD))
    one = wire.send(call(ECHO, b"one"))
    failing = wire.send(call("select 1 / $1::int", b"0"))
    large = wire.send(call(ECHO, b"x" * 20_000_000))
    last = wire.send(call("select txid_current_if_assigned() is null"))
    waits = (
        "select from pg_locks as l join pg_database as d on d.oid = l.database"
        " where d.datname = current_database() and l.locktype = 'advisory' and not l.granted"
    )
    await eventually(lambda: conn.execute(waits).fetchone() is not None)
    assert not any(answer.done() for answer in (held, one, failing, large, last))
    lock()
    await held
    assert (await one).get_value(0, 0) == b"one"
    with pytest.raises(psycopg.errors.DivisionByZero):
        await failing
    assert len((await large).get_value(0, 0) or b"") == 20_000_000
    assert (await last).get_value(0, 0) == b"t"  # no transaction is left open


async def test_several_that_nobody_waits_for_are_cancelled_one_after_the_other(
    wire: Wire, lock: Callable[[], None]
) -> None:
    for _ in range(3):
        wire.send(call(HOLD)).cancel()
    async with wire.aside() as connection:
        cursor = await connection.execute("select 1")
        assert await cursor.fetchone() == (1,)
    assert await ask(wire, ECHO, b"next") == b"next"


async def test_whoever_gives_up_leaves_the_wire_to_the_next_one(
    wire: Wire, lock: Callable[[], None]
) -> None:
    asking = asyncio.create_task(ask(wire, HOLD))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with wire.aside() as connection:  # the server was told, or it would wait for the lock
        cursor = await connection.execute("select 1")
        assert await cursor.fetchone() == (1,)
    assert await ask(wire, ECHO, b"next") == b"next"


async def test_a_socket_that_is_lost_while_sending_is_watched_no_more(
    wire: Wire, connection: psycopg.AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any) -> None:
        connection.pgconn.finish()  # as libpq does where it can neither send nor receive
        raise psycopg.OperationalError("sending failed")

    monkeypatch.setattr(wire, "_pgconn", Losing(connection, send_query_params=lose))
    with pytest.raises(psycopg.OperationalError, match="sending failed"):
        wire.send(call(ECHO, b"x"))
    assert wire._socket == -1


async def test_a_call_whose_rest_cannot_be_sent_fails(
    wire: Wire, connection: psycopg.AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise psycopg.OperationalError("flushing failed")

    monkeypatch.setattr(wire, "_pgconn", Losing(connection, flush=fail))
    with pytest.raises(psycopg.OperationalError, match="flushing failed"):
        await wire.send(call(ECHO, b"x"))
    assert (wire._socket, connection.closed) == (-1, True)


class Losing:
    """A connection of libpq some of whose functions were replaced."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], **replaced: Any) -> None:
        self._pgconn = connection.pgconn
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pgconn, name)


@pytest.mark.parametrize("is_asking", [False, True])
async def test_a_server_that_hangs_up_ends_the_call_and_nothing_is_watched_any_more(
    wire: Wire,
    connection: psycopg.AsyncConnection[Any],
    lock: Callable[[], None],
    conn: Conn,
    is_asking: bool,
) -> None:
    answers = [wire.send(call(HOLD)), wire.send(call(ECHO, b"x"))] if is_asking else []
    conn.execute("select pg_terminate_backend(%s, 60000)", [connection.info.backend_pid])
    for answer in answers:
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            await answer
    await eventually(lambda: connection.closed)
    assert wire._socket == -1, "else the loop would turn for ever"
    with pytest.raises(psycopg.OperationalError):
        wire.send(call(ECHO, b"late"))


async def test_a_wire_that_is_closed_leaves_nobody_waiting(
    wire: Wire, lock: Callable[[], None]
) -> None:
    answer = wire.send(call(HOLD))
    wire.close()
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await answer
