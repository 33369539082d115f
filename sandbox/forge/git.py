"""Bare Git repositories through the `git` command: refs, commits, diffs, merges. Nothing here knows GitHub.

Every revision that comes from a caller goes through `resolve`, which takes names and object ids only:
Git's own revision language (`HEAD~1`, `:/text`, options) is never open to a request.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
ZERO = "0" * 40
WANTED = (2, 38)  # the first with `merge-tree --write-tree`
_OBJECT = re.compile(r"[0-9a-f]{4,40}\Z")
_NAME = re.compile(r"(?!.*(\.\.|//|@\{|\.lock(/|\Z)))[A-Za-z0-9_][\w.+@/\-]*(?<![./])\Z")


class GitError(RuntimeError):
    """Git said no; the message is Git's."""


@dataclass(frozen=True)
class Signature:
    name: str
    email: str
    date: str  # ISO 8601 with an offset


@dataclass(frozen=True)
class Commit:
    sha: str
    tree: str
    parents: tuple[str, ...]
    author: Signature
    committer: Signature
    message: str


@dataclass(frozen=True)
class FileChange:
    status: str  # added, removed, modified, renamed, copied, changed
    path: str
    previous: str | None
    sha: str
    additions: int
    deletions: int
    patch: str | None  # from the first hunk; None for a binary file


@dataclass(frozen=True)
class Entry:
    mode: str
    kind: str  # blob, tree or commit
    sha: str
    size: int
    path: str


_STATUS = {"A": "added", "D": "removed", "M": "modified", "R": "renamed", "C": "copied", "T": "changed"}


def environment() -> dict[str, str]:
    """Git must not see this machine's own settings: they would change hashes, hooks and credentials."""
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL")}
    return keep | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }


def is_name(text: str) -> bool:
    """Whether this is a fit name for a branch or a tag."""
    return bool(_NAME.match(text)) and len(text) <= 240


def need_git() -> None:
    """Raises `GitError` when there is no git here, or one without `merge-tree --write-tree`."""
    wanted = ".".join(map(str, WANTED))
    command = ["git", "--version"]
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    except OSError as error:
        raise GitError(f"git is not on PATH; the forge needs {wanted} or newer.") from error
    found = re.search(r"(\d+)\.(\d+)[\w.]*", done.stdout)
    if found is None or (int(found[1]), int(found[2])) < WANTED:
        here = found[0] if found else (done.stdout or done.stderr).strip()
        raise GitError(f"The forge needs git {wanted} or newer to merge without a checkout; this is {here}.")


