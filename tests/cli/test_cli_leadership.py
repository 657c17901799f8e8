"""`perdure leaders`, `workers`, `shards`, `resign`, for people and with --json."""

from __future__ import annotations

from uuid import uuid4

import pytest

from fix_cli import Run
from fix_server import Connect

pytestmark = pytest.mark.usefixtures("database")


def test_nothing_was_ever_led_nobody_works_nothing_is_sharded(perdure: Run) -> None:
    assert perdure("leaders").out == "no channel has ever been led\n"
    assert perdure("workers").out == "no worker is registered\n"
    assert perdure("shards").out.startswith("no sharded queue")
    assert perdure("leaders", "--json").document == {"leaders": []}
    assert perdure("workers", "--json").document == {"workers": []}
    assert perdure("shards", "--json").document == {"shards": []}


def test_leaders_shows_who_holds_what_and_who_did(perdure: Run, connect: Connect) -> None:
    conn = connect()
    holder = uuid4()
    elect = "select perdure.elect(%s, %s, purpose => %s, name => %s)"
    conn.execute(elect, [["mail"], holder, "sweep", "worker 7"])
    conn.execute(elect, [["nightly \x1b[1m"[:8]], uuid4(), "lock", None])
    conn.execute(elect, [["gone"], holder, "lock", "worker 7"])
    conn.execute("select perdure.resign('{gone}', %s, '{1}')", [holder])
    lines = perdure("leaders").out.splitlines()
    assert lines[0].split() == ["PURPOSE", "CHANNEL", "HOLDER", "MODE", "EPOCH", "SINCE"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["sweep", "mail"],
        ["lock", "gone"],
        ["lock", "nightly"],
    ]
    assert lines[1].split()[2:] == ["worker", "7", "session", "1", "just", "now"]
    assert "nobody" in lines[2]
    assert f"process {conn.info.backend_pid}" in lines[3]
    (only,) = perdure("leaders", "--purpose", "sweep", "--json").document["leaders"]
    assert (only["channel"], only["is_held"], only["epoch"]) == ("mail", True, 1)
    assert str(holder) not in perdure("leaders", "--json").out


def test_resign_asks_the_holder(perdure: Run, connect: Connect) -> None:
    conn = connect()
    conn.execute("listen perdure")
    conn.execute(
        "select perdure.elect('{mail}', gen_random_uuid(), purpose => 'sweep', name => 'w')"
    )
    list(conn.notifies(timeout=5, stop_after=1))
    assert perdure("resign", "mail").out == "asked w to resign (sweep, epoch 1)\n"
    (heard,) = conn.notifies(timeout=5, stop_after=1)
    assert '"resign_please"' in heard.payload
    assert perdure("resign", "mail", "--purpose", "lock").code == 1
    answer = perdure("resign", "nobody's")
    assert (answer.code, answer.out) == (1, "nobody holds nobody's\n")
    document = perdure("resign", "mail", "--json").document
    assert [leader["purpose"] for leader in document["asked"]] == ["sweep"]


def test_resign_refuses_what_is_no_channel(perdure: Run) -> None:
    answer = perdure("resign", "x" * 256)
    assert answer.code in (1, 2)
    assert len((answer.err or answer.out).splitlines()) == 1


def test_workers_shows_health_and_hides_the_dead(perdure: Run, connect: Connect) -> None:
    conn, other, third = connect(), connect(), connect()
    for n, session in enumerate((conn, other, third), start=1):
        session.execute("select perdure.register_worker(%s, '{mail,default}')", [f"w{n}"])
    conn.execute("select perdure.set_worker_health(2, false)")
    conn.execute("select pg_terminate_backend(%s, 60000)", [third.info.backend_pid])
    lines = perdure("workers").out.splitlines()
    assert lines[0].split()[:4] == ["MACHINE", "NAME", "HEALTH", "MODE"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["1", "w1", "healthy", "session"],
        ["2", "w2", "unhealthy", "session"],
    ]
    assert "mail, default" in lines[1]
    lost = perdure("workers", "--lost").out.splitlines()
    assert lost[3].split()[:3] == ["3", "w3", "lost"]
    assert "incarnation" not in perdure("workers", "--json").out


def test_shards_shows_their_owners(perdure: Run, connect: Connect) -> None:
    conn = connect()
    conn.execute("select perdure.shard_queue('ledger', 4)")
    unowned = perdure("shards").out.splitlines()
    assert len(unowned) == 1 + 4
    assert all("nobody" in line for line in unowned[1:])
    conn.execute("select perdure.register_worker('w1', '{ledger}')")
    id_ = conn.execute(
        "select perdure.enqueue('t', queue => 'ledger', shard_key => 'k')"
    ).fetchone()
    assert id_
    shown = perdure("shards", "--queue", "ledger", "--json").document["shards"]
    assert [(shard["number"], shard["name"]) for shard in shown] == [(n, "w1") for n in range(4)]
    assert [shard["next_id"] for shard in shown].count(id_[0]) == 1
    assert perdure("shards", "--queue", "other").out.startswith("no sharded queue")
