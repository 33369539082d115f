"""The commands in a checkout: what a base, a part of the tree and a missing revision mean to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from git_host import commit, git
from typer.testing import CliRunner, Result

from lab.taxonomy import examples
from treewright.cli import app

SKILL = "compositional_skills/writing/plain"
ISLES = "knowledge/geography/isles"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two leaves that were committed and then changed, one of them so that it is wrong."""
    files: dict[str, str | bytes | None] = {".github/treewright.yml": "version: 1\n"}
    for folder, text in ((SKILL, examples.SKILL), (ISLES, examples.KNOWLEDGE)):
        files |= {f"{folder}/qna.yaml": text, f"{folder}/attribution.txt": examples.ATTRIBUTION}
    commit(tmp_path, files)
    (tmp_path / SKILL / "qna.yaml").write_text(examples.SKILL.replace("octocat", "octocat "))
    (tmp_path / ISLES / "attribution.txt").write_text(examples.ATTRIBUTION.replace("7", "8"))
    return tmp_path


@pytest.mark.parametrize(
    ("part", "code"), [("", 1), ("compositional_skills", 1), (f"{SKILL}/qna.yaml", 1), (ISLES, 0)]
)
def test_with_a_base_a_part_of_the_tree_is_still_only_that_part(checkout: Path, part: str, code: int) -> None:
    assert run("lint", checkout / part, "--base", "main").exit_code == code


def test_with_a_base_nothing_outside_of_the_named_part_is_mended(checkout: Path) -> None:
    before = (checkout / SKILL / "qna.yaml").read_bytes()
    assert run("lint", checkout / "knowledge", "--base", "main", "--fix").exit_code == 0
    assert (checkout / SKILL / "qna.yaml").read_bytes() == before


def test_a_file_that_was_not_looked_at_is_not_counted(checkout: Path) -> None:
    (checkout / ISLES / "attribution.txt").write_text(examples.ATTRIBUTION)
    done = run("lint", checkout / ISLES / "qna.yaml", "--base", "main", "--format", "json")
    assert json.loads(done.stdout) == {"ok": True, "files": 0, "findings": []}


def test_a_folder_beside_the_branches_is_checked_as_part_of_their_tree(checkout: Path) -> None:
    (checkout / ".github" / "treewright.yml").write_text("version: 2\n")
    done = run("lint", checkout / ".github")
    assert done.exit_code == 1
    assert ".github/treewright.yml:1:10: error" in done.stdout


def test_no_main_branch_is_told_with_the_names_that_were_tried(checkout: Path) -> None:
    git(checkout, "branch", "-m", "trunk")
    done = run("diff", checkout)
    assert done.exit_code == 2
    assert "There is no main branch (origin/HEAD, " in done.stderr


def test_a_revision_is_compared_with_where_it_left_the_main_branch(checkout: Path) -> None:
    git(checkout, "checkout", "-q", "-f", "-b", "feature")
    commit(checkout, {f"{SKILL}/qna.yaml": examples.SKILL.replace("Tact", "Grace")})
    git(checkout, "checkout", "-q", "main")
    commit(checkout, {"knowledge/new/qna.yaml": examples.KNOWLEDGE})
    done = run("diff", checkout, "--head", "feature", "--format", "json")
    assert json.loads(done.stdout)["paths"] == [f"{SKILL}/qna.yaml"]


@pytest.mark.parametrize("command", [("lint", "--base", "main"), ("diff",)])
def test_a_checkout_of_another_user_is_told_as_such(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # Git's own switch for its tests
    done = run(command[0], checkout, *command[1:])
    assert done.exit_code == 2
    assert f"safe.directory {checkout}" in done.stderr


@pytest.mark.parametrize(
    ("part", "leaves"),
    [("", [SKILL, ISLES]), ("knowledge", [ISLES]), (f"{SKILL}/qna.yaml", [SKILL]), (".github", [])],
)
def test_a_diff_of_a_part_of_the_tree_has_only_that_part(
    checkout: Path, part: str, leaves: list[str]
) -> None:
    found = json.loads(run("diff", checkout / part, "--format", "json").stdout)
    assert [leaf["path"] for leaf in found["leaves"]] == leaves
    assert [path.rpartition("/")[0] for path in found["paths"]] == leaves


def test_a_broken_configuration_is_told_where_only_a_part_is_looked_at(checkout: Path) -> None:
    commit(checkout, {".github/treewright.yml": "version: 2\n"})
    for part in (("lint", checkout / ISLES), ("lint", checkout, "--base", "main", "--format", "json")):
        done = run(*part)
        assert ".github/treewright.yml:1:10: version is `2`; only 1 is known." in done.stderr
        assert "defaults hold" not in done.stdout
    assert "defaults hold" not in run("lint", checkout).stderr


def test_github_finds_the_files_of_a_taxonomy_that_lies_in_a_folder(tmp_path: Path) -> None:
    commit(tmp_path, {f"tree/{SKILL}/qna.yaml": examples.SKILL, "README.md": "hello\n"})
    wanted = f"tree/{SKILL}/qna.yaml"
    assert f"file={wanted}," in run("lint", tmp_path / "tree", "--format", "github").stdout
    sarif = json.loads(run("lint", tmp_path / "tree", "--format", "sarif").stdout)
    (result,) = sarif["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == wanted
    report = json.loads(run("lint", tmp_path / "tree", "--format", "json").stdout)
    assert [each["file"] for each in report["findings"]] == [f"{SKILL}/qna.yaml"]


def test_a_history_that_is_cut_off_is_told_and_not_compared_with_the_tip(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    git(checkout, "checkout", "-q", "-f", "-b", "feature")
    commit(checkout, {f"{SKILL}/qna.yaml": examples.SKILL.replace("Tact", "Grace")})
    git(checkout, "checkout", "-q", "main")
    commit(checkout, {"knowledge/new/qna.yaml": "version: 1\n"})
    clone = tmp_path_factory.mktemp("clone")
    git(clone, "init", "-q")
    git(clone, "fetch", "-q", "--depth=1", str(checkout), "main:main", "feature:feature")
    git(clone, "checkout", "-q", "feature")
    done = run("lint", clone, "--base", "main")
    assert done.exit_code == 2
    assert "fetch-depth: 0" in done.stderr
