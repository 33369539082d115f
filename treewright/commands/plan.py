"""`treewright plan`: what a release is made of, read from the taxonomy's Git."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("plan")(plan)


def plan(
    tree: Annotated[
        Path, typer.Argument(help="The taxonomy's repository: a checkout or a bare one.")
    ] = Path(),
    work: Annotated[Path, typer.Option(help="Work folder of the release.")] = Path("work"),
    head: Annotated[str, typer.Option(help="Commit to release.")] = "HEAD",
    base: Annotated[
        str, typer.Option(help="Commit before it; leaves that differ are the changed ones. Default: all.")
    ] = "",
    pull_requests: Annotated[str, typer.Option(help="Their numbers, such as 2,3.")] = "",
    tokenizer: Annotated[
        Path | None, typer.Option(help="The teacher's tokenizer.json: documents are cut by its tokens.")
    ] = None,
) -> None:
    """Read the taxonomy at one commit, fetch its documents and split off the held-out items."""
    import os

    from gpu_runner.embedded import cache_folder
    from gpu_runner.plan import PlanError, PlanSettings, run
    from gpu_runner.stage import StageError
    from lab.contracts import read_json
    from lab.taxonomy.tokenizer import VARIABLE

    try:
        numbers = tuple(int(part) for part in pull_requests.replace("#", "").split(",") if part.strip())
        if any(number < 1 for number in numbers):
            raise ValueError
    except ValueError:
        typer.echo(
            f"treewright plan: --pull-requests takes numbers such as 2,3, not {pull_requests!r}", err=True
        )
        raise typer.Exit(2) from None
    env = {**os.environ, **({VARIABLE: str(tokenizer)} if tokenizer else {})}
    try:
        manifest = run(tree, work, PlanSettings(head, base or None, numbers), cache_folder(), env)
    except (PlanError, StageError) as error:
        typer.echo(f"treewright plan: {error}", err=True)
        raise typer.Exit(1 if getattr(error, "findings", ()) else 2) from error
    except OSError as error:  # a full disk, a folder that is not ours
        typer.echo(f"treewright plan: {error} (work folder: {work}); run again when that is mended", err=True)
        raise typer.Exit(2) from error
    value = read_json(work / "plan" / "plan.json", "plan")
    changed = [leaf for leaf in value["leaves"] if leaf["changed"]]
    done = "planned before" if manifest.reused else "planned"
    typer.echo(
        f"{done}: {len(value['leaves'])} leaves ({len(changed)} changed), {value['heldout']} held-out items, "
        f"release {value['release']['tag']}"
    )
    for leaf in changed:
        typer.echo(f"  {leaf['change']} {leaf['path']}: {leaf['chunks']} chunks, {leaf['heldout']} held out")
    for entry in value["left_out"]:
        typer.echo(f"  left out: {entry['what']} of {entry['leaf']}: {entry['reason']}")
