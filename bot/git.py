"""A bare mirror for each repository, so that a head is read as Git objects and nothing of it is ever checked
out.

The token goes to git by its environment (`GIT_CONFIG_*` with an `http.<url>.extraHeader`), never in an
argument or a URL, where other processes of the machine or git's own messages would show it.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_FETCH_SECONDS = 300
_READ_SECONDS = 60
_EVERY_LINE = 1 << 30
_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


class GitError(RuntimeError):
    """Git did not do it; the text is git's last line, without the address."""


class MirrorLagError(GitError):
    """The Git side does not have yet what the API told us; it will in a moment."""


@dataclass(frozen=True)
class Mirror:
    """One fetched repository: `git_dir` holds the branches and the pull request's head."""

    git_dir: Path

    def _ask(self, *arguments: str) -> str:
        return _git(["--git-dir", str(self.git_dir), *arguments], {}, _READ_SECONDS).strip()

    def commit(self, name: str) -> str:
        """The full sha that a ref or a sha names."""
        return self._ask("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")

    def merge_base(self, one: str, other: str) -> str:
        return self._ask("merge-base", one, other)

    def shown(self, base: str, head: str, paths: Collection[str]) -> dict[str, list[tuple[int, int]]]:
        """By path: the first and last lines of `head`'s side that a diff with three lines around each change
        shows, hunk by hunk, as GitHub shows a pull request. Only for `paths`; binary files have none.
        """
        options = ["--no-color", "--no-ext-diff", "--no-textconv"]
        raw = self._ask("diff", "--raw", "-z", "--no-abbrev", "-M", *options, base, head, "--").split("\0")
        found: dict[str, list[tuple[int, int]]] = {}
        index = 0
        while index + 1 < len(raw) and raw[index].startswith(":"):
            _, mode, old, new, status = raw[index].split(" ")
            index += 3 if status[0] in "RC" else 2
            path = raw[index - 1]
            if path not in paths or status[0] == "D" or not mode.startswith("100"):
                continue
            if status[0] == "A":
                found[path] = [(1, _EVERY_LINE)]
                continue
            # By blobs, not by names: a contributed name never has to be read out of a patch.
            patch = self._ask("diff", "-U3", *options, old, new)
            found[path] = [
                (int(match[1]), int(match[1]) + int(match[2] or 1) - 1) for match in _HUNK.finditer(patch)
            ]
        return found


class Mirrors:
    """All mirrors under `folder`; fetches of one repository run one after the other."""

    def __init__(self, folder: Path, web_url: str) -> None:
        self._folder = folder
        self._web = web_url
        self._locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    def sync(
        self, repo_id: int, repo: str, token: str, branches: Sequence[str], number: int | None
    ) -> Mirror:
        """Fetch `branches` and the head of pull request `number`. Raises `GitError`."""
        git_dir = self._folder / f"{repo_id}.git"
        refs = [f"+refs/heads/{branch}:refs/heads/{branch}" for branch in dict.fromkeys(branches)]
        if number is not None:
            refs.append(f"+refs/pull/{number}/head:refs/pull/{number}/head")
        environment = self._authorised(token)
        with self._locks[repo_id]:
            if not (git_dir / "HEAD").exists():
                git_dir.parent.mkdir(parents=True, exist_ok=True)
                _git(["init", "--quiet", "--bare", str(git_dir)], {}, _READ_SECONDS)
            place = ["--git-dir", str(git_dir), "fetch", "--quiet", "--no-tags", "--no-recurse-submodules"]
            _git([*place, "--", f"{self._web}/{repo}.git", *refs], environment, _FETCH_SECONDS)
        return Mirror(git_dir)

    def _authorised(self, token: str) -> dict[str, str]:
        scheme = urlsplit(self._web).scheme
        credentials = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        return _config(
            {
                f"http.{self._web}/.extraHeader": f"Authorization: Basic {credentials}",
                "http.followRedirects": "false",
                "protocol.allow": "never",
                f"protocol.{scheme}.allow": "always",
            }
        )


def _config(values: Mapping[str, str]) -> dict[str, str]:
    environment = {"GIT_CONFIG_COUNT": str(len(values))}
    for index, (key, value) in enumerate(values.items()):
        environment[f"GIT_CONFIG_KEY_{index}"] = key
        environment[f"GIT_CONFIG_VALUE_{index}"] = value
    return environment


def _git(arguments: Sequence[str], environment: Mapping[str, str], seconds: float) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    fixed = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            env={**clean, **fixed, "LC_ALL": "C", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GitError(f"git took longer than {seconds:.0f} seconds") from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitError(lines[-1][:300] if lines else f"git ended with {done.returncode}")
    return done.stdout.decode("utf-8", "replace")
