"""Workflows that really run, by act: inputs, logs, identity, tokens, cancel, reusable workflows."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from forge_world import World, wait_for

from sandbox.forge.actions import RunnerSettings

HELLO = """\
name: Hello
run-name: hello ${{ inputs.key }}
on:
  workflow_dispatch:
    inputs:
      key: {required: true, type: string}
      loud: {type: boolean, default: false}
permissions: {contents: write}
jobs:
  greet:
    name: Greet
    runs-on: [self-hosted]
    steps:
      - uses: actions/checkout@v5
      - name: Say
        run: |
          echo "key=${{ inputs.key }} loud=${{ inputs.loud }} color=${{ vars.COLOR }} place=$PLACE"
          echo "repository=$GITHUB_REPOSITORY ref=$GITHUB_REF sha=$GITHUB_SHA run=$GITHUB_RUN_ID"
          echo "leaf=$(cat knowledge/old/qna.yaml | head -1) commits=$(git rev-list --count HEAD)"
          echo "secret=${{ secrets.HUB }} inherited=${TREEWRIGHT_NOT_FOR_JOBS:-none}"
          echo "### It ran" >> "$GITHUB_STEP_SUMMARY"
      - name: Comment with the token
        env:
          TOKEN: ${{ github.token }}
        run: |
          curl --noproxy '*' -sf -o /dev/null -H "Authorization: Bearer $TOKEN" -d '{"tag_name": "t-1"}' \
            "$GITHUB_API_URL/repos/$GITHUB_REPOSITORY/releases"
"""
SLOW = """\
name: Slow
on: workflow_dispatch
jobs:
  wait:
    runs-on: self-hosted
    steps:
      - run: sleep 300 & wait
"""
FAILS = """\
name: Fails
on: {workflow_dispatch: {}}
jobs:
  one:
    runs-on: self-hosted
    steps: [{run: exit 3}, {run: echo never}]
  two:
    needs: one
    runs-on: self-hosted
    steps: [{run: echo never}]
"""
CALLER = """\
name: Release
run-name: release ${{ inputs.key }}
on:
  workflow_dispatch:
    inputs: {key: {required: true, type: string}}
permissions: {contents: read}
jobs:
  release:
    name: Release
    permissions: {contents: write, id-token: write}
    uses: treewright/treewright/.github/workflows/release.yml@v1
    with: {key: "${{ inputs.key }}"}
"""
CALLED = """\
name: Release
on: {workflow_call: {inputs: {key: {required: true, type: string}}}}
permissions: {}
jobs:
  build:
    runs-on: self-hosted
    permissions: {contents: read}
    steps:
      - name: No identity here
        run: |
          H="Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN"
          curl --noproxy '*' -s -w '%{http_code}\\n' -o answer.json -H "$H" \\
            "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=hub"
  publish:
    needs: build
    environment: release
    permissions: {contents: write, id-token: write}
    runs-on: self-hosted
    steps:
      - uses: treewright/treewright/actions/greet@v1
      - name: Identity
        run: |
          echo '## Known' >> "$GITHUB_STEP_SUMMARY"
          H="Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN"
          curl --noproxy '*' -sf -H "$H" "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=hub" > answer.json
          tr -d '{}" ' < answer.json | tr ',' '\\n' | grep ^value: | tr '.' ' '
