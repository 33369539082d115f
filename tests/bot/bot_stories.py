"""A pull request's whole way, and what it must have left behind at the forge: each effect exactly once."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field

import httpx
from bot_world import EXAMPLES, Change, Json, World, until

from sandbox.forge.records import Repo, Run

PATIENCE = 400.0  # seconds: a story with forty deaths, on a machine with other work
GOOD = EXAMPLES / "contributions/good"
LEAF = "knowledge/geography/farne_mora"
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
jobs:
  build:
    runs-on: self-hosted
    steps:
      - run: "true"
"""


def publish_at_once(world: World) -> None:
    """Let the release workflow end at once with a release and its report; the real one takes hours."""

    def execute(repo: Repo, run: Run) -> str:
        key = str(run.inputs["key"])
        where = {"id": "acme/lm", "url": "https://hub.example/acme/lm", "revision": "1" * 40}
        score = {"name": "new leaves", "kind": "pooled", "leaf": None, "items": 9, "metric": "choice"}
        figures = {"base": 0.25, "candidate": 0.875, "low": 0.3, "high": 0.9}
        report = {
            "tag": f"v{run.number}",
            "model": where,
            "dataset": where,
            "verdict": "pass",
            "scores": [{**score, **figures}],
            "key": key,
            "examples": [],
            "contributions": [],
        }
        mara = world.person("mara")
        body = {"tag_name": f"v{run.number}", "body": f"Notes\n<!-- treewright:key={key} -->"}
        made = mara.api("POST", f"/repos/{repo.full_name}/releases", body)
        answer = httpx.post(
            made["upload_url"].split("{")[0] + "?name=report.json",
            content=json.dumps(report).encode(),
            headers={"Authorization": f"Bearer {mara.token}", "Content-Type": "application/octet-stream"},
        )
        assert answer.status_code == 201, answer.text
        return "success"

    world.forge.actions._execute = execute  # type: ignore[method-assign]  # the test puts its own in


@dataclass
class Story:
    change: Change
    head: str
    comments: dict[str, Json] = field(default_factory=dict)
    expected: Json = field(default_factory=dict)


def opened(world: World) -> Story:
    """A fresh pull request with the good leaf."""
    change = world.repository(WORKFLOW).fork(world.person("newcomer"))
    head = change.push(GOOD)
    change.open()
    return Story(change, head)


def whole_story(world: World) -> Story:
    """From opening to release, with a question on the way."""
    story = opened(world)
    change = story.change
    change.becomes("Ready for a maintainer", PATIENCE)
    story.comments["asked"] = change.say(change.author, "/status")
    until(lambda: change.replies(story.comments["asked"]), "the reply", PATIENCE)
    return approve(world, story)


def approve(world: World, story: Story) -> Story:
    """A maintainer approves; wait for the end of everything."""
    change = story.change
    # With the whole sha: a bot that dies when it has shown its result, and comes back, cannot know whether
    # a comment without it was made by somebody who had read that.
    story.comments["approved"] = change.say(world.person("mara"), f"/approve {story.head}")
    change.becomes("Released", PATIENCE)
    last = "treewright:released:"
    until(lambda: any(last in one for one in change.from_bot()), "the last comment", PATIENCE)
    settled(world, story)
    story.expected = {
        "merged": True,
        "merge commits": 1,
        "dispatches": 1,
        "comments": {"pull-request": 1, "released": 1}
        | ({"reply asked": 1} if "asked" in story.comments else {}),
        "checks": {
            "treewright / lint success": 1,
            "treewright / preview success": 1,
            "treewright / release success": 1,
        },
        "reactions": {name: ["+1"] for name in story.comments},
    }
    return story


def settled(world: World, story: Story) -> None:
    """Wait until what the bot takes away in the end is away, and no delivery is under way."""
    change = story.change
    answers = lambda: [change.reactions(said) for said in story.comments.values()]  # noqa: E731 - a name for the wait below
    until(lambda: all(one and "eyes" not in one for one in answers()), "no more eyes", PATIENCE)
    until(lambda: all(row["status"] == "completed" for row in checks(story)), "every check's end", PATIENCE)
    world.forge.hooks.drain()


def checks(story: Story) -> list[Json]:
    change = story.change
    path = f"{change.path}/commits/{story.head}/check-runs?filter=all&per_page=100"
    return list(change.author.api("GET", path)["check_runs"])


def effects(story: Story) -> Json:
    """What the bot did, as the forge shows it; names and times left out."""
    change = story.change
    pull = change.pull()
    base = change.author.api("GET", f"{change.path}/commits?sha=main&per_page=100")
    runs = change.author.api("GET", f"{change.path}/actions/runs")["workflow_runs"]
    kinds = Counter(_kind(body, story) for body in change.from_bot())
    return {
        "merged": pull["merged"],
        "merge commits": sum(len(row["parents"]) > 1 for row in base),
        "dispatches": len(runs),
        "comments": dict(kinds),
        "checks": dict(Counter(f"{row['name']} {row['conclusion']}" for row in checks(story))),
        "reactions": {name: change.reactions(said) for name, said in story.comments.items()},
    }


def _kind(body: str, story: Story) -> str:
    match = re.search(r"<!-- treewright:([a-z-]+)(?::([0-9a-f]+))? -->", body)
    assert match is not None, f"a comment without a mark: {body[:200]}"
    for name, said in story.comments.items():
        if match[1] == "reply" and match[2] == str(said["id"]):
            return f"reply {name}"
    return match[1]
