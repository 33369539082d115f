"""`treewright lint --documents` fetches what a leaf pins from a real Git host, once, and reads contexts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from git_host import commit, serve
from typer.testing import CliRunner

from lab.taxonomy import examples
from treewright.cli import app

ISLES = "knowledge/geography/isles"
REPO = "https://github.com/acme/documents.git"


def test_contexts_are_held_against_the_pinned_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = [
        line.partition("context: ")[2] for line in examples.KNOWLEDGE.split("\n") if "context: " in line
    ]
    sha = commit(
        tmp_path / "hosted" / "documents", {"guides/isles.md": "# Isles\n\n" + "\n\n".join(contexts) + "\n"}
    )
    folder = tmp_path / "tree" / ISLES
    folder.mkdir(parents=True)
    (folder / "attribution.txt").write_text(examples.ATTRIBUTION)
    good = examples.KNOWLEDGE.replace("0123456789abcdef0123456789abcdef01234567", sha)
    requests: list[str] = []
    with serve(tmp_path / "hosted", requests) as url:
        monkeypatch.setenv("TREEWRIGHT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("TREEWRIGHT_GIT_MIRRORS", json.dumps({REPO: f"{url}/documents/.git"}))

        def run(text: str, *flags: str) -> list[tuple[str, int]]:
            (folder / "qna.yaml").write_text(text)
            done = CliRunner().invoke(app, ["lint", str(tmp_path / "tree"), *flags, "--format", "json"])
            return [(each["rule"], each["line"]) for each in json.loads(done.stdout)["findings"]]

        assert run(good) == []
        assert requests == []
        assert run(good, "--documents") == []
        asked = len(requests)
        assert asked > 0
        line = good.split("\n").index(f"  - context: {contexts[1]}") + 1
        invented = good.replace(
            contexts[1], "Ess has 3 lighthouses, and 40 keepers dine in each of them daily."
        )
        invented = invented.replace("Ess has 3 lights.", "Ess has 3 lighthouses.").replace(
            "On the skerry.", "There."
        )
        told = run(invented, "--documents")
        assert [found[1] for found in told if found[0] not in {rule for rule, _ in run(invented)}] == [line]
        assert len(requests) == asked, "the documents lie in the cache"
        missing = run(good.replace(sha, "f" * 40), "--documents")
        assert missing == [("document-match", good.split("\n").index("  patterns:") + 1)]
