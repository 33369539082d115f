"""`treewright diff`: which leaves and seeds a change adds, changes, removes or moves, and what that costs.

Exit 0, or 2 for wrong usage.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lab.taxonomy.cost import Cost
    from lab.taxonomy.diff import TreeDiff
    from lab.taxonomy.tree import Tree


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
        cost: bool = typer.Option(False, "--cost", help="Say what generating the changed leaves costs."),
        rates: Annotated[
            Path | None, typer.Option(help="An earlier run's work folder, or a JSON file: gives minutes.")
        ] = None,
        tokenizer: Annotated[
            Path | None, typer.Option(help="The teacher's tokenizer.json: counts tokens, else estimated.")
        ] = None,
        format_: Annotated[Format, typer.Option("--format", help="How to print the diff.")] = Format.text,
    ) -> None:
        cost = cost or rates is not None or tokenizer is not None
        raise typer.Exit(_run(path, base, head, cost, rates, tokenizer, format_))


def _run(
    path: Path,
    base: str | None,
    head: str | None,
    cost: bool,
    rates: Path | None,
    tokenizer: Path | None,
    format_: Format,
) -> int:
    import json
    import os

    from lab.taxonomy import diff_text
    from lab.taxonomy.diff import diff
    from lab.taxonomy.tree import GitTree
    from lab.taxonomy.worktree import WorkTree, find_root, merge_base, subtree
    from lab.untrusted import Refused

    if not path.exists():
        typer.echo(f"There is no {path}.", err=True)
        return 2
    root = find_root(path)
    try:
        start = merge_base(root, base) if head is None else base or merge_base(root, None, head)
        before = GitTree(*subtree(root, start))
        after: Tree = WorkTree(root, start) if head is None else GitTree(*subtree(root, head))
        folder = path if path.is_dir() else path.parent
        found = _within(os.path.relpath(os.path.abspath(folder), root), diff(before, after))
        price = _price(found, after, rates, tokenizer) if cost else None
    except (Refused, ValueError) as error:
        typer.echo(str(error), err=True)
        return 2
    if format_ is Format.json:
        told = found.to_json() | ({"cost": price.to_json()} if price is not None else {})
        typer.echo(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        typer.echo(diff_text.changes(found))
        if price is not None:
            from lab.taxonomy.cost import text

            typer.echo(text(price))
    return 0


def _within(part: str, found: TreeDiff) -> TreeDiff:
    """The changes in a folder of the tree; a leaf that moved out of it is one."""
    from dataclasses import replace

    if part == ".":
        return found

    def inside(path: str | None) -> bool:
        return path is not None and f"{path}/".startswith(f"{part}/")

    leaves = (leaf for leaf in found.leaves if inside(leaf.path) or inside(leaf.old_path))
    return replace(found, leaves=tuple(leaves), paths=tuple(path for path in found.paths if inside(path)))


def _price(found: TreeDiff, head: Tree, rates: Path | None, tokenizer: Path | None) -> Cost:
    import os

    from lab.config import CONFIG_PATH, load_config
    from lab.taxonomy.cost import Rates, cost, read_rates
    from lab.taxonomy.tokenizer import teacher_tokens
    from lab.untrusted import Refused

    try:
        data = head.read(CONFIG_PATH, 1 << 18)
    except Refused:
        data = None
    config, _ = load_config(data)
    recorded = read_rates(rates) if rates is not None else Rates()
    return cost(found, head, config, recorded, teacher_tokens(os.environ, tokenizer))
