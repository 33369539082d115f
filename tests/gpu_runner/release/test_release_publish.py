"""Publishing to a real hub and a small GitHub: once, again, interrupted anywhere, and by a workflow's
identity.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI
from huggingface_hub import CommitOperationAdd
from release_world import HEAD, LEAF, World, build_work

from gpu_runner.release.assemble import ReleaseSettings, run
from gpu_runner.release.facts import RefusedError
from gpu_runner.release.hub import PublishError
from gpu_runner.release.lock import LOCK
from gpu_runner.release.publish import publish, settings_from
from lab.contracts import problems, read_json

WRITES = {
    "model commit": r"POST /api/models/acme/acme-lm/commit/",
    "model tag": r"POST /api/models/acme/acme-lm/tag/",
    "data set commit": r"POST /api/datasets/acme/acme-data/commit/",
    "data set tag": r"POST /api/datasets/acme/acme-data/tag/",
    "release": r"POST /api/v3/repos/acme/taxonomy/releases",
    "lock asset": r"POST /api/uploads/.*name=release.lock.json",
    "report asset": r"POST /api/uploads/.*name=report.json",
}


def quiet(_line: str) -> None:
    return


def check_published(world: World, assembled: Path, key: str = "pr-2") -> dict[str, Any]:
    """One commit and one tag in each repository, one release with two assets, all of this lock."""
    api = world.api()
    lock = read_json(assembled / "release" / LOCK)
    for name, kind in (("acme/acme-lm", "model"), ("acme/acme-data", "dataset")):
        titles = [commit.title for commit in api.list_repo_commits(name, repo_type=kind)]
        assert titles == [f"Release {lock['tag']}", "initial commit"]
        tags = api.list_repo_refs(name, repo_type=kind).tags
        assert [tag.name for tag in tags] == [lock["tag"]]
        files = set(api.list_repo_files(name, repo_type=kind, revision=lock["tag"]))
        assert files == {".gitattributes", LOCK} | {
            row["path"].split("/", 1)[1] for row in lock["files"] if row["path"].startswith(f"{kind}/")
        }
    (release,) = world.github.releases.values()
    assert release["tag_name"] == lock["tag"]
    assert release["target_commitish"] == HEAD
    assert f"<!-- treewright:key={key} -->" in release["body"]
    assert "#2" in release["body"]
    assets = {asset["name"]: world.github.assets[asset["id"]] for asset in release["assets"]}
    assert sorted(assets) == [LOCK, "report.json"]
    assert assets[LOCK] == (assembled / "release" / LOCK).read_bytes()
    report: dict[str, Any] = json.loads(assets["report.json"])
    assert problems("report", report) == []
    assert report["model"]["revision"] == api.list_repo_refs("acme/acme-lm").tags[0].target_commit
    assert report["key"] == "pr-2"
    return report


def test_a_release_is_one_commit_and_one_tag_each_and_a_second_run_sends_nothing(
    world: World, assembled: Path
) -> None:
    report = publish(assembled / "release", world.settings(), quiet, world.env)
    assert check_published(world, assembled) == report
    page = httpx.get(report["model"]["url"], headers={"accept": "text/html"})
    assert page.status_code == 200
    card = httpx.get(f"{world.hub.url}/acme/acme-lm", headers={"accept": "text/html"}).text
    assert LEAF in card
    assert "changed leaves" in card
    before = world.github.snapshot()
    world.hub_wire.writes.clear()
    world.github_wire.writes.clear()
    assert publish(assembled / "release", world.settings(), quiet, world.env) == report
    assert world.hub_wire.writes == []
    assert world.github_wire.writes == []
    assert world.github.snapshot() == before


@pytest.mark.parametrize("step", WRITES)
def test_a_lost_answer_at_any_step_never_doubles_anything(world: World, assembled: Path, step: str) -> None:
    wire = world.github_wire if "api/v3" in WRITES[step] or "uploads" in WRITES[step] else world.hub_wire
    wire.pattern = WRITES[step]
    publish(assembled / "release", world.settings(), quiet, world.env)
    assert wire.pattern is None
    check_published(world, assembled)


def test_a_lock_that_cannot_be_looked_at_is_not_taken_for_a_missing_one(
    world: World, assembled: Path
) -> None:
    """huggingface_hub's error for it is a kind of "entry not found": the tag would be another release's."""
    publish(assembled / "release", world.settings(), quiet, world.env)
    # An answer that huggingface_hub does not ask for again by itself.
    world.hub_wire.pattern, world.hub_wire.status = rf"HEAD /acme/acme-lm/resolve/\w+/{LOCK}", 403
    publish(assembled / "release", world.settings(), quiet, world.env)
    assert world.hub_wire.pattern is None
    check_published(world, assembled)


def command(assembled: Path, world: World, *more: str) -> list[str]:
    return [sys.executable, "-m", "treewright", "release", "--work", str(assembled), "--publish", *more]


def environment(world: World, **more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "GITHUB_", "ACTIONS_"))
    }
    return kept | {
        "HF_ENDPOINT": world.hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "GITHUB_API_URL": f"{world.github.url}/api/v3",
        "GITHUB_REPOSITORY": "acme/taxonomy",
        "GITHUB_TOKEN": "ghs_x",
        **more,
    }


@pytest.mark.parametrize("step", ["model commit", "data set tag", "release", "lock asset"])
def test_a_run_that_was_killed_is_completed_by_the_next(world: World, assembled: Path, step: str) -> None:
    wire = world.github_wire if step in ("release", "lock asset") else world.hub_wire
    wire.pattern = WRITES[step]
    process = subprocess.Popen(
        command(assembled, world, "--key", "pr-2"),
        env=environment(world, HF_TOKEN=world.token),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wire.then = lambda: os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    publish(assembled / "release", world.settings(), quiet, world.env)
    check_published(world, assembled)


def test_another_key_finds_the_same_release(world: World, assembled: Path) -> None:
    publish(assembled / "release", world.settings(), quiet, world.env)
    with pytest.raises(AssertionError):
        check_published(world, assembled, "again")
    publish(assembled / "release", world.settings("again"), quiet, world.env)
    (release,) = world.github.releases.values()
    assert "key=pr-2 -->" in release["body"]
    assert "key=again -->" in release["body"]


def test_the_next_release_leaves_no_file_of_the_last_one(
    world: World, assembled: Path, tmp_path: Path
) -> None:
    stale = CommitOperationAdd("model-00002.safetensors", b"old")
    world.api().create_commit("acme/acme-lm", [stale], commit_message="an older release")
    publish(assembled / "release", world.settings(), quiet, world.env)
    assert "model-00002.safetensors" not in world.api().list_repo_files("acme/acme-lm")
    work = build_work(tmp_path / "work", rows=6)
    run(work, work / "release", ReleaseSettings(repository="acme/taxonomy"))
    publish(work / "release", world.settings("pr-3"), quiet, world.env)
    assert len(world.api().list_repo_refs("acme/acme-lm").tags) == 2
    assert len(world.github.releases) == 2


def test_a_tag_of_another_release_is_never_moved(world: World, assembled: Path, tmp_path: Path) -> None:
    tag = read_json(assembled / "release" / LOCK)["tag"]
    world.api().create_tag("acme/acme-lm", tag=tag)
    with pytest.raises(PublishError, match="a tag is never moved"):
        publish(assembled / "release", world.settings(), quiet, world.env)
    assert world.github.releases == {}


def test_a_commit_by_somebody_else_meanwhile_is_stepped_over(world: World, assembled: Path) -> None:
    edit = [CommitOperationAdd("README.md", b"Edited on the Hub.")]
    said: list[str] = []

    def say(line: str) -> None:
        if "acme-lm: sending" in line and line not in said:
            world.api().create_commit("acme/acme-lm", edit, commit_message="An edit")
        said.append(line)

    publish(assembled / "release", world.settings(), say, world.env)
    titles = [commit.title.split()[0] for commit in world.api().list_repo_commits("acme/acme-lm")]
    assert titles == ["Release", "An", "initial"]


def test_nothing_of_another_release_on_github_is_replaced(
    world: World, assembled: Path, tmp_path: Path
) -> None:
    publish(assembled / "release", world.settings(), quiet, world.env)
    before = world.github.snapshot()
    work = build_work(tmp_path / "work", rows=6)
    run(work, work / "release", ReleaseSettings(tag=read_json(assembled / "release" / LOCK)["tag"]))
    world.hub_wire.writes.clear()
    with pytest.raises(PublishError, match="of something else: it is never moved or overwritten"):
        publish(work / "release", world.settings("pr-3"), quiet, world.env)
    (release,) = world.github.releases.values()
    release |= {"assets": [], "body": "Written by hand."}
    with pytest.raises(PublishError, match="of something else"):
        publish(assembled / "release", world.settings(), quiet, world.env)
    assert world.hub_wire.writes == []
    assert world.github.assets == before[1]


def test_a_git_tag_at_another_commit_is_told_before_anything_is_sent(world: World, assembled: Path) -> None:
    tag = f"tags/{read_json(assembled / 'release' / LOCK)['tag']}"
    note = "a" * 40
    for elsewhere in ({tag: ("commit", "b" * 40)}, {tag: ("tag", note), note: ("commit", "b" * 40)}):
        world.github.tags = {name: {"type": kind, "sha": sha} for name, (kind, sha) in elsewhere.items()}
        with pytest.raises(PublishError, match=f"at {'b' * 40}, not at {HEAD}"):
            publish(assembled / "release", world.settings(), quiet, world.env)
    assert world.hub_wire.writes == []
    world.github.tags = {tag: {"type": "tag", "sha": note}, note: {"type": "commit", "sha": HEAD}}
    publish(assembled / "release", world.settings(), quiet, world.env)
    check_published(world, assembled)


def test_a_repository_that_is_not_there_is_named(world: World, assembled: Path) -> None:
    env = {"HF_TOKEN": world.hub.token("mallory")}
    with pytest.raises(PublishError, match="no write access to acme/acme-lm"):
        publish(assembled / "release", world.settings(), quiet, env)
    with pytest.raises(PublishError, match="there is no identity for the Hub"):
        publish(assembled / "release", world.settings(), quiet, {})


def test_a_dry_run_checks_and_sends_nothing(world: World, assembled: Path) -> None:
    said: list[str] = []
    publish(assembled / "release", world.settings(dry_run=True), said.append, {})
    assert any("would publish datasets/acme/acme-data" in line for line in said)
    assert world.hub_wire.writes == []
    assert world.github.releases == {}


def test_a_folder_that_was_changed_after_the_build_is_not_published(world: World, tmp_path: Path) -> None:
    work = build_work(tmp_path / "work")
    run(work, work / "release")
    (work / "release" / "notes.md").write_text("anything")
    with pytest.raises(RefusedError, match=r"notes\.md has other content"):
        publish(work / "release", world.settings(), quiet, world.env)
    assert world.hub_wire.writes == []


def test_what_is_missing_in_the_environment_is_named() -> None:
    with pytest.raises(PublishError, match="GITHUB_REPOSITORY"):
        settings_from({}, "k")
    with pytest.raises(PublishError, match="GITHUB_TOKEN"):
        settings_from({"GITHUB_REPOSITORY": "a/b"}, "k")
    for key in ("", "a b", "x --> y", "a--b", "x" * 300):
        with pytest.raises(PublishError, match="--key"):
            settings_from({"GITHUB_REPOSITORY": "a/b"}, key, True)
    assert settings_from({"GITHUB_REPOSITORY": "a/b"}, "pr-2", True).endpoint == "https://huggingface.co"


def trust(world: World, app: FastAPI) -> None:
    """Make the small GitHub an OIDC issuer that mints for the workflow `release.yml` in `release`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer = f"{world.github.url}/_oidc"

    def mint(audience: str) -> str:
        now = int(time.time())
        claims = {
            "iss": issuer,
            "aud": audience,
            "iat": now,
            "exp": now + 300,
            "sub": "repo:acme/taxonomy:environment:release",
            "repository": "acme/taxonomy",
            "workflow_ref": "acme/taxonomy/.github/workflows/release.yml@refs/heads/main",
            "environment": "release",
        }
        return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "one"})

    @app.get("/_oidc/.well-known/openid-configuration")
    def configuration() -> dict[str, str]:
        return {"issuer": issuer, "jwks_uri": f"{issuer}/jwks"}

    @app.get("/_oidc/jwks")
    def keys() -> dict[str, Any]:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
        return {"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]}

    world.github.mint = mint


def test_a_workflow_publishes_by_its_identity_without_any_secret(world: World, assembled: Path) -> None:
    app = world.github_wire.app
    assert isinstance(app, FastAPI)
    trust(world, app)
    workflow = {
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{world.github.url}/_oidc/token",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner",
    }

    def attempt() -> subprocess.CompletedProcess[str]:
        arguments = command(assembled, world, "--key", "pr-2")
        env = environment(world, **workflow)
        return subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=60, check=False)

    refused = attempt()
    assert refused.returncode == 2
    assert "no trusted publisher is registered for 'acme/acme-lm'" in refused.stderr
    for resource in ("acme/acme-lm", "datasets/acme/acme-data"):
        world.hub.publisher(resource, "acme/taxonomy", "release.yml", "release")
    done = attempt()
    assert done.returncode == 0, done.stderr
    check_published(world, assembled)
    assert world.api().list_repo_commits("acme/acme-lm")[0].authors == ["[OIDC] acme/taxonomy"]


def test_the_command_refuses_a_failed_gate_with_exit_code_one(tmp_path: Path) -> None:
    work = build_work(tmp_path / "work", "inconclusive")
    arguments = [sys.executable, "-m", "treewright", "release", "--work", str(work)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "'inconclusive'" in done.stderr
    empty = subprocess.run(
        [*arguments[:-1], str(tmp_path / "nothing")], capture_output=True, text=True, timeout=60, check=False
    )
    assert empty.returncode == 2
    assert "treewright plan" in empty.stderr
