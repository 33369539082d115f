"""The same release, published to the sandbox's own forge and hub."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
from release_world import World, build_work

from gpu_runner.release.assemble import ReleaseSettings, run
from gpu_runner.release.lock import LOCK
from gpu_runner.release.publish import PublishSettings, publish
from lab.contracts import read_json
from sandbox.forge.git import Signature
from sandbox.forge.serve import ForgeSettings, running


def test_the_forge_shows_one_release_with_its_notes_and_assets(world: World, tmp_path: Path) -> None:
    with running(ForgeSettings(tmp_path / "forge")) as sandbox:
        forge = sandbox.forge
        token = forge.create_user("ada")
        forge.create_org("acme")
        source = tmp_path / "taxonomy"
        source.mkdir()
        (source / "README.md").write_text("A taxonomy.")
        who = Signature("Ada", "ada@example.org", "2026-11-21T10:00:00Z")
        repository = forge.create_repo("acme", "taxonomy", source, committer=who, message="Plant the tree")
        forge.set_collaborator(repository, "ada", "write")
        head = forge.git(repository).resolve(repository.default_branch)
        assert head is not None
        work = build_work(tmp_path / "work", head=head)
        run(work, work / "release", ReleaseSettings(repository="acme/taxonomy", server=sandbox.url))
        settings = PublishSettings("pr-2", world.hub.url, sandbox.api, "acme/taxonomy", token)
        for _ in range(2):
            report = publish(work / "release", settings, lambda line: None, world.env)
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=sandbox.api, headers=headers, follow_redirects=True) as github:
            (release,) = github.get("/repos/acme/taxonomy/releases").json()
            assert release["tag_name"] == report["tag"]
            assert "<!-- treewright:key=pr-2 -->" in release["body"]
            ref = github.get(f"/repos/acme/taxonomy/git/ref/tags/{report['tag']}").json()
            assert ref["object"]["sha"] == head
            assets = {asset["name"]: asset for asset in release["assets"]}
            assert sorted(assets) == [LOCK, "report.json"]
            raw = github.get(assets["report.json"]["url"], headers={"Accept": "application/octet-stream"})
            assert json.loads(raw.content) == report
        assert read_json(work / "published" / "report.json", "report") == report
