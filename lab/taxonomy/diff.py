"""What a change does to the taxonomy: leaves, fields and seeds, not lines.

Two revisions are compared folder by folder by their tree ids, and a working tree by what Git says has
changed, so unchanged folders are never opened: time and memory go with the change, not with the tree. The
predecessor's unit was the file (a one-word fix regenerated a whole leaf), and removed or renamed leaves were
not reported at all. Here a leaf that moved is one that lost its old path and has most of its content at a
new one (`similarity`, from 0 to 1); a seed that left one leaf for another is told at both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from lab.canonical import digest
from lab.taxonomy.leaf import ATTRIBUTION, QNA, build, in_branches, read_document
from lab.taxonomy.model import Leaf, Seed
from lab.taxonomy.seeds import Match, SeedChange, content, likeness, marks, match
from lab.taxonomy.tree import MOST_FILES, GitTree, TooLarge, Tree
from lab.taxonomy.worktree import WorkTree
from lab.untrusted import Refused, YamlNode

_LIMIT = 1 << 20
_ALIKE = 0.5  # a moved leaf kept at least this share of its seeds; Git's own default for renames
_POSTINGS = 20  # leaves that share one question or answer; a "Yes" that all have tells nothing
_IN_PROMPTS = frozenset({"task_description", "domain", "document_outline", "kind"})
_SHOWN = 200  # characters of a field's value
_DEEPEST = 4096  # characters of a path that is compared; `relative_path` takes 1024

Kind = Literal["added", "changed", "removed", "renamed"]
Changes = Mapping[str, tuple[str | None, str | None]]  # path -> (blob in base, blob in head)


@dataclass(frozen=True)
class FieldChange:
    """A field of the leaf other than its seeds, such as `domain` or `document.commit`."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class LeafChange:
    """`path` is the leaf's folder in head (in base, when it was removed); counts are of seed examples.

    `similarity` is there for a renamed leaf: 1.0 moved as it was. `fields` and `seeds` name what the counts
    count.
    """

    path: str
    change: Kind
    old_path: str | None
    seeds_added: int
    seeds_changed: int
    seeds_removed: int
    document_changed: bool
    attribution_changed: bool
    similarity: float | None = None
    fields: tuple[FieldChange, ...] = field(default=(), compare=False)
    seeds: tuple[SeedChange, ...] = field(default=(), compare=False)

    @property
    def teaches(self) -> bool:
        """Whether a model would learn something else from it: other seeds, another document, or other words
        that stand in the prompts. A new attribution or another author teaches nothing.
        """
        if self.change != "changed":
            return self.change != "removed"
        seeds = self.seeds_added + self.seeds_changed + self.seeds_removed
        return self.document_changed or seeds > 0 or any(one.name in _IN_PROMPTS for one in self.fields)

    def to_json(self) -> dict[str, Any]:
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        told["fields"] = [asdict(one) for one in self.fields]
        told["seeds"] = [one.to_json() for one in self.seeds]
        return told


@dataclass(frozen=True)
class TreeDiff:
    """Changed leaves sorted by path, and every changed file path of the whole tree."""

    leaves: tuple[LeafChange, ...]
    paths: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"leaves": [leaf.to_json() for leaf in self.leaves], "paths": list(self.paths)}


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
            if _has(head, f"{folder}/{QNA}"):
                found.append(LeafChange(folder, "changed", None, 0, 0, 0, False, attribution))
        elif before is None:
            added[folder] = _read(head, folder)
        elif after is None:
            removed[folder] = _read(base, folder)
        else:
            found.append(_compare(_read(base, folder), _read(head, folder), "changed", attribution))
    found += _moved(added, removed, changes)
    return TreeDiff(tuple(sorted(_follow(found), key=lambda change: change.path)), tuple(sorted(changes)))


# ---- which files differ -----------------------------------------------------------------------------------


def _of_leaf(path: str) -> bool:
    return in_branches(path) and path.rpartition("/")[2] in (QNA, ATTRIBUTION)


