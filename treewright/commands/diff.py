"""`treewright diff`: which leaves and seeds a change adds, changes, removes or moves. Exit 0, or 2 for
wrong usage.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Format(enum.StrEnum):
    """Formats of a diff."""

    text = "text"
    json = "json"


def register(app: typer.Typer) -> None:
    @app.command("diff", help="Show which leaves and seed examples changed.")
    def diff_command(
        path: Annotated[Path, typer.Argument(help="The taxonomy, or a folder in it.")] = Path("."),
        base: Annotated[
            str | None, typer.Option(help="Compare with this revision (default: the main branch).")
        ] = None,
        head: Annotated[
            str | None, typer.Option(help="Show this revision (default: the working tree).")
        ] = None,
        format_: Annotated[Format, typer.Option("--format", help="How to print the diff.")] = Format.text,
    ) -> None:
        raise typer.Exit(_run(path, base, head, format_))


def _run(path: Path, base: str | None, head: str | None, format_: Format) -> int:
    import json

    from lab.taxonomy import render
    from lab.taxonomy.diff import diff
    from lab.taxonomy.tree import GitTree, Tree
    from lab.taxonomy.worktree import WorkTree, find_root, merge_base, subtree
    from lab.untrusted import Refused

    if not path.exists():
        typer.echo(f"There is no {path}.", err=True)
        return 2
    root = find_root(path)
    try:
        start = merge_base(root, base) if head is None else base or merge_base(root, None)
        before = GitTree(*subtree(root, start))
        after: Tree = WorkTree(root) if head is None else GitTree(*subtree(root, head))
        found = diff(before, after)
    except Refused as refused:
        typer.echo(f"{refused.reason} {refused.hint}", err=True)
        return 2
    if format_ is Format.json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=2))
    else:
        typer.echo(render.changes(found))
    return 0
