"""`treewright preview`: what leaves of a checkout would teach, before anything is proposed. The bot is not
needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lab.synthesis.preview import LeafPreview, Preview


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
    from lab.synthesis.endpoints import EndpointError
    from lab.taxonomy.tokenizer import VARIABLE

    if output_format not in {"text", "json"}:
        typer.echo(f"treewright preview: --format is text or json, not {output_format!r}", err=True)
        raise typer.Exit(2)
    try:
        env = {**os.environ, **({VARIABLE: str(tokenizer)} if tokenizer else {})}
        found = asyncio.run(preview_checkout(path, base or None, leaf or None, env))
    except (EndpointError, PlanError) as error:
        typer.echo(f"treewright preview: {error}", err=True)
        raise typer.Exit(1 if getattr(error, "findings", ()) else 2) from error
    if output_format == "json":
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        _print(found)


def _print(found: Preview) -> None:
    from rich.console import Console

    from lab.synthesis.preview import RULE

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for leaf in found.leaves:
        _print_leaf(console.print, leaf)
    if not found.leaves:
        console.print("No leaf differs from the base.")
        return
    console.print(f"\nTeacher {found.teacher}, judge {found.judge}, base model {found.base}")
    console.print(RULE)
    console.print(f"Digest {found.digest}")


def _print_leaf(say: object, leaf: LeafPreview) -> None:
    from collections import Counter
    from collections.abc import Callable
    from typing import cast

    out = cast(Callable[[str], None], say)
    out(f"\n{leaf.leaf} ({leaf.kind}, {leaf.seconds:.0f} s)")
    right = sum(answer.correct for answer in leaf.base)
    out(f"  The base model answers {right} of {len(leaf.base)} seed questions correctly today:")
    for answer in leaf.base:
        out(f"    {'right' if answer.correct else 'wrong'}  {answer.question}\n           {answer.answered}")
    out(f"  {len(leaf.samples)} of {leaf.requested} rows were kept:")
    for sample in leaf.samples:
        grade = "    " if sample.grade is None else f"{sample.grade:.2f}"
        out(f"    {grade}   {sample.question}\n           {sample.answer}")
    for reason, count in sorted(Counter(one.reason for one in leaf.rejected).items()):
        example = next(one.text for one in leaf.rejected if one.reason == reason)
        out(f"    rejected {count}: {reason}, such as {example[:120]}")
