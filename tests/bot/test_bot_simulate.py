"""What the bot would do, without doing it: the noted writes are the real bot's, and GitHub sees none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bot_world import EXAMPLES, Change, World, bot, bot_settings, new_world
from github import GithubException
from typer.testing import CliRunner

from bot.github import Repository
from bot.grants import PERMISSIONS
from bot.simulate import Delivery, Outcome, ReadOnlyApp, SimulationError, of_pull, read_delivery, simulate
from bot.store import Store
from treewright.cli import app as command


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A forge with an App and nobody who answers its webhooks."""
    with new_world(tmp_path_factory.mktemp("world")) as made:
        yield made


def played(town: World, change: Change, folder: Path, text: str = "", login: str = "") -> Outcome:
    settings = bot_settings(town, data=folder)
    delivery = of_pull(ReadOnlyApp(settings), change.repository.name, change.number, text, login)
    return simulate(settings, delivery)


def opened(town: World, name: str) -> tuple[Change, str]:
    change = town.repository().fork(town.person("newcomer"))
    head = change.push(EXAMPLES / "contributions" / name)
    change.open()
    return change, head


def test_a_red_pull_request_is_played_to_its_end_and_nothing_is_written(town: World, tmp_path: Path) -> None:
    change, head = opened(town, "bad")
    outcome = played(town, change, tmp_path)
    assert outcome.state == "done"
    checks = [one.body for one in outcome.writes if "/check-runs" in one.path]
    assert checks[0]["head_sha"] == head
    assert checks[-1]["conclusion"] == "failure"
    assert any(one.path == f"/issues/{change.number}/comments" for one in outcome.writes)
    assert change.from_bot() == []
    assert change.checks(head, "treewright / lint") == []
    assert list(tmp_path.iterdir()) == [], "the bot's own folder is left alone"


def test_the_memory_of_an_older_bot_can_be_started_from(town: World, tmp_path: Path) -> None:
    change, _ = opened(town, "bad")
    settings = bot_settings(town, data=tmp_path)
    older = Store(settings.database_url)
    where = {"repo_id": 7, "number": 1, "sha": "b" * 40, "base": "c" * 40}
    older.put_release("0" * 32, **where, state="queued")
    with older.write() as connection:
        connection.exec_driver_sql("ALTER TABLE releases DROP COLUMN told")
    older.close()
    assert played(town, change, tmp_path).state == "done"


def test_what_was_simulated_is_what_the_bot_then_does(town: World, tmp_path: Path) -> None:
    change, head = opened(town, "bad")
    said = [one.body for one in played(town, change, tmp_path).writes if "/check-runs" in one.path][-1]
    with bot(town, data=tmp_path / "real"):
        for state in ("closed", "open"):
            change.author.api("PATCH", f"{change.path}/pulls/{change.number}", {"state": state})
        real = change.check(head)
    assert (real["name"], real["conclusion"]) == ("treewright / lint", said["conclusion"])
    assert real["output"]["title"] == said["output"]["title"]


def test_a_command_is_refused_in_the_simulation_as_it_would_be(town: World, tmp_path: Path) -> None:
    change, _ = opened(town, "bad")
    outcome = played(town, change, tmp_path, "/approve", "newcomer")
    replies = [str(one.body["body"]) for one in outcome.writes if one.path.endswith("/comments")]
    assert any("treewright:reply" in body for body in replies)
    assert not any(one.path.endswith("/merge") for one in outcome.writes)
    assert change.pull()["state"] == "open"


def test_a_simulation_cannot_write_even_if_it_tried(town: World, tmp_path: Path) -> None:
    """Its tokens may only read, whatever the code above them does."""
    change, head = opened(town, "bad")
    app = ReadOnlyApp(bot_settings(town, data=tmp_path))
    assert set(app.permissions) == set(PERMISSIONS)
    assert set(app.permissions.values()) == {"read"}
    repository = app.repository(change.repository.name, app.installations()[0])
    body = {"name": "x", "head_sha": head, "status": "in_progress"}
    with pytest.raises(GithubException) as refused:
        Repository.exchange(repository, "POST", "/check-runs", body)
    assert refused.value.status == 403


def test_a_pull_request_that_is_not_there_is_said_plainly(town: World, tmp_path: Path) -> None:
    change, _ = opened(town, "bad")
    change.number = 999
    with pytest.raises(SimulationError, match="is there a #999"):
        played(town, change, tmp_path)


PAYLOAD: dict[str, Any] = {"action": "created", "installation": {"id": 1}}


@pytest.mark.parametrize(
    ("value", "event", "wanted"),
    [
        ({"event": "ping", "payload": PAYLOAD}, "", Delivery("ping", PAYLOAD)),
        ({"event": "push", "request": {"payload": PAYLOAD}}, "", Delivery("push", PAYLOAD)),
        (PAYLOAD, "installation", Delivery("installation", PAYLOAD)),
    ],
)
def test_a_delivery_is_read_in_each_of_its_shapes(value: object, event: str, wanted: Delivery) -> None:
    assert read_delivery(json.dumps(value).encode(), event) == wanted


@pytest.mark.parametrize("data", [b"", b"[1]", b"{}", b"\xff", b'{"action": "created"}'])
def test_what_is_no_delivery_is_refused(data: bytes) -> None:
    with pytest.raises(SimulationError):
        read_delivery(data)


def test_replay_reads_a_kept_delivery_without_any_network(tmp_path: Path) -> None:
    comment = {
        **PAYLOAD,
        "repository": {"id": 7, "full_name": "acme/taxonomy"},
        "issue": {"number": 3, "pull_request": {}},
        "comment": {
            "id": 1,
            "body": "/approve",
            "created_at": "2026-01-01T00:00:00Z",
            "user": {"login": "mara", "id": 2, "type": "User"},
        },
    }
    file = tmp_path / "d.json"
    file.write_text(json.dumps({"event": "issue_comment", "payload": comment}))
    done = CliRunner().invoke(command, ["bot", "replay", str(file)])
    assert done.exit_code == 0, done.output
    assert "CommentEvent" in done.output
    assert "approve" in done.output
    file.write_text(json.dumps(comment))
    assert CliRunner().invoke(command, ["bot", "replay", str(file)]).exit_code == 2
