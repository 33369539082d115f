"""Webhook bodies have every key that GitHub's own examples of the event have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge_world import World, commit, git, wait_for

SHAPES = json.loads((Path(__file__).parent / "webhook_shapes.json").read_text())
WORKFLOW = "name: W\non: workflow_dispatch\njobs: {a: {runs-on: self-hosted, steps: [{run: 'true'}]}}\n"


def keys(body: dict[str, Any]) -> set[str]:
    deeper = {f"{name}.{inner}" for name, value in body.items() if isinstance(value, dict) for inner in value}
    return set(body) | deeper


def test_every_event_has_the_keys_of_githubs_examples(make_world: Callable[..., World]) -> None:
    world = make_world(files={".github/workflows/w.yml": WORKFLOW})
    pull = world.contribute()
    pull.edit(title="Another title")
    pull.edit(state="closed")
    pull.edit(state="open")
    work = world.folder / "fork"
    commit(work, {"more.txt": "more"}, "Add more")
    git("-C", str(work), "push", "-q", "origin", "topic")
    repo = world.bot().get_repo("acme/taxonomy")
    repo.get_issue(1).add_to_labels("bug")
    repo.get_issue(1).remove_from_labels("bug")
    comment = repo.get_issue(1).create_comment("one")
    comment.edit("two")
    comment.delete()
    button = {"label": "Again", "identifier": "again", "description": "Run again"}
    head = repo.get_pull(1).head.sha
    run = repo.create_check_run("Lint", head, status="completed", conclusion="success", actions=[button])
    world.admin().post(f"/checks/{run.id}/press", json={"login": "ada"})
    world.admin().post(f"/checks/{run.id}/press", json={"login": "ada", "identifier": "again"})
    repo.get_pull(1).merge()
    repo.get_workflow("w.yml").create_dispatch("main")
    wait_for(lambda: "workflow_run.completed" in world.heard())
    seen = set(world.heard())
    events = {name for name in SHAPES if name.partition(".")[0] in ("ping", "push") or "." in name}
    assert events - seen == set()
    for name in sorted(events):
        wanted = set(SHAPES[name])
        if name not in ("ping", "installation.created"):
            wanted |= set(SHAPES["every event of a repository"])
        missing = wanted - keys(world.receiver.payload(name))
        assert missing == set(), name
