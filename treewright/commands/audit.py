"""`treewright audit`: hold the bot's audit log against itself and against a checkpoint, or write it out.

Exit 0 when all is well, 1 when a record was edited, removed or moved, 2 when there is no log to read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bot.audit_log import AuditLog

Database = Annotated[
    str, typer.Option(help="SQLAlchemy URL of the bot's database; from TREEWRIGHT_BOT_* when not given.")
]
Settings = Annotated[
    Path | None, typer.Option("--settings", envvar="TREEWRIGHT_BOT_SETTINGS", help="The bot's settings file.")
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="The bot's audit log: who decided and wrote what, as a chain.", no_args_is_help=True
    )
    group.command("verify")(verify)
    group.command("export")(export)
    app.add_typer(group, name="audit")


def verify(
    source: Annotated[
        Path | None,
        typer.Option("--from", exists=True, dir_okay=False, help="An exported file instead of the database."),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="N:sha256:... as the bot logged it: shows whether the end was cut off.")
    ] = "",
    database: Database = "",
    settings: Settings = None,
) -> None:
    """Find every record that was edited, removed or moved, and say which."""
    from bot import chain
    from bot.audit_log import exported

    try:
        against = chain.Checkpoint.parse(checkpoint) if checkpoint else None
    except ValueError as error:
        typer.echo(f"--checkpoint: {error}", err=True)
        raise typer.Exit(2) from None
    records = exported(source) if source is not None else _open(database, settings).records()
    end, problems = chain.verify(records, against)
    for problem in problems:
        typer.echo(f"record {problem.seq}: {problem.kind}: {problem.text}")
    if problems:
        typer.echo(f"{len(problems)} problem(s) in {end.count} records", err=True)
        raise typer.Exit(1)
    typer.echo(f"{end.count} records, every one where and as it was written")
    typer.echo(f"checkpoint {end}")
    if against is None:
        typer.echo("Keep this checkpoint elsewhere: with --checkpoint it shows whether the end was cut off.")


def export(
    out: Annotated[Path | None, typer.Option(help="File to write; standard output when not given.")] = None,
    database: Database = "",
    settings: Settings = None,
) -> None:
    """Write the log as JSON lines; the checkpoint goes to standard error."""
    from bot.audit_log import export as lines

    log = _open(database, settings)
    end = log.checkpoint()
    try:
        if out is None:
            for line in lines(log.records()):
                typer.echo(line)
        else:
            with out.open("x", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines(log.records()))
    except (ValueError, OSError) as error:
        typer.echo(f"treewright audit export: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, ValueError) else 2) from None
    typer.echo(f"checkpoint {end}", err=True)


def _open(database: str, settings: Path | None) -> AuditLog:
    from bot.audit_log import AuditLog
    from bot.settings import memory

    try:
        return AuditLog.reading(database or memory(settings).database_url)
    except (LookupError, ValueError) as error:
        typer.echo(
            f"treewright audit: {error}. Name the database with --database, or the settings with --settings.",
            err=True,
        )
        raise typer.Exit(2) from None
