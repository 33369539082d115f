"""`treewright documents`: what a leaf's documents become: files, words, passages, ids. Exit 0, 1 when a
document cannot be used, 2 for wrong usage.

PATH is a leaf (its folder or `qna.yaml`), a folder with leaves, or documents on this machine that are not
pinned yet.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lab.taxonomy.chunks import Chunk
    from lab.taxonomy.documents import SourceDocument
    from lab.taxonomy.sizes import Tokens


class Format(enum.StrEnum):
    """Formats of the report."""

    text = "text"
    json = "json"


def register(app: typer.Typer) -> None:
    @app.command("documents", help="Fetch a leaf's documents and show what they become for the teacher.")
    def documents_command(
        path: Annotated[Path, typer.Argument(help="A leaf, a folder of leaves, or local documents.")],
        words: Annotated[
            int | None,
            typer.Option(min=10, help="The most words of a passage. Default: as the plan cuts them."),
        ] = None,
        tokenizer: Annotated[
            Path | None, typer.Option(help="The teacher's tokenizer.json: passages are cut by its tokens.")
        ] = None,
        show: Annotated[bool, typer.Option("--show", help="Print the passages themselves.")] = False,
        format_: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.text,
    ) -> None:
        raise typer.Exit(_run(path, words, tokenizer, show, format_))


@dataclass(frozen=True)
class _Way:
    """How documents are cut and shown."""

    cut: Callable[[SourceDocument], list[Chunk]]
    tokens: Tokens
    show: bool
    mirrors: Mapping[str, str]


def _run(path: Path, words: int | None, tokenizer: Path | None, show: bool, format_: Format) -> int:
    import json
    import os

    from lab.taxonomy.chunks import chunk, cut
    from lab.taxonomy.document_limits import DocumentError, DocumentLimits, mirrors_from_environment
    from lab.taxonomy.tokenizer import TokenizerError, teacher_tokens
    from lab.untrusted import Refused

    if not path.exists():
        typer.echo(f"There is no {path}.", err=True)
        return 2
    try:
        tokens = teacher_tokens(os.environ, tokenizer)
        DocumentLimits.from_environment(os.environ)
        mirrors = mirrors_from_environment(os.environ)
        way = _Way(lambda one: chunk(one, words) if words else cut(one, tokens), tokens, show, mirrors)
        reports = _leaves(path, way) or [_local(path, way)]
    except (TokenizerError, DocumentError, Refused) as error:
        typer.echo(str(error), err=True)
        return 2
    if format_ is Format.json:
        typer.echo(json.dumps(reports, ensure_ascii=False, indent=2))
    else:
        for report in reports:
            _print(report)
    return 1 if any(report["error"] for report in reports) else 0


def _leaves(path: Path, way: _Way) -> list[dict[str, Any]]:
    """A report for each leaf at or below the path that pins documents; none when there is no leaf."""
    import os

    from lab.config import CONFIG_PATH, load_config
    from lab.taxonomy.leaf import LeafError, load_leaf
    from lab.taxonomy.tree import FolderTree
    from lab.taxonomy.worktree import find_root

    folder = path.parent if path.name == "qna.yaml" else path
    found = sorted(folder.rglob("qna.yaml")) if folder.is_dir() else []
    if not found:
        return []
    root = find_root(folder)
    tree = FolderTree(root)
    data = tree.read(CONFIG_PATH, 1 << 18) if (root / CONFIG_PATH).is_file() else None
    config, _ = load_config(data)
    reports = []
    for file in found:
        inside = os.path.relpath(file.parent.absolute(), root.absolute()).replace(os.sep, "/")
        try:
            leaf = load_leaf(tree, inside)
        except LeafError as error:
            reports.append(_report(inside, error=str(error)))
            continue
        if leaf.document is None:
            if len(found) == 1:
                reports.append(_report(inside, note="A skill has no documents."))
            continue
        reports.append(_pinned(inside, leaf.document, config.documents, way))
    return reports or [_report(str(path), note="No leaf here has documents.")]


def _pinned(leaf: str, ref: Any, policy: Any, way: _Way) -> dict[str, Any]:
    import time

    from gpu_runner.embedded import cache_folder
    from lab.taxonomy.documents import DocumentError, read_documents

    start = time.monotonic()
    try:
        reading = read_documents(ref, cache_folder(), policy, way.mirrors)
    except DocumentError as error:
        return _report(leaf, ref, error=str(error))
    note = "from the cache" if reading.cached else f"fetched in {time.monotonic() - start:.1f} s"
    return _report(leaf, ref, reading.documents, way, note=note, ignored=reading.ignored)


def _local(path: Path, way: _Way) -> dict[str, Any]:
    """Documents that are not in a repository yet, under the same limits."""
    import os

    from lab.config import DocumentPolicy
    from lab.taxonomy.convert import SUPPORTED, kind_of
    from lab.taxonomy.document_limits import DocumentError, DocumentLimits
    from lab.taxonomy.documents import source_documents
    from lab.taxonomy.tree import FolderTree
    from lab.untrusted import Refused

    tree = FolderTree(path if path.is_dir() else path.parent)
    names = tree.paths() if path.is_dir() else [path.name]
    wanted = [name for name in names if kind_of(name) is not None]
    policy = DocumentPolicy()
    try:
        if not wanted:
            raise DocumentError(f"There is no leaf and no document at {path}.", f"Documents are {SUPPORTED}.")
        files = [
            (name, tree.read(name, policy.max_file_kb * 1024)) for name in wanted[: policy.max_files + 1]
        ]
        found = source_documents(files, policy, DocumentLimits.from_environment(os.environ))
    except (DocumentError, Refused) as error:
        return _report(str(path), error=str(error))
    ignored = tuple(name for name in names if kind_of(name) is None)
    return _report(str(path), None, found, way, note="not pinned", ignored=ignored)


def _report(
    source: str,
    ref: Any = None,
    documents: Any = (),
    way: _Way | None = None,
    *,
    note: str = "",
    error: str = "",
    ignored: tuple[str, ...] = (),
) -> dict[str, Any]:
    return {
        "source": source,
        "repo": ref.repo if ref else None,
        "commit": ref.commit if ref else None,
        "patterns": list(ref.patterns) if ref else [],
        "documents": [_row(each, way) for each in documents] if way else [],
        "ignored": list(ignored),
        "note": note,
        "error": error,
    }


def _row(document: SourceDocument, way: _Way) -> dict[str, Any]:
    from lab.taxonomy.sentences import sentences, size

    rows = []
    for each in way.cut(document):
        row: dict[str, Any] = {"id": each.id, "heading": each.heading, "words": size(each.text)}
        row |= {"tokens": way.tokens.count(each.text)} if way.tokens.counted else {}
        rows.append(row | ({"text": each.text} if way.show else {}))
    return {
        "path": document.path,
        "digest": document.digest,
        "words": size(document.text),
        "sentences": len(sentences(document.text)),
        "chunks": rows,
    }


def _print(report: dict[str, Any]) -> None:
    from lab.untrusted import printable

    where = f" {report['repo']} at {report['commit'][:12]}" if report["repo"] else ""
    note = f" ({report['note']})" if report["note"] else ""
    typer.echo(f"{printable(report['source'], 200)}{printable(where, 200)}{note}")
    if report["error"]:
        typer.echo(f"  {report['error']}")
    for document in report["documents"]:
        typer.echo(
            f"  {printable(document['path'], 200)}: {document['words']} words, "
            f"{document['sentences']} sentences, {len(document['chunks'])} passages, "
            f"{document['digest'][:15]}"
        )
        for number, each in enumerate(document["chunks"]):
            heading = printable(each["heading"], 60) or "-"
            tokens = f"{each['tokens']:>5} tokens  " if "tokens" in each else ""
            typer.echo(f"    {number:>4}  {each['id'][7:19]}  {each['words']:>4} words  {tokens}{heading}")
            for line in each.get("text", "").split("\n") if "text" in each else ():
                typer.echo(f"            | {printable(line, 500)}")
    if report["ignored"]:
        names = ", ".join(printable(name, 60) for name in report["ignored"][:5])
        more = f" and {len(report['ignored']) - 5} more" if len(report["ignored"]) > 5 else ""
        typer.echo(f"  not read (no document type): {names}{more}")
