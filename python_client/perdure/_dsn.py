"""Which database, when none was named."""

from __future__ import annotations

import os
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


def resolve(dsn: str | None) -> str:
    """The given DSN, else DATABASE_URL, else PG*, else the embedded server in ./.perdure."""
    if dsn is not None:
        return dsn
    if url := os.environ.get("DATABASE_URL"):
        return url
    if any(os.environ.get(name) for name in _LIBPQ):
        return ""  # libpq reads them itself
    if running := _server.find_running():
        return running
    raise NoDatabase(
        "no database: give a dsn, set DATABASE_URL or PG*, or start an embedded server",
        hint="`perdure worker --embedded` and `perdure demo` start one in ./.perdure",
    )


def complete(dsn: str, name: str) -> str:
    """The DSN with what makes a call to a silent server fail within seconds, not hours."""
    given = conninfo.conninfo_to_dict(dsn)
    return conninfo.make_conninfo(**(_ALIVE | {"application_name": name} | given))
