"""A diff opens what changed and nothing else: its memory does not grow with the tree."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from git_host import commit

from lab.taxonomy import examples
from lab.taxonomy.diff import diff
from lab.taxonomy.tree import GitTree
from lab.taxonomy.worktree import WorkTree


def history(folder: Path, fields: int) -> tuple[str, str]:
    """20 leaves a field; the second commit changes one of them."""
    files: dict[str, str | bytes | None] = {
        f"compositional_skills/field_{field}/leaf_{leaf}/qna.yaml": examples.SKILL.replace(
            "octocat", f"o{leaf}-{field}"
        )
        for field in range(fields)
        for leaf in range(20)
    }
    base = commit(folder, files)
    path = "compositional_skills/field_0/leaf_0/qna.yaml"
    text = str(files[path]).replace("Tact", "Grace")
    return base, commit(folder, {path: text})


def peak(folder: Path, base: str, head: str | None) -> tuple[int, int]:
    """(bytes allocated at the peak, folders of base that were opened)."""
    before = GitTree(folder, base)
    after = GitTree(folder, head) if head is not None else WorkTree(folder, base)
    tracemalloc.start()
    found = diff(before, after)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(leaf.path, leaf.seeds_changed) for leaf in found.leaves] == [
        ("compositional_skills/field_0/leaf_0", 1)
    ]
    return size, len(before._trees)


@pytest.mark.parametrize("committed", [True, False], ids=["two revisions", "a working tree"])
def test_ten_times_the_leaves_take_the_same_memory(tmp_path: Path, committed: bool) -> None:
    sizes = []
    for name, fields in (("warm", 2), ("small", 3), ("large", 20)):
        base, head = history(tmp_path / name, fields)
        sizes.append(peak(tmp_path / name, base, head if committed else None))
    (small, opened), (large, opened_too) = sizes[1:]
    assert opened == opened_too <= 4  # the root, the branch, the field, the leaf
    assert large < small + 20_000  # one line in the branch's folder for each of the 17 more fields
