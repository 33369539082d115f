"""`treewright lint`: every finding of every leaf, with line and column. Exit 0 fine, 1 errors found, 2
wrong usage.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Format(enum.StrEnum):
    """Formats of a report."""

    text = "text"
    json = "json"
    github = "github"
    sarif = "sarif"


def register(app: typer.Typer) -> None:
    @app.command("lint", help="Check the leaves of a taxonomy (a folder, a leaf's folder, or one file).")
    def lint_command(
        path: Annotated[Path, typer.Argument(help="The taxonomy, a folder in it, or one file.")] = Path("."),
        base: str | None = typer.Option(
            None, help="Only what changed since this revision, uncommitted work too."
        ),
        format_: Annotated[Format, typer.Option("--format", help="How to print findings.")] = Format.text,
    ) -> None:
        raise typer.Exit(_run(path, base, format_))


def _run(path: Path, base: str | None, format_: Format) -> int:
    import json
    import os
    import sys

    from lab.config import CONFIG_PATH, load_config
    from lab.taxonomy import render
    from lab.taxonomy.lint import LintReport, lint
    from lab.taxonomy.tree import FolderTree
    from lab.taxonomy.worktree import changed_paths, find_root, merge_base
    from lab.untrusted import Refused
    from treewright import __version__

    if not path.exists():
        typer.echo(f"There is no {path}.", err=True)
        return 2
    root = find_root(path)
    tree = FolderTree(root)
    try:
        data = tree.read(CONFIG_PATH, 1 << 18) if (root / CONFIG_PATH).exists() else None
        config, _ = load_config(data)
        inside = os.path.relpath(os.path.abspath(path), root).replace(os.sep, "/")
        only = None
        if base is not None:
            only = changed_paths(root, merge_base(root, base))
        elif inside != ".":
            only = [each for each in tree.paths() if each == inside or each.startswith(f"{inside}/")]
        report = lint(tree, config, only, strict=base is not None)
    except Refused as refused:
        typer.echo(f"{refused.reason} {refused.hint}", err=True)
        return 2
    if path.is_file():
        kept = tuple(finding for finding in report.findings if finding.file == inside)
        report = LintReport(kept, 1)
    if format_ is Format.json:
        typer.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
    elif format_ is Format.sarif:
        typer.echo(json.dumps(render.sarif(report, __version__), ensure_ascii=False, indent=2))
    elif format_ is Format.github:
        if report.findings:
            typer.echo(render.github(report))
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        typer.echo(render.text(report, _Lines(tree), colour))
    return 0 if report.ok else 1


class _Lines:
    """Source lines by file and number; a file that cannot be shown gives empty lines."""

    def __init__(self, tree: object) -> None:
        self._tree = tree
        self._files: dict[str, list[str]] = {}

    def __call__(self, file: str, line: int) -> str:
        from lab.taxonomy.tree import FolderTree
        from lab.untrusted import Refused

        if file not in self._files and isinstance(self._tree, FolderTree):
            try:
                text = self._tree.read(file, 1 << 20).decode("utf-8", "replace")
            except Refused:
                text = ""
            self._files[file] = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
        lines = self._files.get(file, [])
        return lines[line - 1] if line <= len(lines) else ""
