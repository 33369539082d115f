"""Stories about approval and release: whose word counts, for which commit, and that the end comes back to
people.
"""

from __future__ import annotations

import json
from typing import Any

from bot_world import EXAMPLES, Change, Json, Person, World, until

from bot import metrics

GOOD = EXAMPLES / "contributions/good"
LEAF = "knowledge/geography/farne_mora"
# A release workflow as short as can be: it publishes a report that names its key, as the real one does in the
# end.
PUBLISH = """
import json, os, urllib.request
api, repo, key = (os.environ[name] for name in ("GITHUB_API_URL", "GITHUB_REPOSITORY", "KEY"))
def send(url, data, kind="application/json"):
    headers = {"Authorization": "Bearer " + os.environ["TOKEN"], "Content-Type": kind}
    return json.load(urllib.request.urlopen(urllib.request.Request(url, data, headers)))
body = "Notes\\n<!-- treewright:key=%s -->" % key
made = send(api + "/repos/" + repo + "/releases", json.dumps({"tag_name": "v1", "body": body}).encode())
where = {"id": "acme/acme-lm", "url": "https://hub.example/acme/acme-lm", "revision": "1" * 40}
score = {"name": "new leaves", "kind": "pooled", "leaf": None, "items": 9, "metric": "choice",
         "base": 0.25, "candidate": 0.875, "low": 0.3, "high": 0.9}
report = {"tag": "v1", "model": where, "dataset": where, "verdict": "pass", "scores": [score], "key": key,
  "examples": [{"leaf": LEAF, "question": "Who?", "expected": "She.", "base": "@mara", "candidate": "She."}],
  "contributions": [{"pull_request": 1, "leaf": LEAF, "rows": 8, "base": 0.25, "candidate": 0.875}]}
upload = made["upload_url"].split("{")[0] + "?name=report.json"
send(upload, json.dumps(report).encode(), "application/octet-stream")
""".replace("LEAF", json.dumps(LEAF))
WORKFLOW = """
name: Release
run-name: release ${{ inputs.key }}
on:
  workflow_dispatch:
    inputs:
      sha: {required: true, type: string}
      base: {required: true, type: string}
      pull_requests: {required: true, type: string}
      key: {required: true, type: string}
permissions:
  contents: write
jobs:
  build:
    runs-on: self-hosted
    steps:
      - env:
          KEY: ${{ inputs.key }}
          TOKEN: ${{ github.token }}
        run: |
"""
FAILING = WORKFLOW + "          exit 3\n"
PUBLISHING = WORKFLOW + "".join(
    f"          {line}\n" for line in ["python3 - <<'PY'", *PUBLISH.splitlines(), "PY"]
)


def ready(world: World, workflow: str = PUBLISHING) -> tuple[Change, str, Person]:
    """A previewed pull request with the good leaf, its head, and the maintainer."""
    change = world.repository(workflow).fork(world.person("newcomer"))
    head = change.push(GOOD)
    change.open()
    change.becomes("Ready for a maintainer")
    return change, head, world.person("mara")


def model_tokens() -> float:
    samples = [sample for family in metrics.MODEL_TOKENS.collect() for sample in family.samples]
    return sum(sample.value for sample in samples if sample.labels.get("direction") == "completion")


def merge_parents(change: Change) -> tuple[str, list[str]]:
    sha = str(change.pull()["merge_commit_sha"])
    row: Any = change.author.api("GET", f"{change.path}/commits/{sha}")
    return sha, [str(parent["sha"]) for parent in row["parents"]]


def runs(change: Change) -> list[Json]:
    return list(change.author.api("GET", f"{change.path}/actions/runs")["workflow_runs"])


def test_a_maintainer_approves_and_exactly_that_commit_is_merged_and_released(world: World) -> None:
    before = model_tokens()
    change, head, mara = ready(world)
    comment = change.sticky()
    assert "base model answers 0 of 4" in comment
    assert "8 passed" in comment
    assert model_tokens() > before

    refused = change.say(change.author, "/approve")
    assert "for the maintainers" in change.reply(refused)
    assert change.answered(refused) == "confused"
    assert change.pull()["merged"] is False

    said = change.say(mara, "This teaches something new.\n\n/approve")
    assert change.answered(said) == "+1"
    merge, parents = merge_parents(change)
    assert parents[1] == head
    comment = change.becomes("Released", 120)
    assert "mara approved" in comment
    assert merge[:10] in comment

    last = until(
        lambda: [one for one in change.from_bot() if "treewright:released:" in one], "the last comment"
    )
    assert len(last) == 1
    assert "https://hub.example/acme/acme-lm" in last[0]
    assert "25.0 %" in last[0]
    assert "**87.5 %**" in last[0]
    assert "@&#8203;mara" in last[0]
    assert len(runs(change)) == 1
    inputs = runs(change)[0]["display_title"]
    assert inputs.startswith("release ")
    check = change.check(head, "treewright / release")
    assert check["conclusion"] == "success"


def test_when_the_head_moved_around_the_comment_the_bot_asks_for_the_whole_sha(world: World) -> None:
    change, _, mara = ready(world, FAILING)
    world.admin("POST", "/faults", {"drop_deliveries": 1})
    newer = change.push({f"{LEAF}/attribution.txt": (GOOD / LEAF / "attribution.txt").read_text() + "\n"})
    said = change.say(mara, "/approve")
    assert f"`/approve {newer}`" in change.reply(said)
    assert change.pull()["merged"] is False
    world.admin("POST", "/faults", {})

    short = change.say(mara, f"/approve {newer[:12]}")
    assert "all 40 digits" in change.reply(short)


def test_a_failed_release_says_so_and_can_be_tried_again(world: World) -> None:
    change, head, mara = ready(world, FAILING)
    change.say(mara, f"/approve {head}")
    comment = change.becomes("Merged, but the release failed", 120)
    assert "/retry" in comment
    stranger = change.say(change.author, "/retry")
    assert "is for maintainers" in change.reply(stranger)
    assert len(runs(change)) == 1
    again = change.say(mara, "/retry")
    assert change.answered(again) == "+1"
    until(lambda: len(runs(change)) == 2, "the second run")


def test_a_workflow_that_is_not_there_is_named_at_every_try(world: World) -> None:
    config = (EXAMPLES / "taxonomy/.github/treewright.yml").read_text()
    config = config.replace("workflow: release.yml", "workflow: nowhere.yml")
    change = world.repository(FAILING, config).fork(world.person("newcomer"))
    head = change.push(GOOD)
    change.open()
    change.becomes("Ready for a maintainer")
    mara = world.person("mara")
    change.say(mara, f"/approve {head}")
    assert "nowhere.yml" in change.becomes("Merged, but the release failed")
    again = change.say(mara, "/retry")
    assert change.answered(again) == "+1"
    assert change.replies(again) == []
    checks = until(lambda: len(rows := change.checks(head, "treewright / release")) == 2 and rows, "a check")
    assert "nowhere.yml" in json.dumps(checks)


def test_what_was_approved_by_nobody_is_said_to_be_closed(world: World) -> None:
    change, _, mara = ready(world)
    mara.api("PATCH", f"{change.path}/pulls/{change.number}", {"state": "closed"})
    change.becomes("Closed")
    late = change.say(mara, "/approve")
    assert "not open any more" in change.reply(late)
