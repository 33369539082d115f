"""The benchmark's trees are the same for everybody, and lint has nothing against them."""

from __future__ import annotations

import runpy
from pathlib import Path

from lab.config import RepositoryConfig
from lab.taxonomy.leaf import load_leaves
from lab.taxonomy.lint import lint
from lab.taxonomy.tree import FolderTree

MODULE = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "lint" / "tree.py"))


def test_a_generated_tree_is_of_all_kinds_always_the_same_and_without_errors(tmp_path: Path) -> None:
    assert list(MODULE["leaves"](30)) == list(MODULE["leaves"](60))[:30]
    MODULE["write"](tmp_path, 30)
    tree = FolderTree(tmp_path)
    report = lint(tree, RepositoryConfig(), None, True)
    assert [each for each in report.findings if each.severity == "error"] == []
    assert {leaf.kind for leaf in load_leaves(tree)} == {"knowledge", "freeform_skill", "grounded_skill"}
