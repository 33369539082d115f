"""Fetches the documents that a knowledge leaf pins, from a hostile URL, and makes Markdown of them.

`fetch_documents` is the door: checks of `lab/untrusted.py`, the cache (`document_cache.py`), a commit's
trees and the wanted blobs without a checkout (`fetch.py`), types and limits (here), Markdown (`convert.py`).
Nothing of the repository is executed: no filters, hooks, links, submodules or LFS downloads. `treewright
documents LEAF` shows what comes out. What was fetched is cached by repository, commit and patterns as it
stood in Git, conversions by content, so the second time neither network nor converter is needed.

`mirrors` maps a leaf's URL to an internal one (an operator's setting, `TREEWRIGHT_GIT_MIRRORS`); only that
may be http or a path, and no contributor reaches it.
"""

from __future__ import annotations

import difflib
import os
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.canonical import digest
from lab.config import DocumentPolicy
from lab.taxonomy.convert import (
    CONVERTERS,
    KIND_NAMES,
    SUPPORTED,
    Budget,
    Converter,
    Kind,
    kind_of,
    to_markdown,
)
from lab.taxonomy.document_cache import DocumentCache
from lab.taxonomy.document_limits import DocumentError, DocumentLimits, setting
from lab.taxonomy.fetch import Fetcher, is_public, pinned_address
from lab.taxonomy.model import DocumentRef
from lab.taxonomy.sentences import size
from lab.taxonomy.tree import GitTree, TooLarge
from lab.untrusted import Refused, clone_url, commit_id, glob_pattern, matches, may_lead, printable

__all__ = [
    "DocumentError",
    "DocumentLimits",
    "Reading",
    "SourceDocument",
    "fetch_documents",
    "is_public",
    "pinned_address",
    "read_documents",
    "source_documents",
]
_DEEPEST = 1024  # characters of a path; a deeper tree is somebody's trap
_NEAR = 5000  # entries that are looked at for names near a pattern


@dataclass(frozen=True)
class SourceDocument:
    """A document of the pinned commit as Markdown; `digest` is of its text."""

    path: str
    text: str
    digest: str


@dataclass(frozen=True)
class Reading:
    """`documents` by path; `ignored` are paths that match and are of no type that is read; `cached` means
    that no network was used.
    """

    documents: tuple[SourceDocument, ...]
    ignored: tuple[str, ...]
    cached: bool


def fetch_documents(
    ref: DocumentRef, cache: Path, policy: DocumentPolicy, mirrors: Mapping[str, str] | None = None
) -> list[SourceDocument]:
    """The documents that match the leaf's patterns, sorted by path. Raises `DocumentError`."""
    return list(read_documents(ref, cache, policy, mirrors).documents)


def read_documents(
    ref: DocumentRef,
    cache: Path,
    policy: DocumentPolicy,
    mirrors: Mapping[str, str] | None = None,
    limits: DocumentLimits | None = None,
    converters: Mapping[Kind, Converter] = CONVERTERS,
) -> Reading:
    """As `fetch_documents`, with what was ignored. `limits` default to the environment's. Raises
    `DocumentError`.
    """
    limits = limits or DocumentLimits.from_environment(os.environ)
    try:
        target = (mirrors or {}).get(ref.repo) or (mirrors or {}).get(ref.repo.rstrip("/"))
        url = target or clone_url(ref.repo, policy.hosts)
        commit = commit_id(ref.commit)
        patterns = tuple(glob_pattern(pattern) for pattern in ref.patterns)
    except Refused as refused:
        raise DocumentError(refused.reason, refused.hint) from None
    if not patterns:
        raise DocumentError("The leaf names no patterns.", "Add one such as `guides/*.md`.")
    store = DocumentCache(cache / "documents", limits.cache_mb << 20)
    key = digest([ref.repo, commit, sorted(patterns)])
    files, cached = store.read(key), True
    if files is None:
        with store.filling(key, policy.seconds):
            files = store.read(key)  # another process may have filled it meanwhile
            if files is None:
                files, cached = (
                    _fetch(store, (ref.repo, url), commit, patterns, policy, limits, target is None),
                    False,
                )
                store.write(key, files)
    ignored = tuple(path for path, _ in files if kind_of(path) is None)
    readable = [(path, data) for path, data in files if kind_of(path) is not None]
    return Reading(tuple(source_documents(readable, policy, limits, store, converters)), ignored, cached)


