"""`treewright sandbox forge|hub`: GitHub's and the Hub's APIs on this machine, loopback only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    sandbox = typer.Typer(
        help="A forge and a hub on this machine: for the demo, tests and self-test.", no_args_is_help=True
    )
    app.add_typer(sandbox, name="sandbox")

    @sandbox.command()
    def forge(
        data: Annotated[Path, typer.Option(help="Folder of the forge's state; made when it is not there.")],
        port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
        local_action: Annotated[
            list[str] | None,
            typer.Option(
                metavar="OWNER/NAME@REF=DIR", help="A folder that stands for an action's repository."
            ),
        ] = None,
        runner_env: Annotated[
            Path | None, typer.Option(help="JSON file {NAME: value}: the environment of workflow runs.")
        ] = None,
        keep_checkouts: Annotated[
            bool, typer.Option("--keep-checkouts", help="Keep the folder of each workflow run.")
        ] = False,
    ) -> None:
        """GitHub's REST API, smart HTTP Git, webhooks, Actions and pages over real bare repositories."""
        try:
            from sandbox.forge.actions import RunnerSettings
            from sandbox.forge.git import GitError
            from sandbox.forge.serve import ForgeSettings, serve
        except ModuleNotFoundError as error:
            typer.echo(f"{error.name} is not installed: pip install 'treewright[sandbox]'", err=True)
            raise typer.Exit(2) from error
        actions: dict[str, Path] = {}
        for item in local_action or []:
            name, mark, folder = item.partition("=")
            if not mark or "@" not in name or not Path(folder).is_dir():
                typer.echo(
                    f"--local-action {item!r}: wanted OWNER/NAME@REF=DIR with a folder that exists.", err=True
                )
                raise typer.Exit(2)
            actions[name] = Path(folder)
        try:
            env = _environment(runner_env)
            runner = RunnerSettings(local_actions=actions, env=env, keep_checkouts=keep_checkouts)
            serve(ForgeSettings(data, port, runner=runner), typer.echo)
        except (OSError, GitError, ValueError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error

    @sandbox.command()
    def hub(
        data: Annotated[Path, typer.Option(help="Folder of the hub's state; made when it is not there.")],
        port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
        forge_issuer: Annotated[
            str | None, typer.Option(help="A forge's OIDC issuer, such as http://127.0.0.1:8000/_oidc.")
        ] = None,
    ) -> None:
        """The Hugging Face Hub's API over real bare repositories with LFS storage."""
        try:
            from sandbox.hub.serve import serve
        except ModuleNotFoundError as error:
            typer.echo(f"{error.name} is not there: pip install 'treewright[sandbox]'", err=True)
            raise typer.Exit(2) from error
        try:
            serve(data, port, forge_issuer, typer.echo)
        except OSError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error


def _environment(path: Path | None) -> dict[str, str]:
    try:
        env = json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError) as error:
        raise ValueError(f"--runner-env {path}: {error}") from error
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise ValueError(f"--runner-env {path}: wanted a JSON object of texts, {{NAME: value}}.")
    return env
