"""What reconcile heals while something else stays broken, and what GitHub refused longer than a job waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bot_stories import Story, opened, publish_at_once
from bot_world import Change, Json, World, bot, bot_settings, new_world, until

from bot import reconcile, release
from bot.events import PullFacts
from bot.services import Services
from bot.store import Store

READY = "Ready for a maintainer"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A forge with two installations, of which the first is suspended."""
    with new_world(tmp_path_factory.mktemp("heal")) as made:
        publish_at_once(made)
        made.admin("POST", "/orgs", {"login": "beta"})
        made.admin("POST", "/repos", {"owner": "beta", "name": "other"})
        made.admin("PATCH", "/apps/treewright", {"repositories": ["beta/other"]})
        first = min(one.id for one in made.forge.forge.installations)
        made.suspended = {  # type: ignore[attr-defined]  # noted on the world by this test
            "method": "POST",
            "path_prefix": f"/app/installations/{first}/access_tokens",
            "status": 403,
            "message": "This installation has been suspended",
            "times": 10**6,
        }
        break_(made)
        (made.folder / "bot").mkdir()
        store = Store(bot_settings(made).database_url)
        other = made.forge.forge.named("beta/other")
        at = "2026-11-21T10:00:00Z"
        facts = PullFacts(other.id, "beta/other", first, 1, "a" * 40, "main", "main", "x", 1, "merged", at)
        store.learn(facts, "api")
        where = {"repo_id": other.id, "number": 1, "sha": "b" * 40, "base": "c" * 40}
        store.put_release("0" * 32, **where, state="queued")
        store.close()
        yield made


def break_(world: World, path: str = "", status: int = 500, times: int = 0) -> None:
    posts = {"method": "POST", "path_prefix": path, "status": status, "times": times}
    faults = [world.suspended, *([posts] if path else [])]  # type: ignore[attr-defined]  # as above
    world.admin("POST", "/faults", {"fail_requests": faults})


@pytest.fixture(scope="module")
def early(world: World) -> Story:
    """Opened while no bot listened."""
    return opened(world)


@pytest.fixture(scope="module", autouse=True)
def _bot(world: World, early: Story) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconcile, "_TRIES", 2)
        with bot(world, reconcile_seconds=0.5, dispatch_seconds=0.3, attempts=2, retry_seconds=0.05):
            yield


def approved(world: World, change: Change) -> Json:
    return change.say(world.person("mara"), f"/approve {change.pull()['head']['sha']}")


def test_a_suspended_installation_keeps_no_other_one_waiting(early: Story) -> None:
    early.change.becomes(READY)


def test_a_release_that_github_did_not_start_or_show_for_long_is_started_and_told_after_all(
    world: World, early: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = early.change
    change.becomes(READY)
    go_on = threading.Event()
    execute = world.forge.actions._execute

    def when_told(*arguments: Any) -> str:
        go_on.wait(60)
        return execute(*arguments)

    monkeypatch.setattr(world.forge.actions, "_execute", when_told)
    break_(world, f"{change.path}/actions/workflows", 503, 3)  # a job tries twice
    assert "Something went wrong" in change.reply(approved(world, change))
    change.becomes("Merged, release under way")
    until(lambda: change.author.api("GET", f"{change.path}/actions/runs")["workflow_runs"], "the run")
    world.forge.hooks.drain()
    store = Store(bot_settings(world).database_url)
    # Only the event of the end is still to come: no other one shows the result by chance.
    until(lambda: not store.waiting(1) and not store.all_unfinished(), "the end of all jobs")
    store.close()
    break_(world, f"{change.path}/issues/{change.number}/comments", 502, 3)
    go_on.set()
    change.becomes("Released")
    last = until(
        lambda: [one for one in change.from_bot() if "treewright:released:" in one], "the last comment", 60
    )
    assert len(last) == 1
    assert len(change.author.api("GET", f"{change.path}/actions/runs")["workflow_runs"]) == 1


def test_a_release_that_never_starts_is_said_to_have_failed_and_is_tried_again_once(world: World) -> None:
    change = opened(world).change
    change.becomes(READY)
    break_(world, f"{change.path}/actions/workflows", 503, 10**6)
    approved(world, change)
    assert "could not start its run" in change.becomes("Merged, but the release failed")
    break_(world)
    services = Services.open(bot_settings(world))
    pull = services.pull(change.pull()["base"]["repo"]["id"], change.number)
    merge = change.pull()["merge_commit_sha"]
    with ThreadPoolExecutor() as at_once:  # as by a button and by a comment
        list(at_once.map(lambda number: release.start(services, pull, merge, again=number), (1, 2, 3)))
    change.becomes("Released")
    assert len(change.author.api("GET", f"{change.path}/actions/runs")["workflow_runs"]) == 1
    services.store.close()
