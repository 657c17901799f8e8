"""The demo's job: index the words of the Python standard library's own source files.

A parent spawns one child per file, each child counts the words of its file, and a finalize merges
the counts into one index. `perdure demo` runs it with two workers and kills one of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perdure import App, Finalize, Spawn, current, spawn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

QUEUE = "perdure_demo"
PARENT = "perdure_demo.index_library"

_WORD = re.compile(r"[a-z]{2,}")
_NOT_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
_MOST_FILES = 1500

app = App()


@dataclass(frozen=True, slots=True)
class Summary:
    """What the finalize tells of the index that it wrote."""

    path: str
    files: int
    words: int
    occurrences: int
    sha256: str
    top: list[tuple[str, int]]


@app.task(name=PARENT, queue=QUEUE)
def index_library(library: str, folder: str) -> Spawn[str]:
    """Spawns a child for each source file; its own output says where the index goes."""
    target = Path(folder) / f"index-{current().execution_id}.txt"
    children = [count_words.call(path=str(path)) for path in source_files(Path(library))]
    return spawn(children, output=str(target), finalize=merge_index)


@app.task(name="perdure_demo.count_words", queue=QUEUE)
def count_words(path: str) -> dict[str, int]:
    """How often each word stands in one file."""
    return words_of(Path(path))


@app.task(name="perdure_demo.merge_index", queue=QUEUE, timeout=60)
async def merge_index(given: Finalize) -> Summary:
    """Merges what the children counted, in pages; running it twice writes the same file."""
    index = Index()
    async for child in given.children:
        if not child.is_completed:
            raise RuntimeError(f"child {child.id} ended {child.status}")
        index.add(child.output)
    return index.write(Path(given.output))


class Index:
    """Words with how often they occur and in how many files."""

    def __init__(self) -> None:
        self._files = 0
        self._occurrences: Counter[str] = Counter()
        self._spread: Counter[str] = Counter()

    def add(self, words: Mapping[str, int]) -> None:
        self._files += 1
        self._occurrences.update(words)
        self._spread.update(words.keys())

    def lines(self) -> Iterable[str]:
        for word in sorted(self._occurrences):
            yield f"{word}\t{self._occurrences[word]}\t{self._spread[word]}\n"

    def content(self) -> bytes:
        """The whole index as text: word, occurrences, files."""
        return "".join(self.lines()).encode()

    def write(self, path: Path) -> Summary:
        """Writes the index, all of it or nothing."""
        content = self.content()
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_bytes(content)
        part.replace(path)
        return Summary(
            path=str(path),
            files=self._files,
            words=len(self._occurrences),
            occurrences=self._occurrences.total(),
            sha256=hashlib.sha256(content).hexdigest(),
            top=sorted(self._occurrences.items(), key=lambda item: (-item[1], item[0]))[:10],
        )


def library_folder() -> Path:
    """Where this Python keeps its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def source_files(library: Path) -> list[Path]:
    """The library's source files without its tests, in a fixed order."""
    found = (
        path
        for path in sorted(library.rglob("*.py"))
        if _NOT_LIBRARY.isdisjoint(path.relative_to(library).parts) and os.access(path, os.R_OK)
    )
    return [path for path in found if path.is_file()][:_MOST_FILES]


def words_of(path: Path) -> dict[str, int]:
    """How often each word stands in a file, whatever its encoding."""
    return dict(Counter(_WORD.findall(path.read_bytes().decode("ascii", "replace").lower())))


def index_without_engine(library: Path) -> bytes:
    """The same index from one plain loop, to compare with."""
    index = Index()
    for path in source_files(library):
        index.add(words_of(path))
    return index.content()
