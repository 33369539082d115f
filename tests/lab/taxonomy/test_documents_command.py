"""`treewright documents` shows what the teacher will read, before anything is proposed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from git_host import commit, git, serve
from typer.testing import CliRunner

from lab.config import DocumentPolicy
from lab.taxonomy.chunks import chunk
from lab.taxonomy.documents import fetch_documents
from lab.taxonomy.leaf import load_leaf
from lab.taxonomy.tree import FolderTree
from treewright.cli import app

ROOT = Path(__file__).parents[3]
LEAF = "knowledge/geography/farne_mora"


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["documents", *arguments])
    return done.exit_code, done.output


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The example's leaf, pinned to a commit of the example's documents."""
    source = (ROOT / "examples/contributions/good" / LEAF / "qna.yaml").read_text("utf-8")
    made = (ROOT / "examples/documents/farne_mora/field_guide.md").read_text("utf-8")
    sha = commit(
        tmp_path / "hosted" / "documents", {"farne_mora/field_guide.md": made, "farne_mora/map.png": b"x"}
    )
    lines = source.split("\n")
    at = next(number for number, line in enumerate(lines) if line.startswith("document:"))
    pinned = ["document:", "  repo: https://github.com/acme/documents.git", f"  commit: {sha}"]
    folder = tmp_path / "taxonomy" / LEAF
    folder.mkdir(parents=True)
    (folder / "qna.yaml").write_text(
        "\n".join([*lines[:at], *pinned, '  patterns: ["farne_mora/*"]', ""]), "utf-8"
    )
    git(tmp_path, "init", "-q", "taxonomy")
    return tmp_path / "taxonomy"


def test_a_leafs_documents_are_shown_with_their_passages(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://github.com/acme/documents.git"
    monkeypatch.setenv("TREEWRIGHT_CACHE", str(tmp_path / "cache"))
    with serve(tmp_path / "hosted", []) as host:
        mirrors = {url: f"{host}/documents/.git"}
        monkeypatch.setenv("TREEWRIGHT_GIT_MIRRORS", json.dumps(mirrors))
        code, told = run(str(tree / LEAF), "--format", "json")
    (report,) = json.loads(told)
    assert code == 0
    assert report["source"] == LEAF
    assert report["ignored"] == ["farne_mora/map.png"]
    leaf = load_leaf(FolderTree(tree), LEAF)
    assert leaf.document is not None
    (document,) = fetch_documents(leaf.document, tmp_path / "cache", DocumentPolicy())  # from the cache
    assert [each["id"] for each in report["documents"][0]["chunks"]] == [each.id for each in chunk(document)]
    code, told = run(str(tree / LEAF / "qna.yaml"), "--show")
    assert code == 0
    assert "(from the cache)" in told
    assert "field_guide.md: 239 words, 14 sentences, 4 passages" in told
    assert "not read (no document type): farne_mora/map.png" in told
    assert chunk(document)[0].text.split("\n")[0][:60] in told


def test_documents_that_are_not_pinned_yet_can_be_tried(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<h1>Isles</h1><p>The tern nests here.</p>")
    code, told = run(str(tmp_path / "page.html"), "--show")
    assert code == 0
    assert "page.html" in told
    assert "| The tern nests here." in told
    (tmp_path / "other.md").write_text("text")
    code, told = run(str(tmp_path))
    assert code == 1
    assert "one type" in told


def test_wrong_use_is_told(tmp_path: Path) -> None:
    assert run(str(tmp_path / "nothing"))[0] == 2
    code, told = run(str(tmp_path))
    assert code == 1
    assert "no leaf and no document" in told
    (tmp_path / "a.md").write_bytes(b"\xff")
    assert "offset 0" in run(str(tmp_path / "a.md"))[1]


def test_a_pin_that_is_wrong_is_told_with_its_leaf(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREEWRIGHT_CACHE", str(tmp_path / "cache"))
    url = "https://github.com/acme/documents.git"
    with serve(tmp_path / "hosted", [], redirect=True) as host:
        monkeypatch.setenv("TREEWRIGHT_GIT_MIRRORS", json.dumps({url: f"{host}/documents/.git"}))
        code, told = run(str(tree))
    assert code == 1
    assert LEAF in told
    assert "redirects elsewhere" in told
