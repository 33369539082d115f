"""`treewright bot`: the GitHub App. `run` serves it, `replay` reads a stored delivery without any network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The GitHub App: checks, comments, approvals, releases.", no_args_is_help=True)
    group.command("run")(run)
    group.command("replay")(replay)
    app.add_typer(group, name="bot")


def run(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the bot. Its settings come from TREEWRIGHT_BOT_* in the environment."""
    from bot.settings import SettingsError, load

    try:
        settings = load()
    except SettingsError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    from bot.main import serve

    serve(settings, host, port)


def replay(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A webhook's JSON body.")],
    event: Annotated[str, typer.Option(help="The X-GitHub-Event header of that delivery.")],
) -> None:
    """Say what the bot would read in a delivery: the event, and the commands in it. Nothing is sent."""
    import json
    from dataclasses import asdict

    from bot.commands import parse
    from bot.events import CommentEvent, read

    try:
        body = json.loads(file.read_bytes())
    except ValueError as error:
        typer.echo(f"{file}: not JSON: {error}", err=True)
        raise typer.Exit(2) from None
    found = read(event, body) if isinstance(body, dict) else None
    if found is None:
        typer.echo("nothing for the bot")
        raise typer.Exit
    typer.echo(json.dumps({type(found).__name__: asdict(found)}, indent=2))
    if isinstance(found, CommentEvent):
        for said in parse(found.body):
            typer.echo(f"{type(said).__name__}: {asdict(said)}")
