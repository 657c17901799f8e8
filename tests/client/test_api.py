"""The public surface: what is exported, how it is typed, and that the blocking twin is current."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import perdure
import unasync
from perdure import App, Client, SyncClient, errors, records

TYPED = """
from __future__ import annotations
from perdure import App, Done, Finalize, Spawn, done, spawn

app = App()

@app.task(queue="mail", max_attempts=5, timeout=30)
async def send_email(to: str, subject: str = "hi") -> str:
    return to

@app.task
def double(n: int) -> int:
    return n * 2

@app.task
def merge(finalize: Finalize) -> int:
    return sum(child.output for child in finalize.children)

@app.task
def parent(n: int) -> Spawn[None]:
    return spawn([double.call(1), send_email], finalize=merge)

@app.loop(max_iterations=3)
async def poll(url: str) -> Done[int] | None:
    return done(1)

async def main() -> None:
    reveal_type(await (await send_email.enqueue(to="a")).result())
    reveal_type(app.sync.enqueue(double.call(3), key="k", delay=5).result())
    reveal_type(await (await app.enqueue(poll.call("u"))).result())
    reveal_type(double(3))
    double.call("three")
    await app.enqueue(double.call(3), dealy=5)
"""


def test_what_is_exported_is_there() -> None:
    assert sorted(perdure.__all__) == perdure.__all__
    for name in perdure.__all__:
        assert hasattr(perdure, name)


def test_what_is_exported_is_documented() -> None:
    for name in perdure.__all__:
        assert inspect.getdoc(getattr(perdure, name)), name
    for kind in (*vars(errors).values(), *vars(records).values(), App, Client):
        if inspect.isclass(kind) and kind.__module__.startswith("perdure"):
            assert kind.__doc__, kind


def test_records_are_frozen_and_slotted() -> None:
    for kind in vars(records).values():
        if inspect.isclass(kind) and kind.__module__ == "perdure.records":
            assert getattr(kind, "__dataclass_params__").frozen, kind  # noqa: B009
            assert "__slots__" in vars(kind), kind


def test_the_blocking_client_is_what_the_tool_makes_of_the_awaiting_one() -> None:
    assert unasync.TARGET.read_text(encoding="utf-8") == unasync.generate()


def test_both_clients_have_the_same_methods() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert names(Client) == names(SyncClient)


def test_nothing_happens_at_import() -> None:
    script = (
        "import sys, threading, signal, asyncio; before = signal.getsignal(signal.SIGTERM);"
        "import perdure; assert threading.active_count() == 1;"
        "assert signal.getsignal(signal.SIGTERM) is before;"
        "assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_dataclasses_need_no_pydantic() -> None:
    script = """
import sys
sys.modules["pydantic"] = None
from dataclasses import dataclass
from perdure import App

@dataclass
class Order:
    id: int

app = App()

@app.task
def ship(order: Order) -> Order:
    return order

assert ship.call(Order(1)).input == b'{"order":{"id":1}}'
assert ship.binding.read_output({"id": 1}) == Order(1)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_wrong_arguments_fail_in_the_editor(tmp_path: Path) -> None:
    script = tmp_path / "typed.py"
    script.write_text(TYPED)
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(script)],
        env={"MYPYPATH": str(root / "python_client"), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = [line.split(": ", 1)[1] for line in run.stdout.splitlines()]
    told = [line for line in lines if "Revealed" in line or line.startswith("error:")]
    assert told[:4] == [
        'note: Revealed type is "str"',
        'note: Revealed type is "int"',
        'note: Revealed type is "perdure.records.LoopResult[int]"',
        'note: Revealed type is "int"',
    ]
    assert 'expected "int"' in told[4]
    assert 'Unexpected keyword argument "dealy"' in told[5]
