"""The second time costs no network; damage is noticed; what is in use stays."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

import pytest
from git_host import commit, serve

from lab.config import DocumentPolicy
from lab.taxonomy.document_cache import DocumentCache
from lab.taxonomy.documents import DocumentError, DocumentLimits, fetch_documents, read_documents
from lab.taxonomy.model import DocumentRef

URL = "https://github.com/acme/documents.git"
POLICY = DocumentPolicy(hosts=("github.com",), seconds=20)


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "documents" / "entries").glob("*/*"))


class Host:
    """A host that can be stopped."""

    def __init__(self, root: Path) -> None:
        self.stack = ExitStack()
        self.requests: list[str] = []
        url = self.stack.enter_context(serve(root, self.requests))
        self.repository = root / "acme" / "documents"
        self.mirrors = {URL: f"{url}/acme/documents/.git"}

    def stop(self) -> None:
        self.stack.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    running = Host(tmp_path)
    yield running
    running.stop()


def test_what_was_fetched_needs_no_host_any_more(host: Host, tmp_path: Path) -> None:
    sha = commit(host.repository, {"a.html": "<h1>A</h1><p>text</p>", "b.html": "<p>more</p>"})
    ref = DocumentRef(URL, sha, ("b.html", "a.html"))
    first = read_documents(ref, tmp_path / "cache", POLICY, host.mirrors)
    host.stop()
    again = read_documents(
        replace(ref, patterns=("a.html", "b.html")), tmp_path / "cache", POLICY, host.mirrors
    )
    assert (first.cached, again.cached) == (False, True)
    assert again.documents == first.documents
    with pytest.raises(DocumentError, match="cannot be reached"):
        read_documents(replace(ref, patterns=("*.html",)), tmp_path / "cache", POLICY, host.mirrors)


def test_cached_documents_are_under_todays_limits(host: Host, tmp_path: Path) -> None:
    sha = commit(host.repository, {"a.md": "text\n" * 500})
    ref = DocumentRef(URL, sha, ("a.md",))
    fetch_documents(ref, tmp_path / "cache", POLICY, host.mirrors)
    with pytest.raises(DocumentError, match="at most 1 KiB"):
        fetch_documents(ref, tmp_path / "cache", replace(POLICY, max_file_kb=1), host.mirrors)


@pytest.mark.parametrize("damage", [b"", b"rubbish", b"flip", b"cut"])
def test_a_damaged_entry_is_noticed_and_fetched_again(host: Host, tmp_path: Path, damage: bytes) -> None:
    sha = commit(host.repository, {"a.md": "the text\n"})
    ref = DocumentRef(URL, sha, ("a.md",))
    first = fetch_documents(ref, tmp_path / "cache", POLICY, host.mirrors)
    (entry,) = entries(tmp_path / "cache")
    good = entry.read_bytes()
    entry.write_bytes(
        {b"flip": good.replace(b"the text", b"the lies"), b"cut": good[:-2]}.get(damage, damage)
    )
    asked = len(host.requests)
    assert fetch_documents(ref, tmp_path / "cache", POLICY, host.mirrors) == first
    assert len(host.requests) > asked
    assert [each.read_bytes() for each in entries(tmp_path / "cache")] == [good]


def _fetch(place: str, mirrors: dict[str, str], sha: str, told: multiprocessing.Queue[object]) -> None:
    try:
        found = read_documents(DocumentRef(URL, sha, ("*.md",)), Path(place), POLICY, mirrors)
        told.put((found.cached, [each.digest for each in found.documents]))
    except Exception as error:
        told.put(repr(error))


def test_processes_that_want_the_same_share_one_fetch(host: Host, tmp_path: Path) -> None:
    sha = commit(host.repository, {"a.md": "text\n", "b.md": "more\n"})
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[object] = context.Queue()
    arguments = (str(tmp_path / "cache"), host.mirrors, sha, told)
    both = [context.Process(target=_fetch, args=arguments) for _ in range(2)]
    for each in both:
        each.start()
    answers = [told.get(timeout=30) for _ in both]
    for each in both:
        each.join()
    assert sorted(answer[0] for answer in answers) == [False, True]  # type: ignore[index]  # None would fail here
    assert answers[0][1] == answers[1][1]  # type: ignore[index]  # None would fail here
    assert len(entries(tmp_path / "cache")) == 1


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path, 3500)
    for number, key in enumerate("abc"):
        cache.write(key, [("x", b"." * 1000)])
        os.utime(cache._place(key), (1000 + number, 1000 + number))
    assert cache.read("a")
    cache.write("d", [("x", b"." * 1000)])
    assert [key for key in "abcd" if cache.read(key)] == ["a", "c", "d"]
    assert sum(each.stat().st_size for each in tmp_path.rglob("*") if each.is_file()) <= 3500


def test_what_is_in_use_is_not_evicted(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path, 1500)
    cache.write("a", [("x", b"." * 1000)])
    program = (
        "import fcntl, sys\n"
        "stream = open(sys.argv[1], 'rb')\n"
        "fcntl.flock(stream, fcntl.LOCK_SH)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(cache._place("a"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"held\n"
    cache.write("b", [("x", b"." * 1000)])
    assert cache.read("a")
    reader.communicate()
    cache.write("c", [("x", b"." * 1000)])
    assert cache.read("a") is None
    assert cache.read("c")


def test_a_leaf_over_the_whole_cache_still_works(host: Host, tmp_path: Path) -> None:
    sha = commit(host.repository, {"a.md": "text\n" * 150_000})
    ref = DocumentRef(URL, sha, ("a.md",))
    limits = DocumentLimits(cache_mb=1)
    for _ in range(2):
        found = read_documents(ref, tmp_path / "c", POLICY, host.mirrors, limits)
        assert len(found.documents[0].text) == 750_000


def test_remains_of_a_killed_process_are_swept_and_a_living_ones_are_not(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path, 1000)
    dead, fresh = tmp_path / ".work-dead", tmp_path / ".work-fresh"
    for place in (dead, fresh):
        place.mkdir()
        (place / "held").touch()
    os.utime(dead, (1, 1))
    with cache.workplace() as living:
        os.utime(living, (1, 1))
        with cache.workplace():
            assert living.is_dir()
            assert fresh.is_dir()
            assert not dead.exists()


def test_a_waiting_reader_goes_on_alone_after_its_time(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path, 1000)
    entered: list[float] = []

    def wait() -> None:
        with cache.filling("a", 0.2):
            entered.append(time.monotonic())

    with cache.filling("a", 1):
        thread = threading.Thread(target=wait)
        start = time.monotonic()
        thread.start()
        thread.join()
    assert 0.15 < entered[0] - start < 5


@pytest.mark.parametrize("told", ["many", "-1", "0", "1.5", "\u0661", "9" * 30])
def test_a_setting_that_is_no_number_is_named(told: str) -> None:
    with pytest.raises(DocumentError, match="TREEWRIGHT_DOCUMENTS_WORDS"):
        DocumentLimits.from_environment({"TREEWRIGHT_DOCUMENTS_WORDS": told})
    assert DocumentLimits.from_environment({"TREEWRIGHT_DOCUMENTS_WORDS": "7"}).words == 7


def test_the_page_for_contributors_names_every_limit_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "documents.md").read_text("utf-8")
    names = [("documents.", each) for each in fields(DocumentPolicy) if each.name != "hosts"]
    names += [("TREEWRIGHT_DOCUMENTS_", each) for each in fields(DocumentLimits)]
    for prefix, each in names:
        name = each.name if prefix == "documents." else each.name.upper()
        assert f"| `{prefix}{name}` | {each.default:,} |" in page