def _changes(base: Tree, head: Tree) -> dict[str, tuple[str | None, str | None]]:
    if isinstance(base, GitTree) and isinstance(head, GitTree):
        return _walk(base, head)
    if isinstance(base, GitTree) and isinstance(head, WorkTree) and head.since is not None:
        pairs = ((path, (base.blob(path), head.blob(path))) for path in head.changed())
        return {path: (old, new) for path, (old, new) in pairs if old != new}
    left, right = _blobs(base), _blobs(head)
    return {
        path: (left.get(path), right.get(path))
        for path in left.keys() | right.keys()
        if left.get(path) != right.get(path)
    }


def _walk(base: GitTree, head: GitTree) -> dict[str, tuple[str | None, str | None]]:
    """Only folders whose tree ids differ are opened. Raises `Refused` for more than anybody could review."""
    changes: dict[str, tuple[str | None, str | None]] = {}
    waiting: list[tuple[str, str | None, str | None]] = [("", base.root, head.root)]
    looked = 0
    while waiting:
        prefix, left, right = waiting.pop()
        before = {entry.name: entry for entry in base.folder(left)} if left else {}
        after = {entry.name: entry for entry in head.folder(right)} if right else {}
        looked += len(before) + len(after)
        if looked > MOST_FILES or len(prefix) > _DEEPEST:
            raise Refused(
                f"The change goes through more than {MOST_FILES:,} files and folders, or a path of more than "
                f"{_DEEPEST:,} characters.",
                "Split it into smaller changes.",
            )
        for name in before.keys() | after.keys():
            old, new = before.get(name), after.get(name)
            if old == new:
                continue
            path = prefix + name
            old_folder = old.oid if old is not None and old.mode == "40000" else None
            new_folder = new.oid if new is not None and new.mode == "40000" else None
            if old_folder != new_folder:
                waiting.append((f"{path}/", old_folder, new_folder))
            old_file = old.oid if old is not None and old.mode.startswith("100") else None
            new_file = new.oid if new is not None and new.mode.startswith("100") else None
            linked = new is not None and not new.mode.startswith(("100", "40000"))  # lint tells it
            if old_file != new_file or linked:
                changes[path] = (old_file, new_file)
    return changes


def _blobs(tree: Tree) -> Mapping[str, str]:
    blobs = getattr(tree, "blobs", None)
    if blobs is not None:
        known: Mapping[str, str] = blobs()
        return known
    return {path: digest(tree.read(path, 1 << 30).hex()) for path in tree.paths()}


def _has(tree: Tree, path: str) -> bool:
    try:
        tree.read(path, 0)
    except TooLarge:
        return True
    except Refused:
        return False
    return True


def _read(tree: Tree, folder: str) -> Leaf:
    root = read_document(tree, f"{folder}/{QNA}", _LIMIT).root
    return build(folder, root if root is not None else _NOTHING)


_NOTHING = YamlNode("scalar", 1, 1, type="null")


# ---- leaves -----------------------------------------------------------------------------------------------


def _moved(added: dict[str, Leaf], removed: dict[str, Leaf], changes: Changes) -> list[LeafChange]:
    """Pairs added with removed leaves by content, the most alike first; what is left was added or removed."""
    found: list[LeafChange] = []
    new_left, old_left = dict(added), dict(removed)
    for share, new_path, old_path in _pairs(added, removed, changes):
        if share >= _ALIKE and new_path in new_left and old_path in old_left:
            old, new = old_left.pop(old_path), new_left.pop(new_path)
            before = changes.get(f"{old_path}/{ATTRIBUTION}", (None, None))[0]
            after = changes.get(f"{new_path}/{ATTRIBUTION}", (None, None))[1]
            change = _compare(old, new, "renamed", before != after)
            found.append(replace(change, old_path=old_path, similarity=round(share, 3)))
    for path, leaf in new_left.items():
        found.append(_compare(_empty(leaf), leaf, "added", f"{path}/{ATTRIBUTION}" in changes))
    for path, leaf in old_left.items():
        found.append(_compare(leaf, _empty(leaf), "removed", f"{path}/{ATTRIBUTION}" in changes))
    return found


