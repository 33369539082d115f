"""`treewright release`: assemble what is published, and publish exactly that.

treewright release --work WORK [--tag TAG] treewright release --work WORK --publish --key KEY [--dry-run]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def release(
    work: Annotated[Path, typer.Option(help="Work folder that the stages share.")],
    tag: Annotated[str | None, typer.Option(help="Tag of the release; by default date and digest.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish the assembled release to the Hub and GitHub.")
    ] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency key of the dispatch (with --publish).")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --publish: check everything and send nothing.")
    ] = False,
) -> None:
    """Assemble the release, or publish it with --publish. A gate that did not pass makes no release."""
    from gpu_runner.release.facts import RefusedError
    from gpu_runner.release.hub import PublishError
    from gpu_runner.stage import StageError

    try:
        if publish:
            if tag is not None:
                raise typer.BadParameter("the tag is in the lock already", param_hint="--tag")
            if key is None:
                raise typer.BadParameter("publishing needs the dispatch's key", param_hint="--key")
            _publish(work, key, dry_run)
        elif key is not None or dry_run:
            raise typer.BadParameter("--key and --dry-run go with --publish", param_hint="--publish")
        else:
            _assemble(work, tag)
    except RefusedError as refusal:
        typer.echo(f"refused: {refusal}", err=True)
        raise typer.Exit(1) from refusal
    except (PublishError, StageError, OSError, ValueError) as error:
        typer.echo(f"release: {error}", err=True)
        raise typer.Exit(2) from error


def _assemble(work: Path, tag: str | None) -> None:
    from gpu_runner.release.assemble import ReleaseSettings, run
    from gpu_runner.release.lock import LOCK
    from lab.contracts import read_json

    repository = os.environ.get("GITHUB_REPOSITORY", "")
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    folder = work / "release"
    manifest = run(work, folder, ReleaseSettings(tag, repository, server))
    lock = read_json(folder / LOCK, "release_lock")
    again = " (nothing changed)" if manifest.reused else ""
    typer.echo(f"{lock['tag']}: {len(lock['files'])} files in {folder}{again}")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as out:
            out.write((folder / "notes.md").read_text("utf-8") + "\n")


def _publish(work: Path, key: str, dry_run: bool) -> None:
    from gpu_runner.release.publish import publish, settings_from

    publish(work / "release", settings_from(os.environ, key, dry_run), typer.echo)


def register(app: typer.Typer) -> None:
    app.command()(release)
