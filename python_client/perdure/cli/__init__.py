"""The command line `perdure`: everything that a person or a script does with an engine.

Wrong input gets one line on stderr and exit code 2; what the engine or the database failed at, 1.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from perdure import errors
from perdure.cli._act import cancel, enqueue, retry, sweep, wake
from perdure.cli._demo import demo
from perdure.cli._lead import leaders, resign, shards, workers
from perdure.cli._look import fsck, get, list_executions, tree, watches
from perdure.cli._schema import migrate, sql, version
from perdure.cli._work import tasks, worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

__all__ = ["main"]

_INTERRUPTED = 130

# What is at fault is not what was asked, but the state that the engine or the connection is in.
_ENGINE = (
    errors.WorkerGone,
    errors.LeaseLost,
    errors.StaleCall,
    errors.StillClosing,
    errors.WatchBusy,
    errors.BrokenInvariant,
    errors.ConnectionLost,
    errors.HotStandby,
)


class _InOrder(click.Group):
    """Lists its commands as they were added: from the schema over work to looking after it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={
        "auto_envvar_prefix": "PERDURE",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    invoke_without_command=True,
)
@click.pass_context
def perdure(ctx: click.Context) -> None:
    """Durable tasks inside PostgreSQL.

    The database is the one named by --database-url, DATABASE_URL or PG*, else the embedded server
    that runs in ./.perdure. Every option has an environment twin: `perdure list --limit` is
    PERDURE_LIST_LIMIT.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (
    *(demo, migrate, sql, worker, tasks, enqueue, get, tree, list_executions),
    *(cancel, wake, retry, sweep, workers, leaders, shards, resign, watches, fsck, version),
):
    perdure.add_command(_command)


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    try:
        return perdure.main(args, prog_name="perdure", standalone_mode=False) or 0
    except click.ClickException as error:
        return _say(_usage(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", _INTERRUPTED)
    except errors.PerdureError as error:
        return _say(str(error), 1 if isinstance(error, _ENGINE) else 2)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(str(error), 2)
    except Exception as error:
        import psycopg

        if isinstance(error, psycopg.Error):
            return _say(*_verdict(error))
        raise


def _say(message: str, code: int) -> int:
    print(f"perdure: {' '.join(message.split())}", file=sys.stderr)
    return code


def _usage(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message} (see {context.command_path} --help)"


_OF_INPUT = ("22", "42501", "3D", "28")  # data, rights, no such database, no such user


def _verdict(error: psycopg.Error) -> tuple[str, int]:
    code = error.sqlstate or ""
    message = error.diag.message_primary or str(error)
    return message, 2 if code.startswith(_OF_INPUT) or _is_about_dsn(error) else 1


def _is_about_dsn(error: psycopg.Error) -> bool:
    return error.sqlstate is None and type(error).__name__ == "ProgrammingError"
