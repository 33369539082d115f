"""One commit of a hostile Git repository, without a checkout and without running anything of it.

A bare partial fetch (`--depth=1 --filter=blob:none SHA`), the listing from Git's own trees, then only the
wanted blobs (facts: Git's documentation of partial clone and of `protocol.allow`). The environment knows
nothing of this machine's user; https only, no redirects, no credentials, no prompt, private addresses
refused. A growing pack is stopped at its limit by `ulimit -f` and by measuring; everything that Git started
is one process group and ends with it. `documents.py` is the only caller.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from lab.config import DocumentPolicy
from lab.taxonomy.document_limits import DocumentError
from lab.untrusted import printable

_PASSED = (
    *("PATH", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"),
    *("NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "TMPDIR", "LD_LIBRARY_PATH"),
)
_OPTIONS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "core.bigFileThreshold=1m",  # larger blobs are streamed instead of held in memory
    "credential.helper=",
    "http.followRedirects=false",
    "protocol.version=2",
    "transfer.bundleURI=false",
    "fetch.unpackLimit=1",  # one pack instead of loose files, so that one limit of size holds
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "remote.origin.promisor=true",
    "remote.origin.partialclonefilter=blob:none",
)
# The limit of a file's size is set by a shell before Git starts, so that every helper of Git's inherits it.
_LIMITED = ("/bin/sh", "-c", 'ulimit -f "$1" && shift && exec "$@"', "sh")


class Fetcher:
    """A bare copy in `folder` (which must not exist). `pinned`: the address is looked up once and must be
    public.
    """

    def __init__(self, folder: Path, url: str, policy: DocumentPolicy, pinned: bool, shown: str = "") -> None:
        self.folder = folder
        self.shown = shown or url  # a mirror's address is the operator's own and is not told to people
        self.url = url
        self.policy = policy
        self.deadline = time.monotonic() + policy.seconds
        scheme = urlsplit(url).scheme if "://" in url else "file"
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
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
            "GIT_NO_REPLACE_OBJECTS": "1",
        }
        options = [*_OPTIONS, f"remote.origin.url={url}"]
        if pinned and not any("proxy" in name.lower() and name.lower() != "no_proxy" for name in passed):
            options.append(f"http.curloptResolve={pinned_address(urlsplit(url).hostname or '')}")
        blocks = str((policy.max_repository_mb << 20) // 512 + 1)
        self.command = [*_LIMITED, blocks, "git", *(part for each in options for part in ("-c", each))]

    def fetch(self, commit: str) -> None:
        """Trees of the commit, no blobs. Raises `DocumentError`, also when the id is not a commit's."""
        kind = ["--object-format=sha256"] if len(commit) == 64 else []
        self._run(["init", "-q", "--bare", "--template=", *kind, str(self.folder)])
        self._run(
            [self._at, "fetch", "-q", "--no-tags", "--depth=1", "--filter=blob:none", "origin", commit],
        )
        self._forget(len(commit) == 64)
        type_ = self._run([self._at, "cat-file", "-t", commit]).strip()
        if type_ != "commit":
            raise not_a_commit(commit, type_)

    def blobs(self, oids: list[str]) -> None:
        """All wanted blobs in one request."""
        arguments = [
            *("fetch", "-q", "--no-tags", "--no-write-fetch-head", "--filter=blob:none", "--stdin", "origin"),
        ]
        self._run([self._at, *arguments], "".join(f"{oid}\n" for oid in oids))
        self._forget(len(oids[0]) == 64)

    @property
    def _at(self) -> str:
        return f"--git-dir={self.folder}"

    def _forget(self, sha256: bool) -> None:
        """Git notes the remote as a promisor; without that note no later reader can be led to fetch."""
        config = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
        if sha256:
            config = config.replace("= 0", "= 1") + "[extensions]\n\tobjectformat = sha256\n"
        (self.folder / "config").write_text(config)

    def _run(self, arguments: list[str], stdin: str = "") -> str:
        with (
            tempfile.TemporaryFile(dir=self.folder.parent) as fed,
            tempfile.TemporaryFile(dir=self.folder.parent) as said,
            tempfile.TemporaryFile(dir=self.folder.parent) as told,
        ):
            fed.write(stdin.encode())
            fed.seek(0)
            try:
                process = subprocess.Popen(
                    [*self.command, *arguments],
                    env=self.environment,
                    cwd=self.folder.parent,
                    stdin=fed,
                    stdout=said,
                    stderr=told,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise DocumentError("Git cannot be started here.", "Install git and a shell.") from None
            watch(process, self._check)
            if process.returncode:
                raise self._failure(_read(told))
            return _read(said)

    def _check(self) -> None:
        """Sizes cannot be asked before a fetch, so the folder is measured while it grows."""
        if folder_size(self.folder) > self.policy.max_repository_mb << 20:
            raise self._too_large()
        if time.monotonic() > self.deadline:
            raise DocumentError(
                f"Fetching the documents took longer than {self.policy.seconds} seconds (documents.seconds).",
                "Try again; if it stays slow, use a smaller repository.",
            )

    def _too_large(self) -> DocumentError:
        return DocumentError(
            f"The document repository brings more than {self.policy.max_repository_mb} MiB.",
            "Use a smaller repository, or ask a maintainer to raise documents.max_repository_mb.",
        )

    def _failure(self, told: str) -> DocumentError:
        # What the server says itself is not quoted, and does not decide what we say.
        lines = [line for line in told.splitlines() if line.strip() and not line.startswith("remote:")]
        low = "\n".join(lines).lower()
        url = printable(self.shown, 120)
        if "signal 25" in low or "file too large" in low:
            return self._too_large()
        for marks, reason, hint in _FAILURES:
            if any(mark in low for mark in marks):
                return DocumentError(reason.format(url=url), hint)
        last = printable((lines[-1] if lines else "no message").replace(self.url, self.shown), 160)
        return DocumentError(f"Git could not fetch {url} ({last}).", "Check the address and the commit.")


_FAILURES = (
    (
        ("redirect", "http 30", "error: 30"),
        "{url} redirects elsewhere.",
        "Use the repository's final address (often with `.git`).",
    ),
    (
        ("not our ref", "couldn't find remote ref", "no such remote ref", "unadvertised object"),
        "The pinned commit is not in the document repository.",
        "Push it there, and check the digits of `commit`.",
    ),
    (
        ("is not a commit", "not a commit object", "not commit-ish"),
        "`commit` is the id of something else than a commit.",
        "Use what `git rev-parse HEAD^{{commit}}` prints in the document repository.",
    ),
    (
        ("did not send all necessary", "remote did not send", "bad object", "missing necessary objects"),
        "{url} did not send the commit that was asked for.",
        "Check the digits of `commit`; if they are right, the server is broken.",
    ),
    (
        (
            "bad pack",
            "index-pack",
            "invalid index-pack",
            "pack has",
            "inflate",
            "early eof",
            "corrupt",
            "sha1",
        ),
        "{url} sent a damaged answer.",
        "Try again later; if it stays, run `git fsck` in the document repository.",
    ),
    (
        ("not found", "could not read username", "could not read password", "authentication", "403", "401"),
        "{url} does not exist, or it is not public.",
        "Check the address; make it public.",
    ),
    (
        ("could not resolve", "failed to connect", "couldn't connect", "connection refused", "empty reply"),
        "{url} cannot be reached.",
        "Try again later.",
    ),
    (
        ("error: 5", "http 5", "unexpected disconnect", "hung up", "rpc failed", "recv failure", "expected"),
        "{url} broke off or answered with an error.",
        "Try again later.",
    ),
    (
        ("certificate", "ssl"),
        "{url} has no certificate that this machine trusts.",
        "Use a host with a valid one.",
    ),
    (("not allowed",), "{url} leads to a protocol that is not allowed.", "Use https."),
    (
        (
            "dumb http",
            "protocol error",
            "not valid: is this a git repository",
            "not appear to be a git",
            "not a git repository",
        ),
        "There is no Git repository at {url}.",
        "Check the address; it is what `git clone` takes.",
    ),
)


def not_a_commit(commit: str, type_: str) -> DocumentError:
    what = {"tag": "an annotated tag", "tree": "a folder", "blob": "a file"}.get(type_, "something else")
    return DocumentError(
        f"`commit` {commit[:12]} is the id of {what}, not of a commit.",
        f"Use what `git rev-parse {commit[:12]}^{{commit}}` prints in the document repository."
        if type_ == "tag"
        else "Use what `git rev-parse HEAD` prints in the document repository.",
    )


def pinned_address(host: str, port: int = 443) -> str:
    """`host:port:address` for curl: resolved once, so that a name cannot turn into a private address
    afterwards.
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise DocumentError(
            f"The host `{printable(host, 80)}` cannot be resolved.", "Check the address."
        ) from None
    addresses = [str(answer[4][0]).split("%")[0] for answer in answers]
    if not addresses or not all(is_public(address) for address in addresses):
        raise DocumentError(
            f"The host `{printable(host, 80)}` leads to a private address.",
            "Use a public host, or ask the operator for a mirror.",
        )
    return f"{host}:{port}:{','.join(f'[{a}]' if ':' in a else a for a in dict.fromkeys(addresses))}"


def is_public(address: str) -> bool:
    """Whether an address lies in the public Internet; an IPv4 address inside an IPv6 one counts as itself."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return found.is_global and not found.is_multicast


def watch(process: subprocess.Popen[bytes], check: Callable[[], None]) -> None:
    """Waits for the process; `check` is asked meanwhile and once more at the end. When it raises, the whole
    group is killed.
    """
    pause = 0.005
    try:
        # The leader is not reaped before its group is ended: until then no other group can get its number.
        while not _has_ended(process):
            check()
            time.sleep(pause)
            pause = min(0.2, pause * 1.5)
        check()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, 9)
        process.wait()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def folder_size(folder: Path) -> int:
    total = 0
    for base, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except OSError:  # renamed by Git meanwhile
                continue
    return total


def _read(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read(8000).decode("utf-8", "replace")
