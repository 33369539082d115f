"""`treewright doctor`: what this machine lacks for its part, and what to do. Exit 0 when nothing, 2
otherwise."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Role(StrEnum):
    contributor = "contributor"
    bot = "bot"
    runner = "runner"


class Format(StrEnum):
    text = "text"
    json = "json"


_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    role: Annotated[Role, typer.Option(help="What this machine is for.")] = Role.contributor,
    output: Annotated[Format, typer.Option("--format", help="`text` or `json`.")] = Format.text,
    settings: Annotated[
        Path | None,
        typer.Option(envvar="TREEWRIGHT_BOT_SETTINGS", help="The bot's settings file, for `--role bot`."),
    ] = None,
) -> None:
    """Check this machine, line by line, and say what to do about each failing line."""
    import os

    from gpu_runner.doctor import context_of, examine, healthy

    if settings is not None:
        os.environ["TREEWRIGHT_BOT_SETTINGS"] = str(settings)
    results = examine(context_of(role.value))
    well = healthy(results)
    if output is Format.json:
        checks = [{"name": r.name, "state": r.state, "found": r.found, "help": r.help} for r in results]
        typer.echo(json.dumps({"ok": well, "role": role.value, "checks": checks}, indent=2))
    else:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=f"Treewright on this machine, as {role.value}")
        for name in ("check", "state", "found", "what to do"):
            table.add_column(name, overflow="fold")
        for result in results:
            state = f"[{_COLOURS[result.state]}]{result.state}[/]"
            table.add_row(result.name, state, escape(result.found), escape(result.help))
        Console().print(table)
    raise typer.Exit(0 if well else 2)
