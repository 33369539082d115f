"""`treewright preview`: what leaves of a checkout would teach, before anything is proposed. The bot is not
needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("preview")(preview)


def preview(
    path: Annotated[Path, typer.Argument(help="The taxonomy's checkout.")] = Path(),
    base: Annotated[
        str, typer.Option(help="Preview the leaves that differ from this revision. Default: every leaf.")
    ] = "",
    leaf: Annotated[str, typer.Option(help="Only the leaf in this folder of the tree.")] = "",
    tokenizer: Annotated[
        Path | None, typer.Option(help="The teacher's tokenizer.json: passages are cut by its tokens.")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Show what the base model answers today and what the teacher would write for each changed leaf."""
    import asyncio
    import json
    import os

    from gpu_runner.plan import PlanError
    from gpu_runner.preview import preview_checkout
    from lab.report import terminal
    from lab.synthesis.endpoints import EndpointError
    from lab.synthesis.engine import StoreError
    from lab.taxonomy.tokenizer import VARIABLE

    if output_format not in {"text", "json"}:
        typer.echo(f"treewright preview: --format is text or json, not {output_format!r}", err=True)
        raise typer.Exit(2)
    try:
        env = {**os.environ, **({VARIABLE: str(tokenizer)} if tokenizer else {})}
        found = asyncio.run(preview_checkout(path, base or None, leaf or None, env))
    except (EndpointError, PlanError, StoreError) as error:
        typer.echo(f"treewright preview: {error}", err=True)
        raise typer.Exit(1 if getattr(error, "findings", ()) else 2) from error
    if output_format == "json":
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(terminal.preview(found.to_json())))
