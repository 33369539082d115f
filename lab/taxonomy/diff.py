"""What a change does to the taxonomy: leaves and seeds, not lines; unchanged folders are never opened.

The predecessor's unit was the file (a one-word fix regenerated a whole leaf), and removed or renamed leaves
were not reported at all. Here a leaf that moved is one that lost its old path and has most of its content
at a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lab.taxonomy.canonical import digest
from lab.taxonomy.leaf import ATTRIBUTION, QNA, build, in_branches, read_document
from lab.taxonomy.model import Leaf, Seed
from lab.taxonomy.tree import GitTree, Tree
from lab.untrusted import YamlNode

_LIMIT = 1 << 20
_PAIRS = 2_500  # comparing words is quadratic; larger rewrites count as added and removed
_ALIKE = 0.5  # a moved leaf kept at least this share of its seeds; Git's own default for renames


@dataclass(frozen=True)
class LeafChange:
    """`path` is the leaf's folder in head (in base, when it was removed); counts are of seed examples."""

    path: str
    change: Literal["added", "changed", "removed", "renamed"]
    old_path: str | None
    seeds_added: int
    seeds_changed: int
    seeds_removed: int
    document_changed: bool
    attribution_changed: bool


@dataclass(frozen=True)
class TreeDiff:
    """Changed leaves sorted by path, and every changed file path of the whole tree."""

    leaves: tuple[LeafChange, ...]
    paths: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"leaves": [asdict(leaf) for leaf in self.leaves], "paths": list(self.paths)}


def diff(base: Tree, head: Tree) -> TreeDiff:
    """Compares two trees. A leaf that cannot be read counts as one without seeds; lint says why."""
    changes = _changes(base, head)
    folders = sorted({path.rpartition("/")[0] for path in changes if _of_leaf(path)})
    found: list[LeafChange] = []
    added: dict[str, Leaf] = {}
    removed: dict[str, Leaf] = {}
    for folder in folders:
        before, after = changes.get(f"{folder}/{QNA}", (None, None))
        attribution = f"{folder}/{ATTRIBUTION}" in changes
        if before is None and after is None:
            if f"{folder}/{QNA}" in set(head.paths()):
                found.append(LeafChange(folder, "changed", None, 0, 0, 0, False, attribution))
        elif before is None:
            added[folder] = _read(head, folder)
        elif after is None:
            removed[folder] = _read(base, folder)
        else:
            found.append(_compare(_read(base, folder), _read(head, folder), "changed", None, attribution))
    found += _moved(added, removed, changes)
    return TreeDiff(tuple(sorted(found, key=lambda change: change.path)), tuple(sorted(changes)))


def _of_leaf(path: str) -> bool:
    return in_branches(path) and path.rpartition("/")[2] in (QNA, ATTRIBUTION)


def _changes(base: Tree, head: Tree) -> dict[str, tuple[str | None, str | None]]:
    """Path -> (blob in base, blob in head) of everything that differs."""
    if isinstance(base, GitTree) and isinstance(head, GitTree):
        changes: dict[str, tuple[str | None, str | None]] = {}
        _walk(base, head, base.root, head.root, "", changes)
        return changes
    left, right = _blobs(base), _blobs(head)
    return {
        path: (left.get(path), right.get(path))
        for path in left.keys() | right.keys()
        if left.get(path) != right.get(path)
    }


