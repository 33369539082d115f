"""`treewright lint`: every finding of every leaf, with line and column; `--fix` mends, `--diff` shows how.

Exit 0 fine, 1 errors found (or, with `--diff`, something to mend), 2 wrong usage.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lab.config import RepositoryConfig
    from lab.taxonomy.lint import LintReport
    from lab.taxonomy.tree import FolderTree


class Format(enum.StrEnum):
    """Formats of a report."""

    text = "text"
    json = "json"
    github = "github"
    sarif = "sarif"


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    path: Path
    base: str | None
    format: Format
    fix: bool
    diff: bool
    documents: bool
    tokenizer: Path | None


def register(app: typer.Typer) -> None:
    @app.command("lint", help="Check the leaves of a taxonomy (a folder, a leaf's folder, or one file).")
    def lint_command(
        path: Annotated[Path, typer.Argument(help="The taxonomy, a folder in it, or one file.")] = Path("."),
        base: str | None = typer.Option(
            None, help="Only what changed since this revision, uncommitted work too."
        ),
        format_: Annotated[Format, typer.Option("--format", help="How to print findings.")] = Format.text,
        fix: bool = typer.Option(False, "--fix", help="Mend what can be mended without guessing."),
        diff: bool = typer.Option(False, "--diff", help="Show what --fix would do, and write nothing."),
        documents: bool = typer.Option(
            False, "--documents", help="Fetch the pinned documents, and hold the contexts against them."
        ),
        tokenizer: Annotated[
            Path | None, typer.Option(help="The teacher's tokenizer.json: counts tokens, else estimated.")
        ] = None,
    ) -> None:
        raise typer.Exit(_run(Options(path, base, format_, fix, diff, documents, tokenizer)))


def _run(options: Options) -> int:
    import os

    from lab.config import CONFIG_PATH, load_config
    from lab.taxonomy.document_limits import DocumentError
    from lab.taxonomy.lint import LintReport, lint
    from lab.taxonomy.tokenizer import TokenizerError, teacher_tokens
    from lab.taxonomy.tree import BRANCHES, FolderTree
    from lab.taxonomy.worktree import Checkout, find_root, merge_base
    from lab.untrusted import Refused

    path, base = options.path, options.base
    if options.diff and options.format is not Format.text:
        typer.echo("--diff prints a diff: leave --format out.", err=True)
        return 2
    if not path.exists():
        typer.echo(f"There is no {path}.", err=True)
        return 2
    root = find_root(path)
    tree = FolderTree(root)
    try:
        data = tree.read(CONFIG_PATH, 1 << 18) if (root / CONFIG_PATH).exists() else None
        config, misfits = load_config(data)
        tokens = teacher_tokens(os.environ, options.tokenizer)
        inside = os.path.relpath(os.path.abspath(path), root).replace(os.sep, "/")

        def look() -> LintReport:
            only, looked = None, tree
            if base is not None:
                looked = Checkout(root, merge_base(root, base))
                only = looked.changed
            elif inside != ".":
                only = [*tree.paths(), *tree.links()]
            if only is not None and inside != ".":  # a file is looked at with what lies beside it
                within = inside if path.is_dir() else inside.rpartition("/")[0] or inside
                only = [each for each in only if each == inside or each.startswith(f"{within}/")]
            report = lint(looked, config, only, base is not None, tokens)
            if options.documents:
                report = _with_documents(report, looked, config, only)
            kept = tuple(finding for finding in report.findings if finding.file == inside)
            return LintReport(kept, min(1, report.files)) if path.is_file() else report

        report = look()
        if misfits and not any(finding.file == CONFIG_PATH for finding in report.findings):
            first = misfits[0]  # it is not in the part that was asked for, and still decides what is found
            place = f"{first.file}:{first.line}:{first.column}"
            typer.echo(f"{place}: {first.message} Until it is mended the defaults hold.", err=True)
        if options.fix or options.diff:
            changed = _mend(options, root, tree, report, config)
            if options.diff:
                return 1 if changed else 0
            if changed and path.exists():
                report = look()
    except Refused as refused:
        typer.echo(f"{refused.reason} {refused.hint}", err=True)
        return 2
    except (TokenizerError, DocumentError) as error:
        typer.echo(str(error), err=True)
        return 2
    if not report.files and not report.findings and base is None:
        branches = ", ".join(f"{name}/" for name in BRANCHES)
        typer.echo(f"{path} holds nothing to check: leaves lie in {branches} of a taxonomy.", err=True)
    _show(report, tree, options.format)
    return 0 if report.ok else 1


def _mend(
    options: Options, root: Path, tree: FolderTree, report: LintReport, config: RepositoryConfig
) -> int:
    """Mends the folders that have findings, or shows how; gives the number of files that change. A folder
    with a file that cannot be read stays as it is, and says so.
    """
    from lab.taxonomy.fix import fix_leaf, unified
    from lab.taxonomy.leaf import in_branches
    from lab.taxonomy.worktree import rename_file, replace_file
    from lab.untrusted import Refused

    wanted = {finding.file.rpartition("/")[0] for finding in report.findings if in_branches(finding.file)}
    folders: dict[str, dict[str, bytes]] = {folder: {} for folder in sorted(wanted)}
    for file in tree.paths() if folders else ():
        folder, _, name = file.rpartition("/")
        if folder in folders and name.casefold().endswith((".yaml", ".yml", ".txt", ".md")):
            try:
                folders[folder][file] = tree.read(file, 1 << 24)
            except Refused as refused:
                typer.echo(f"not mended, {refused}", err=True)
                del folders[folder]
    changed = 0
    for files in folders.values():
        fixed = fix_leaf(files, config, strict=options.base is not None)
        before = {new: files[old] for old, new in fixed.renamed}
        touched = [file for file, data in fixed.files.items() if files.get(file) != data]
        changed += len(touched)
        if options.diff:
            typer.echo(unified(files, fixed), nl=False)
            continue
        for old, new in fixed.renamed:
            rename_file(root, old, new)
            typer.echo(f"renamed {old} to {new.rpartition('/')[2]}", err=True)
        for file in touched:
            data = fixed.files[file]
            if data != before.get(file, files.get(file)):
                replace_file(root, file, data)
                typer.echo(f"mended {file}", err=True)
    return changed


def _with_documents(
    report: LintReport, tree: FolderTree, config: RepositoryConfig, only: list[str] | None
) -> LintReport:
    import os

    from gpu_runner.embedded import cache_folder
    from lab.taxonomy.document_limits import DocumentLimits, mirrors_from_environment
    from lab.taxonomy.documents import fetch_documents
    from lab.taxonomy.leaf import leaf_folders
    from lab.taxonomy.lint import LintReport
    from lab.taxonomy.pinned import document_findings

    paths = list(tree.paths())
    near = None if only is None else {file.rpartition("/")[0] for file in only}
    folders = [folder for folder in leaf_folders(paths) if near is None or folder in near]
    cache, mirrors = cache_folder(), mirrors_from_environment(os.environ)
    DocumentLimits.from_environment(os.environ)  # what is wrong with the environment is no leaf's fault
    more = document_findings(
        tree, folders, config, lambda ref: fetch_documents(ref, cache, config.documents, mirrors)
    )
    return LintReport(tuple(sorted({*report.findings, *more})), report.files)


def _show(report: LintReport, tree: FolderTree, format_: Format) -> None:
    import json
    import os
    import sys

    from lab.taxonomy import render
    from treewright import __version__

    if format_ is Format.json:
        typer.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
    elif format_ is Format.sarif:
        told = render.sarif(_in_repository(report, tree.root), __version__)
        typer.echo(json.dumps(told, ensure_ascii=False, indent=2))
    elif format_ is Format.github:
        if report.findings:
            typer.echo(render.github(_in_repository(report, tree.root)))
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        typer.echo(render.text(report, _Lines(tree), colour))


def _in_repository(report: LintReport, root: Path) -> LintReport:
    """GitHub looks for a file from the top of the repository, and a taxonomy may lie in a folder of it."""
    from dataclasses import replace

    place = root.absolute()
    top = next((each for each in (place, *place.parents) if (each / ".git").exists()), place)
    inside = place.relative_to(top)
    findings = (replace(one, file=(inside / one.file).as_posix()) for one in report.findings)
    return replace(report, findings=tuple(findings))


class _Lines:
    """Source lines by file and number; a file that cannot be shown gives empty lines."""

    def __init__(self, tree: FolderTree) -> None:
        self._tree = tree
        self._files: dict[str, list[str]] = {}

    def __call__(self, file: str, line: int) -> str:
        from lab.untrusted import Refused

        if file not in self._files:
            try:
                text = self._tree.read(file, 1 << 20).decode("utf-8", "replace")
            except Refused:
                text = ""
            self._files[file] = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
        lines = self._files.get(file, [])
        return lines[line - 1] if line <= len(lines) else ""
