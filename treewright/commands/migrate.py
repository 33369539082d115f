"""`treewright migrate`: moves leaves of old formats to version 3, keeping comments, order and quoting.

Exit 0 when nothing is left to do by hand, 1 when something is (each thing with its line), 2 wrong usage.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lab.taxonomy.migrate import Migration


class Format(enum.StrEnum):
    """Formats of the answer."""

    text = "text"
    json = "json"


def register(app: typer.Typer) -> None:
    @app.command("migrate", help="Move leaves of old formats to version 3.")
    def migrate_command(
        path: Annotated[Path, typer.Argument(help="The taxonomy, a folder in it, or one file.")] = Path("."),
        diff: bool = typer.Option(False, "--diff", help="Show what would change, and write nothing."),
        format_: Annotated[Format, typer.Option("--format", help="How to print the answer.")] = Format.text,
    ) -> None:
        raise typer.Exit(_run(path, diff, format_))


def _run(path: Path, diff: bool, format_: Format) -> int:
    import json
    import os

    from lab.config import CONFIG_PATH, load_config
    from lab.taxonomy.fix import unified_file
    from lab.taxonomy.leaf import QNA, in_branches
    from lab.taxonomy.migrate import Migration, migrate
    from lab.taxonomy.tree import FolderTree
    from lab.taxonomy.worktree import find_root, replace_file
    from lab.untrusted import Refused

    if not path.exists():
        typer.echo(f"There is no {path}.", err=True)
        return 2
    root = find_root(path)
    tree = FolderTree(root)
    inside = os.path.relpath(os.path.abspath(path), root).replace(os.sep, "/")
    moved: list[Migration] = []
    try:
        data = tree.read(CONFIG_PATH, 1 << 18) if (root / CONFIG_PATH).exists() else None
        config, _ = load_config(data)
        for file in tree.paths():
            wanted = inside == "." or file == inside or file.startswith(f"{inside}/")
            if not (wanted and in_branches(file) and file.endswith(f"/{QNA}")):
                continue
            try:
                old = tree.read(file, config.lint.limits.file_kb * 1024)
            except Refused as refused:  # the others are moved all the same
                moved.append(Migration(file, 1, "blocked", b"", (), str(refused)))
                continue
            found = migrate(file, old, config)
            if found is None:
                continue
            moved.append(found)
            if diff and format_ is Format.text:
                typer.echo("".join(unified_file(file, file, old, found.data)), nl=False)
            elif not diff and found.data != old:
                replace_file(root, file, found.data)
    except Refused as refused:
        typer.echo(f"{refused.reason} {refused.hint}", err=True)
        return 2
    if format_ is Format.json:
        typer.echo(json.dumps([_json(one) for one in moved], ensure_ascii=False, indent=2))
    else:
        for one in moved:
            typer.echo(_text(one), err=diff)
        typer.echo(_total(moved), err=diff)
    return 1 if any(one.left or one.outcome == "blocked" for one in moved) else 0


def _text(one: Migration) -> str:
    from lab.untrusted import printable

    name = printable(one.file)
    if one.outcome == "rewritten":
        lines = [f"{name}: version {one.version} became 3" + (", but needs you:" if one.left else ".")]
    else:
        lines = [f"{name}: version {one.version} stays. {one.reason}"]
    lines += [f"  line {each.line}: {each.message} {each.help}".rstrip() for each in one.left]
    return "\n".join(lines)


def _total(moved: list[Migration]) -> str:
    done = sum(one.outcome == "rewritten" and not one.left for one in moved)
    half = sum(one.outcome == "rewritten" and bool(one.left) for one in moved)
    stay = sum(one.outcome == "blocked" for one in moved)
    return f"{done} moved to version 3, {half} moved and need you, {stay} stay."


def _json(one: Migration) -> dict[str, object]:
    return {
        "file": one.file,
        "version": one.version,
        "outcome": one.outcome,
        "reason": one.reason,
        "left": [finding.to_json() for finding in one.left],
    }
