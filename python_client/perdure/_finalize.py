"""What a finalize task gets: its parent's own output and the children, read in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure import _calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from perdure._app import App
    from perdure.records import Child

PAGE = 1000


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


async def load_finalize(app: App, given: Any) -> Finalize:
    """The record for a finalize execution's input."""
    parent_id, generation = int(given["parent"]), int(given["generation"])
    output, first = await app.run(_calls.given_to_finalize(parent_id, generation, PAGE))
    return Finalize(parent_id, generation, output, Children(app, parent_id, generation, first))
