"""Which database a command talks to, and in which form it answers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from perdure import _dsn, _server
from perdure.errors import CannotConnect, NoDatabase

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from perdure import SyncClient

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Target:
    """The options that every command has."""

    database_url: str | None
    folder: Path
    as_json: bool

    @property
    def named(self) -> str | None:
        """The database that was named by flag or environment."""
        return _dsn.named(self.database_url)

    def find_dsn(self) -> str | None:
        """The named database, else the embedded server that runs in the folder."""
        return self.named if self.named is not None else _server.find_running(self.folder)

    def dsn(self) -> str:
        """The same; NoDatabase where there is none."""
        if (found := self.find_dsn()) is not None:
            return found
        raise NoDatabase(
            f"no database: give --database-url, set DATABASE_URL or PG*, or start a server in"
            f" {self.folder} with `perdure worker --embedded`"
        )

    def client(self) -> SyncClient:
        from perdure import SyncClient

        return SyncClient({}, self.dsn())

    def connect(self) -> psycopg.Connection[Any]:
        """A connection whose schema nobody has looked at."""
        return connect(self.dsn())


def connect(dsn: str) -> psycopg.Connection[Any]:
    """A plain connection; CannotConnect where there is none to be had."""
    import psycopg

    try:
        return psycopg.connect(_dsn.complete(dsn, "perdure"), autocommit=True)
    except psycopg.OperationalError as error:
        raise CannotConnect(f"cannot connect to the database: {error}") from error


_options = (
    click.option(
        "--database-url",
        metavar="URL",
        envvar="PERDURE_DATABASE_URL",
        show_envvar=True,
        help="The database; else DATABASE_URL, else PG*, else the server of the folder.",
    ),
    click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        default=_server.DEFAULT_FOLDER,
        show_default=True,
        envvar="PERDURE_FOLDER",
        show_envvar=True,
        help="Where the embedded server keeps its data.",
    ),
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="PERDURE_JSON",
    show_envvar=True,
    help="Print one JSON document.",
)


def with_target(command: Callable[..., R]) -> Callable[..., R]:
    """Gives a command the common options; it gets them as a Target."""

    @functools.wraps(command)
    def run(*, database_url: str | None, folder: Path, as_json: bool, **options: Any) -> R:
        return command(Target(database_url, folder, as_json), **options)

    for option in reversed((*_options, json_option)):
        run = option(run)
    return run
