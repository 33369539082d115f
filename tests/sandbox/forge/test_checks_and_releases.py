"""Check runs with their limits and buttons; releases with assets; what a restart keeps."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from forge_world import World, wait_for
from github import GithubException

from sandbox.forge.git import Signature
from sandbox.forge.serve import ForgeSettings, running
from sandbox.forge.state import Forge


def note(line: int, level: str = "failure") -> dict[str, Any]:
    return {
        "path": "knowledge/new/qna.yaml", "start_line": line, "end_line": line, "annotation_level": level,
        "message": f"line {line} is wrong", "title": "seed-count",
    }  # fmt: skip


def test_a_check_run_goes_from_queued_to_completed_and_keeps_every_annotation(world: World) -> None:
    sha = world.contribute().head.sha
    repo = world.bot().get_repo("acme/taxonomy")
    run = repo.create_check_run("Lint", sha, status="in_progress", external_id="7")
    summary = {"title": "2 errors", "summary": "Two *errors*."}
    run.edit(output={**summary, "annotations": [note(n) for n in range(1, 51)]})
    run.edit(
        status="completed", conclusion="failure", output={**summary, "annotations": [note(1, "warning")]},
        actions=[{"label": "Lint again", "identifier": "lint", "description": "Run the check again"}],
    )  # fmt: skip
    fresh = repo.get_check_run(run.id)
    assert (fresh.status, fresh.conclusion, fresh.output.annotations_count) == ("completed", "failure", 51)
    assert len(list(fresh.get_annotations())) == 51
    listed = repo.get_commit(sha).get_check_runs(check_name="Lint")
    assert [(r.name, r.app.slug) for r in listed] == [("Lint", "treewright")]
    assert [s.conclusion for s in repo.get_commit(sha).get_check_suites()] == ["failure"]
    assert [n for n in world.heard() if n.startswith("check_run")] == [
        "check_run.created",
        "check_run.completed",
    ]


def test_more_than_fifty_annotations_are_refused(world: World) -> None:
    sha = world.contribute().head.sha
    repo = world.bot().get_repo("acme/taxonomy")
    output = {"title": "x", "summary": "x", "annotations": [note(n) for n in range(1, 52)]}
    with pytest.raises(GithubException) as refused:
        repo.create_check_run("Lint", sha, output=output)
    assert refused.value.status == 422
    assert list(repo.get_commit(sha).get_check_runs()) == []
    world.problems.clear()  # the request itself is outside GitHub's description, and was meant to be


FINE = {"title": "x", "summary": "x"}
TOO_MUCH: list[dict[str, Any]] = [
    {"output": {**FINE, "summary": "é" * 32768}},  # 65,536 bytes in 32,768 characters
    {"output": {**FINE, "text": "x" * 65536}},
    {"output": {"summary": "without a title"}},
    {"output": {**FINE, "annotations": [note(1) | {"title": "x" * 256}]}},
    {"output": {**FINE, "annotations": [note(1) | {"message": "x" * 65537}]}},
    {"output": {**FINE, "annotations": [note(2) | {"end_line": 1}]}},
    {"output": {**FINE, "annotations": [note(1) | {"end_line": 2, "end_column": 3}]}},
    {"output": {**FINE, "annotations": "none"}},
    {"actions": [{"label": "x" * 21, "identifier": "x", "description": "x"}]},
    {"status": "completed"},
    {"conclusion": "stale"},
]


def test_a_check_run_that_github_would_refuse_is_refused(world: World) -> None:
    sha = world.contribute().head.sha
    url = "/repos/acme/taxonomy/check-runs"
    http = world.http(world.bot_token())
    for more in TOO_MUCH:
        answer = http.post(url, json={"name": "Lint", "head_sha": sha, **more})
        assert answer.status_code == 422, more
    assert http.get(f"/repos/acme/taxonomy/commits/{sha}/check-runs").json()["total_count"] == 0
    most = {"title": "x", "summary": "é" * 32767, "annotations": [note(1) | {"title": "x" * 255}]}
    assert http.post(url, json={"name": "Lint", "head_sha": sha, "output": most}).status_code == 201


def test_only_an_app_writes_checks_and_only_its_own(world: World) -> None:
    sha = world.contribute().head.sha
    with pytest.raises(GithubException) as person:
        world.github(world.ada).get_repo("acme/taxonomy").create_check_run("Lint", sha)
    assert person.value.status == 403
    run = world.bot().get_repo("acme/taxonomy").create_check_run("Lint", sha)
    other = world.forge.create_app("other", {"checks": "write"}, [], None, repositories=["acme/taxonomy"])
    token = world.forge.issue_token(
        "installation", "other[bot]", prefix="ghs_", app=other.app.id, installation=other.installation.id,
        permissions={"checks": "write"}, seconds=60,
    )  # fmt: skip
    answer = world.http(token).patch(
        f"/repos/acme/taxonomy/check-runs/{run.id}", json={"status": "in_progress"}
    )
    assert answer.status_code == 403


def test_buttons_and_re_runs_reach_the_app_from_those_who_may(world: World) -> None:
    sha = world.contribute().head.sha
    run = (
        world.bot()
        .get_repo("acme/taxonomy")
        .create_check_run(
            "Lint", sha, actions=[{"label": "Lint again", "identifier": "lint", "description": "Again"}]
        )
    )
    admin = world.admin()
    assert admin.post(f"/checks/{run.id}/press", json={"login": "grace"}).status_code == 403
    assert admin.post(f"/checks/{run.id}/press", json={"login": "ada", "identifier": "no"}).status_code == 422
    admin.post(f"/checks/{run.id}/press", json={"login": "ada", "identifier": "lint"})
    admin.post(f"/checks/{run.id}/press", json={"login": "ada"})
    assert world.heard()[-2:] == ["check_run.requested_action", "check_run.rerequested"]
    pressed = world.receiver.payload("check_run.requested_action")
    assert pressed["requested_action"] == {"identifier": "lint"}
    assert (pressed["sender"]["login"], pressed["check_run"]["head_sha"]) == ("ada", sha)


def test_a_release_makes_its_tag_and_serves_its_assets(world: World) -> None:
    repo = world.bot().get_repo("acme/taxonomy")
    tip = repo.get_branch("main").commit.sha
    release = repo.create_git_release("model-1", "Model 1", "The *first*.", target_commitish=tip)
    report = world.folder / "report.json"
    report.write_text('{"tag": "model-1"}')
    asset = release.upload_asset(str(report), content_type="application/json")
    assert asset.digest == "sha256:" + hashlib.sha256(report.read_bytes()).hexdigest()
    assert repo.get_git_ref("tags/model-1").object.sha == tip
    found = repo.get_release("model-1")
    assert [a.name for a in found.get_assets()] == ["report.json"]
    assert [r.tag_name for r in repo.get_releases()] == ["model-1"]
    plain = httpx.get(asset.browser_download_url, trust_env=False)
    assert plain.text == '{"tag": "model-1"}'
    assert plain.headers["content-disposition"].startswith("attachment")
    by_api = world.http(world.bot_token()).get(
        f"/repos/acme/taxonomy/releases/assets/{asset.id}", headers={"Accept": "application/octet-stream"},
        follow_redirects=True,
    )  # fmt: skip
    assert by_api.json() == {"tag": "model-1"}
    with pytest.raises(GithubException) as twice:
        repo.create_git_release("model-1", "Again", "")
    assert twice.value.status == 422


def test_half_an_upload_stays_as_a_starter_that_keeps_its_name(world: World) -> None:
    http = world.http(world.bot_token())
    made = http.post("/repos/acme/taxonomy/releases", json={"tag_name": "model-4"}).json()
    place = httpx.URL(made["upload_url"].partition("{")[0])
    head = (
        f"POST {place.path}?name=report.json HTTP/1.1\r\nHost: {place.host}\r\nUser-Agent: test\r\n"
        f"Authorization: {http.headers['Authorization']}\r\nContent-Length: 100\r\n\r\nhalf"
    )
    with socket.create_connection((place.host, place.port)) as client:
        client.sendall(head.encode())
        wait_for(lambda: list(world.forge.assets))
    listed = http.get(f"/repos/acme/taxonomy/releases/{made['id']}/assets").json()
    assert [(asset["name"], asset["state"]) for asset in listed] == [("report.json", "starter")]
    world.problems.clear()  # GitHub's description has no `starter`; its words on uploads have

    def upload() -> int:
        answer = httpx.post(place, params={"name": "report.json"}, content=b"whole", headers=http.headers)
        return answer.status_code

    assert upload() == 422
    assert http.delete(f"/repos/acme/taxonomy/releases/assets/{listed[0]['id']}").status_code == 204
    assert upload() == 201


def test_a_draft_is_seen_by_writers_only_and_long_notes_are_refused(world: World) -> None:
    http = world.http(world.bot_token())
    url = "/repos/acme/taxonomy/releases"
    made = http.post(url, json={"tag_name": "model-2", "draft": True, "body": "x" * 125_000}).json()
    assert [release["tag_name"] for release in http.get(url).json()] == ["model-2"]
    for reader in (world.http(world.grace), world.http(world.bot_token({"contents": "read"}))):
        assert reader.get(url).json() == []
        assert reader.get(f"{url}/{made['id']}").status_code == 404
    for refused in (
        http.post(url, json={"tag_name": "model-3", "body": "x" * 125_001}),
        http.patch(f"{url}/{made['id']}", json={"body": "x" * 125_001}),
    ):
        assert refused.json()["errors"][0]["message"] == "body is too long (maximum is 125000 characters)"


def test_the_same_folder_and_date_give_the_same_commit(world: World, tmp_path: Any) -> None:
    source = tmp_path / "documents"
    source.mkdir()
    (source / "a.md").write_text("# A\n")
    who = Signature("Ada", "ada@example.com", "2026-01-02T03:04:05Z")
    shas = set()
    for name in ("one", "two"):
        body = {
            "owner": "acme", "name": name, "from": str(source), "message": "Write it down",
            "committer": {"name": who.name, "email": who.email, "date": who.date},
        }  # fmt: skip
        shas.add(world.admin().post("/repos", json=body).json()["sha"])
    assert len(shas) == 1


def test_a_forge_started_again_goes_on_where_it_was(make_world: Callable[..., World]) -> None:
    world = make_world()
    pull = world.contribute()
    world.github(world.grace).get_repo("acme/taxonomy").get_issue(1).create_comment("before")
    world.heard()
    again = Forge(world.running.forge.data)
    assert [(p.number, p.head_sha) for p in again.pulls] == [(1, pull.head.sha)]
    assert [c.body for c in again.comments] == ["before"]
    assert again.token(world.grace) is not None
    assert again.next_id() > max(c.id for c in again.comments)
    again.close()
    settings = ForgeSettings(world.running.forge.data)
    with running(settings) as second:
        assert second.admin_token == world.running.admin_token
        page = httpx.get(f"{second.url}/acme/taxonomy/pull/1", trust_env=False)
        assert "before" in page.text
