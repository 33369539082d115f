"""Repositories and large files of the hub: bare Git, and LFS objects by SHA-256, both on disk.

A commit is made by Git plumbing in a throw-away index (no work tree), and the branch moves by
compare-and-swap, so a commit is there as a whole or not at all, and `git clone` of the same folder shows what
the API shows. Large files are pointers in Git (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md);
their bytes never pass through memory.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import secrets
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPO_TYPES = ("model", "dataset")
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9])?")
OID = re.compile(r"[0-9a-f]{64}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./+-]{0,199}")
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n"
)
POINTER_LIMIT = 200
# The Hub's own threshold for files without an attribute; larger ones never enter Git's object store.
REGULAR_LIMIT = 10 * 1024 * 1024
LFS_SUFFIXES = (
    "arrow",
    "bin",
    "gguf",
    "gz",
    "h5",
    "npy",
    "npz",
    "onnx",
    "parquet",
    "pt",
    "safetensors",
    "zip",
)
ATTRIBUTE = "filter=lfs diff=lfs merge=lfs -text"


class StoreError(Exception):
    """`code` is the Hub's `X-Error-Code`, or "" where it has none; `status` the HTTP status."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Lfs:
    oid: str
    size: int
    pointer_size: int


@dataclass(frozen=True)
class Entry:
    """One file of a tree; `size` is the content's, not the pointer's."""

    path: str
    blob: str
    size: int
    lfs: Lfs | None


@dataclass(frozen=True)
class Commit:
    oid: str
    author: str
    date: str
    title: str
    body: str


@dataclass(frozen=True)
class Add:
    """A file of a commit: its bytes (small), or the LFS object that was uploaded before."""

    path: str
    content: bytes | None = None
    lfs_oid: str = ""
    lfs_size: int = 0


@dataclass(frozen=True)
class Delete:
    path: str
    folder: bool = False


def check_path(path: str) -> str:
    """A path inside a repository. What could leave it, or what Git would not check out, is refused."""
    parts = path.split("/")
    if (
        not path
        or len(path) > 1000
        or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
        or any(ord(letter) < 32 or letter in "\\\x7f" for letter in path)
    ):
        raise StoreError(400, f"path {path[:80]!r} is not a file path inside a repository")
    return path