"""


def files(**named: str) -> dict[str, str]:
    return {f".github/workflows/{name}.yml": text for name, text in named.items()}


def dispatch(world: World, file: str, inputs: dict[str, str] | None = None) -> Any:
    http = world.http(world.bot_token())
    body: dict[str, Any] = {"ref": "main"} | ({"inputs": inputs} if inputs else {})
    answer = http.post(f"/repos/acme/taxonomy/actions/workflows/{file}/dispatches", json=body)
    assert answer.status_code == 204, answer.text
    return http.get("/repos/acme/taxonomy/actions/runs").json()["workflow_runs"][0]


def finished(world: World, run: int) -> dict[str, Any]:
    http = world.http(world.bot_token())

    def done() -> Any:
        body = http.get(f"/repos/acme/taxonomy/actions/runs/{run}").json()
        return body if body["status"] == "completed" else None

    return dict(wait_for(done, 60))


def log(world: World, run: int) -> str:
    answer = world.http(world.bot_token()).get(f"/repos/acme/taxonomy/actions/runs/{run}/logs")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return "".join(archive.read(name).decode() for name in archive.namelist())


def test_a_dispatch_really_runs_the_workflow_and_tells_the_app(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREEWRIGHT_NOT_FOR_JOBS", "leaked")
    world = make_world(files=files(hello=HELLO), runner=RunnerSettings(env={"PLACE": "a \"quoted\" 'place'"}))
    repo = world.forge.named("acme/taxonomy")
    repo.variables, repo.secrets = {"COLOR": "green"}, {"HUB": "sesame-open"}
    run = dispatch(world, "hello.yml", {"key": "k-1"})
    assert (run["display_title"], run["event"]) == ("hello k-1", "workflow_dispatch")
    done = finished(world, run["id"])
    text = log(world, run["id"])
    assert done["conclusion"] == "success", text
    assert "key=k-1 loud=false color=green place=a \"quoted\" 'place'" in text
    sha = world.forge.git(repo).resolve("main")
    assert f"repository=acme/taxonomy ref=refs/heads/main sha={sha} run={run['id']}" in text
    assert "leaf=version: 3 commits=1" in text
    assert "secret=*** inherited=none" in text
    jobs = world.http(world.ada).get(f"/repos/acme/taxonomy/actions/runs/{run['id']}/jobs").json()["jobs"]
    assert [(job["name"], job["conclusion"]) for job in jobs] == [("Greet", "success")]
    assert [s["name"] for s in jobs[0]["steps"]][1:4] == [
        "actions/checkout@v5",
        "Say",
        "Comment with the token",
    ]
    assert world.http(world.ada).get("/repos/acme/taxonomy/releases/tags/t-1").status_code == 200
    told = [name for name in world.heard() if name.startswith("workflow_run")]
    assert told == ["workflow_run.requested", "workflow_run.in_progress", "workflow_run.completed"]
    said = world.receiver.payload("workflow_run.completed")
    assert said["workflow_run"]["display_title"] == "hello k-1"
    assert said["workflow_run"]["conclusion"] == "success"
    page = httpx.get(f"{world.running.url}/acme/taxonomy/actions/runs/{run['id']}", trust_env=False).text
    assert "It ran" in page
    assert "sesame-open" not in page


def test_a_failing_job_fails_the_run(make_world: Callable[..., World]) -> None:
    world = make_world(files=files(fails=FAILS))
    run = dispatch(world, "fails.yml")
    assert finished(world, run["id"])["conclusion"] == "failure"
    jobs = world.http(world.ada).get(f"/repos/acme/taxonomy/actions/runs/{run['id']}/jobs").json()["jobs"]
    assert jobs[0]["conclusion"] == "failure"
    assert "failure" in [step["conclusion"] for step in jobs[0]["steps"]]
    assert [job["conclusion"] for job in jobs[1:]] in ([], ["skipped"])


def test_one_run_at_a_time_and_cancel_ends_every_process(make_world: Callable[..., World]) -> None:
    world = make_world(files=files(slow=SLOW))
    first, second = dispatch(world, "slow.yml"), dispatch(world, "slow.yml")
    http = world.http(world.bot_token())
    runs = "/repos/acme/taxonomy/actions/runs"
    wait_for(lambda: http.get(f"{runs}/{first['id']}/jobs").json()["total_count"] == 1)
    assert http.get(f"{runs}/{second['id']}").json()["status"] == "queued"
    assert http.post(f"{runs}/{second['id']}/cancel").status_code == 202
    assert http.get(f"{runs}/{second['id']}").json()["conclusion"] == "cancelled"
    process = world.running.actions.process
    wait_for(lambda: len(process.members()) >= 3)  # act, the step's shell, sleep
    assert http.post(f"{runs}/{first['id']}/cancel").status_code == 202
    assert finished(world, first["id"])["conclusion"] == "cancelled"
    wait_for(lambda: process.members() == [])
    assert http.post(f"{runs}/{first['id']}/cancel").status_code == 409


def test_a_reusable_workflow_gets_an_identity_only_where_it_is_declared(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    product = tmp_path / "product"
    (product / ".github" / "workflows").mkdir(parents=True)
    (product / ".github" / "workflows" / "release.yml").write_text(CALLED)
    (product / "actions" / "greet").mkdir(parents=True)
    (product / "actions" / "greet" / "action.yml").write_text(
        "name: Greet\ndescription: Says hello.\nruns:\n  using: composite\n  steps:\n"
        "    - shell: bash\n      run: echo hello from an action\n"
        "    - shell: bash\n      run: printf '## Greeted' >> $GITHUB_STEP_SUMMARY\n"
    )
    settings = RunnerSettings(local_actions={"treewright/treewright@v1": product})
    world = make_world(files=files(release=CALLER), runner=settings)
    run = dispatch(world, "release.yml", {"key": "k-2"})
    done = finished(world, run["id"])
    text = log(world, run["id"])
    assert done["conclusion"] == "success", text
    assert "hello from an action" in text
    assert "403" in text.splitlines()
    jobs = world.http(world.ada).get(f"/repos/acme/taxonomy/actions/runs/{run['id']}/jobs").json()["jobs"]
    assert [job["name"] for job in jobs] == ["Release / build", "Release / publish"]
    assert [job["summary"] for job in world.forge.runs.get(run["id"]).jobs] == [
        "",
        "## Greeted\n\n## Known\n\n",
    ]
    token = (
        next(line for line in text.splitlines() if line.startswith("value:"))
        .removeprefix("value:")
        .replace(" ", ".")
    )
    issuer = f"{world.running.url}/_oidc"
    configuration = httpx.get(f"{issuer}/.well-known/openid-configuration", trust_env=False).json()
    keys = jwt.PyJWKSet.from_dict(httpx.get(configuration["jwks_uri"], trust_env=False).json())
    claims = jwt.decode(token, keys.keys[0], algorithms=["RS256"], audience="hub", issuer=issuer)
    assert claims["sub"] == "repo:acme/taxonomy:environment:release"
    assert claims["job_workflow_ref"] == "treewright/treewright/.github/workflows/release.yml@v1"
    assert claims["workflow_ref"] == "acme/taxonomy/.github/workflows/release.yml@refs/heads/main"
    assert (claims["repository"], claims["environment"], claims["run_id"]) == (
        "acme/taxonomy",
        "release",
        str(run["id"]),
    )
    assert 0 < claims["exp"] - time.time() <= 300


def test_a_dispatch_that_github_would_refuse_is_refused(make_world: Callable[..., World]) -> None:
    world = make_world(files=files(hello=HELLO))
    http = world.http(world.bot_token())
    url = "/repos/acme/taxonomy/actions/workflows/{}/dispatches"
    for file, body, status in (
        ("hello.yml", {"ref": "main"}, 422),
        ("hello.yml", {"ref": "main", "inputs": {"key": "k", "other": "x"}}, 422),
        ("hello.yml", {"ref": "nowhere", "inputs": {"key": "k"}}, 422),
        ("hello.yml", {"ref": "\0", "inputs": {"key": "k"}}, 422),
        ("none.yml", {"ref": "main"}, 404),
    ):
        assert http.post(url.format(file), json=body).status_code == status
    assert world.http(world.grace).post(url.format("hello.yml"), json={"ref": "main"}).status_code == 403
    assert http.get("/repos/acme/taxonomy/actions/workflows").json()["workflows"][0]["name"] == "Hello"


def test_a_dispatch_is_held_to_githubs_sizes(make_world: Callable[..., World]) -> None:
    many = "".join(f"      i{n}: {{type: string}}\n" for n in range(26))
    wide = f"on:\n  workflow_dispatch:\n    inputs:\n{many}jobs: {{}}\n"
    odd = "on: {workflow_dispatch: {inputs: [key]}}\njobs: {}\n"
    world = make_world(files=files(hello=HELLO, wide=wide, odd=odd))
    http = world.http(world.bot_token())
    url = "/repos/acme/taxonomy/actions/workflows/{}/dispatches"
    for file, inputs in (("hello.yml", {"key": "x" * 65536}), ("wide.yml", {}), ("odd.yml", {})):
        answer = http.post(url.format(file), json={"ref": "main", "inputs": inputs})
        assert (answer.status_code, answer.json()["message"]) == (422, "Validation Failed")
    assert http.get("/repos/acme/taxonomy/actions/runs").json()["total_count"] == 0


def test_one_workflow_that_is_no_workflow_leaves_the_others_alone(make_world: Callable[..., World]) -> None:
    deep = "jobs: " + "[" * 5000
    world = make_world(files=files(hello=HELLO, dated="name: 2020-13-45\njobs: {}\n", deep=deep))
    http = world.http(world.bot_token())
    listed = http.get("/repos/acme/taxonomy/actions/workflows").json()["workflows"]
    assert [one["name"] for one in listed] == ["Hello"]


def test_a_called_workflow_may_not_ask_for_more_than_its_caller_gives(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    called = tmp_path / "product" / ".github" / "workflows" / "release.yml"
    called.parent.mkdir(parents=True)
    called.write_text(CALLED)
    settings = RunnerSettings(local_actions={"treewright/treewright@v1": tmp_path / "product"})
    meagre = CALLER.replace("{contents: write, id-token: write}", "{contents: write}")
    world = make_world(files=files(release=meagre, fails=FAILS), runner=settings)
    run = dispatch(world, "release.yml", {"key": "k-3"})
    assert finished(world, run["id"])["conclusion"] == "failure"
    assert "'id-token: write', but is only allowed 'id-token: none'" in world.forge.runs.get(run["id"]).note
    called.write_text("on: workflow_call\njobs: {a: {if: 2020-13-45}}")
    run = dispatch(world, "release.yml", {"key": "k-4"})
    assert finished(world, run["id"])["conclusion"] == "failure"
    run = dispatch(world, "fails.yml")  # the runner is still there
    assert finished(world, run["id"])["conclusion"] == "failure"


def test_of_those_that_wait_for_a_group_only_the_newest_is_kept_unless_all_may_queue(
    make_world: Callable[..., World],
) -> None:
    one = SLOW + "concurrency: {group: release, cancel-in-progress: false}\n"
    every = SLOW + "concurrency: {group: all, cancel-in-progress: false, queue: max}\n"
    newest = SLOW + "concurrency: {group: 'newest-${{ github.ref_name }}', cancel-in-progress: true}\n"
    wrong = SLOW + "concurrency: {group: x, cancel-in-progress: true, queue: max}\n"
    world = make_world(files=files(one=one, every=every, newest=newest, wrong=wrong))
    http, runs = world.http(world.bot_token()), "/repos/acme/taxonomy/actions/runs"

    def states(name: str) -> list[str]:
        made = [dispatch(world, f"{name}.yml") for _ in range(3)]
        found = [http.get(f"{runs}/{run['id']}").json() for run in made]
        return [run["conclusion"] or "waits" for run in found]

    first = dispatch(world, "one.yml")
    wait_for(lambda: http.get(f"{runs}/{first['id']}").json()["status"] == "in_progress")
    assert states("one") == ["cancelled", "cancelled", "waits"]
    assert states("every") == ["waits", "waits", "waits"]
    assert states("newest") == ["cancelled", "cancelled", "waits"]
    assert http.get(f"{runs}/{first['id']}").json()["status"] == "in_progress"
    refused = http.post("/repos/acme/taxonomy/actions/workflows/wrong.yml/dispatches", json={"ref": "main"})
    assert refused.status_code == 422


@pytest.mark.parametrize(
    "before",
    ["concurrency:\n  group: a\n  cancel-in-progress: false\n  queue: max\n", "concurrency: {group: b}\n"],
)
def test_a_workflow_with_a_group_runs_to_its_end(make_world: Callable[..., World], before: str) -> None:
    quick = SLOW.replace("sleep 300 & wait", "true")
    named = {".github/workflows/secrets.yaml": quick}  # as one of the files that act is given
    world = make_world(files=files(grouped=before + quick, last=quick + before) | named)
    for name in ("grouped.yml", "last.yml", "secrets.yaml"):
        run = finished(world, dispatch(world, name)["id"])
        assert (run["conclusion"], run["status"]) == ("success", "completed")


def test_a_run_that_is_cancelled_on_its_way_never_runs(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(files=files(slow=SLOW))
    runner, http = world.running.actions, world.http(world.bot_token())
    check_out, codes = runner._check_out, []

    def cancelled_meanwhile(repo: Any, run: Any, checkout: Path) -> None:
        check_out(repo, run, checkout)
        codes.append(http.post(f"/repos/acme/taxonomy/actions/runs/{run.id}/cancel").status_code)

    monkeypatch.setattr(runner, "_check_out", cancelled_meanwhile)
    run = dispatch(world, "slow.yml")
    assert finished(world, run["id"])["conclusion"] == "cancelled"
    assert codes == [202]


def test_a_log_that_was_cut_off_is_shown_as_far_as_it_goes(make_world: Callable[..., World]) -> None:
    world = make_world(files=files(fails=FAILS))
    run = dispatch(world, "fails.yml")
    finished(world, run["id"])
    path = world.running.actions.folder(world.forge.runs.get(run["id"])) / "log.jsonl"
    path.write_text(path.read_text() + '{"job": 1, "te')
    page = httpx.get(f"{world.running.url}/acme/taxonomy/actions/runs/{run['id']}", trust_env=False)
    assert page.status_code == 200
    assert log(world, run["id"])


def test_an_identity_needs_a_request_token_of_a_run(world: World) -> None:
    for header in ({}, {"Authorization": "Bearer nothing"}, {"Authorization": f"Bearer {world.ada}"}):
        assert (
            httpx.get(f"{world.running.url}/_oidc/token", headers=header, trust_env=False).status_code == 401
        )
