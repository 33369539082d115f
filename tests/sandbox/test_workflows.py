"""What the reusable workflow counts on, and the sandbox's stand-ins for GitHub's own actions."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.openapi import ROOT


def document(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def test_a_retry_on_the_same_runner_finds_the_work_of_the_run_that_failed() -> None:
    workflow = document(".github/workflows/release.yml")
    checkout = workflow["jobs"]["build"]["steps"][0]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"]["clean"] is False  # `git clean -ffdx` would take the work folder away
    assert not workflow["env"]["WORK"].startswith((".", "/"))


def act(name: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the one step of a stand-in as a runner does."""
    step = document(f"sandbox/actions/{name}/action.yml")["runs"]["steps"][0]
    known = {"PATH": os.environ["PATH"], "SANDBOX_ARTIFACTS": str(folder / "artifacts"), "GITHUB_RUN_ID": "7"}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder, env=known | env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_an_artifact_is_handed_on_without_hidden_files_once_and_not_empty(tmp_path: Path) -> None:
    for name in ("release/model/config.json", "release/.hidden", "release/.folder/file", "empty/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert act("upload-artifact", tmp_path, NAME="release", FROM="release").returncode == 0
    assert act("download-artifact", tmp_path, NAME="release", TO="got/it").returncode == 0
    files = [path.relative_to(tmp_path / "got/it").as_posix() for path in (tmp_path / "got").rglob("*.json")]
    assert files == ["model/config.json"]
    assert not [path for path in (tmp_path / "got").rglob("*") if path.name.startswith(".")]
    assert (tmp_path / "release/.hidden").exists()
    assert act("upload-artifact", tmp_path, NAME="release", FROM="release").returncode != 0
    nothing = act("upload-artifact", tmp_path, NAME="other", FROM="empty")
    assert (nothing.returncode, "No files were found" in nothing.stdout) == (1, True)