def source_documents(
    files: Sequence[tuple[str, bytes]],
    policy: DocumentPolicy,
    limits: DocumentLimits,
    store: DocumentCache | None = None,
    converters: Mapping[Kind, Converter] = CONVERTERS,
) -> list[SourceDocument]:
    """Markdown of (path, bytes), under today's limits: a cached entry may come from wider ones."""
    _check_kinds([path for path, _ in files])
    _check_sizes([(path, len(data)) for path, data in files], policy, limits)
    budget = Budget(time.monotonic() + limits.convert_seconds, limits)
    documents, words = [], 0
    for path, data in files:
        text = to_markdown(path, data, budget, store, converters)
        words += size(text)
        if words > limits.words:
            raise DocumentError(
                f"The documents have more than {limits.words:,} words (counted up to `{printable(path)}`).",
                f"Narrow the patterns, or ask the operator to raise {setting('words')}.",
            )
        documents.append(SourceDocument(path, text, digest(text)))
    return documents


def _fetch(
    store: DocumentCache,
    address: tuple[str, str],
    commit: str,
    patterns: tuple[str, ...],
    policy: DocumentPolicy,
    limits: DocumentLimits,
    pinned: bool,
) -> list[tuple[str, bytes]]:
    """(path, bytes) of what matches, as it stands in Git; nothing of what is of no type that is read.
    `address` is the repository's as people know it, and as it is fetched.
    """
    with store.workplace() as work:
        git = Fetcher(work / "git", address[1], policy, pinned, address[0])
        git.fetch(commit)
        try:
            with GitTree(git.folder, commit) as tree:
                found, links = _listing(tree, patterns, limits, git.deadline)
                _check_patterns(patterns, found, links, tree)
                readable = sorted(path for path in found if kind_of(path) is not None)
                if not readable:
                    names = ", ".join(f"`{printable(path, 60)}`" for path in sorted(found)[:3])
                    raise DocumentError(f"None of {names} is a document that is read.", f"Use {SUPPORTED}.")
                _check_kinds(readable)
                _check_count(len(readable), policy)
                git.blobs(sorted({found[path] for path in readable}))
            with GitTree(git.folder, commit) as tree:  # anew: its process may not know the second pack
                files = [(path, _bytes(tree, path, policy)) for path in readable]
        except Refused as refused:
            raise DocumentError(refused.reason, refused.hint) from None
        except ValueError:
            raise DocumentError(
                "A folder of the pinned commit is damaged.", "Run `git fsck` in the document repository."
            ) from None
        files += [(path, b"") for path in sorted(found) if kind_of(path) is None][: policy.max_files]
        return files


def _bytes(tree: GitTree, path: str, policy: DocumentPolicy) -> bytes:
    try:
        return tree.read(path, policy.max_file_kb * 1024)
    except TooLarge as error:
        raise _too_large(path, error.size, policy) from None


def _listing(
    tree: GitTree, patterns: tuple[str, ...], limits: DocumentLimits, deadline: float
) -> tuple[dict[str, str], list[str]]:
    """Regular files that match, with their ids, and links that do. Folders that no pattern can lead into are
    not opened, and a tree that holds itself many times (a "Git bomb") ends at the limit of entries.
    """
    found: dict[str, str] = {}
    links: list[str] = []
    waiting = [("", tree.root)]
    looked = 0
    while waiting:
        prefix, oid = waiting.pop()
        entries = tree.folder(oid)
        looked += len(entries) + 1
        if looked > limits.entries or time.monotonic() > deadline:
            raise DocumentError(
                f"The patterns lead through more than {limits.entries:,} files and folders.",
                "Write patterns that begin with a folder and have no `**`, or ask the operator to raise "
                f"{setting('entries')}.",
            )
        for entry in entries:
            path = prefix + entry.name
            told = unicodedata.normalize("NFC", path)
            if entry.mode == "40000":
                if len(path) < _DEEPEST and any(may_lead(pattern, told) for pattern in patterns):
                    waiting.append((f"{path}/", entry.oid))
            elif any(_matches(pattern, told) for pattern in patterns):
                if entry.mode.startswith("100"):
                    found[path] = entry.oid
                else:
                    links.append(path)
    return found, sorted(links)