def _pairs(
    added: Mapping[str, Leaf], removed: Mapping[str, Leaf], changes: Changes
) -> list[tuple[float, str, str]]:
    """(similarity, new path, old path), the best first. Only leaves that have a text in common are held
    against each other, so a thousand moved leaves do not make a million comparisons.
    """
    places: dict[object, list[str]] = {}
    for path, leaf in removed.items():
        blob = changes[f"{path}/{QNA}"][0]
        for mark in {("blob", blob), *(mark for seed in leaf.seeds for mark in marks(seed))}:
            places.setdefault(mark, []).append(path)
    pairs: list[tuple[float, str, str]] = []
    for path, leaf in added.items():
        blob = changes[f"{path}/{QNA}"][1]
        near = set(places.get(("blob", blob), ())[:_POSTINGS])
        for seed in leaf.seeds:
            for mark in marks(seed):
                if len(postings := places.get(mark, ())) <= _POSTINGS:
                    near.update(postings)
        for old in near:
            same = changes[f"{old}/{QNA}"][0] == blob
            pairs.append((1.0 if same else likeness(removed[old].seeds, leaf.seeds), path, old))
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))


def _empty(leaf: Leaf) -> Leaf:
    return replace(leaf, seeds=(), document=None)


def _compare(old: Leaf, new: Leaf, change: Kind, attribution: bool) -> LeafChange:
    kept = {content(seed) for seed in old.seeds} & {content(seed) for seed in new.seeds}
    before = [seed for seed in old.seeds if content(seed) not in kept]
    after = [seed for seed in new.seeds if content(seed) not in kept]
    found = match(before, after)
    return LeafChange(
        path=new.path,
        change=change,
        old_path=None,
        seeds_added=len(found.added),
        seeds_changed=len(found.changed),
        seeds_removed=len(found.removed),
        document_changed=old.document != new.document,
        attribution_changed=attribution,
        fields=_fields(old, new) if change in ("changed", "renamed") else (),
        seeds=_told(found),
    )


def _told(found: Match) -> tuple[SeedChange, ...]:
    told = [SeedChange("changed", new.line, old.line, _question(new), new) for old, new in found.changed]
    told += [SeedChange("added", seed.line, None, _question(seed), seed) for seed in found.added]
    told += [SeedChange("removed", None, seed.line, _question(seed), seed) for seed in found.removed]
    return tuple(sorted(told, key=lambda one: (one.line or one.old_line or 0, one.change)))


def _question(seed: Seed) -> str:
    return seed.pairs[0].question[:_SHOWN] if seed.pairs else ""


def _fields(old: Leaf, new: Leaf) -> tuple[FieldChange, ...]:
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in _FIELDS]
    before, after = old.document, new.document
    pairs += [
        (
            f"document.{name}",
            getattr(before, name) if before is not None else "",
            getattr(after, name) if after is not None else "",
        )
        for name in ("repo", "commit", "patterns")
    ]
    return tuple(FieldChange(name, _shown(a), _shown(b)) for name, a, b in pairs if a != b)


_FIELDS = ("kind", "version", "created_by", "task_description", "domain", "document_outline")


def _shown(value: object) -> str:
    return (", ".join(value) if isinstance(value, tuple) else str(value))[:_SHOWN]


def _follow(found: list[LeafChange]) -> list[LeafChange]:
    """Names the other leaf of each seed that was removed in one and added in another as it was."""
    gone: dict[object, str] = {}
    come: dict[object, str] = {}
    for leaf in found:
        for one in leaf.seeds:
            if one.change in ("added", "removed"):
                (come if one.change == "added" else gone).setdefault(content(one.seed), leaf.path)
    told = []
    for leaf in found:
        seeds = []
        for one in leaf.seeds:
            other = {"added": gone, "removed": come}.get(one.change, {}).get(content(one.seed))
            seeds.append(replace(one, other=other) if other not in (None, leaf.path) else one)
        told.append(replace(leaf, seeds=tuple(seeds)))
    return told
