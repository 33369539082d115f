from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from release_world import Interruption, SmallGitHub, World, build_work

from gpu_runner.release.assemble import ReleaseSettings, run
from sandbox.hub.app import create_app
from sandbox.hub.background import RunningHub, listening


@pytest.fixture(scope="session")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with an assembled release; tests read it and never write."""
    work = build_work(tmp_path_factory.mktemp("assembled") / "work")
    run(work, work / "release", ReleaseSettings(repository="acme/taxonomy"))
    return work


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    github = SmallGitHub()
    github_wire = Interruption(github.app())
    with listening(github_wire) as github_url:  # type: ignore[arg-type]  # an ASGI wrapper is served as well
        github.url = github_url
        hub_wire = Interruption(create_app(tmp_path / "hub", f"{github_url}/_oidc"))
        with listening(hub_wire) as hub_url:  # type: ignore[arg-type]  # any value on purpose
            hub = RunningHub(
                hub_url, tmp_path / "hub", (tmp_path / "hub" / "admin-token").read_text().strip()
            )
            made = World(hub, hub_wire, github, github_wire, hub.token("acme"))
            made.api().create_repo("acme/acme-lm")
            made.api().create_repo("acme/acme-data", repo_type="dataset")
            hub_wire.writes.clear()
            yield made
