"""Documents come from a pinned commit, over a real Git host, and nothing else is touched."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from git_host import commit, git, serve

from lab.config import DocumentPolicy
from lab.taxonomy.documents import DocumentError, fetch_documents, pinned_address
from lab.taxonomy.model import DocumentRef

URL = "https://github.com/acme/documents.git"
POLICY = DocumentPolicy(hosts=("github.com",), seconds=30)


class Host:
    def __init__(self, root: Path, url: str, requests: list[str]) -> None:
        self.repository = root / "acme" / "documents"
        self.mirrors = {URL: f"{url}/acme/documents/.git"}
        self.requests = requests
        self.cache = root / "cache"

    def ref(self, sha: str, *patterns: str) -> DocumentRef:
        return DocumentRef(URL, sha, patterns)


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "documents" / "entries").glob("*/*"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    requests: list[str] = []
    with serve(tmp_path, requests) as url:
        yield Host(tmp_path, url, requests)


def test_only_matching_files_of_the_pinned_commit_come_and_the_cache_answers_the_second_time(
    host: Host,
) -> None:
    sha = commit(
        host.repository,
        {"guides/a.md": "# A\n\nOld.\r\n", "guides/b.txt": "B\n", "big.bin": os.urandom(300_000)},
    )
    commit(host.repository, {"guides/a.md": "# A\n\nNew.\n"})
    found = fetch_documents(host.ref(sha, "guides/*"), host.cache, POLICY, host.mirrors)
    assert [(each.path, each.text) for each in found] == [
        ("guides/a.md", "# A\n\nOld.\n"),
        ("guides/b.txt", "B\n"),
    ]
    asked = len(host.requests)
    assert asked
    assert fetch_documents(host.ref(sha, "guides/*"), host.cache, POLICY, host.mirrors) == found
    assert len(host.requests) == asked
    assert sum(each.stat().st_size for each in host.cache.rglob("*") if each.is_file()) < 1000


@pytest.mark.parametrize(
    ("files", "pattern", "told"),
    [
        ({"a.md": "x\n"}, "b/*.md", "matches no file.*`a.md`"),
        ({"a.pdf": b"no"}, "*.pdf", "is no PDF"),
        ({"a.docx": b"PK"}, "*.docx", "Use Markdown .*PDF"),
        ({"a.md": b"\xff\xfe"}, "*.md", "not UTF-8"),
        ({"a.md": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"}, "*.md", "LFS pointer"),
        ({"a.md": " \n"}, "*.md", "is empty"),
        ({"a.md": "x" * 3000}, "*.md", "at most 1 KiB"),
        ({"a.md": "x\n", "b.md": "x\n", "c.md": "x\n"}, "*.md", "match 3 documents; at most 2"),
    ],
)
def test_what_cannot_be_used_is_told_with_a_fix(
    host: Host, files: dict[str, str | bytes | None], pattern: str, told: str
) -> None:
    sha = commit(host.repository, files)
    with pytest.raises(DocumentError, match=told) as error:
        fetch_documents(
            host.ref(sha, pattern), host.cache, replace(POLICY, max_files=2, max_file_kb=1), host.mirrors
        )
    assert error.value.hint


def test_links_and_submodules_are_never_followed(host: Host) -> None:
    host.repository.mkdir(parents=True)
    os.symlink("/etc/passwd", host.repository / "secret.md")
    sha = commit(host.repository, {"a.md": "x\n"})
    with pytest.raises(DocumentError, match="never followed"):
        fetch_documents(host.ref(sha, "secret.md"), host.cache, POLICY, host.mirrors)
    assert [d.path for d in fetch_documents(host.ref(sha, "*.md"), host.cache, POLICY, host.mirrors)] == [
        "a.md"
    ]


def test_a_commit_that_is_not_there_is_named(host: Host) -> None:
    commit(host.repository, {"a.md": "x\n"})
    with pytest.raises(DocumentError, match="pinned commit is not in"):
        fetch_documents(host.ref("1" * 40, "*.md"), host.cache, POLICY, host.mirrors)


def test_a_repository_that_is_not_there_is_named(host: Host) -> None:
    with pytest.raises(DocumentError, match="does not exist, or it is not public"):
        fetch_documents(host.ref("1" * 40, "*.md"), host.cache, POLICY, host.mirrors)


def test_a_repository_over_its_size_is_given_up(host: Host) -> None:
    sha = commit(host.repository, {"a.md": os.urandom(1_500_000).hex()})
    policy = replace(POLICY, max_repository_mb=1, max_file_kb=8192)
    with pytest.raises(DocumentError, match="more than 1 MiB"):
        fetch_documents(host.ref(sha, "*.md"), host.cache, policy, host.mirrors)
    assert entries(host.cache) == []
    assert not list((host.cache / "documents").glob(".work-*"))


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with serve(tmp_path, [], redirect=True) as url, pytest.raises(DocumentError) as error:
        fetch_documents(DocumentRef(URL, "1" * 40, ("*.md",)), tmp_path / "c", POLICY, {URL: f"{url}/x.git"})
    assert "redirects" in error.value.reason


@pytest.mark.parametrize(
    "url", ["file:///etc", "http://github.com/a/b", "https://evil.example/a/b", "ext::sh -c id"]
)
def test_a_hostile_url_never_reaches_git(url: str, tmp_path: Path) -> None:
    with pytest.raises(DocumentError):
        fetch_documents(DocumentRef(url, "1" * 40, ("*.md",)), tmp_path, POLICY)
    assert list(tmp_path.iterdir()) == []


def test_a_host_with_a_private_address_is_refused() -> None:
    with pytest.raises(DocumentError, match="private address"):
        pinned_address("localhost")


def test_hooks_and_settings_of_this_machine_do_not_run(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {trap}")
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "http://")
    sha = commit(host.repository, {"a.md": "x\n"})
    assert fetch_documents(host.ref(sha, "a.md"), host.cache, POLICY, host.mirrors)[0].text == "x\n"
    assert not trap.exists()


def test_two_readers_at_once_share_one_entry(host: Host) -> None:
    sha = commit(host.repository, {"a.md": "x\n"})
    results: list[int] = []

    def read() -> None:
        results.append(len(fetch_documents(host.ref(sha, "a.md"), host.cache, POLICY, host.mirrors)))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1, 1, 1, 1]
    assert len(entries(host.cache)) == 1
    assert git(host.repository, "status", "--porcelain") == ""
