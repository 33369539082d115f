"""A read-only view of a taxonomy: a folder on disk, or a revision in a Git object store without a checkout.

Nothing of a tree is ever executed, and no link is ever followed. Sizes are checked before a file's bytes
are kept, so a 50 MB `qna.yaml` costs nothing. `GitTree` keeps one `git cat-file --batch` process; close it,
or use it in `with`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from lab.untrusted import Refused, relative_path

BRANCHES = ("knowledge", "compositional_skills", "foundational_skills")
_SKIPPED = {".git", ".venv", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
MOST_FILES = (
    200_000  # of a tree or a change; a folder that holds itself many times has billions (a "Git bomb")
)
_LISTING = 64 << 20  # bytes of their names
MOST_BYTES = 1 << 30  # that one revision gives in all: a hundred thousand paths may lead to one large blob
_DISCARD = 8 << 20  # a larger blob is not read past: the process is replaced instead


class Tree(Protocol):
    """Regular files by POSIX path, sorted. `read` raises `Refused` when a file is over `limit` bytes or not
    regular.
    """

    def paths(self) -> Iterable[str]: ...

    def read(self, path: str, limit: int) -> bytes: ...


class TooLarge(Refused):
    """`size` is the file's size in bytes."""

    def __init__(self, path: str, size: int, limit: int) -> None:
        self.size = size
        super().__init__(f"{path} has {size:,} bytes; at most {limit:,} are read.", "Make the file smaller.")


def name(raw: bytes) -> str:
    """A file name as text, whatever bytes it has; what is not UTF-8 is shown as an escape."""
    return raw.decode("utf-8", "backslashreplace")


class FilesTree:
    """Files in memory, by path: what a mend would make, before anything is written."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def paths(self) -> list[str]:
        return sorted(self._files)

    def read(self, path: str, limit: int) -> bytes:
        data = self._files.get(path)
        if data is None:
            raise Refused(f"{path} is not there.", "Name a file of the tree.")
        if len(data) > limit:
            raise TooLarge(path, len(data), limit)
        return data


class FolderTree:
    """A working tree. Links, sockets and the like are not part of `paths`; `links` names them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._links: list[str] | None = None

    def paths(self) -> list[str]:
        found: list[str] = []
        links: list[str] = []
        waiting = [(b"", os.fsencode(self.root))]
        while waiting:
            prefix, folder = waiting.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            for entry in entries:
                path = prefix + entry.name
                if entry.is_file(follow_symlinks=False):  # told by the folder itself: no look at each file
                    found.append(name(path))
                elif not entry.is_dir(follow_symlinks=False):
                    links.append(name(path))
                elif name(entry.name) not in _SKIPPED:
                    waiting.append((path + b"/", entry.path))
        self._links = sorted(links)
        return sorted(found)

    def links(self) -> list[str]:
        """What lies in the tree and is no regular file: symbolic links above all. As of the last `paths`."""
        if self._links is None:
            self.paths()
        return self._links or []

    def read(self, path: str, limit: int) -> bytes:
        relative_path(path)
        place = self.root
        try:
            for part in path.split("/")[:-1]:
                place = place / part
                if not stat.S_ISDIR(place.lstat().st_mode):
                    raise Refused(f"{path} lies behind a link.", "Put the file itself into the tree.")
            handle = os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise Refused(f"{path} cannot be read: {error.strerror}.", "Is it a regular file?") from None
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise Refused(f"{path} is not a regular file.", "Put the file itself into the tree.")
        with os.fdopen(handle, "rb") as stream:
            if status.st_size > limit:
                raise TooLarge(path, status.st_size, limit)
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise TooLarge(path, len(data), limit)
        return data

    def blobs(self) -> dict[str, str]:
        """Every path with the id that Git would give its content, so that a folder compares with a
        revision.
        """
        return {path: self.blob(path) or "unreadable" for path in self.paths()}

    def blob(self, path: str) -> str | None:
        """The id that Git would give the file's content (SHA-1); None for what is no regular file."""
        try:
            handle = os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                return None
            digest = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class Entry:
    """One line of a Git tree. `mode` is Git's: 100644, 100755, 120000 (link), 160000 (submodule), 40000
    (folder).
    """

    name: str
    mode: str
    oid: str


