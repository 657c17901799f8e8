"""Which database, when none was named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from psycopg import conninfo

from perdure import _server
from perdure.errors import NoDatabase

_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGSERVICEFILE")
_ALIVE: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


def named(dsn: str | None = None) -> str | None:
    """The given DSN, else DATABASE_URL, else PG*; None where nothing names a database."""
    if dsn is not None:
        return dsn
    if url := os.environ.get("DATABASE_URL"):
        return url
    if any(os.environ.get(name) for name in _LIBPQ):
        return ""  # libpq reads them itself
    return None


def folder() -> Path:
    """Where an embedded server is looked for: PERDURE_FOLDER, else ./.perdure."""
    return Path(os.environ.get("PERDURE_FOLDER") or _server.DEFAULT_FOLDER)


def resolve(dsn: str | None) -> str:
    """The DSN that `named` finds, else that of the embedded server which runs in `folder`."""
    if (found := named(dsn)) is not None:
        return found
    if running := _server.find_running(folder()):
        return running
    raise NoDatabase(
        "no database: give a dsn, set DATABASE_URL or PG*, or start an embedded server",
        hint="`perdure worker --embedded` and `perdure demo` start one in ./.perdure",
    )


def direct(dsn: str | None, given: str | None) -> str | None:
    """The way around a pooler, where one is named: `given`, else PERDURE_DIRECT_URL, else `dsn`."""
    return given or os.environ.get("PERDURE_DIRECT_URL") or dsn


def complete(dsn: str, name: str, **limits: int) -> str:
    """The DSN with what makes a call to a silent server fail within seconds, not hours."""
    given = conninfo.conninfo_to_dict(dsn)
    return conninfo.make_conninfo(**(_ALIVE | {"application_name": name} | limits | given))
