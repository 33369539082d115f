"""Fetches the documents that a knowledge leaf pins, from a hostile URL, without running anything of the
repository.

A bare partial fetch of one commit (`--depth=1 --filter=blob:none SHA`), the listing from Git's own trees,
then only the matching regular files' blobs: no checkout, so no filters, hooks, links, submodules or LFS
downloads. https only, hosts from the repository's configuration, no redirects, no credentials, private
addresses refused, budgets on files, bytes and time. What was read is cached by repository, commit and
patterns; caches may be shared by processes.

`mirrors` maps a leaf's URL to an internal one (an operator's setting, `TREEWRIGHT_GIT_MIRRORS`); only that
may be http or a path, and no contributor reaches it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lab.config import DocumentPolicy
from lab.taxonomy.canonical import digest
from lab.taxonomy.model import DocumentRef
from lab.taxonomy.tree import GitTree, TooLarge
from lab.untrusted import Refused, clone_url, commit_id, glob_pattern, matches, printable

READABLE = (".md", ".markdown", ".txt")
_LFS = "version https://git-lfs.github.com/spec/"
_PASSED = (
    "PATH",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
)
_PASSED_TOO = ("no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "TMPDIR", "LD_LIBRARY_PATH")
_OPTIONS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.helper=",
    "http.followRedirects=false",
    "protocol.version=2",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
)


class DocumentError(RuntimeError):
    """Documents could not be had. `reason` says what was wrong, `hint` what to do; both may be shown to
    people.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        self.reason = reason
        self.hint = hint
        super().__init__(f"{reason} {hint}".strip())


@dataclass(frozen=True)
class SourceDocument:
    """A Markdown or plain text file of the pinned commit; `digest` is of its text."""

    path: str
    text: str
    digest: str


def fetch_documents(
    ref: DocumentRef, cache: Path, policy: DocumentPolicy, mirrors: Mapping[str, str] | None = None
) -> list[SourceDocument]:
    """The documents that match the leaf's patterns, sorted by path. Raises `DocumentError`."""
    try:
        target = (mirrors or {}).get(ref.repo) or (mirrors or {}).get(ref.repo.rstrip("/"))
        url = target or clone_url(ref.repo, policy.hosts)
        commit = commit_id(ref.commit)
        patterns = tuple(glob_pattern(pattern) for pattern in ref.patterns)
    except Refused as refused:
        raise DocumentError(refused.reason, refused.hint) from None
    if not patterns:
        raise DocumentError("The leaf names no patterns.", "Add one such as `guides/*.md`.")
    key = digest([ref.repo, commit, list(patterns)]).removeprefix("sha256:")
    place = cache / "documents" / key
    if not place.is_dir():
        _fill(place, url, commit, patterns, policy, pinned=target is None)
    return _read(place, policy)


def _read(place: Path, policy: DocumentPolicy) -> list[SourceDocument]:
    """What the cache holds, under today's limits: a policy may have become narrower since."""
    names = (place / "names").read_text("utf-8").splitlines()
    _check_count(len(names), policy)
    documents = []
    for number, name in enumerate(names):
        data = (place / f"{number}.txt").read_bytes()
        if len(data) > policy.max_file_kb * 1024:
            raise _too_large(name, len(data), policy)
        text = data.decode("utf-8")
        documents.append(SourceDocument(name, text, digest(text)))
    return documents


