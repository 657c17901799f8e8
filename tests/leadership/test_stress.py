"""Many candidates, killers and stalls; PERDURE_STRESS_SECONDS says for how long."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest

from fix_machines import await_that
from perdure import _calls
from perdure._client_sync import send
from perdure._election import Election
from perdure.errors import Fenced

SECONDS = float(os.environ.get("PERDURE_STRESS_SECONDS", "30"))
CHANNEL = "default"
TTL = 0.5


class Node:
    """A candidate that writes while it believes that it leads, and dawdles now and then."""

    def __init__(self, dsn: str, number: int, stage: Stage) -> None:
        self._chance = random.Random(number)
        self._stage = stage
        self.election = Election(
            dsn,
            name=f"node {number}",
            purpose="sweep",
            ttl=TTL,
            retry=0.1,
            on_change=self._changed,
        )

    def _changed(self, _: str, epoch: int | None) -> None:
        if epoch is not None and self._chance.random() < 0.15:
            time.sleep(self._chance.uniform(0.5, 2) * TTL)  # in the thread that has to confirm

    def play(self) -> None:
        self.election.stand([CHANNEL])
        with psycopg.connect(self._stage.dsn) as conn:
            while self._stage.goes_on:
                epoch = self.election.lead(CHANNEL)
                if epoch is None:
                    time.sleep(0.01)
                    continue
                self._write(conn, epoch)
                if self._chance.random() < 0.01:
                    self.election.withdraw([CHANNEL]).result(5)
                    self.election.stand([CHANNEL])

    def _write(self, conn: psycopg.Connection[Any], epoch: int) -> None:
        if self._chance.random() < 0.1:
            time.sleep(self._chance.uniform(0, 4) * TTL)  # believing all the time, as if paused
        try:
            with conn.transaction():
                send(conn, _calls.guard(CHANNEL, self.election.holder, epoch, "sweep"))
                if self._chance.random() < 0.05:
                    time.sleep(self._chance.uniform(0, 2) * TTL)  # others have to wait for this
                conn.execute(
                    "insert into written (epoch, holder) values (%s, %s)",
                    [epoch, self.election.holder],
                )
        except Fenced:
            self._stage.refused += 1


class Stage:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.refused = 0
        self.sweeps: Counter[str | None] = Counter()  # by why they were skipped
        self._end = time.monotonic() + SECONDS

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self._end


def _kill(stage: Stage) -> None:
    """Ends sessions of holders, or asks them to resign."""
    chance = random.Random(0)
    with psycopg.connect(stage.dsn, autocommit=True) as conn:
        while stage.goes_on:
            time.sleep(chance.uniform(0.1, 0.5))
            if chance.random() < 0.7:
                conn.execute(
                    "select pg_terminate_backend(l.pid) from pg_locks as l"
                    " where l.locktype = 'advisory' and l.pid <> pg_backend_pid() and l.database ="
                    " (select d.oid from pg_database as d where d.datname = current_database())"
                )
            else:
                conn.execute("select perdure.request_resign(%s, 'sweep')", [[CHANNEL]])


def _sweep_once(stage: Stage) -> None:
    """Does the housekeeping without being anybody, as pg_cron would, where nobody leads."""
    while stage.goes_on:
        with suppress(psycopg.errors.AdminShutdown):  # it is killed like the others
            with psycopg.connect(stage.dsn, autocommit=True) as conn:
                while stage.goes_on:
                    conn.execute("select perdure.enqueue('any', delay => '1 ms')")
                    (answer,) = conn.execute(
                        "select skipped from perdure.sweep(%s)", [CHANNEL]
                    ).fetchall()
                    stage.sweeps[answer[0]] += 1
                    time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_g21_epochs_rise_one_holder_has_each_and_late_writes_are_refused(
    db: str, request: pytest.FixtureRequest, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("create table written (n bigserial, epoch bigint, holder uuid)")
    dsns = [db] * 4
    if shutil.which("pgbouncer"):
        dsns += [request.getfixturevalue("pooler").dsn(db)] * 2
    stage = Stage(db)
    nodes = [Node(dsn, number, stage) for number, dsn in enumerate(dsns)]
    others = [_kill, _sweep_once, _sweep_once]
    players = [node.play for node in nodes] + [partial(other, stage) for other in others]
    with ThreadPoolExecutor(len(players)) as threads:
        calls: list[Future[None]] = [threads.submit(player) for player in players]
        for call in calls:
            call.result()
    for node in nodes:
        node.election.close(5)  # not given back where the last kill met it just now
    await_that(lambda: not conn.execute("select from perdure.leaders where is_held").fetchall())

    rows = conn.execute("select epoch, holder from written order by n").fetchall()
    epochs = [epoch for epoch, _ in rows]
    # A guard keeps the next election waiting: numbers are drawn in the order of the commits.
    assert epochs == sorted(epochs)
    assert len(set(rows)) == len(set(epochs)), "two holders of one epoch"
    assert len(set(epochs)) > SECONDS / 5
    assert stage.refused > 0
    assert stage.sweeps["resident leader"] > 0
    print(f"{len(rows)} writes, {len(set(epochs))} epochs, {stage.refused} refused,", stage.sweeps)
