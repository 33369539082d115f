"""The example taxonomy and its documents as real Git repositories, for the tests of `plan` and `generate`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
ISLAND = "knowledge/geography/farne_mora"


@dataclass(frozen=True)
class World:
    tree: Path
    cache: Path
    env: dict[str, str]
    base: str
    head: str


def git(folder: Path, *arguments: str) -> str:
    identity = json.loads((EXAMPLES / "documents.json").read_text("utf-8"))
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": identity["name"], f"GIT_{role}_EMAIL": identity["email"]}
        env[f"GIT_{role}_DATE"] = identity["date"]
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.strip()


def commit_all(folder: Path, message: str) -> str:
    git(folder, "-c", "core.autocrlf=false", "-c", "core.fileMode=false", "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def _repository(folder: Path, content: Path, message: str) -> str:
    shutil.copytree(content, folder)
    git(folder, "init", "--quiet", "--object-format=sha1", "--initial-branch=main")
    return commit_all(folder, message)


def build(folder: Path) -> World:
    """`base` is the example taxonomy, `head` has the island on top of it."""
    documents = folder / "documents"
    message = json.loads((EXAMPLES / "documents.json").read_text("utf-8"))["message"]
    _repository(documents, EXAMPLES / "documents", message)
    for setting in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        git(documents, "config", setting, "true")
    tree = folder / "taxonomy"
    base = _repository(tree, EXAMPLES / "taxonomy", "The example taxonomy")
    shutil.copytree(EXAMPLES / "contributions" / "good", tree, dirs_exist_ok=True)
    head = commit_all(tree, "Add the island")
    env = {"TREEWRIGHT_GIT_MIRRORS": json.dumps({"https://github.com/acme/documents": str(documents)})}
    return World(tree, folder / "cache", env, base, head)