def _walk(
    base: GitTree,
    head: GitTree,
    left: str | None,
    right: str | None,
    prefix: str,
    changes: dict[str, tuple[str | None, str | None]],
) -> None:
    """Only folders whose tree ids differ are opened."""
    if left == right:
        return
    before = {entry.name: entry for entry in base.folder(left)} if left else {}
    after = {entry.name: entry for entry in head.folder(right)} if right else {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        path = prefix + name
        old_folder = old.oid if old is not None and old.mode == "40000" else None
        new_folder = new.oid if new is not None and new.mode == "40000" else None
        if old_folder or new_folder:
            _walk(base, head, old_folder, new_folder, f"{path}/", changes)
        old_file = old.oid if old is not None and old.mode.startswith("100") else None
        new_file = new.oid if new is not None and new.mode.startswith("100") else None
        if old_file != new_file:
            changes[path] = (old_file, new_file)


def _blobs(tree: Tree) -> Mapping[str, str]:
    blobs = getattr(tree, "blobs", None)
    if blobs is not None:
        known: Mapping[str, str] = blobs()
        return known
    return {path: digest(tree.read(path, 1 << 30).hex()) for path in tree.paths()}


def _read(tree: Tree, folder: str) -> Leaf:
    root = read_document(tree, f"{folder}/{QNA}", _LIMIT).root
    return build(folder, root if root is not None else YamlNode("scalar", 1, 1, type="null"))


def _moved(
    added: dict[str, Leaf],
    removed: dict[str, Leaf],
    changes: Mapping[str, tuple[str | None, str | None]],
) -> list[LeafChange]:
    """Pairs added with removed leaves by content, the most alike first; what is left was added or removed."""
    pairs = [
        (_alike(old, new), new_path, old_path)
        for new_path, new in added.items()
        for old_path, old in removed.items()
    ]
    found: list[LeafChange] = []
    new_left, old_left = dict(added), dict(removed)
    for share, new_path, old_path in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if share >= _ALIKE and new_path in new_left and old_path in old_left:
            old, new = old_left.pop(old_path), new_left.pop(new_path)
            before = changes.get(f"{old_path}/{ATTRIBUTION}", (None, None))[0]
            after = changes.get(f"{new_path}/{ATTRIBUTION}", (None, None))[1]
            found.append(_compare(old, new, "renamed", old_path, before != after))
    empty = replace(next(iter([*added.values(), *removed.values()]), None) or _NONE, seeds=(), document=None)
    for path, leaf in new_left.items():
        found.append(
            _compare(replace(empty, path=path), leaf, "added", None, f"{path}/{ATTRIBUTION}" in changes)
        )
    for path, leaf in old_left.items():
        gone = _compare(leaf, replace(empty, path=path), "removed", None, f"{path}/{ATTRIBUTION}" in changes)
        found.append(gone)
    return found


_NONE = build("knowledge/none", YamlNode("scalar", 1, 1, type="null"))


def _alike(old: Leaf, new: Leaf) -> float:
    if not old.seeds or not new.seeds:
        return 0.0
    left = {_content(seed) for seed in old.seeds}
    right = {_content(seed) for seed in new.seeds}
    return len(left & right) / max(len(left), len(right))


def _content(seed: Seed) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    return seed.context, tuple((pair.question, pair.answer) for pair in seed.pairs)


def _compare(
    old: Leaf,
    new: Leaf,
    change: Literal["added", "changed", "removed", "renamed"],
    old_path: str | None,
    attribution: bool,
) -> LeafChange:
    kept = {_content(seed) for seed in old.seeds} & {_content(seed) for seed in new.seeds}
    before = [seed for seed in old.seeds if _content(seed) not in kept]
    after = [seed for seed in new.seeds if _content(seed) not in kept]
    changed = _twins(before, after)
    return LeafChange(
        new.path,
        change,
        old_path,
        len(after) - changed,
        changed,
        len(before) - changed,
        old.document != new.document,
        attribution,
    )


def _twins(before: list[Seed], after: list[Seed]) -> int:
    """How many seeds of `after` are another version of one of `before`: the same context, a question or an
    answer in common, or at least half of their words.
    """
    left = dict(enumerate(before))
    places: dict[tuple[str, str], list[int]] = {}
    for number, seed in left.items():
        for mark in _marks(seed):
            places.setdefault(mark, []).append(number)
    alone: list[Seed] = []
    for seed in after:
        twin = next((n for mark in _marks(seed) for n in places.get(mark, ())[:8] if n in left), None)
        if twin is None:
            alone.append(seed)
        else:
            del left[twin]
    if len(alone) * len(left) <= _PAIRS:
        for seed in alone:
            words = _words(seed)
            share = {n: _share(words, _words(other)) for n, other in left.items()}
            best = max(share, key=lambda n: (share[n], -n), default=None)
            if best is not None and share[best] >= _ALIKE:
                del left[best]
    return len(before) - len(left)


def _marks(seed: Seed) -> list[tuple[str, str]]:
    marks = [("context", seed.context)] if seed.context is not None else []
    marks += [("question", pair.question) for pair in seed.pairs]
    return marks + [("answer", pair.answer) for pair in seed.pairs]


def _words(seed: Seed) -> set[str]:
    texts = [seed.context or "", *(text for pair in seed.pairs for text in (pair.question, pair.answer))]
    return {word for text in texts for word in text.casefold().split()}


def _share(left: set[str], right: set[str]) -> float:
    return len(left & right) / max(1, len(left | right))