class GitTree:
    """The tree of `revision` in the repository at `git_dir` (bare, or a checkout's folder). Raises
    `Refused`.
    """

    def __init__(self, git_dir: Path, revision: str) -> None:
        bare = (git_dir / "HEAD").is_file() and (git_dir / "objects").is_dir()
        self._git = ["git", f"--git-dir={git_dir}"] if bare else ["git", "-C", str(git_dir)]
        # Replacement objects could show another tree than the commit names.
        self._environment = {**os.environ, "GIT_NO_REPLACE_OBJECTS": "1", "LC_ALL": "C"}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._given = 0
        self._trees: dict[str, tuple[Entry, ...]] = {}
        self._entries: dict[str, Entry] | None = None
        self.commit = self._resolve(f"{revision}^{{commit}}") or ""
        tree = self._resolve(f"{revision}^{{tree}}")
        if tree is None:
            raise Refused(
                f"There is no revision `{revision[:80]}` in {git_dir}.", "Fetch it first, or name another."
            )
        self.root = tree

    def __enter__(self) -> GitTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self.close()

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:
                        continue
            process.wait()

    def _resolve(self, revision: str) -> str | None:
        done = subprocess.run(
            [*self._git, "rev-parse", "--verify", "--quiet", "--end-of-options", revision],
            env=self._environment,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip() if done.returncode == 0 else None

    def paths(self) -> list[str]:
        return sorted(path for path, entry in self._all().items() if entry.mode.startswith("100"))

    def links(self) -> list[str]:
        return sorted(path for path, entry in self._all().items() if not entry.mode.startswith("100"))

    def blob(self, path: str) -> str | None:
        """The id of the regular file at `path`, found folder by folder; None when there is none."""
        entry = self._find(path)
        return entry.oid if entry is not None and entry.mode.startswith("100") else None

    def blobs(self) -> dict[str, str]:
        return {path: e.oid for path, e in sorted(self._all().items()) if e.mode.startswith("100")}

    def read(self, path: str, limit: int) -> bytes:
        relative_path(path)
        entry = self._find(path)
        if entry is None:
            raise Refused(f"{path} is not in this revision.", "Name a file of the tree.")
        if not entry.mode.startswith("100"):
            raise Refused(f"{path} is not a regular file.", "Put the file itself into the tree.")
        return self._object(entry.oid, path, limit)

    def folder(self, oid: str) -> tuple[Entry, ...]:
        """The entries of the folder with this tree id, as Git sorts them."""
        if oid not in self._trees:
            data = self._object(oid, "a folder", 64 << 20)
            try:
                self._trees[oid] = tuple(_entries(data, len(oid) // 2))
            except ValueError:
                raise Refused("A folder of this revision is damaged.", "Run `git fsck` there.") from None
        return self._trees[oid]

    def _find(self, path: str) -> Entry | None:
        oid, entry = self.root, None
        for part in path.split("/"):
            if entry is not None and entry.mode != "40000":
                return None
            entry = next((each for each in self.folder(oid) if each.name == part), None)
            if entry is None:
                return None
            oid = entry.oid
        return entry

    def _all(self) -> dict[str, Entry]:
        if self._entries is None:
            self._entries = dict(self._listed())
        return self._entries

    def _listed(self) -> Iterator[tuple[str, Entry]]:
        """Read while Git lists, and ended when it becomes too much. Raises `Refused`."""
        command = [*self._git, "ls-tree", "-r", "-z", "--full-tree", self.root]
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(command, env=self._environment, stdout=pipe, stderr=none) as process:
            files = size = 0
            rest = b""
            while process.stdout is not None and (block := process.stdout.read(1 << 20)):
                *lines, rest = (rest + block).split(b"\0")
                files, size = files + len(lines), size + len(block)
                if files > MOST_FILES or size > _LISTING:
                    process.kill()
                    raise Refused(
                        f"The tree has more than {MOST_FILES:,} files, or names too long to list.",
                        "Keep only leaves, and what belongs to them, in this repository.",
                    )
                for line in lines:
                    head, _, path = line.partition(b"\t")
                    mode, _, oid = head.decode().split(" ")
                    text = name(path)
                    yield text, Entry(text.rpartition("/")[2], mode, oid)
        if process.returncode != 0:
            raise Refused("A folder is not in this copy of the repository.", "Fetch the revision completely.")

    def _object(self, oid: str, path: str, limit: int) -> bytes:
        with self._lock:
            if self._given > MOST_BYTES:
                raise Refused(
                    f"{path} is not read: {MOST_BYTES >> 20:,} MiB of this revision were read before it.",
                    "Split the change into smaller ones.",
                )
            stdin, stdout = self._batch()
            stdin.write(oid.encode() + b"\n")
            stdin.flush()
            head = stdout.readline().split()
            if len(head) != 3:
                self.close()
                raise Refused(
                    f"{path} is not in this copy of the repository.", "Fetch the revision completely."
                )
            size = int(head[2])
            self._given += size
            if size > limit:
                if size > _DISCARD:
                    self.close()
                else:
                    stdout.read(size + 1)
                raise TooLarge(path, size, limit)
            data = stdout.read(size + 1)
            if len(data) != size + 1:
                self.close()
                raise Refused(f"{path} could not be read to its end.", "Try again.")
            return data[:-1]

    def _batch(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [*self._git, "cat-file", "--batch"],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise Refused("Git gave no pipe.", "Is Git installed?")
        return process.stdin, process.stdout


def _entries(data: bytes, width: int) -> Iterator[Entry]:
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        zero = data.index(b"\0", space)
        oid = data[zero + 1 : zero + 1 + width]
        mode = data[at:space].decode().lstrip("0")  # some tools write 040000 for a folder, and Git reads it
        yield Entry(name(data[space + 1 : zero]), mode, oid.hex())
        at = zero + 1 + width
