"""A folder of a person's machine as a taxonomy: where its root is, and what changed since a revision.

Used by `treewright lint` and `treewright diff`. Changes are counted from the merge base with the named
revision, and take in uncommitted and untracked work, as the predecessor's `taxonomy diff` did.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from lab.taxonomy.tree import BRANCHES, FolderTree, name
from lab.untrusted import Refused

_USUAL = ("origin/HEAD", "origin/main", "origin/master", "upstream/main", "main", "master")


def find_root(path: Path) -> Path:
    """The tree's root for a folder, a leaf's folder or a file of it: what holds the outermost branch folder.

    A branch folder counts only below the nearest `.git`: a checkout may lie in a folder named `knowledge`.
    What lies beside the branches in a checkout, such as `.github`, belongs to their tree.
    """
    place = Path(os.path.abspath(path))
    folder = place if place.is_dir() else place.parent
    lineage = [folder, *folder.parents]
    ends = next((number for number, each in enumerate(lineage) if (each / ".git").exists()), None)
    within = lineage if ends is None else lineage[:ends]
    if any((folder / branch).is_dir() for branch in BRANCHES):
        return folder
    branches = [each for each in within if each.name in BRANCHES]
    if branches:
        return branches[-1].parent
    checkout = [] if ends is None else lineage[1 : ends + 1]
    beside = next((each for each in checkout if any((each / name).is_dir() for name in BRANCHES)), None)
    if beside is not None:
        return beside
    return lineage[ends] if ends is not None and not place.is_dir() else folder


def repository(folder: Path) -> Path:
    """The top of the Git checkout that `folder` lies in. Raises `Refused`."""
    done = _git(folder, "rev-parse", "--show-toplevel")
    if done is not None:
        return Path(done.decode().rstrip("\n"))
    owner = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)
    if owner is None:
        raise Refused(
            f"{folder} is not inside a Git repository.", "Run it in a checkout, or leave --base out."
        )
    # In a container the checkout often belongs to another user, and then Git refuses to read it.
    raise Refused(
        f"Git does not read the repository at {owner}.",
        f"`git -C {owner} status` says why; if it belongs to another user, run "
        f"`git config --global --add safe.directory {owner}`.",
    )


def merge_base(folder: Path, base: str | None, head: str = "HEAD") -> str:
    """The commit where `head` left `base`; without a name, the first usual main branch that exists."""
    candidates = (base,) if base is not None else _USUAL
    for candidate in candidates:
        if candidate.startswith("-"):
            continue
        verify = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{candidate}^{{commit}}")
        commit, shared = _at_once(folder, verify, ("merge-base", "--end-of-options", candidate, head))
        if commit is None:
            continue
        if shared is None and _git(folder, "rev-parse", "--is-shallow-repository") == b"true\n":
            # Compared with the branch's tip, what it gained since would look like this change's work.
            raise Refused(
                f"This shallow clone does not reach back to where {head} left {candidate}.",
                "Fetch the history: `git fetch --unshallow`, or `fetch-depth: 0` for actions/checkout.",
            )
        return (shared or commit).decode().strip()
    repository(folder)  # outside of one, that is what is wrong
    missing = f"revision `{base}`" if base is not None else f"main branch ({', '.join(_USUAL)})"
    raise Refused(f"There is no {missing} in this repository.", "Fetch it, or name another with --base.")


def changed_paths(root: Path, base: str) -> list[str]:
    """Files below `root` that differ from `base`: committed, uncommitted and untracked. Deleted ones are
    among them.
    """
    tracked, untracked = _at_once(root, (*_DIFFERENT, base, "--"), _UNTRACKED)
    if tracked is None or untracked is None:
        raise Refused(f"Git could not compare {root} with {base[:12]}.", "Is it a checkout?")
    return sorted({name(raw) for raw in (*tracked.split(b"\0"), *untracked.split(b"\0")) if raw})


_DIFFERENT = ("diff", "--name-only", "--no-renames", "--relative", "-z")
_UNTRACKED = ("ls-files", "--others", "--exclude-standard", "-z")
_INDEX = ("ls-files", "--stage", "-z")


class Checkout(FolderTree):
    """A working tree and what changed in it since `base` (see `merge_base`), listed by Git's index.

    Walking ten thousand folders takes longer than everything that a changed leaf needs. The listing is that
    of the moment when the object was made. Raises `Refused`.
    """

    def __init__(self, root: Path, base: str) -> None:
        super().__init__(root)
        tracked, untracked, index = _at_once(root, (*_DIFFERENT, base, "--"), _UNTRACKED, _INDEX)
        if tracked is None or untracked is None or index is None:
            raise Refused(f"Git could not compare {root} with {base[:12]}.", "Is it a checkout?")
        found: dict[str, bool] = {}  # path -> whether it is a regular file
        for line in index.split(b"\0"):
            head, _, raw_path = line.partition(b"\t")
            if raw_path:
                found[name(raw_path)] = head.startswith(b"100")
        self.changed = sorted({name(raw) for raw in (*tracked.split(b"\0"), *untracked.split(b"\0")) if raw})
        for path in self.changed:  # the index may be older than the file
            try:
                mode = (root / path).lstat().st_mode
            except OSError:
                found.pop(path, None)
                continue
            if not stat.S_ISDIR(mode):  # a folder here is another repository
                found[path] = stat.S_ISREG(mode)
        self._files = sorted(path for path, regular in found.items() if regular)
        self._links = sorted(path for path, regular in found.items() if not regular)

    def paths(self) -> list[str]:
        return self._files


def subtree(root: Path, revision: str) -> tuple[Path, str]:
    """(repository, revision of the tree) for a taxonomy that lies in a folder of a repository."""
    top = repository(root)
    inside = os.path.relpath(root.resolve(), top.resolve())
    if inside == ".":
        return top, revision
    if _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{tree}}") is None:
        raise Refused(f"There is no revision `{revision}` in {top}.", "Fetch it, or name another.")
    tree = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}:{inside}")
    if tree is None:  # the folder did not exist yet: everything in it is new
        tree = _git(top, "hash-object", "-t", "tree", os.devnull)
    return top, (tree or b"").decode().strip()


def replace_file(root: Path, path: str, data: bytes) -> None:
    """Writes a file of the tree in one step (temporary name, rename), with the mode that it had. Raises
    `Refused` for a link and for what lies behind one.
    """
    FolderTree(root).read(path, 1 << 30)
    place = root / path
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=".treewright-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        shutil.copymode(place, temporary)
        os.replace(temporary, place)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise Refused(f"{path} cannot be written: {error.strerror}.", "May you write there?") from None


def rename_file(root: Path, old: str, new: str) -> None:
    """Renames a file within its folder. Raises `Refused` when the new name is taken."""
    FolderTree(root).read(old, 1 << 30)
    # A file system that does not tell cases apart has the new name already: it is the same file.
    same = (root / new).exists() and (root / new).samefile(root / old)
    taken = os.path.lexists(root / new) and not same
    if taken or old.rpartition("/")[0] != new.rpartition("/")[0]:
        raise Refused(f"{old} cannot become {new}.", "Look at the folder; that name is taken.")
    os.rename(root / old, root / new)


class WorkTree(FolderTree):
    """The part of a checkout that Git knows or would take in: what `.gitignore` names is left out.

    With `since` (a commit), Git is asked what differs from it, so that a diff opens nothing else.
    """

    def __init__(self, root: Path, since: str | None = None) -> None:
        super().__init__(root)
        self.since = since

    def paths(self) -> list[str]:
        known = _git(self.root, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
        if known is None:
            raise Refused(f"Git could not list {self.root}.", "Is it a checkout?")
        names = {name(raw) for raw in known.split(b"\0")}
        return [path for path in super().paths() if path in names]

    def changed(self) -> list[str]:
        """Files that differ from `since`: committed, uncommitted and untracked; deleted ones as well."""
        return changed_paths(self.root, self.since) if self.since is not None else []


def _git(folder: Path, *arguments: str) -> bytes | None:
    return _at_once(folder, arguments)[0]


def _at_once(folder: Path, *commands: tuple[str, ...]) -> list[bytes | None]:
    """What each command prints, None where it failed; they run side by side."""
    # No external diff, text conversion or file-system monitor of a hostile checkout's configuration may run.
    start = ["git", "-C", str(folder), "-c", "core.fsmonitor=false"]
    safe = {"diff": ("diff", "--no-ext-diff", "--no-textconv")}
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    running = []
    try:
        for command in commands:
            words = [*start, *safe.get(command[0], command[:1]), *command[1:]]
            none = subprocess.DEVNULL
            running.append(
                subprocess.Popen(words, stdin=none, stdout=subprocess.PIPE, stderr=none, env=environment)
            )
    except FileNotFoundError:
        raise Refused("Git is not installed.", "Install git.") from None
    printed = [process.communicate()[0] for process in running]
    return [
        output if process.returncode == 0 else None for process, output in zip(running, printed, strict=True)
    ]