def _fill(
    place: Path, url: str, commit: str, patterns: tuple[str, ...], policy: DocumentPolicy, pinned: bool
) -> None:
    """Writes a cache entry beside its place and renames it; when two processes race, one entry stays."""
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".fetch-", dir=place.parent))
    try:
        git = _Git(work / "git", url, policy, pinned)
        git.fetch(commit)
        texts = _documents(git, commit, patterns, policy)
        entry = work / "entry"
        entry.mkdir()
        for number, text in enumerate(texts.values()):
            (entry / f"{number}.txt").write_text(text, "utf-8", newline="")
        (entry / "names").write_text("".join(f"{name}\n" for name in texts), "utf-8")
        try:
            entry.rename(place)
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _documents(git: _Git, commit: str, patterns: tuple[str, ...], policy: DocumentPolicy) -> dict[str, str]:
    with GitTree(git.folder, commit) as tree:
        blobs = tree.blobs()
        chosen = {pattern: [path for path in blobs if matches(pattern, path)] for pattern in patterns}
        for pattern, paths in chosen.items():
            if not paths:
                _nothing(pattern, tree)
        wanted = sorted({path for paths in chosen.values() for path in paths if "\n" not in path})
        readable = [path for path in wanted if path.lower().endswith(READABLE)]
        if not readable:
            pdf = next((path for path in wanted if path.lower().endswith(".pdf")), None)
            if pdf is not None:
                raise DocumentError(
                    f"`{printable(pdf)}` is a PDF; this installation reads Markdown and plain text.",
                    "Install the extra `treewright[pdf]` on the runner, or convert the document to Markdown.",
                )
            names = ", ".join(f"`{printable(path, 60)}`" for path in wanted[:3])
            raise DocumentError(f"None of {names} is Markdown or plain text.", "Use .md or .txt files.")
        _check_count(len(readable), policy)
        git.blobs(sorted({blobs[path] for path in readable}))
        texts: dict[str, str] = {}
        for path in readable:
            try:
                data = tree.read(path, policy.max_file_kb * 1024)
            except TooLarge as error:
                raise _too_large(path, error.size, policy) from None
            except Refused as refused:
                raise DocumentError(refused.reason, refused.hint) from None
            texts[path] = _text(path, data)
    return texts


def _nothing(pattern: str, tree: GitTree) -> None:
    linked = [path for path in tree.links() if matches(pattern, path)]
    if linked:
        raise DocumentError(
            f"`{printable(linked[0])}` is a link or a submodule; those are never followed.",
            "Name the file that it points to.",
        )
    near = [path for path in tree.paths() if path.lower().endswith(READABLE)][:3]
    names = ", ".join(f"`{printable(path, 60)}`" for path in near)
    hint = (
        f"Readable files of that commit: {names}." if names else "That commit has no Markdown or text files."
    )
    raise DocumentError(f"The pattern `{printable(pattern)}` matches no file of the pinned commit.", hint)