class BareRepo:
    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *args: str, data: bytes | None = None, env: dict[str, str] | None = None) -> bytes:
        done = self.attempt(*args, data=data, env=env)
        if done.returncode != 0:
            raise GitError(f"git {args[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def attempt(
        self, *args: str, data: bytes | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["git", "-c", "core.hooksPath=/dev/null", "--git-dir", str(self.path), *args]
        if any("\0" in arg for arg in args):  # of a request's path or name: nothing in Git is called so
            return subprocess.CompletedProcess(command, 128, b"", b"a NUL is in no name")
        return subprocess.run(
            command, input=data if data is not None else b"", env=environment() | (env or {}),
            capture_output=True, check=False, timeout=300,
        )  # fmt: skip

    def text(self, *args: str) -> str:
        return self.run(*args).decode("utf-8", errors="replace").strip()

    # -- making

    def create(self, default_branch: str = "main") -> None:
        self.path.mkdir(parents=True)
        self.run("init", "-q", "--bare", f"--initial-branch={default_branch}")
        self.configure()

    def configure(self) -> None:
        for name, value in (
            ("uploadpack.allowFilter", "true"),
            ("uploadpack.allowAnySHA1InWant", "true"),
            ("http.receivepack", "true"),
            ("receive.hideRefs", "refs/pull"),  # people must not push into refs/pull, as on GitHub
            ("receive.advertisePushOptions", "false"),
            ("gc.auto", "0"),
        ):
            self.run("config", name, value)

    def clone_from(self, other: BareRepo) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.run("clone", "-q", "--bare", "--no-hardlinks", str(other.path), str(self.path))
        for ref in self.refs("refs/pull"):
            self.run("update-ref", "-d", ref)
        self.configure()

    def tree_of_folder(self, folder: Path) -> str:
        """Writes every file of a folder (no .git) as objects and returns the tree."""
        with tempfile.TemporaryDirectory() as scratch:
            env = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self.run("--work-tree", str(folder.resolve()), "add", "-A", "-f", ".", env=env)
            return self.run("write-tree", env=env).decode().strip()

    def commit_tree(
        self, tree: str, parents: tuple[str, ...], message: str, author: Signature, committer: Signature
    ) -> str:
        args = ["commit-tree", tree]
        for parent in parents:
            args += ["-p", parent]
        env = {
            "GIT_AUTHOR_NAME": author.name, "GIT_AUTHOR_EMAIL": author.email,
            "GIT_AUTHOR_DATE": author.date, "GIT_COMMITTER_NAME": committer.name,
            "GIT_COMMITTER_EMAIL": committer.email, "GIT_COMMITTER_DATE": committer.date,
        }  # fmt: skip
        return self.run(*args, data=message.encode(), env=env).decode().strip()

    def update_ref(self, ref: str, new: str, old: str | None = None) -> None:
        self.run("update-ref", ref, new, *([old] if old else []))

    def delete_ref(self, ref: str) -> None:
        self.run("update-ref", "-d", ref)

    def fetch_from(self, other: BareRepo, source: str, target: str) -> None:
        self.run("fetch", "-q", "--no-tags", str(other.path), f"+{source}:{target}")

    # -- reading

    def refs(self, prefix: str = "refs") -> dict[str, str]:
        out = self.text("for-each-ref", "--format=%(refname) %(objectname)", prefix)
        return dict(line.split(" ", 1) for line in out.splitlines() if line)

    def resolve(self, name: str) -> str | None:
        """The commit that a branch, a tag, a ref or an object id names."""
        candidates = []
        if _OBJECT.match(name):
            candidates.append(name)
        if name == "HEAD":
            candidates.append("HEAD")
        if is_name(name):
            plain = name.removeprefix("refs/")
            candidates += [f"refs/heads/{name}", f"refs/tags/{name}", f"refs/{plain}"]
        for candidate in candidates:
            done = self.attempt("rev-parse", "--verify", "--quiet", f"{candidate}^{{commit}}")
            if done.returncode == 0:
                return done.stdout.decode().strip()
        return None

    def commits(self, *selection: str, limit: int = 250, reverse: bool = False) -> list[Commit]:
        fields = "%H%x00%T%x00%P%x00%an%x00%ae%x00%aI%x00%cn%x00%ce%x00%cI%x00%B%x00"
        args = ["log", f"--format={fields}", f"--max-count={limit}", *(["--reverse"] if reverse else [])]
        parts = self.run(*args, *selection, "--").decode("utf-8", errors="replace").split("\x00")
        found = []
        for start in range(0, len(parts) - 10, 10):  # no field can hold a NUL, so tens of fields stay in step
            sha, tree, parents, an, ae, ai, cn, ce, ci, body = parts[start : start + 10]
            author, committer = Signature(an, ae, ai), Signature(cn, ce, ci)
            found.append(
                Commit(sha.strip("\n"), tree, tuple(parents.split()), author, committer, body.rstrip("\n"))
            )
        return found

    def commit(self, sha: str) -> Commit:
        return self.commits(sha, limit=1)[0]

    def merge_base(self, one: str, other: str) -> str | None:
        done = self.attempt("merge-base", one, other)
        return done.stdout.decode().strip() if done.returncode == 0 else None

    def is_ancestor(self, old: str, new: str) -> bool:
        return self.attempt("merge-base", "--is-ancestor", old, new).returncode == 0

    def count(self, selection: str) -> int:
        return int(self.text("rev-list", "--count", selection, "--"))

    def merge_tree(self, base: str, head: str) -> str | None:
        """The tree of a clean merge, None on conflict."""
        done = self.attempt("merge-tree", "--write-tree", "--allow-unrelated-histories", base, head)
        if done.returncode not in (0, 1):
            raise GitError(f"git merge-tree: {done.stderr.decode(errors='replace').strip()[:500]}")
        return done.stdout.decode().split("\n", 1)[0].strip() if done.returncode == 0 else None

    def changes(self, base: str, head: str) -> list[FileChange]:
        """What `git diff base head` changes, with renames found, in Git's order of paths."""
        options = ("-M", "--no-color", "--no-ext-diff", "--no-textconv", "--full-index")
        raw = self.run("diff", "--raw", "-z", "--no-abbrev", *options[:4], base, head, "--")
        stats = self.run("diff", "--numstat", "-z", *options[:4], base, head, "--")
        patches = self._patches(base, head, options)
        found = []
        numbers = _numstat(stats)
        for status, path, previous, old, new in _raw(raw):
            plus, minus = numbers.get(path, (0, 0))
            sha = old if status == "D" else new
            found.append(
                FileChange(
                    _STATUS.get(status, "changed"), path, previous, sha, plus, minus, patches.get(path)
                )
            )
        return found

    def _patches(self, base: str, head: str, options: tuple[str, ...]) -> dict[str, str]:
        out = self.run("-c", "core.quotePath=false", "diff", *options, base, head, "--")
        patches: dict[str, str] = {}
        for block in re.split(r"^diff --git ", out.decode("utf-8", errors="replace"), flags=re.MULTILINE)[1:]:
            header, mark, hunks = block.partition("\n@@")
            if not mark:
                continue
            names = dict(re.findall(r"^(---|\+\+\+) (.*)$", header, flags=re.MULTILINE))
            target = names.get("+++", "/dev/null")
            name = names.get("---", "") if target == "/dev/null" else target
            path = _unquote(name.rstrip("\t"))[2:]
            patches[path] = ("@@" + hunks).rstrip("\n")
        return patches

    def entries(self, revision: str, path: str = "", recursive: bool = False) -> list[Entry]:
        """What a folder of a commit holds; an empty list when there is no such folder."""
        where = f"{revision}:{path.strip('/')}"
        done = self.attempt("ls-tree", "-z", "-l", *(["-r"] if recursive else []), where)
        if done.returncode != 0:
            return []
        prefix = f"{path.strip('/')}/" if path.strip("/") else ""
        found = []
        for line in done.stdout.decode("utf-8", errors="replace").split("\x00"):
            if line:
                meta, name = line.split("\t", 1)
                mode, kind, sha, size = meta.split()
                found.append(Entry(mode, kind, sha, int(size) if size.isdigit() else 0, prefix + name))
        return found

    def entry(self, revision: str, path: str) -> Entry | None:
        parent, _, name = path.strip("/").rpartition("/")
        wanted = f"{parent}/{name}" if parent else name
        return next((entry for entry in self.entries(revision, parent) if entry.path == wanted), None)

    def blob(self, sha: str) -> bytes:
        return self.run("cat-file", "blob", sha)

    def object_kind(self, sha: str) -> str:
        return self.text("cat-file", "-t", sha)


def _raw(data: bytes) -> list[tuple[str, str, str | None, str, str]]:
    parts = data.decode("utf-8", errors="replace").split("\x00")
    found: list[tuple[str, str, str | None, str, str]] = []
    index = 0
    while index < len(parts) and parts[index].startswith(":"):
        _, _, old, new, status = parts[index].split(" ")
        if status[0] in "RC":
            found.append((status[0], parts[index + 2], parts[index + 1], old, new))
            index += 3
        else:
            found.append((status[0], parts[index + 1], None, old, new))
            index += 2
    return found


def _numstat(data: bytes) -> dict[str, tuple[int, int]]:
    parts = data.decode("utf-8", errors="replace").split("\x00")
    numbers: dict[str, tuple[int, int]] = {}
    index = 0
    while index < len(parts) and parts[index]:
        plus, minus, path = parts[index].split("\t", 2)
        if not path:  # a rename: the old and the new path follow
            path = parts[index + 2]
            index += 2
        numbers[path] = (int(plus) if plus != "-" else 0, int(minus) if minus != "-" else 0)
        index += 1
    return numbers


def _unquote(name: str) -> str:
    """Git puts a path with a quote, a backslash or a control character in C quotes."""
    if not (name.startswith('"') and name.endswith('"')):
        return name
    raw = name[1:-1].encode("utf-8").decode("unicode_escape")
    return raw.encode("latin-1", errors="ignore").decode("utf-8", errors="replace")
