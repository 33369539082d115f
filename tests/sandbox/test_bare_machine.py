"""What a machine says that lacks something: before any download, and with what to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.forge.git import BareRepo, GitError, need_git
from tests.support.openapi import ROOT

OLD_GIT = """#!/bin/sh
case "$*" in
  *--version) echo "git version 2.34.1" ;;
  *) echo "usage: git merge-tree <base-tree> <branch1> <branch2>" >&2; exit 129 ;;
esac
"""


def machine(folder: Path, *, git: str | None) -> dict[str, str]:
    """A PATH with a shell, this Python and, if given, that git."""
    folder.mkdir()
    for tool in ("sh", "grep", "touch"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    (folder / "python3").symlink_to(sys.executable)
    if git is not None:
        (folder / "git").write_text(git)
        (folder / "git").chmod(0o755)
    return {"PATH": str(folder), "HOME": str(folder)}


@pytest.mark.parametrize(
    ("python", "git", "said"),
    [
        ("python9", OLD_GIT, "There is no python9 on PATH: install Python 3.11 or newer"),
        ("python3", None, "There is no git on PATH: install git 2.38 or newer"),
        ("python3", OLD_GIT, "needs git 2.38 or newer, this is git version 2.34.1"),
    ],
)
def test_make_says_what_is_missing_before_it_downloads(
    tmp_path: Path, python: str, git: str | None, said: str
) -> None:
    env = machine(tmp_path / "bin", git=git)
    command = [str(shutil.which("make")), "-C", str(ROOT), "demo"]
    command += [f"VENV={tmp_path}/venv", f"PYTHON={python}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "venv").exists()


def test_make_asks_about_the_network_when_pip_cannot_install(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.11 || exit 1\n')
    python.chmod(0o755)
    (tmp_path / "venv" / ".torch").touch()
    command = ["make", "-C", str(ROOT), "demo", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Is there a network, and a wheel for Python 3.11?" in done.stderr


@pytest.mark.parametrize(
    ("git", "said"),
    [(OLD_GIT, "2.38 or newer to merge without a checkout; this is 2.34.1"), (None, "on PATH")],
)
def test_the_forge_does_not_start_on_a_git_that_cannot_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: str | None, said: str
) -> None:
    monkeypatch.setenv("PATH", machine(tmp_path / "bin", git=git)["PATH"])
    with pytest.raises(GitError, match=said):
        need_git()
    # Python finds the module where the environment is; only what it starts sees the bare PATH.
    command = [sys.executable, "-m", "treewright", "sandbox", "forge", "--data", str(tmp_path / "forge")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_a_merge_that_git_cannot_try_is_no_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = BareRepo(tmp_path / "repo.git")
    repo.create()
    monkeypatch.setenv("PATH", machine(tmp_path / "bin", git=OLD_GIT)["PATH"])
    with pytest.raises(GitError, match="merge-tree"):
        repo.merge_tree("0" * 40, "1" * 40)


def test_an_environment_file_that_is_none_is_said(tmp_path: Path) -> None:
    file = tmp_path / "env.json"
    for text, said in (("{", "env.json"), ('{"A": 1}', "{NAME: value}")):
        file.write_text(text)
        command = [sys.executable, "-m", "treewright", "sandbox", "forge"]
        command += ["--data", str(tmp_path / "forge"), "--runner-env", str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False)
