"""A diff, and what it costs, as text for a terminal. Contributed text is shown without control characters."""

from __future__ import annotations

from lab.taxonomy.diff import LeafChange, TreeDiff
from lab.taxonomy.seeds import SeedChange
from lab.untrusted import printable

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_MOST = 20  # seeds shown of one leaf; JSON has all


def changes(found: TreeDiff) -> str:
    """One line a leaf with what happened to it, then its fields and seeds."""
    lines = [line for leaf in found.leaves for line in _leaf(leaf)]
    leaves = f"{len(found.leaves)} changed lea{'f' if len(found.leaves) == 1 else 'ves'}"
    return "\n".join([*lines, f"{leaves}, {count(len(found.paths), 'changed file')}."])


def count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _leaf(leaf: LeafChange) -> list[str]:
    told = [
        f"{count(number, 'seed')} {word}"
        for number, word in (
            (leaf.seeds_added, "added"),
            (leaf.seeds_changed, "changed"),
            (leaf.seeds_removed, "removed"),
        )
        if number
    ]
    told += ["document changed"] * leaf.document_changed
    told += ["attribution changed"] * leaf.attribution_changed
    name = printable(leaf.path)
    if leaf.old_path is not None:
        name = f"{printable(leaf.old_path)} -> {name}"
        if leaf.similarity is not None:
            told.insert(0, f"{leaf.similarity:.0%} alike")
    lines = [f"{leaf.change:<8} {name}" + (f"  ({', '.join(told)})" if told else "")]
    lines += [f"    {one.name}: {_value(one.old)} -> {_value(one.new)}" for one in leaf.fields]
    lines += [_seed(one) for one in leaf.seeds[:_MOST]]
    if len(leaf.seeds) > _MOST:
        lines.append(f"    ... and {count(len(leaf.seeds) - _MOST, 'more seed')}")
    return lines


def _value(text: str) -> str:
    return printable(text, 60) or "nothing"


def _seed(one: SeedChange) -> str:
    line = one.line if one.line is not None else one.old_line
    moved = ""
    if one.other is not None:
        moved = f"  (moved {'from' if one.change == 'added' else 'to'} {printable(one.other)})"
    return f"    {_SIGNS[one.change]} line {line}: {printable(one.question, 70)}{moved}"