class LfsStore:
    """Objects of one repository by SHA-256 in `root/ab/cd/<oid>`, the layout of Git LFS itself.

    They are written to a temporary name, checked, then renamed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, oid: str) -> Path:
        if not OID.fullmatch(oid):
            raise StoreError(400, "an LFS oid is 64 hex digits of SHA-256")
        return self.root / oid[:2] / oid[2:4] / oid

    def size(self, oid: str) -> int | None:
        try:
            return self.path(oid).stat().st_size
        except FileNotFoundError:
            return None

    async def receive(self, oid: str, size: int, stream: AsyncIterator[bytes]) -> None:
        target = self.path(oid)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{oid}.{secrets.token_hex(4)}.partial")
        digest, received = hashlib.sha256(), 0
        try:
            with partial.open("wb") as out:
                async for block in stream:
                    received += len(block)
                    if received > size:
                        raise StoreError(413, f"more than the {size} bytes that were announced")
                    digest.update(block)
                    out.write(block)
                out.flush()
                os.fsync(out.fileno())
            if received != size or digest.hexdigest() != oid:
                raise StoreError(400, "the bytes received do not have the announced size and SHA-256")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


class Repository:
    """One bare repository. Every method reads from disk, so other processes may write too."""

    _locks: dict[Path, threading.Lock] = {}  # noqa: RUF012  (one lock a folder, shared by all instances)
    _locks_guard = threading.Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lfs = LfsStore(path / "lfs" / "objects")
        with self._locks_guard:
            self.lock = self._locks.setdefault(path, threading.Lock())

    def git(self, *arguments: str, data: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        done = subprocess.run(
            ["git", "--git-dir", str(self.path), *arguments],
            input=data,
            capture_output=True,
            env={**_GIT_ENVIRONMENT, **(env or {})},
            check=False,
        )
        if done.returncode != 0:
            raise StoreError(500, f"git {arguments[0]} failed: {done.stderr.decode(errors='replace')[:300]}")
        return done.stdout

    @classmethod
    def create(cls, path: Path, author: str) -> Repository:
        """A new repository with the Hub's usual first commit: `.gitattributes`."""
        path.mkdir(parents=True)
        repository = cls(path)
        repository.git("init", "--quiet", "--bare", "--initial-branch=main")
        attributes = "".join(f"*.{suffix} {ATTRIBUTE}\n" for suffix in LFS_SUFFIXES).encode()
        repository.commit("main", [Add(".gitattributes", attributes)], "initial commit", "", author, None)
        return repository

    def resolve(self, revision: str) -> str:
        """The full commit of a branch, a tag or a commit id."""
        if REVISION.fullmatch(revision) and ".." not in revision:
            names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
            if re.fullmatch(r"[0-9a-f]{7,40}", revision):
                names.append(revision)
            asked = "".join(f"{name}^{{commit}}\n" for name in names).encode()
            for line in self.git("cat-file", "--batch-check", data=asked).decode().splitlines():
                found = line.split(" ")
                if found[1:2] == ["commit"]:
                    return found[0]
        raise StoreError(404, f"Invalid rev id: {revision[:80]}", "RevisionNotFound")

    def split(self, rest: str) -> tuple[str, str]:
        """Cut `revision/path` where the shortest existing revision ends; branch names may hold slashes."""
        parts = rest.split("/")
        for cut in range(1, len(parts) + 1):
            try:
                return self.resolve("/".join(parts[:cut])), "/".join(parts[cut:])
            except StoreError:
                continue
        raise StoreError(404, f"Invalid rev id: {parts[0][:80]}", "RevisionNotFound")

    def entries(self, commit: str) -> list[Entry]:
        rows: list[tuple[str, str, int]] = []
        for line in self.git("ls-tree", "-r", "-l", "-z", "--full-tree", commit).split(b"\0"):
            if line:
                meta, path = line.split(b"\t", 1)
                _mode, kind, blob, size = meta.split()
                if kind == b"blob":
                    rows.append((path.decode(errors="replace"), blob.decode(), int(size)))
        small = self.blobs([blob for _, blob, size in rows if size <= POINTER_LIMIT])
        return [_entry(path, blob, size, small.get(blob, b"")) for path, blob, size in rows]

    def entry(self, commit: str, path: str) -> Entry:
        for entry in self.entries(commit):
            if entry.path == path:
                return entry
        raise StoreError(404, f"Entry not found: {path[:200]}", "EntryNotFound")

    def blobs(self, oids: Sequence[str]) -> dict[str, bytes]:
        if not oids:
            return {}
        raw = self.git("cat-file", "--batch", data="".join(f"{oid}\n" for oid in oids).encode())
        found, at = {}, 0
        for oid in oids:
            end = raw.index(b"\n", at)
            size = int(raw[at:end].split()[2])
            found[oid] = raw[end + 1 : end + 1 + size]
            at = end + size + 2
        return found

    def blob(self, oid: str) -> bytes:
        return self.git("cat-file", "blob", oid)

    def refs(self, kind: str) -> dict[str, str]:
        """Name to commit, of `heads` or `tags`; an annotated tag gives the commit it points to."""
        shape = "%(refname:strip=2)%00%(objectname)%00%(*objectname)"
        lines = self.git("for-each-ref", f"--format={shape}", f"refs/{kind}").decode().splitlines()
        return {name: peeled or oid for name, oid, peeled in (line.split("\0") for line in lines)}

    def commits(self, revision: str, limit: int = 100) -> list[Commit]:
        shape = "%H%x00%an%x00%aI%x00%s%x00%b%x01"
        text = self.git("log", f"--format={shape}", f"-{limit}", self.resolve(revision)).decode(
            errors="replace"
        )
        rows = [part.strip("\n").split("\0") for part in text.split("\x01")]
        return [Commit(*row) for row in rows if len(row) == 5]

    def commit(
        self,
        branch: str,
        operations: Sequence[Add | Delete],
        summary: str,
        description: str,
        author: str,
        parent: str | None,
    ) -> str:
        """One commit with every operation, or none: 412 when `parent` is not the branch's head any more."""
        with self.lock:
            head = self.refs("heads").get(branch, "")
            if parent is not None and not (head and head.startswith(parent)):
                message = (
                    f"A commit has happened since. Please refresh and try again. ({branch} is at {head})"
                )
                raise StoreError(412, message, "ParentCommitMismatch")
            if not head and branch != "main":
                raise StoreError(404, f"Invalid rev id: {branch[:80]}", "RevisionNotFound")
            with tempfile.TemporaryDirectory(prefix="hub-index-") as scratch:
                env = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
                if head:
                    self.git("read-tree", head, env=env)
                self.git("update-index", "-z", "--index-info", data=self._index(head, operations), env=env)
                tree = self.git("write-tree", env=env).decode().strip()
            message = summary if not description else f"{summary}\n\n{description}"
            who = re.sub(r"[<>\n\0]", "", author) or "hub"
            identity = {f"GIT_{role}_NAME": who for role in ("AUTHOR", "COMMITTER")}
            parents = ["-p", head] if head else []
            made = (
                self.git("commit-tree", tree, *parents, data=message.encode(), env=identity).decode().strip()
            )
            self.git("update-ref", f"refs/heads/{branch}", made, head or "0" * 40)
            return made

    def _index(self, head: str, operations: Sequence[Add | Delete]) -> bytes:
        current = {entry.path: entry for entry in self.entries(head)} if head else {}
        rows: dict[str, str] = {}
        contents: dict[str, bytes] = {}
        large: list[str] = []
        attributes: bytes | None = None
        for operation in operations:
            path = check_path(operation.path.rstrip("/") if isinstance(operation, Delete) else operation.path)
            if isinstance(operation, Delete):
                gone = [name for name in current if name == path or name.startswith(path + "/")]
                if not gone or (path in gone and operation.folder):
                    raise StoreError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                rows.update(dict.fromkeys(gone, ""))
                for name in gone:
                    contents.pop(name, None)
                continue
            content = operation.content
            if content is None:
                large.append(path)
                content = pointer(operation.lfs_oid, operation.lfs_size)
            elif path == ".gitattributes":
                attributes = content
            contents[path] = content
        lines = self._attributes(current, attributes, large)
        if lines is not None:
            contents[".gitattributes"] = lines
        rows.update(self._write(contents))
        return b"".join(
            f"{'100644' if blob else '0'} {blob or '0' * 40}\t{path}\0".encode()
            for path, blob in rows.items()
        )

    def _attributes(
        self, current: Mapping[str, Entry], given: bytes | None, large: Sequence[str]
    ) -> bytes | None:
        """Name each large file that no pattern covers, as the Hub does, so that a clone knows the pointer."""
        text = given if given is not None else b""
        if given is None and ".gitattributes" in current:
            text = self.blob(current[".gitattributes"].blob)
        patterns = lfs_patterns(text)
        missing = [path for path in large if not matches(path, patterns)]
        if not missing:
            return None
        lines = "".join(f"{path.replace(' ', '[[:space:]]')} {ATTRIBUTE}\n" for path in missing)
        return text.rstrip(b"\n") + b"\n" + lines.encode()

    def _write(self, contents: Mapping[str, bytes]) -> dict[str, str]:
        """Store the blobs in one go; path to object id."""
        if not contents:
            return {}
        with tempfile.TemporaryDirectory(prefix="hub-blobs-") as scratch:
            names = [Path(scratch) / str(number) for number in range(len(contents))]
            for name, content in zip(names, contents.values(), strict=True):
                name.write_bytes(content)
            asked = "".join(f"{name}\n" for name in names).encode()
            oids = self.git("hash-object", "-w", "--no-filters", "--stdin-paths", data=asked).decode().split()
        return dict(zip(contents, oids, strict=True))

    def attribute_patterns(self, commit: str) -> list[str]:
        try:
            return lfs_patterns(self.blob(self.entry(commit, ".gitattributes").blob))
        except StoreError:
            return []

    def tag(self, name: str, commit: str, message: str | None, author: str) -> None:
        if not REVISION.fullmatch(name) or ".." in name or name.endswith(("/", ".", ".lock")):
            raise StoreError(400, f"{name[:80]!r} is not a tag name")
        with self.lock:
            if name in self.refs("tags"):
                raise StoreError(409, f"Tag reference exists already: {name}")
            if not message:
                self.git("update-ref", f"refs/tags/{name}", commit, "0" * 40)
                return
            who = re.sub(r"[<>\n\0]", "", author) or "hub"
            self.git(
                "tag", "-a", "-F", "-", name, commit, data=message.encode(), env={"GIT_COMMITTER_NAME": who}
            )

    def branch(self, name: str, commit: str) -> None:
        if not REVISION.fullmatch(name) or ".." in name or name.endswith(("/", ".", ".lock")):
            raise StoreError(400, f"{name[:80]!r} is not a branch name")
        with self.lock:
            if name in self.refs("heads"):
                raise StoreError(409, f"Reference already exists: {name}")
            self.git("update-ref", f"refs/heads/{name}", commit, "0" * 40)

    def delete_ref(self, kind: str, name: str) -> None:
        with self.lock:
            if name not in self.refs(kind):
                raise StoreError(404, f"Invalid rev id: {name[:80]}", "RevisionNotFound")
            self.git("update-ref", "-d", f"refs/{kind}/{name}")


# Nothing of the operator's own Git configuration, and no hook, takes part.
_GIT_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "hub",
    "GIT_AUTHOR_EMAIL": "hub@localhost",
    "GIT_COMMITTER_NAME": "hub",
    "GIT_COMMITTER_EMAIL": "hub@localhost",
    "LC_ALL": "C.UTF-8",
}


def pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def _entry(path: str, blob: str, size: int, content: bytes) -> Entry:
    found = POINTER.fullmatch(content)
    if found is None:
        return Entry(path, blob, size, None)
    lfs = Lfs(found[1].decode(), int(found[2]), len(content))
    return Entry(path, blob, lfs.size, lfs)


def lfs_patterns(attributes: bytes) -> list[str]:
    lines = (line.split() for line in attributes.decode(errors="replace").splitlines())
    return [
        parts[0].replace("[[:space:]]", " ") for parts in lines if len(parts) > 1 and "filter=lfs" in parts
    ]


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Git's rule: a pattern without a slash is matched against the last part of the path."""
    return any(
        fnmatch.fnmatchcase(path if "/" in pattern else path.rsplit("/", 1)[-1], pattern.lstrip("/"))
        for pattern in patterns
    )
