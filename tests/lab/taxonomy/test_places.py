# ruff: noqa: E501 - messages are shown whole
"""Versions with the way to the next one, leaves in wrong places, and names that people use elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from inline_snapshot import snapshot

from lab.config import RepositoryConfig
from lab.taxonomy import examples
from lab.taxonomy.content import TYPES
from lab.taxonomy.convert import KIND_NAMES, KINDS
from lab.taxonomy.findings import Finding
from lab.taxonomy.leaf import LeafError, load_leaf
from lab.taxonomy.lint import lint
from lab.taxonomy.tree import FolderTree

LEAF = "knowledge/geography/isles"
SKILL = "compositional_skills/writing/plain"


def tree(root: Path, files: dict[str, str]) -> FolderTree:
    for path, text in files.items():
        folder = root / path
        folder.mkdir(parents=True)
        (folder / "qna.yaml").write_text(text, "utf-8")
        (folder / "attribution.txt").write_text(examples.ATTRIBUTION, "utf-8")
    return FolderTree(root)


def findings(root: Path, files: dict[str, str], only: list[str] | None = None) -> tuple[Finding, ...]:
    return lint(tree(root, files), RepositoryConfig(), only, strict=True).findings


# ---- versions


def test_old_knowledge_is_told_each_step_with_its_line(tmp_path: Path) -> None:
    old = (
        "version: 2\ncreated_by: octocat\ntask_description: The isles.\nseed_examples:\n"
        "  - question: How many lights has Vik?\n    answer: Six.\n"
        "  - question: How many lights has Ess?\n    answer: Three.\n"
        "document:\n  repo: https://github.com/a/b.git\n  commit: x\n  patterns: ['*.md']\n"
    )
    (told,) = findings(tmp_path, {LEAF: old})
    assert (told.rule, told.line, told.column) == ("version", 1, 10)
    assert told.help == snapshot(
        "To version 3: (1) line 1: `version: 3`; (2) add `domain`, the field of knowledge; (3) line 3: rename `task_description` to `document_outline`, one sentence on what the documents cover; (4) from line 5: put the 2 questions and answers under `questions_and_answers:` of seed examples with the `context` that answers them: at least 5 contexts with 3 each. `treewright migrate` does what can be done without loss."
    )


def test_a_skill_without_a_version_gets_the_line_to_insert(tmp_path: Path) -> None:
    old = examples.SKILL.replace("version: 3\n", "").split("  - question", 4)
    text = "  - question".join(old[:4])
    told = findings(tmp_path, {SKILL: text})
    version = next(each for each in told if each.rule == "version")
    assert version.suggestion == "version: 3\ncreated_by: octocat"
    assert version.help == snapshot(
        "To version 3: (1) write `version: 3` as the first line; (2) line 3: write 2 more seed examples; 5 are needed. `treewright migrate` does what can be done without loss."
    )


@pytest.mark.parametrize("written", ["1", "'3'", '"2"'])
def test_a_version_is_mended_in_place(written: str, tmp_path: Path) -> None:
    text = examples.SKILL.replace("version: 3", f"version: {written}  # ours")
    (told,) = findings(tmp_path, {SKILL: text})
    new = "3" if written == "1" else written.strip("'\"")
    assert told.suggestion == f"version: {new}  # ours"


def test_versions_two_and_three_of_skills_are_both_accepted_in_a_change(tmp_path: Path) -> None:
    text = examples.SKILL.replace("version: 3", "version: 2")
    assert findings(tmp_path, {SKILL: text}, [f"{SKILL}/qna.yaml"]) == ()


# ---- places


def test_knowledge_among_skills_is_told_once_and_checked_as_knowledge(tmp_path: Path) -> None:
    text = examples.KNOWLEDGE.replace("domain: Geography\n", "")
    told = findings(tmp_path, {SKILL: text})
    assert [each.rule for each in told] == ["misplaced-leaf", "missing-field"]
    assert "`domain`" in told[1].message
    assert "`knowledge/`" in told[0].help
    with pytest.raises(LeafError):
        load_leaf(FolderTree(tmp_path), SKILL)


def test_a_skill_among_knowledge_is_told_once(tmp_path: Path) -> None:
    assert [each.rule for each in findings(tmp_path, {LEAF: examples.SKILL})] == ["misplaced-leaf"]


def test_half_a_knowledge_leaf_is_still_knowledge(tmp_path: Path) -> None:
    text = examples.SKILL.replace("created_by", "domain: x\ncreated_by")
    assert "misplaced-leaf" not in {each.rule for each in findings(tmp_path, {LEAF: text})}


def test_folders_that_differ_by_case_are_told_on_the_odd_one_and_on_a_change(tmp_path: Path) -> None:
    upper, lower = "compositional_skills/Writing/brief", "compositional_skills/writing/plain"
    files = {upper: examples.SECOND, lower: examples.SKILL}
    whole = [each for each in findings(tmp_path, files) if each.rule == "path-case"]
    assert [each.file for each in whole] == [f"{upper}/qna.yaml"]
    assert "`compositional_skills/writing`" in whole[0].help
    changed = lint(FolderTree(tmp_path), RepositoryConfig(), [f"{lower}/qna.yaml"]).findings
    assert [(each.file, each.rule) for each in changed] == [(f"{lower}/qna.yaml", "path-case")]


def test_grounded_skills_have_a_place_of_their_own(tmp_path: Path) -> None:
    files = {
        "compositional_skills/naming": examples.GROUNDED,
        "foundational_skills/naming": examples.GROUNDED,
    }
    told = [each for each in findings(tmp_path, files) if each.rule == "grounded-folder"]
    assert [each.help for each in told] == ["Move it to `compositional_skills/grounded/naming`."]


# ---- names


@pytest.mark.parametrize(
    ("other", "ours"),
    [("author", "created_by"), ("Description", "task_description"), ("examples", "seed_examples")],
)
def test_names_of_other_formats_are_known(other: str, ours: str, tmp_path: Path) -> None:
    told = findings(tmp_path, {SKILL: examples.SKILL.replace(f"{ours}:", f"{other}:")})
    unknown = next(each for each in told if each.rule == "unknown-field")
    assert unknown.help == f"Did you mean `{ours}`?"
    assert unknown.suggestion is not None
    assert unknown.suggestion.startswith(f"{ours}:")


def test_lint_knows_the_documents_that_can_be_converted() -> None:
    assert {ending: KIND_NAMES[kind] for ending, kind in KINDS.items()} == TYPES
