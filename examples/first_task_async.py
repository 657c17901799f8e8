"""A first task, awaited. Start `perdure worker first_task_async:app --embedded`, then run this."""

from __future__ import annotations

import asyncio

from perdure import App

app = App()


@app.task(max_attempts=3)
async def greet(name: str) -> str:
    """Runs in a worker, at most three times if it fails."""
    return f"Hello, {name}!"


async def main() -> None:
    async with app:
        handle = await greet.enqueue(name="Ada")
        print(await handle.result(timeout=30))


if __name__ == "__main__":
    asyncio.run(main())