def _matches(pattern: str, path: str) -> bool:
    """Names compare by what people see: a Mac writes an accent as a character of its own."""
    return matches(unicodedata.normalize("NFC", pattern), unicodedata.normalize("NFC", path))


def _check_patterns(
    patterns: tuple[str, ...], found: Mapping[str, str], links: Sequence[str], tree: GitTree
) -> None:
    for pattern in patterns:
        if any(_matches(pattern, path) for path in found):
            continue
        linked = next((path for path in links if _matches(pattern, path)), None)
        if linked is not None:
            raise DocumentError(
                f"`{printable(linked)}` is a link or a submodule; those are never followed.",
                "Name the file that it points to.",
            )
        names = ", ".join(f"`{printable(path, 60)}`" for path in _near(tree, pattern))
        raise DocumentError(
            f"The pattern `{printable(pattern)}` matches no file of the pinned commit.",
            f"Near it: {names}." if names else "That commit has no documents of a type that is read.",
        )


def _near(tree: GitTree, pattern: str) -> list[str]:
    """Three readable files whose paths are most like the pattern, of the first thousands."""
    waiting = [("", tree.root)]
    names: list[str] = []
    looked = 0
    for prefix, oid in waiting:  # grows while it is read: breadth first
        entries = tree.folder(oid)
        looked += len(entries) + 1
        if looked > _NEAR:
            break
        for entry in entries:
            if entry.mode == "40000" and len(prefix) < _DEEPEST:
                waiting.append((f"{prefix}{entry.name}/", entry.oid))
            elif entry.mode.startswith("100") and kind_of(entry.name) is not None:
                names.append(prefix + entry.name)
    wanted = difflib.SequenceMatcher(b=pattern[:200].casefold())

    def unlike(name: str) -> tuple[float, str]:
        wanted.set_seq1(name.casefold())
        return -wanted.ratio(), name

    return sorted(names[:1000], key=unlike)[:3]


def _check_kinds(paths: Sequence[str]) -> None:
    kinds: dict[Kind, str] = {}
    for path in paths:
        kind = kind_of(path)
        if kind is not None:
            kinds.setdefault(kind, path)
    if len(kinds) > 1:
        named = " and ".join(
            f"{KIND_NAMES[kind]} (`{printable(path, 60)}`)" for kind, path in sorted(kinds.items())
        )
        raise DocumentError(
            f"The patterns match {named}; a leaf's documents are of one type.",
            "Narrow the patterns to one type, such as `guides/*.md`.",
        )


def _check_count(count: int, policy: DocumentPolicy) -> None:
    if count > policy.max_files:
        raise DocumentError(
            f"The patterns match {count} documents; at most {policy.max_files} are read.",
            "Narrow the patterns, or ask a maintainer to raise documents.max_files.",
        )


def _check_sizes(sizes: Sequence[tuple[str, int]], policy: DocumentPolicy, limits: DocumentLimits) -> None:
    _check_count(len(sizes), policy)
    for path, found in sizes:
        if found > policy.max_file_kb * 1024:
            raise _too_large(path, found, policy)
    total = sum(found for _, found in sizes)
    if total > limits.total_mb << 20:
        raise DocumentError(
            f"The documents have {-(-total // (1 << 20))} MiB together; at most {limits.total_mb} are read.",
            f"Narrow the patterns, or ask the operator to raise {setting('total_mb')}.",
        )


def _too_large(path: str, found: int, policy: DocumentPolicy) -> DocumentError:
    return DocumentError(
        f"`{printable(path)}` has {-(-found // 1024):,} KiB; at most {policy.max_file_kb:,} KiB are read.",
        "Split the document, or ask a maintainer to raise documents.max_file_kb.",
    )
