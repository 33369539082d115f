"""A checkout is listed and written without following links, and Git's own answers are the measure."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from git_host import commit, git

from lab.config import RepositoryConfig
from lab.taxonomy import examples
from lab.taxonomy import tree as tree_module
from lab.taxonomy.diff import diff
from lab.taxonomy.lint import lint
from lab.taxonomy.tree import FilesTree, FolderTree, GitTree, TooLarge
from lab.taxonomy.worktree import Checkout, WorkTree, merge_base, rename_file, replace_file
from lab.untrusted import Refused

PLAIN = "compositional_skills/writing/plain"
BASE: dict[str, str | bytes | None] = {
    "README.md": "hello\n",
    f"{PLAIN}/qna.yaml": examples.SKILL,
    f"{PLAIN}/attribution.txt": examples.ATTRIBUTION,
    f"{PLAIN}/odd \n name é.txt": "x\n",
    "knowledge/old/qna.yaml": examples.KNOWLEDGE,
    "knowledge/old/attribution.txt": examples.ATTRIBUTION,
}


def work(root: Path) -> str:
    """A base commit, then committed, staged, uncommitted and untracked work of every sort."""
    base = commit(root, BASE)
    commit(root, {"README.md": "bye\n"})
    (root / PLAIN / "qna.yaml").write_text(examples.SKILL.replace("Tact", "Grace"))
    (root / "knowledge/old/qna.yaml").unlink()
    (root / "knowledge/new").mkdir()
    (root / "knowledge/new/qna.yaml").write_text(examples.KNOWLEDGE)
    os.symlink("/etc/passwd", root / "knowledge/new/link.yaml")
    (root / "knowledge/old/attribution.txt").unlink()
    os.symlink("../../README.md", root / "knowledge/old/attribution.txt")
    (root / "staged.txt").write_text("x")
    git(root, "add", "staged.txt")
    (root / "staged.txt").unlink()
    return base


def test_gits_listing_is_what_a_walk_through_the_folders_finds(tmp_path: Path) -> None:
    base = work(tmp_path)
    found = Checkout(tmp_path, base)
    walked = FolderTree(tmp_path)
    assert found.changed == sorted(
        [
            "README.md",
            f"{PLAIN}/qna.yaml",
            "knowledge/new/link.yaml",
            "knowledge/new/qna.yaml",
            "knowledge/old/attribution.txt",
            "knowledge/old/qna.yaml",
        ]
    )
    assert [path for path in found.paths() if path != "staged.txt"] == walked.paths()
    assert found.links() == walked.links() == ["knowledge/new/link.yaml", "knowledge/old/attribution.txt"]
    told = lint(found, RepositoryConfig(), found.changed, True)
    assert told == lint(walked, RepositoryConfig(), found.changed, True)


def test_a_taxonomy_in_a_folder_of_a_repository_is_seen_from_that_folder(tmp_path: Path) -> None:
    base = commit(tmp_path, {f"tree/{path}": text for path, text in BASE.items()} | {"other.txt": "x\n"})
    (tmp_path / "tree" / PLAIN / "qna.yaml").write_text("version: 3\n")
    (tmp_path / "other.txt").write_text("y\n")
    found = Checkout(tmp_path / "tree", base)
    assert found.changed == [f"{PLAIN}/qna.yaml"]
    assert found.paths() == FolderTree(tmp_path / "tree").paths()


def test_a_revision_lists_the_same_files_as_its_checkout(tmp_path: Path) -> None:
    head = commit(tmp_path, BASE)
    with GitTree(tmp_path, head) as tree:
        assert tree.paths() == FolderTree(tmp_path).paths() == sorted(BASE)
        assert tree.blobs() == FolderTree(tmp_path).blobs()
        assert tree.blob(f"{PLAIN}/qna.yaml") == WorkTree(tmp_path).blob(f"{PLAIN}/qna.yaml")
        assert tree.blob(PLAIN) is None
        assert tree.blob("nowhere") is None


def test_the_base_is_where_the_branch_left_it_and_never_an_option(tmp_path: Path) -> None:
    base = commit(tmp_path, BASE)
    git(tmp_path, "checkout", "-q", "-b", "topic")
    commit(tmp_path, {"README.md": "topic\n"})
    git(tmp_path, "checkout", "-q", "main")
    commit(tmp_path, {"README.md": "main\n"})
    git(tmp_path, "checkout", "-q", "topic")
    assert merge_base(tmp_path, "main") == merge_base(tmp_path, None) == base
    for odd in ("--all", "-h", "nowhere", ""):
        with pytest.raises(Refused):
            merge_base(tmp_path, odd)
    with pytest.raises(Refused):
        Checkout(tmp_path, "nowhere")
    with pytest.raises(Refused):
        merge_base(tmp_path.parent, "main")


def test_writing_follows_no_link_and_takes_no_other_files_name(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("mine\n")
    root = tmp_path / "tree"
    (root / "leaf").mkdir(parents=True)
    (root / "leaf/qna.yml").write_text("a\n")
    (root / "leaf/other.yaml").write_text("b\n")
    os.symlink("../../outside.txt", root / "leaf/link.yaml")
    os.symlink("..", root / "up")
    for path in ("leaf/link.yaml", "up/outside.txt", "../outside.txt", "leaf", "nowhere"):
        with pytest.raises(Refused):
            replace_file(root, path, b"theirs\n")
        with pytest.raises(Refused):
            rename_file(root, path, "leaf/qna.yaml")
    for new in ("leaf/other.yaml", "leaf/link.yaml", "qna.yaml"):
        with pytest.raises(Refused):
            rename_file(root, "leaf/qna.yml", new)
    (root / "leaf/qna.yml").chmod(0o640)
    replace_file(root, "leaf/qna.yml", b"c\n")
    rename_file(root, "leaf/qna.yml", "leaf/qna.yaml")
    assert (root / "leaf/qna.yaml").read_bytes() == b"c\n"
    assert (root / "leaf/qna.yaml").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "outside.txt").read_text() == "mine\n"
    assert sorted(os.listdir(root / "leaf")) == ["link.yaml", "other.yaml", "qna.yaml"]


def test_files_in_memory_are_a_tree_like_any_other() -> None:
    tree = FilesTree({"b": b"22", "a": b"1"})
    assert tree.paths() == ["a", "b"]
    assert tree.read("b", 2) == b"22"
    with pytest.raises(TooLarge):
        tree.read("b", 1)
    with pytest.raises(Refused):
        tree.read("c", 1)


def made(folder: Path, entries: str) -> str:
    """A tree object of these lines (mode, type, id, name), written as they are."""
    done = subprocess.run(
        ["git", "-C", str(folder), "mktree"], input=entries, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_tree_that_holds_itself_a_million_times_is_refused_and_not_listed(tmp_path: Path) -> None:
    commit(tmp_path, BASE)
    tree = made(tmp_path, f"100644 blob {git(tmp_path, 'rev-parse', 'HEAD:README.md')}\ta.yaml\n")
    for _ in range(6):
        tree = made(tmp_path, "".join(f"040000 tree {tree}\td{n}\n" for n in range(10)))
    bomb = made(tmp_path, f"040000 tree {tree}\tknowledge\n")
    with GitTree(tmp_path, "HEAD") as base, GitTree(tmp_path, bomb) as head:
        with pytest.raises(Refused, match="more than 200,000 files"):
            lint(head, RepositoryConfig(), ["knowledge/d0/qna.yaml"])
        with pytest.raises(Refused, match="more than 200,000 files"):
            diff(base, head)


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        ("120000 blob", "knowledge/new/qna.yaml"),
        ("160000 commit", "knowledge/new"),
        ("160000 commit", "compositional_skills"),
        ("120000 blob", ".github/treewright.yml"),
    ],
)
def test_a_link_that_a_change_brings_is_told_where_only_the_change_is_read(
    tmp_path: Path, mode: str, path: str
) -> None:
    commit(tmp_path, {"README.md": "hello\n"})
    target = git(tmp_path, "rev-parse", "HEAD" if mode.endswith("commit") else "HEAD:README.md")
    tree = made(tmp_path, f"{mode} {target}\t{path.split('/')[-1]}\n")
    for part in reversed(path.split("/")[:-1]):
        tree = made(tmp_path, f"040000 tree {tree}\t{part}\n")
    with GitTree(tmp_path, "HEAD") as base, GitTree(tmp_path, tree) as head:
        changes = diff(base, head)
        found = lint(head, RepositoryConfig(), set(changes.paths)).findings
    assert [(each.file, each.rule, each.severity) for each in found] == [(path, "file-kind", "error")]


def test_a_folder_whose_mode_has_a_leading_zero_is_read_like_any_other(tmp_path: Path) -> None:
    commit(tmp_path, BASE)
    tree = git(tmp_path, "rev-parse", "HEAD:compositional_skills")
    (tmp_path / "raw").write_bytes(b"040000 compositional_skills\0" + bytes.fromhex(tree))
    odd = git(tmp_path, "hash-object", "-w", "-t", "tree", "--literally", "raw")
    with GitTree(tmp_path, made(tmp_path, "")) as base, GitTree(tmp_path, odd) as head:
        assert f"{PLAIN}/qna.yaml" in diff(base, head).paths
        assert [leaf.path for leaf in diff(base, head).leaves] == [PLAIN]


def test_thousands_of_paths_to_one_large_file_are_not_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "MOST_BYTES", 2_000)
    commit(tmp_path, {f"compositional_skills/s{n}/qna.yaml": examples.SKILL for n in range(9)})
    with GitTree(tmp_path, "HEAD") as tree:
        found = lint(tree, RepositoryConfig()).findings
    unread = [each.file for each in found if each.rule == "yaml-limits"]
    assert "compositional_skills/s0/qna.yaml" not in unread
    assert "compositional_skills/s8/qna.yaml" in unread
    assert any("were read before it" in each.message for each in found)


def test_a_chain_of_folders_without_end_is_refused(tmp_path: Path) -> None:
    commit(tmp_path, BASE)
    tree = made(tmp_path, f"100644 blob {git(tmp_path, 'rev-parse', 'HEAD:README.md')}\ta.yaml\n")
    for _ in range(25):
        tree = made(tmp_path, f"040000 tree {tree}\t{'d' * 250}\n")
    with (
        GitTree(tmp_path, "HEAD") as base,
        GitTree(tmp_path, tree) as head,
        pytest.raises(Refused, match="4,096 characters"),
    ):
        diff(base, head)
