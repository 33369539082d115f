"""Stage `plan`: what one release is made of, before any model is asked.

    treewright plan TREE --work W --head SHA [--base REV] [--pull-requests 2,3]

Reads the taxonomy at one commit by Git objects (nothing of it is executed), refuses a tree that does not
lint, fetches the pinned documents, cuts them into chunks, and splits off the held-out items. The
configuration comes from the same commit, which is the default branch after the merge.
"""

from __future__ import annotations

import bisect
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_runner.stage import Manifest, execute
from lab.config import CONFIG_PATH, RepositoryConfig, load_config
from lab.contracts import canonical, digest, read_json, read_lines, require, write_json, write_lines
from lab.synthesis.flow import KINDS, Flow, FlowError
from lab.synthesis.flow_files import FlowFiles, flow_files
from lab.synthesis.heldout import Split, apart, split
from lab.synthesis.items import Example, HeldOut, Task
from lab.taxonomy import document_limits
from lab.taxonomy.benchmarks import Items as Benchmark
from lab.taxonomy.chunks import Chunk, cut
from lab.taxonomy.diff import diff
from lab.taxonomy.documents import DocumentError, SourceDocument, fetch_documents
from lab.taxonomy.findings import Finding
from lab.taxonomy.leaf import load_leaves
from lab.taxonomy.lint import lint
from lab.taxonomy.model import Kind, Leaf
from lab.taxonomy.pinned import document_findings
from lab.taxonomy.sizes import ESTIMATE, Tokens
from lab.taxonomy.tokenizer import TokenizerError, teacher_tokens
from lab.taxonomy.tree import GitTree, Tree
from lab.untrusted import Refused

SIDE_FILE_LIMIT = 32 * 1024 * 1024
"""Bytes of a benchmark or prompt file in the taxonomy that are read at most."""


class PlanError(RuntimeError):
    """The tree cannot be released; `findings` are the lint errors, if those are why."""

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        self.findings = tuple(findings)
        super().__init__(message)


@dataclass(frozen=True)
class PlanSettings:
    """`head` and `base` are full commits; no base means that every leaf counts as changed."""

    head: str
    base: str | None = None
    pull_requests: tuple[int, ...] = ()


def mirrors_from_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The operator's map from a leaf's clone URL to an internal one. Raises `PlanError`."""
    try:
        return document_limits.mirrors_from_environment(env)
    except DocumentError as error:
        raise PlanError(str(error)) from error


def tokens_from_environment(env: Mapping[str, str]) -> Tokens:
    """How teacher tokens are counted here; see `lab/taxonomy/tokenizer.py`. Raises `PlanError`."""
    try:
        return teacher_tokens(env)
    except TokenizerError as error:
        raise PlanError(str(error)) from None


def resolve(tree: Path, revision: str) -> str:
    """The full commit of a revision in the repository at `tree`. Raises `PlanError`."""
    try:
        with GitTree(tree, revision) as found:
            commit = found.commit
    except Refused as refused:
        raise PlanError(str(refused)) from None
    if not commit:
        raise PlanError(f"{revision!r} in {tree} is a tree without a commit; name a commit.")
    return commit


def run(tree: Path, work: Path, settings: PlanSettings, cache: Path, env: Mapping[str, str]) -> Manifest:
    """Plan the release of `settings.head` into `work/plan`. Raises `PlanError`, `StageError`."""
    mirrors = mirrors_from_environment(env)
    tokens = tokens_from_environment(env)
    head = resolve(tree, settings.head)
    base = resolve(tree, settings.base) if settings.base else None
    fixed = PlanSettings(head, base, tuple(sorted(set(settings.pull_requests))))

    def body(partial: Path) -> None:
        _write(partial, tree, fixed, cache, mirrors, tokens)

    identity: dict[str, Any] = {"head": head, "base": base, "pull_requests": list(fixed.pull_requests)}
    if tokens.counted:
        identity["tokenizer"] = tokens.digest
    return execute("plan", [], work / "plan", identity, body)


def _write(
    outputs: Path,
    repository: Path,
    settings: PlanSettings,
    cache: Path,
    mirrors: Mapping[str, str],
    tokens: Tokens,
) -> None:
    with GitTree(repository, settings.head) as tree:
        config = config_of(tree)
        check_lint(tree, config, tokens=tokens)
        leaves = load_leaves(tree)
        if not leaves:
            raise PlanError(f"There is no leaf in the tree at {settings.head}.")
        changes = _changes(repository, settings.base, tree, leaves)
        documents = {leaf.path: documents_of(leaf, config, cache, mirrors) for leaf in leaves}
        check_documents(tree, config, leaves, documents)
        try:
            flows = flow_files(config, tree)
            for files in flows.values():
                files.build()
        except FlowError as error:
            raise PlanError(f"A flow is not usable:\n{error}") from None
        general = _side_file(tree, config.benchmark.general)
        prompts = _side_file(tree, config.generate.replay_prompts)
    parts = apart(
        {leaf.path: split(leaf, config.generate.heldout_share, config.generate.seed) for leaf in leaves}
    )
    chunks = {
        path: [piece for text in texts for piece in cut(text, tokens)] for path, texts in documents.items()
    }
    entries = [
        _entry(
            leaf,
            changes[leaf.path],
            parts[leaf.path],
            chunks[leaf.path],
            documents[leaf.path],
            config,
            settings,
        )
        for leaf in leaves
    ]
    left_out = [
        {"leaf": path, "what": "held-out items", "reason": part.left_out}
        for path, part in parts.items()
        if part.left_out
    ]
    left_out += [
        {"leaf": leaf.path, "what": "generated rows", "reason": "its documents gave no text"}
        for leaf in leaves
        if leaf.kind == "knowledge" and not chunks[leaf.path]
    ]
    heldout = [item for part in parts.values() for item in part.heldout]
    date = _commit_date(repository, settings.head)
    plan = {
        "version": 1,
        "taxonomy": {
            "head": settings.head,
            "base": settings.base,
            "date": date.isoformat().replace("+00:00", "Z"),
        },
        "config": config.to_json(),
        "pull_requests": list(settings.pull_requests),
        "release": {
            "key": digest([settings.head, settings.base, list(settings.pull_requests)]),
            "tag": f"v{date:%Y.%m.%d}-{settings.head[:7]}",
            "model": config.release.model,
            "dataset": config.release.dataset,
        },
        "leaves": entries,
        "heldout": len(heldout),
        "general": len(general),
        "replay_prompts": len(prompts),
        "left_out": left_out,
    }
    require("plan", plan, "plan.json")
    write_json(outputs / "plan.json", plan)
    write_json(outputs / "flows.json", {kind: files.to_json() for kind, files in flows.items()})
    write_lines(outputs / "leaves.jsonl", (leaf_row(tree, leaf) for leaf in leaves))
    write_lines(
        outputs / "chunks.jsonl",
        ({"leaf": path, **asdict(piece)} for path, pieces in chunks.items() for piece in pieces),
    )
    write_lines(outputs / "heldout.jsonl", (item.to_json() for item in heldout))
    write_lines(outputs / "general.jsonl", general)
    write_lines(outputs / "replay_prompts.jsonl", prompts)


def leaf_row(tree: Tree, leaf: Leaf) -> dict[str, Any]:
    """The leaf with the text of its attribution.txt, which the data set's card carries on (as CC-BY asks)."""
    try:
        attribution = tree.read(f"{leaf.path}/attribution.txt", 1 << 16).decode("utf-8", "replace")
    except Refused:
        attribution = ""
    return {**asdict(leaf), "attribution": attribution}


