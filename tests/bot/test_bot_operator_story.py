"""One whole story as an operator lives it: the bot is stopped in the middle of its work and started again,
and afterwards the log holds no secret, the audit log is whole, and the metrics know what happened.
"""

from __future__ import annotations

import json
import os
import re
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from bot_process import Nursery, Wire
from bot_stories import GOOD, WORKFLOW, Story, approve, effects, publish_at_once
from bot_world import EXAMPLES, World, new_world, until
from prometheus_client.parser import text_string_to_metric_families

from bot.audit_log import AuditLog
from bot.chain import Record, verify
from sandbox.forge.state import Forge

DASHBOARD = "the-dashboard-token-of-this-story"


@dataclass
class Aftermath:
    world: World
    story: Story
    lines: list[str]
    tokens: list[str]
    writes: list[str]
    audit: list[Record]
    metrics: dict[str, list[Any]]
    page: str
    exits: list[int | None]


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    folder: Path = tmp_path_factory.mktemp("operator")
    log, wire, tokens = folder / "bot.log", Wire(), []
    issue = Forge.issue_token

    def issued(forge: Forge, *arguments: Any, **options: Any) -> str:
        token = issue(forge, *arguments, **options)
        tokens.append(token)
        return token

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOT_PROCESS_LOG", str(log))
        patch.setattr(Forge, "issue_token", issued)
        with new_world(folder, wrap=wire.wrap) as world:
            publish_at_once(world)
            nursery = Nursery(world)
            port = world.port()
            hook = {"webhook_url": f"http://127.0.0.1:{port}/webhook"}
            settings = {"dashboard_token": DASHBOARD, "reconcile_seconds": 1, "dispatch_seconds": 0.5}
            try:
                first = nursery.start(port, **settings)
                world.admin("PATCH", "/apps/treewright", hook)
                world.model.wait.clear()  # the preview waits for its teacher
                story = freshly_opened(world)
                until(lambda: world.model.asked, "the preview's first question", 120)
                os.kill(first.process.pid or 0, signal.SIGTERM)
                world.model.wait.set()
                first.wait(60)
                second = nursery.start(port, **settings)
                approve_when_ready(world, story)
                page = httpx.get(
                    f"{second.url}/dashboard",
                    headers={"Authorization": f"Bearer {DASHBOARD}"},
                    trust_env=False,
                ).text
                look = lambda: httpx.get(f"{second.url}/metrics", trust_env=False).text  # noqa: E731 - a name for the wait below
                until(lambda: "treewright_queue_length 0.0" in look(), "an empty queue")
                text = look()
                os.kill(second.process.pid or 0, signal.SIGTERM)
                second.wait(60)
            finally:
                nursery.close()
            engine = sa.create_engine(f"sqlite:///{folder / 'bot' / 'bot.sqlite'}")
            records = list(AuditLog(engine).records())
            engine.dispose()
            assert verify(records)[1] == []
            yield Aftermath(
                world,
                story,
                log.read_text().splitlines(),
                tokens,
                wire.seen,
                [one for one in records if isinstance(one, Record)],
                {family.name: list(family.samples) for family in text_string_to_metric_families(text)},
                page,
                [first.process.exitcode, second.process.exitcode],
            )


def freshly_opened(world: World) -> Story:
    """A pull request whose models nobody has asked before, so that no stored answer fits."""
    config = (EXAMPLES / "taxonomy/.github/treewright.yml").read_text()
    config = config.replace("revision: main", f"revision: r{uuid.uuid4().hex}")
    change = world.repository(WORKFLOW, config).fork(world.person("newcomer"))
    head = change.push(GOOD)
    change.open()
    return Story(change, head)


def approve_when_ready(world: World, story: Story) -> None:
    story.change.becomes("Ready for a maintainer", 300)
    approve(world, story)


def test_a_stopped_bot_ends_well_and_the_next_one_finishes_its_work_once(after: Aftermath) -> None:
    assert after.exits == [0, 0]
    assert effects(after.story) == after.story.expected


def test_every_line_of_the_log_is_json_and_none_holds_a_secret(after: Aftermath) -> None:
    rows = [json.loads(line) for line in after.lines]
    assert all({"time", "level", "logger", "message"} <= set(row) for row in rows)
    assert len(rows) > 20
    app = after.world.app
    key = [line for line in app["private_key"].splitlines() if "-----" not in line]
    people = [person.token for person in after.world.people.values()]
    assert len(after.tokens) > 3
    whole = "\n".join(after.lines)
    for secret in (app["webhook_secret"], DASHBOARD, *key, *people, *after.tokens):
        assert secret not in whole
    assert not re.search(r"eyJ[\w-]{10,}\.|PRIVATE KEY|(?i:authorization|x-hub-signature)", whole)


def test_the_audit_log_has_every_write_that_reached_the_forge_and_whose_wish_it_was(after: Aftermath) -> None:
    entered = [record.fields for record in after.audit if record.what == "write"]
    listed = [f"{row['verb']} /repos/{row['repo']}{row['where']}" for row in entered]
    for write in set(after.writes):
        assert listed.count(write) >= after.writes.count(write), write
    merges = [row for row in entered if row["where"].endswith("/merge")]
    assert len(merges) == 1
    mara = after.world.person("mara").api("GET", "/user")
    assert merges[0]["head"] == after.story.head
    assert (merges[0]["actor"], merges[0]["actor_id"]) == ("mara", mara["id"])
    granted = [record.fields for record in after.audit if record.what == "approval"]
    assert [(row["granted"], row["user_id"], row["head"]) for row in granted] == [
        (True, mara["id"], after.story.head)
    ]


def test_checkpoints_are_logged_and_every_one_holds(after: Aftermath) -> None:
    from bot.chain import Checkpoint

    rows = [json.loads(line) for line in after.lines]
    told = [Checkpoint.parse(row["checkpoint"]) for row in rows if row["message"] == "audit checkpoint"]
    assert len(told) >= 4, "two starts and two stops"
    assert [verify(after.audit, one)[1] for one in told] == [[] for _ in told]
    assert told[-1].count == len(after.audit)


def test_the_metrics_know_how_long_people_waited_and_what_github_still_allows(after: Aftermath) -> None:
    def value(name: str, **labels: str) -> float:
        samples = after.metrics[name.removesuffix("_total").removesuffix("_count")]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    assert value("treewright_ack_seconds_count") > 3
    assert 0 < value("treewright_github_budget_left") < 10_000
    assert value("treewright_github_requests_total", method="PUT", status="2xx") == 1
    assert value("treewright_queue_length") == 0
    assert value("treewright_releases", state="published") == 1
    assert value("treewright_jobs", state="done") >= 3
    assert value("treewright_deliveries_total", event="pull_request", outcome="done") >= 1


def test_the_page_shows_the_story(after: Aftermath) -> None:
    for expected in ("published", "merged", "newcomer", "mara", "#1", after.story.head[:10]):
        assert expected in after.page
