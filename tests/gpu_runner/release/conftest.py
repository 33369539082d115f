from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from release_world import Interruption, SmallGitHub, build_work

from gpu_runner.release.assemble import ReleaseSettings, run
from gpu_runner.release.publish import PublishSettings
from sandbox.hub.app import create_app
from sandbox.hub.background import RunningHub, listening


@pytest.fixture(scope="session")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with an assembled release; tests read it and never write."""
    work = build_work(tmp_path_factory.mktemp("assembled") / "work")
    run(work, work / "release", ReleaseSettings(repository="acme/taxonomy"))
    return work


@dataclass
class World:
    """A real hub and a small GitHub, each behind a wrapper that can lose an answer."""

    hub: RunningHub
    hub_wire: Interruption
    github: SmallGitHub
    github_wire: Interruption
    token: str

    @property
    def env(self) -> dict[str, str]:
        return {"HF_TOKEN": self.token}

    def settings(self, key: str = "pr-2", dry_run: bool = False) -> PublishSettings:
        api = f"{self.github.url}/api/v3"
        return PublishSettings(key, self.hub.url, api, "acme/taxonomy", "ghs_x", dry_run)

    def api(self) -> HfApi:
        return HfApi(endpoint=self.hub.url, token=self.token)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    github = SmallGitHub()
    github_wire = Interruption(github.app())
    with listening(github_wire) as github_url:  # type: ignore[arg-type]  # an ASGI wrapper is served as well
        github.url = github_url
        hub_wire = Interruption(create_app(tmp_path / "hub", f"{github_url}/_oidc"))
        with listening(hub_wire) as hub_url:  # type: ignore[arg-type]
            hub = RunningHub(
                hub_url, tmp_path / "hub", (tmp_path / "hub" / "admin-token").read_text().strip()
            )
            made = World(hub, hub_wire, github, github_wire, hub.token("acme"))
            made.api().create_repo("acme/acme-lm")
            made.api().create_repo("acme/acme-data", repo_type="dataset")
            hub_wire.writes.clear()
            yield made
