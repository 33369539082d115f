"""A change is told in leaves and seeds; trees are read from Git without a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from git_host import commit, git
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot

from lab.taxonomy import examples
from lab.taxonomy.diff import LeafChange, TreeDiff, diff
from lab.taxonomy.diff_text import changes
from lab.taxonomy.leaf import load_leaves
from lab.taxonomy.model import Pair, Seed
from lab.taxonomy.seeds import likeness, match
from lab.taxonomy.tree import FolderTree, GitTree, TooLarge
from lab.taxonomy.worktree import WorkTree
from lab.untrusted import Refused

ISLES = "knowledge/geography/isles"
PLAIN = "compositional_skills/writing/plain"
BASE: dict[str, str | bytes | None] = {
    "README.md": "hello\n",
    f"{ISLES}/qna.yaml": examples.KNOWLEDGE,
    f"{ISLES}/attribution.txt": examples.ATTRIBUTION,
    f"{PLAIN}/qna.yaml": examples.SKILL,
    f"{PLAIN}/attribution.txt": examples.ATTRIBUTION,
}


def between(folder: Path, files: dict[str, str | bytes | None]) -> tuple[LeafChange, ...]:
    base = commit(folder, BASE)
    head = commit(folder, files)
    with GitTree(folder, base) as before, GitTree(folder, head) as after:
        return diff(before, after).leaves


def test_a_changed_answer_is_one_changed_seed(tmp_path: Path) -> None:
    text = examples.SKILL.replace("answer: Tact matters most.", "answer: Be tactful.")
    assert between(tmp_path, {f"{PLAIN}/qna.yaml": text}) == (
        LeafChange(PLAIN, "changed", None, 0, 1, 0, False, False),
    )


def test_a_new_seed_a_new_pin_and_a_new_attribution_are_told_apart(tmp_path: Path) -> None:
    seed = "  - question: Say hello plainly.\n    answer: Hello.\n"
    found = between(
        tmp_path,
        {
            f"{PLAIN}/qna.yaml": examples.SKILL + seed,
            f"{PLAIN}/attribution.txt": examples.ATTRIBUTION + "Changes: shortened\n",
            f"{ISLES}/qna.yaml": examples.KNOWLEDGE.replace("0123456789abcdef", "fedcba9876543210"),
        },
    )
    assert found == (
        LeafChange(PLAIN, "changed", None, 1, 0, 0, False, True),
        LeafChange(ISLES, "changed", None, 0, 0, 0, True, False),
    )


def test_removed_and_moved_leaves_are_reported(tmp_path: Path) -> None:
    moved = "knowledge/geography/northern_isles"
    found = between(
        tmp_path,
        {
            f"{PLAIN}/qna.yaml": None,
            f"{ISLES}/qna.yaml": None,
            f"{ISLES}/attribution.txt": None,
            f"{moved}/qna.yaml": examples.KNOWLEDGE.replace("Vik has lights.", "Vik has many lights."),
            f"{moved}/attribution.txt": examples.ATTRIBUTION,
        },
    )
    assert found == (
        LeafChange(PLAIN, "removed", None, 0, 0, 5, False, False),
        LeafChange(moved, "renamed", ISLES, 0, 1, 0, False, False, 0.995),
    )


def test_a_moved_leaf_with_every_seed_touched_is_known_again_and_another_leaf_is_not(tmp_path: Path) -> None:
    moved = "compositional_skills/style/plain"
    found = between(
        tmp_path,
        {
            f"{PLAIN}/qna.yaml": None,
            f"{ISLES}/qna.yaml": None,
            f"{moved}/qna.yaml": examples.SKILL.replace("matters most.", "is what matters."),
            "compositional_skills/style/other/qna.yaml": examples.GROUNDED,
        },
    )
    told = {leaf.path: (leaf.change, leaf.old_path, leaf.similarity) for leaf in found}
    assert told == {
        moved: ("renamed", PLAIN, 0.643),
        "compositional_skills/style/other": ("added", None, None),
        ISLES: ("removed", None, None),
    }


def test_a_leaf_moved_as_it_was_is_wholly_alike_even_among_copies(tmp_path: Path) -> None:
    copies = {
        f"knowledge/old/leaf_{n}/qna.yaml": examples.KNOWLEDGE.replace("Vik", f"Vik{n}") for n in range(30)
    }
    base = commit(tmp_path, dict(copies))
    head = commit(
        tmp_path,
        dict.fromkeys(copies) | {p.replace("/old/", "/new/"): t for p, t in copies.items()},
    )
    with GitTree(tmp_path, base) as before, GitTree(tmp_path, head) as after:
        found = diff(before, after).leaves
    assert [(leaf.path, leaf.old_path, leaf.similarity) for leaf in found] == [
        (f"knowledge/new/leaf_{n}", f"knowledge/old/leaf_{n}", 1.0) for n in sorted(range(30), key=str)
    ]


def test_fields_and_seeds_are_named_and_a_seed_is_followed_into_another_leaf(tmp_path: Path) -> None:
    seed = '  - question: "Say it plainly: Luck is of the essence."\n    answer: Luck matters most.\n'
    other = "compositional_skills/writing/luck"
    found = between(
        tmp_path,
        {
            f"{PLAIN}/qna.yaml": examples.SKILL.replace(seed, "").replace(
                "Tact matters most.", "Be tactful."
            ),
            f"{other}/qna.yaml": "version: 3\ncreated_by: hubot\ntask_description: Luck.\nseed_examples:\n"
            + seed,
            f"{ISLES}/qna.yaml": examples.KNOWLEDGE.replace("Geography", "Sea").replace(
                "guides/*.md", "docs/*.md"
            ),
        },
    )
    shown = changes(TreeDiff(found, ()))
    assert shown == snapshot(
        """\
