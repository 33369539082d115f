"""Stories about trouble: doubled deliveries, lost answers, a dead endpoint, newer heads, and a bot that is
killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from bot_world import EXAMPLES, ROOT, Change, World, bot, bot_settings, new_world, until

GOOD = EXAMPLES / "contributions/good"
BAD = EXAMPLES / "contributions/bad"
LEAF = "knowledge/geography/farne_mora"
PREVIEW = "treewright / preview"


def opened(world: World, files: Path = GOOD, asks_again: bool = False) -> tuple[Change, str]:
    """A fresh pull request. `asks_again`: by another revision of the models, so that no stored answer
    fits.
    """
    config = (EXAMPLES / "taxonomy/.github/treewright.yml").read_text()
    if asks_again:
        config = config.replace("revision: main", f"revision: r{world.repositories}")
    change = world.repository(config=config).fork(world.person("newcomer"))
    head = change.push(files)
    change.open()
    return change, head


def test_a_delivery_that_comes_twice_does_its_work_once(world: World) -> None:
    world.admin("POST", "/faults", {"duplicate": 3})
    change, head = opened(world, BAD)
    change.check(head)
    until(change.sticky, "the comment")
    world.admin("POST", "/faults", {"duplicate": 1})
    said = change.say(world.person("mara"), "/help")
    change.answered(said)
    world.admin("POST", "/faults", {})
    assert len(change.replies(said)) == 1
    assert len(change.checks(head, "treewright / lint")) == 1


def test_an_answer_that_got_lost_does_not_write_twice(world: World) -> None:
    lost = [
        {"method": "POST", "path_prefix": "/api/v3/repos/", "status": 502, "times": 2, "when": "after"},
        {"method": "PATCH", "path_prefix": "/api/v3/repos/", "status": 502, "times": 1, "when": "before"},
    ]
    change = world.repository().fork(world.person("newcomer"))
    head = change.push(BAD)
    number = change.author.api(
        "POST", f"{change.path}/pulls", {"title": "x", "head": "newcomer:mine", "base": "main"}
    )
    world.admin("POST", "/faults", {"fail_requests": lost})
    change.number = int(number["number"])
    assert change.check(head)["conclusion"] == "failure"
    until(change.sticky, "the comment")
    world.admin("POST", "/faults", {})
    assert len(change.checks(head, "treewright / lint")) == 1
    assert len(change.from_bot()) == 1


def test_an_endpoint_that_is_down_is_said_plainly_and_lint_stays_green(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = os.environ["TREEWRIGHT_TEACHER_URL"]
    monkeypatch.setenv("TREEWRIGHT_TEACHER_URL", "http://127.0.0.1:9/v1")
    change, head = opened(world)
    comment = change.becomes("The preview did not work", 90)
    assert "/retry" in comment
    assert change.check(head)["conclusion"] == "success"
    assert change.check(head, PREVIEW)["conclusion"] == "neutral"
    early = change.say(world.person("mara"), "/approve")
    assert "no finished preview" in change.reply(early)

    monkeypatch.setenv("TREEWRIGHT_TEACHER_URL", up)
    again = change.say(change.author, "/retry")
    assert change.answered(again) == "+1"
    change.becomes("Ready for a maintainer")


def test_a_newer_head_ends_the_work_on_the_older_one(world: World) -> None:
    world.model.wait.clear()
    try:
        change, old = opened(world, asks_again=True)
        change.becomes("Previewing")
        until(lambda: change.checks(old, PREVIEW), "the preview's check")
        new = change.push({f"{LEAF}/attribution.txt": (GOOD / LEAF / "attribution.txt").read_text() + "\n"})
        assert change.check(old, PREVIEW)["conclusion"] == "cancelled"
    finally:
        world.model.wait.set()
    assert new[:10] in change.becomes("Ready for a maintainer")
    assert len(change.from_bot()) == 1


def test_a_preview_can_be_cancelled_and_held(world: World) -> None:
    mara = world.person("mara")
    world.model.wait.clear()
    try:
        change, head = opened(world, asks_again=True)
        until(lambda: change.checks(head, PREVIEW), "the preview's check")
        said = change.say(change.author, "/cancel")
        assert change.answered(said) == "+1"
        assert "cancelled" in change.becomes("The preview did not work")
    finally:
        world.model.wait.set()
    assert change.answered(change.say(change.author, "/hold")) == "confused"
    assert change.answered(change.say(mara, "/hold")) == "+1"
    change.becomes("On hold")
    assert "on hold" in change.reply(change.say(mara, "/approve"))
    assert change.answered(change.say(mara, "/hold off")) == "+1"
    change.becomes("Ready for a maintainer")


def test_talk_that_is_no_new_comment_of_a_person_commands_nothing(world: World) -> None:
    change, _ = opened(world)
    change.becomes("Ready for a maintainer")
    mara = world.person("mara")
    said = change.say(mara, "Nice.")
    mara.api("PATCH", f"{change.path}/issues/comments/{said['id']}", {"body": "/approve"})
    change.say(mara, "> /approve\n\n`/approve`\n")
    last = change.say(mara, "/aprove it, /preview 3")
    assert "Did you mean `/approve`?" in change.reply(last)
    assert change.pull()["merged"] is False
    assert change.reactions(said) == []


def test_a_button_takes_the_same_way_as_the_command(world: World) -> None:
    change, head = opened(world)
    change.becomes("Ready for a maintainer")
    check = change.check(head, PREVIEW)
    world.admin("POST", f"/checks/{check['id']}/press", {"login": "mara", "identifier": "preview"})
    until(lambda: len(change.checks(head, PREVIEW)) == 2, "another preview")
    change.becomes("Ready for a maintainer")


def test_what_no_webhook_told_is_found_when_the_bot_starts(tmp_path: Path) -> None:
    with new_world(tmp_path) as world:
        change, head = opened(world)
        with bot(world):
            assert change.check(head)["conclusion"] == "success"
            change.becomes("Ready for a maintainer")


@pytest.mark.parametrize("moment", ["checking", "previewing"])
def test_a_bot_that_is_killed_finishes_after_its_restart_without_a_second_comment(
    tmp_path: Path, moment: str
) -> None:
    with new_world(tmp_path) as world:
        world.model.wait.clear()
        process = start(world)
        change, head = opened(world)
        if moment == "checking":
            until(lambda: change.checks(head, "treewright / lint"), "the check")
        else:
            until(lambda: world.model.asked > 0, "a question to the model")
        process.send_signal(signal.SIGKILL)
        process.wait()
        world.model.wait.set()
        process = start(world)
        try:
            change.becomes("Ready for a maintainer")
            assert len(change.from_bot()) == 1
            assert len(change.checks(head, "treewright / lint")) == 1
            assert len(change.checks(head, PREVIEW)) == 1
        finally:
            process.terminate()
            # uvicorn stops everything and then hands the signal on
            assert process.wait(40) in {0, -signal.SIGTERM}


def start(world: World) -> subprocess.Popen[bytes]:
    """The bot as operators run it: its own process, settings from the environment."""
    settings = bot_settings(world)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("TREEWRIGHT_BOT_")},
        **{
            f"TREEWRIGHT_BOT_{name.upper()}": str(value)
            for name, value in settings.model_dump(exclude_none=True).items()
            if name not in {"private_key", "webhook_secret", "database"}
        },
        "TREEWRIGHT_BOT_PRIVATE_KEY": world.app["private_key"],
        "TREEWRIGHT_BOT_WEBHOOK_SECRET": world.app["webhook_secret"],
    }
    port = world.port()
    command = [sys.executable, "-m", "treewright", "bot", "run", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, "the bot ended"
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    until(ready, "the bot's start")
    world.admin("PATCH", "/apps/treewright", {"webhook_url": f"{url}/webhook"})
    return process
