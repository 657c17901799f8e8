"""An order in three steps, each fed with what the one before returned, with a fan-out inside.

Start `perdure worker pipeline:app --embedded`, then run this.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from perdure import App, Fail, Finalize, Spawn, spawn

app = App()

PRICES = {"tea": 4.0, "cup": 7.5}


@dataclass(frozen=True)
class Order:
    customer: str
    items: list[str]


@app.task(max_attempts=5, retry_delay=0.5)
async def reserve(order: Order, /) -> Order:
    """Fails for good when there is no such thing: trying again would not help."""
    missing = [item for item in order.items if item not in PRICES]
    if missing:
        raise Fail(f"sold out: {', '.join(missing)}")
    return order


@app.task
async def invoice(order: Order, /) -> Spawn[str]:
    """Prices each item in an execution of its own, all at once; `total` then adds them up."""
    prices = [price.call(item=item) for item in order.items]
    return spawn(prices, output=order.customer, finalize=total)


@app.task(timeout=10)
async def price(item: str) -> float:
    return PRICES[item]


@app.task
async def total(given: Finalize) -> str:
    amount = sum(child.output for child in given.children if child.is_completed)
    return f"{given.output} pays {amount:.2f}"


@app.task
async def confirm(text: str, /) -> str:
    return f"{text}, thank you"


order_placed = app.sequence("order_placed", [reserve, invoice, confirm])


async def main() -> None:
    async with app:
        handle = await order_placed.enqueue(Order("Ada", ["tea", "cup"]))
        print(await handle.result(timeout=30))


if __name__ == "__main__":
    asyncio.run(main())
