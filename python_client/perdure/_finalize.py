"""What a finalize task gets: its parent's own output and the children, read in pages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from perdure import _calls
from perdure.errors import ExecutionNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from perdure._app import App
    from perdure.records import Child

    _Found: TypeAlias = tuple[Any, list[Child]] | None

PAGE = 1000
_TOGETHER = 16  # parents of one call, as long as none has more children than
_FEW = 100


class Children:
    """A parent's children in the order given; `for` and `async for` read them page by page."""

    def __init__(self, app: App, parent_id: int, generation: int, first: list[Child]) -> None:
        self._app = app
        self._parent_id = parent_id
        self._generation = generation
        self._first = first

    def __iter__(self) -> Iterator[Child]:
        page = self._first
        yield from page
        while len(page) == PAGE:
            page = self._app.sync.children(
                self._parent_id, self._generation, after=page[-1].position, limit=PAGE
            )
            yield from page

    async def __aiter__(self) -> AsyncIterator[Child]:
        page = self._first
        for child in page:
            yield child
        while len(page) == PAGE:
            page = await self._app.children(
                self._parent_id, self._generation, after=page[-1].position, limit=PAGE
            )
            for child in page:
                yield child


class Finalize:
    """Declare a parameter of this type in a finalize task: the worker fills it."""

    def __init__(self, parent_id: int, generation: int, output: Any, children: Children) -> None:
        self.parent_id = parent_id
        self.generation = generation
        self.output = output
        self.children = children

    def all(self) -> list[Child]:
        """All children at once; beyond the first 1,000 it blocks (`async for` does not)."""
        return list(self.children)


class Inputs:
    """Reads what finalizes are given, for those that begin together in one call."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._asked: list[tuple[int, int, asyncio.Future[_Found]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def read(self, given: Any) -> Finalize:
        """The record for a finalize execution's input."""
        parent_id, generation = int(given["parent"]), int(given["generation"])
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Found] = loop.create_future()
        self._asked.append((parent_id, generation, answer))
        if self._reading is None:
            self._reading = loop.create_task(self._read_all())
        found = await answer
        if found is not None and len(found[1]) == _FEW:  # many children are read apart
            (found,) = await self._app.run(_calls.finalize_inputs([parent_id], [generation], PAGE))
        if found is None:
            raise ExecutionNotFound(f"there is no execution {parent_id}")
        output, first = found
        return Finalize(
            parent_id, generation, output, Children(self._app, parent_id, generation, first)
        )

    async def _read_all(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked[:_TOGETHER], self._asked[_TOGETHER:]
                await self._read_some(asked)
        finally:
            self._reading = None

    async def _read_some(self, asked: Sequence[tuple[int, int, asyncio.Future[_Found]]]) -> None:
        parents, generations, answers = zip(*asked, strict=True)
        try:
            found = await self._app.run(_calls.finalize_inputs(parents, generations, _FEW))
        except Exception as error:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for answer, one in zip(answers, found, strict=True):
                if not answer.done():
                    answer.set_result(one)