def _text(path: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise DocumentError(
            f"`{printable(path)}` is not UTF-8 text.", "Save it as UTF-8 and pin the new commit."
        ) from None
    if text.startswith(_LFS):
        raise DocumentError(
            f"`{printable(path)}` is a Git LFS pointer, not the document.",
            "Commit the text itself, without LFS.",
        )
    if "\0" in text:
        raise DocumentError(f"`{printable(path)}` is not a text file.", "Use Markdown or plain text.")
    if not text.strip():
        raise DocumentError(f"`{printable(path)}` is empty.", "Pin a commit where it has content.")
    return text


def _check_count(count: int, policy: DocumentPolicy) -> None:
    if count > policy.max_files:
        raise DocumentError(
            f"The patterns match {count} documents; at most {policy.max_files} are read.",
            "Narrow the patterns.",
        )


def _too_large(path: str, size: int, policy: DocumentPolicy) -> DocumentError:
    return DocumentError(
        f"`{printable(path)}` has {-(-size // 1024)} KiB; at most {policy.max_file_kb} KiB are read.",
        "Split the document, or ask a maintainer to raise documents.max_file_kb.",
    )


class _Git:
    """One bare partial copy in a throw-away folder, with an environment that knows nothing of this
    machine's user.
    """

    def __init__(self, folder: Path, url: str, policy: DocumentPolicy, pinned: bool) -> None:
        self.folder = folder
        self.url = url
        self.policy = policy
        self.deadline = time.monotonic() + policy.seconds
        scheme = urlsplit(url).scheme if "://" in url else "file"
        passed = {name: os.environ[name] for name in (*_PASSED, *_PASSED_TOO) if name in os.environ}
        self.environment = {
            **passed,
            "HOME": str(folder.parent),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_ALLOW_PROTOCOL": scheme,
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_NO_LAZY_FETCH": "1",
        }
        options = list(_OPTIONS)
        if pinned and not any("proxy" in name.lower() and name.lower() != "no_proxy" for name in passed):
            options.append(f"http.curloptResolve={pinned_address(urlsplit(url).hostname or '')}")
        self.command = ["git", *(part for option in options for part in ("-c", option))]

    def fetch(self, commit: str) -> None:
        self._run(["init", "-q", "--bare", str(self.folder)])
        if len(commit) == 64:
            shutil.rmtree(self.folder)
            self._run(["init", "-q", "--bare", "--object-format=sha256", str(self.folder)])
        at = [f"--git-dir={self.folder}"]
        self._run([*at, "config", "remote.origin.url", self.url])
        self._run([*at, "config", "remote.origin.promisor", "true"])
        self._run([*at, "config", "remote.origin.partialclonefilter", "blob:none"])
        self._run([*at, "fetch", "-q", "--no-tags", "--depth=1", "--filter=blob:none", "origin", commit])

    def blobs(self, oids: list[str]) -> None:
        """All wanted blobs in one request."""
        arguments = [
            "fetch",
            "-q",
            "--no-tags",
            "--no-write-fetch-head",
            "--filter=blob:none",
            "--stdin",
            "origin",
        ]
        self._run([f"--git-dir={self.folder}", *arguments], "".join(f"{oid}\n" for oid in oids))

    def _run(self, arguments: list[str], stdin: str = "") -> None:
        with tempfile.TemporaryFile() as fed, tempfile.TemporaryFile() as told:
            fed.write(stdin.encode())
            fed.seek(0)
            process = subprocess.Popen(
                [*self.command, *arguments],
                env=self.environment,
                stdin=fed,
                stdout=subprocess.DEVNULL,
                stderr=told,
                start_new_session=True,
            )
            try:
                self._watch(process)
            except BaseException:
                _kill(process)
                raise
            if process.returncode:
                told.seek(0)
                raise self._failure(told.read(4000).decode("utf-8", "replace"))

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Sizes cannot be asked before a fetch, so the folder is measured while it grows."""
        most = self.policy.max_repository_mb << 20
        pause = 0.01
        while True:
            try:
                process.wait(pause)
            except subprocess.TimeoutExpired:
                pause = min(0.2, pause * 2)
            if _size(self.folder) > most:
                raise DocumentError(
                    f"The document repository is larger than {self.policy.max_repository_mb} MiB.",
                    "Use a smaller repository, or ask a maintainer to raise documents.max_repository_mb.",
                )
            if process.returncode is not None:
                return
            if time.monotonic() > self.deadline:
                raise DocumentError(
                    f"Fetching the documents took longer than {self.policy.seconds} seconds.",
                    "Try again; if it stays slow, use a smaller repository.",
                )

    def _failure(self, told: str) -> DocumentError:
        low = told.lower()
        url = printable(self.url.split("?")[0], 120)
        if "redirect" in low or "http 30" in low or "error: 30" in low:
            return DocumentError(
                f"{url} redirects elsewhere.", "Use the repository's final address (often with `.git`)."
            )
        if "not our ref" in low or "couldn't find remote ref" in low or "no such remote ref" in low:
            return DocumentError(
                "The pinned commit is not in the document repository.",
                "Push it there, and check the 40 digits of `commit`.",
            )
        if "not found" in low or "could not read username" in low or "authentication" in low or "403" in low:
            return DocumentError(
                f"{url} does not exist, or it is not public.", "Check the address; make it public."
            )
        if "could not resolve" in low or "failed to connect" in low or "couldn't connect" in low:
            return DocumentError(f"{url} cannot be reached.", "Try again later.")
        if "transport" in low and "not allowed" in low:
            return DocumentError(f"{url} leads to a protocol that is not allowed.", "Use https.")
        last = printable(told.strip().splitlines()[-1] if told.strip() else "no message", 160)
        return DocumentError(f"Git could not fetch {url}: {last}", "Check the address and the commit.")


def pinned_address(host: str, port: int = 443) -> str:
    """`host:port:address` for curl: resolved once, so that a name cannot turn into a private address
    afterwards.
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise DocumentError(
            f"The host `{printable(host, 80)}` cannot be resolved.", "Check the address."
        ) from None
    addresses = [str(answer[4][0]).split("%")[0] for answer in answers]
    if not addresses or not all(ipaddress.ip_address(address).is_global for address in addresses):
        raise DocumentError(
            f"The host `{printable(host, 80)}` leads to a private address.",
            "Use a public host, or ask the operator for a mirror.",
        )
    return f"{host}:{port}:{','.join(f'[{a}]' if ':' in a else a for a in dict.fromkeys(addresses))}"


def _size(folder: Path) -> int:
    total = 0
    for base, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except OSError:  # renamed by Git meanwhile
                continue
    return total


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Git and the helpers that it started: they are a process group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