def config_of(tree: Tree) -> RepositoryConfig:
    """The repository's configuration in this tree; defaults where there is no file. Raises `PlanError`."""
    data = tree.read(CONFIG_PATH, 1 << 18) if CONFIG_PATH in set(tree.paths()) else None
    config, findings = load_config(data)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise PlanError(f"{CONFIG_PATH} is not usable:\n{_told(errors)}", errors)
    return config


def check_lint(
    tree: Tree, config: RepositoryConfig, only: Sequence[str] | None = None, tokens: Tokens = ESTIMATE
) -> None:
    """Refuse a tree with lint errors, naming every one of them: what is generated from was read by one
    validator.
    """
    report = lint(tree, config, only, tokens=tokens)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    if errors:
        raise PlanError(f"The tree does not lint ({len(errors)} errors):\n{_told(errors)}", errors)


def _told(findings: Sequence[Finding]) -> str:
    return "\n".join(f"  {one.file}:{one.line}:{one.column}: {one.message} {one.help}" for one in findings)


def documents_of(
    leaf: Leaf, config: RepositoryConfig, cache: Path, mirrors: Mapping[str, str]
) -> list[SourceDocument]:
    """The leaf's source documents; none for skills. Raises `PlanError` that names the leaf."""
    if leaf.document is None:
        return []
    try:
        return fetch_documents(leaf.document, cache, config.documents, mirrors)
    except DocumentError as error:
        raise PlanError(f"{leaf.path}: its documents could not be fetched: {error}") from error


def check_documents(
    tree: Tree,
    config: RepositoryConfig,
    leaves: Sequence[Leaf],
    documents: Mapping[str, Sequence[SourceDocument]],
) -> None:
    """Refuse leaves that do not fit their documents, where the configuration calls that an error."""
    by_ref = {leaf.document: documents[leaf.path] for leaf in leaves if leaf.document}
    found = document_findings(tree, [leaf.path for leaf in leaves], config, lambda ref: by_ref[ref])
    errors = [one for one in found if one.severity == "error"]
    if errors:
        raise PlanError(f"Leaves do not fit their documents:\n{_told(errors)}", errors)


def _changes(repository: Path, base: str | None, head: Tree, leaves: Sequence[Leaf]) -> dict[str, str]:
    """For each leaf: added, changed, renamed or unchanged. A leaf whose attribution alone changed is
    unchanged.
    """
    if base is None:
        return {leaf.path: "added" for leaf in leaves}
    with GitTree(repository, base) as before:
        found = diff(before, head).leaves
    known = {change.path: change.change for change in found if change.teaches}
    return {leaf.path: str(known.get(leaf.path, "unchanged")) for leaf in leaves}