added    compositional_skills/writing/luck  (1 seed added)
    + line 5: Say it plainly: Luck is of the essence.  (moved from compositional_skills/writing/plain)
changed  compositional_skills/writing/plain  (1 seed changed, 1 seed removed)
    ~ line 9: Say it plainly: Tact is of the essence.
    - line 13: Say it plainly: Luck is of the essence.  (moved to compositional_skills/writing/luck)
changed  knowledge/geography/isles  (document changed)
    domain: Geography -> Sea
    document.patterns: guides/*.md -> docs/*.md
3 changed leaves, 0 changed files.\
"""
    )
    told = TreeDiff(found, ()).to_json()["leaves"][1]
    assert json.loads(json.dumps(told))["seeds"][1] == {
        "change": "removed",
        "line": None,
        "old_line": 13,
        "question": "Say it plainly: Luck is of the essence.",
        "other": other,
    }


def test_a_work_tree_is_compared_by_what_git_says_has_changed(tmp_path: Path) -> None:
    base = commit(tmp_path, BASE)
    for number in range(20):
        (tmp_path / PLAIN / f"notes_{number}.txt").write_text("x")
    (tmp_path / ".gitignore").write_text("*.txt\n")
    (tmp_path / PLAIN / "qna.yaml").write_text(examples.SKILL.replace("Tact", "Grace"))
    os.remove(tmp_path / ISLES / "attribution.txt")
    os.symlink("qna.yaml", tmp_path / ISLES / "attribution.txt")
    tree = WorkTree(tmp_path, base)
    with GitTree(tmp_path, base) as before:
        found = diff(before, tree)
        assert found.paths == (".gitignore", f"{PLAIN}/qna.yaml", f"{ISLES}/attribution.txt")
        assert [(leaf.path, leaf.seeds_changed, leaf.attribution_changed) for leaf in found.leaves] == [
            (PLAIN, 1, False),
            (ISLES, 0, True),
        ]
        assert before._entries is None  # the whole tree was never listed


SEEDS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")),
    max_size=6,
    unique_by=lambda pair: pair[0],
)


@settings(max_examples=80, deadline=None)
@given(SEEDS, SEEDS)
def test_seeds_are_conserved_and_likeness_is_a_share(
    old: list[tuple[str, str]], new: list[tuple[str, str]]
) -> None:
    before = [Seed(None, (Pair(q, a, 1),), 1) for q, a in old]
    after = [Seed(None, (Pair(q, a, 1),), 1) for q, a in new]
    found = match(before, after)
    assert len(found.changed) + len(found.added) == len(after)
    assert len(found.changed) + len(found.removed) == len(before)
    assert 0.0 <= likeness(before, after) <= 1.0
    assert likeness(before, before) == (1.0 if before else 0.0)


def test_a_leaf_that_cannot_be_read_is_still_a_change(tmp_path: Path) -> None:
    assert between(tmp_path, {f"{PLAIN}/qna.yaml": "seed_examples: [\n"}) == (
        LeafChange(PLAIN, "changed", None, 0, 0, 5, False, False),
    )


def test_a_folder_compares_with_a_revision_as_two_revisions_do(tmp_path: Path) -> None:
    base = commit(tmp_path, BASE)
    text = examples.SKILL.replace("Tact", "Grace")
    head = commit(tmp_path, {f"{PLAIN}/qna.yaml": text, "README.md": "bye\n"})
    with GitTree(tmp_path, base) as before, GitTree(tmp_path, head) as after:
        assert diff(before, FolderTree(tmp_path)) == diff(before, after)
        assert diff(before, after).paths == ("README.md", f"{PLAIN}/qna.yaml")
        assert [leaf.digest for leaf in load_leaves(after)] == [
            leaf.digest for leaf in load_leaves(FolderTree(tmp_path))
        ]


def test_a_revision_is_read_without_following_anything(tmp_path: Path) -> None:
    (tmp_path / PLAIN).mkdir(parents=True)
    os.symlink("/etc/passwd", tmp_path / PLAIN / "link.yaml")
    sha = commit(tmp_path, {**BASE, "big.bin": b"x" * 9_000_000})
    for tree in (GitTree(tmp_path, sha), FolderTree(tmp_path)):
        assert f"{PLAIN}/link.yaml" not in tree.paths()
        assert tree.links() == [f"{PLAIN}/link.yaml"]
        assert tree.read("README.md", 100) == b"hello\n"
        for path in (f"{PLAIN}/link.yaml", "../x", "nowhere", PLAIN, "README.md/x", "/etc/passwd"):
            with pytest.raises(Refused):
                tree.read(path, 100)
        with pytest.raises(TooLarge):
            tree.read("big.bin", 1000)
        assert tree.read("README.md", 6) == b"hello\n"  # the reader works on after a refusal
    with pytest.raises(Refused, match="no revision"):
        GitTree(tmp_path, "--help")


def test_the_command_sees_committed_uncommitted_and_untracked_work(tmp_path: Path) -> None:
    commit(tmp_path, BASE)
    git(tmp_path, "checkout", "-q", "-b", "topic")
    commit(tmp_path, {f"{PLAIN}/qna.yaml": examples.SKILL.replace("Tact", "Grace")})
    (tmp_path / ISLES / "qna.yaml").write_text(examples.KNOWLEDGE.replace("version: 3", "version: 2"))
    (tmp_path / "knowledge" / "new").mkdir()
    (tmp_path / "knowledge" / "new" / "qna.yml").write_text("x\n")

    def run(*arguments: str) -> tuple[int, dict[str, list[dict[str, object]]]]:
        done = subprocess.run(
            [sys.executable, "-m", "treewright", *arguments, "--format", "json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    code, told = run("diff", "--base", "main")
    assert code == 0
    assert [(leaf["path"], leaf["seeds_changed"]) for leaf in told["leaves"]] == [(PLAIN, 1), (ISLES, 0)]
    code, told = run("lint", "--base", "main")
    assert code == 1
    assert {(f["file"], f["rule"]) for f in told["findings"]} == {
        (f"{ISLES}/qna.yaml", "version"),
        ("knowledge/new/qna.yml", "file-name"),
    }
    code, told = run("diff", "--base", "main", "--head", "topic")
    assert [leaf["path"] for leaf in told["leaves"]] == [PLAIN]


@pytest.mark.parametrize(
    ("old", "new", "teaches"),
    [
        ("domain: Geography", "domain: History", True),
        ("document_outline: ", "document_outline: More about ", True),
        ("created_by: ", "created_by: other-", False),
    ],
)
def test_words_of_the_prompts_teach_and_a_name_does_not(
    tmp_path: Path, old: str, new: str, teaches: bool
) -> None:
    text = examples.KNOWLEDGE.replace(old, new, 1)
    (change,) = between(tmp_path, {f"{ISLES}/qna.yaml": text})
    assert change.teaches is teaches
