"""The commands for contributors, as a terminal and a workflow see them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from lab.config import RepositoryConfig
from lab.contracts import schema
from lab.taxonomy import examples
from lab.taxonomy.documents import DocumentError, SourceDocument
from lab.taxonomy.model import DocumentRef
from lab.taxonomy.pinned import document_findings
from lab.taxonomy.rules import RULES
from lab.taxonomy.tree import FilesTree
from treewright.cli import app

SKILL = "compositional_skills/writing/plain"
ISLES = "knowledge/geography/isles"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder, text in (
        (SKILL, examples.SKILL.replace("created_by", "createdby")),
        (ISLES, examples.KNOWLEDGE),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "qna.yaml").write_text(text)
        (tmp_path / folder / "attribution.txt").write_text(examples.ATTRIBUTION)
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


def test_lint_says_what_is_wrong_where_and_how_to_write_it(tree: Path) -> None:
    done = run("lint", tree)
    assert done.exit_code == 1
    assert f"{SKILL}/qna.yaml:2:1: error: `createdby` is not a field" in done.stdout
    assert "= write: created_by: octocat" in done.stdout


def test_every_format_is_of_its_own_contract(tree: Path) -> None:
    report = json.loads(run("lint", tree, "--format", "json").stdout)
    Draft202012Validator(schema("lint_report")).validate(report)
    assert not report["ok"]
    sarif = json.loads(run("lint", tree, "--format", "sarif").stdout)
    places = [each["locations"][0]["physicalLocation"] for each in sarif["runs"][0]["results"]]
    assert {place["artifactLocation"]["uri"] for place in places} == {f"{SKILL}/qna.yaml"}
    lines = run("lint", tree, "--format", "github").stdout.splitlines()
    assert len(lines) == len(report["findings"])
    assert all(line.startswith("::error file=compositional_skills/") for line in lines)


@pytest.mark.parametrize(
    ("part", "code"),
    [("", 1), (SKILL, 1), (f"{SKILL}/qna.yaml", 1), (ISLES, 0), (f"{ISLES}/qna.yaml", 0), ("nowhere", 2)],
)
def test_a_part_of_the_tree_can_be_named(tree: Path, part: str, code: int) -> None:
    assert run("lint", tree / part).exit_code == code


@pytest.mark.parametrize(
    "arguments", [("diff", "--base", "main"), ("lint", "--base", "main"), ("diff", "--base", "--all")]
)
def test_a_folder_without_git_has_no_base_and_says_so(tree: Path, arguments: Sequence[str]) -> None:
    done = run(arguments[0], tree, *arguments[1:])
    assert done.exit_code == 2
    assert "is not inside a Git repository" in done.stderr


@pytest.mark.parametrize("name", ["qna.yaml", "notes\\1.txt"])
def test_a_file_that_cannot_be_read_keeps_no_other_leaf_from_being_mended(tree: Path, name: str) -> None:
    with (tree / ISLES / name).open("wb") as stream:
        stream.truncate(50 << 20)
    done = run("lint", tree, "--fix")
    assert f"mended {SKILL}/qna.yaml" in done.stderr
    assert (tree / SKILL / "qna.yaml").read_text() == examples.SKILL
    assert ("not mended" in done.stderr) == (done.exit_code == 1) == (name == "qna.yaml")


def test_a_file_that_cannot_be_read_keeps_no_other_leaf_from_moving_to_version_3(tree: Path) -> None:
    (tree / SKILL / "qna.yaml").write_text(examples.SKILL.replace("version: 3", "version: 2"))
    huge = tree / "compositional_skills" / "big"
    huge.mkdir()
    with (huge / "qna.yaml").open("wb") as stream:
        stream.truncate(50 << 20)
    done = run("migrate", tree)
    assert done.exit_code == 1
    assert (tree / SKILL / "qna.yaml").read_text() == examples.SKILL
    assert "compositional_skills/big/qna.yaml has 52,428,800 bytes" in done.stdout
    assert "1 moved to version 3, 0 moved and need you, 1 stay." in done.stdout


def test_one_file_can_be_mended_even_when_its_name_is_the_mistake(tree: Path) -> None:
    os.rename(tree / SKILL / "qna.yaml", tree / SKILL / "qna.yml")
    assert run("lint", tree / SKILL / "qna.yml", "--diff").exit_code == 1
    run("lint", tree / SKILL / "qna.yml", "--fix")
    assert (tree / SKILL / "qna.yaml").read_text() == examples.SKILL
    assert run("lint", tree).exit_code == 0


def test_every_rule_is_explained_and_a_misspelled_one_is_guessed() -> None:
    for rule in RULES:
        assert run("explain", rule).stdout.startswith(f"{rule} (")
    lost = run("explain", "trailing-spaces")
    assert (lost.exit_code, "Did you mean trailing-space?" in lost.stderr) == (2, True)
    assert run("explain").exit_code == 2


# ---- pinned documents ------------------------------------------------------------------------------------


def leaf(text: str) -> FilesTree:
    return FilesTree({f"{ISLES}/qna.yaml": text.encode(), f"{SKILL}/qna.yaml": examples.SKILL.encode()})


def test_documents_that_cannot_be_had_are_told_at_the_patterns() -> None:
    asked: list[DocumentRef] = []

    def fetch(ref: DocumentRef) -> list[SourceDocument]:
        asked.append(ref)
        raise DocumentError("No file matches.", "Look at the patterns.")

    found = document_findings(leaf(examples.KNOWLEDGE), [SKILL, ISLES], RepositoryConfig(), fetch)
    assert len(asked) == 1
    line = examples.KNOWLEDGE.split("\n").index("  patterns:") + 1
    assert [(each.file, each.line, each.column, each.message) for each in found] == [
        (f"{ISLES}/qna.yaml", line, 3, "No file matches.")
    ]
    broken = document_findings(leaf("version: 3\n"), [ISLES], RepositoryConfig(), fetch)
    assert (broken, len(asked)) == ([], 1)


def test_a_context_that_stands_in_no_document_is_found() -> None:
    lines = [line.partition("context: ")[2] for line in examples.KNOWLEDGE.split("\n") if "context: " in line]
    source = SourceDocument("guides/a.md", "\n\n".join(lines), "sha256:" + "0" * 64)
    tree = leaf(examples.KNOWLEDGE)
    assert document_findings(tree, [ISLES], RepositoryConfig(), lambda ref: [source]) == []
    other = SourceDocument(
        "guides/a.md", "Nothing of the kind is told in this document.", "sha256:" + "1" * 64
    )
    found = document_findings(tree, [ISLES], RepositoryConfig(), lambda ref: [other])
    assert len(found) >= 5
    assert {each.file for each in found} == {f"{ISLES}/qna.yaml"}


@pytest.mark.parametrize("command", [("lint", "--documents"), ("documents",)])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TREEWRIGHT_GIT_MIRRORS", "{"),
        ("TREEWRIGHT_GIT_MIRRORS", '["https://example.org"]'),
        ("TREEWRIGHT_DOCUMENTS_WORDS", "many"),
    ],
)
def test_a_wrong_environment_is_no_leafs_fault(
    tree: Path, monkeypatch: pytest.MonkeyPatch, command: Sequence[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    done = run(command[0], tree, *command[1:])
    assert done.exit_code == 2
    assert variable in done.stderr


def test_a_diff_has_no_other_format(tree: Path) -> None:
    done = run("lint", tree, "--diff", "--format", "json")
    assert (done.exit_code, done.stdout) == (2, "")


def test_one_rule_is_told_in_markdown_as_the_page_of_rules_has_it() -> None:
    told = run("explain", "seed-count", "--format", "markdown").stdout
    assert told.startswith("## seed-count\n")
    assert told in run("explain", "--all", "--format", "markdown").stdout


@pytest.mark.parametrize("part", [ISLES, f"{ISLES}/link.yaml"])
def test_a_link_is_told_in_the_part_that_is_named(tree: Path, part: str) -> None:
    (tree / ISLES / "link.yaml").symlink_to("qna.yaml")
    done = run("lint", tree / part)
    assert done.exit_code == 1
    assert f"{ISLES}/link.yaml:1:1: error" in done.stdout


def test_a_folder_without_a_taxonomy_is_not_green_in_silence(tmp_path: Path) -> None:
    done = run("lint", tmp_path, "--format", "json")
    assert json.loads(done.stdout) == {"ok": True, "files": 0, "findings": []}
    assert "holds nothing to check" in done.stderr