def _entry(
    leaf: Leaf,
    change: str,
    part: Split,
    chunks: Sequence[Chunk],
    documents: Sequence[SourceDocument],
    config: RepositoryConfig,
    settings: PlanSettings,
) -> dict[str, Any]:
    changed = change != "unchanged"
    return {
        "path": leaf.path,
        "slug": leaf.slug,
        "kind": leaf.kind,
        "changed": changed,
        "change": change,
        "digest": leaf.digest,
        "created_by": leaf.created_by,
        "task_description": leaf.task_description,
        "domain": leaf.domain,
        "few_shot": [asdict(example) for example in part.examples],
        "heldout": len(part.heldout),
        "chunks": len(chunks),
        "documents": [{"path": one.path, "digest": one.digest} for one in documents],
        "rows": config.generate.rows_changed if changed else config.generate.rows_unchanged,
        "pull_requests": list(settings.pull_requests) if changed else [],
    }


def _side_file(tree: Tree, path: str) -> list[Any]:
    """The JSON lines of a file in the taxonomy; none when there is no such file. Raises `PlanError` with
    the line.
    """
    if not path or path not in set(tree.paths()):
        return []
    try:
        data = tree.read(path, SIDE_FILE_LIMIT)
    except Refused as refused:
        raise PlanError(str(refused)) from None
    rows = []
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
                canonical(rows[-1])  # NaN and half a surrogate pair are read, and could not be written
            except (ValueError, RecursionError) as error:
                raise PlanError(f"{path}:{number}:1: not JSON: {error}") from None
    return rows


def _commit_date(repository: Path, commit: str) -> datetime:
    command = ["git", "-C", str(repository), "show", "-s", "--format=%ct", commit]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "GIT_NO_REPLACE_OBJECTS": "1"}
    )
    if done.returncode != 0:
        raise PlanError(f"git show {commit}: {done.stderr.strip()}")
    return datetime.fromtimestamp(int(done.stdout.strip()), UTC)


def flows_in(folder: Path) -> dict[Kind, Flow]:
    """Every kind's flow as the plan in `folder` fixed it."""
    value = read_json(folder / "flows.json")
    return {kind: FlowFiles.from_json(value[kind]).build() for kind in KINDS}


STRANGERS = 24
"""Chunks of other leaves that a leaf's distractors are drawn from."""


def tasks_of(folder: Path) -> list[Task]:
    """The plan in `folder` (`work/plan`), read back as one task for each leaf."""
    plan = read_json(folder / "plan.json", "plan")
    chunks: dict[str, list[Chunk]] = {}
    for row in read_lines(folder / "chunks.jsonl"):
        names = ("id", "document", "heading", "text", "index")
        chunks.setdefault(row["leaf"], []).append(Chunk(**{name: row[name] for name in names}))
    heldout: dict[str, list[HeldOut]] = {}
    # No row may hold an item of another leaf's test either: asked in its words, or 13 of them in a row.
    never = [(folder / "general.jsonl").read_bytes()]
    for row in read_lines(folder / "heldout.jsonl", "heldout"):
        heldout.setdefault(row["leaf"], []).append(HeldOut.from_json(row))
        asked = row["context"] or row["question"]
        never.append(canonical({"id": f"held out of {row['leaf']}", "question": asked}))
    outlines = {row["path"]: row["document_outline"] for row in read_lines(folder / "leaves.jsonl")}
    benchmark = Benchmark(b"\n".join(never))
    every = sorted({piece.id: (path, piece) for path, found in chunks.items() for piece in found}.items())
    return [
        Task(
            leaf=leaf["path"],
            kind=leaf["kind"],
            leaf_digest=leaf["digest"],
            description=leaf["task_description"] or outlines[leaf["path"]] or leaf["domain"],
            examples=tuple(Example(**example) for example in leaf["few_shot"]),
            passages=tuple(chunks.get(leaf["path"], ())),
            heldout=tuple(heldout.get(leaf["path"], ())),
            rows=leaf["rows"],
            commit=plan["taxonomy"]["head"],
            pull_requests=tuple(leaf["pull_requests"]),
            strangers=_strangers(leaf["path"], every) if leaf["kind"] == "knowledge" else (),
            benchmark=benchmark,
        )
        for leaf in plan["leaves"]
    ]


def _strangers(leaf: str, every: Sequence[tuple[str, tuple[str, Chunk]]]) -> tuple[Chunk, ...]:
    """Chunks of other leaves from the leaf's own place on the ring of all chunks (sorted by id) on: one leaf
    more moves few of them, and a plan of a thousand leaves costs no more than a thousand look-ups.
    """
    start = bisect.bisect_left(every, digest(leaf), key=lambda entry: entry[0])
    found = []
    for step in range(len(every)):
        path, piece = every[(start + step) % len(every)][1]
        if path != leaf:
            found.append(piece)
        if len(found) == STRANGERS:
            break
    return tuple(found)
