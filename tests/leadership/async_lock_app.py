"""A program that holds a lock in an event loop until a signal ends it."""

from __future__ import annotations

import asyncio

from perdure import AsyncChannelLock, ChannelLock


async def main() -> None:
    ChannelLock.release_on_signals()
    lock = AsyncChannelLock("news", "", on_lost=lambda epoch: print("lost", epoch))
    async with lock:
        print("acquired", lock.epoch)
        await asyncio.sleep(60)


asyncio.run(main())
