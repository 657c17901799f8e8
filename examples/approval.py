"""A payment that waits for a person. Start `perdure worker approval:app --embedded`, then run this.

Nothing runs while it waits, for a minute or for a month; any client, or psql, can wake it.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from perdure import App, Finalize, Spawn, spawn

app = App()


@app.sleeping(timeout=timedelta(days=7))
def approval(payment: str) -> bool:
    """Answered by `wake`; its body never runs."""
    raise NotImplementedError


@app.task
async def pay(payment: str, amount: float) -> Spawn[float]:
    wait = approval.call(payment=payment).options(key=payment)
    return spawn([wait], output=amount, finalize=settle)


@app.task
async def settle(given: Finalize) -> str:
    (answer,) = given.children
    if not answer.is_completed:
        return "nobody answered in time"
    return f"paid {given.output:.2f}" if answer.output else "declined"


async def main() -> None:
    async with app:
        handle = await pay.enqueue(payment="invoice-7", amount=99.5)
        status = await handle.status()
        while status != "waiting_for_children":
            await asyncio.sleep(0.1)
            status = await handle.status()
        print("waiting for an answer")
        await app.wake(approval, "invoice-7", True)
        print(await handle.result(timeout=30))


if __name__ == "__main__":
    asyncio.run(main())
