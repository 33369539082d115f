"""Stories about who may: people by their number and not their name, teams in teams, budgets, and what is
said to somebody who may not. And events that come again in another delivery.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Iterator

import httpx
import pytest
from bot_world import EXAMPLES, Change, World, bot, bot_settings, new_world, until

from bot.approve import person
from bot.events import CommentEvent
from bot.replies import marker
from bot.services import Services
from bot.store import Store
from lab.config import Approval, RepositoryConfig

GOOD = EXAMPLES / "contributions/good"
CONFIG = (EXAMPLES / "taxonomy/.github/treewright.yml").read_text()
READY = "Ready for a maintainer"
NOTE = "knowledge/geography/farne_mora/attribution.txt"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("rights")) as made, bot(made) as url:
        made.admin("POST", "/teams", {"org": "acme", "slug": "keepers", "members": ["kim"]})
        night = {"org": "acme", "slug": "night-shift", "members": ["nora"], "parent": "keepers"}
        made.admin("POST", "/teams", night)
        made.bot_url = url  # type: ignore[attr-defined]  # noted on the world by this test
        yield made


@pytest.fixture(scope="module")
def services(world: World) -> Iterator[Services]:
    opened = Services.open(bot_settings(world))
    yield opened
    opened.store.close()


@pytest.fixture(scope="module")
def change(world: World) -> Change:
    config = CONFIG.replace("teams: []", "teams: [acme/keepers]")
    config = config.replace("per_day: 20", "per_day: 2\n  previews_in_flight: 1")
    made = world.repository(config=config).fork(world.person("newcomer"))
    made.push(GOOD)
    made.open()
    made.becomes(READY)
    return made


def said_by(world: World, change: Change, login: str, user_id: int | None = None) -> CommentEvent:
    pull = change.pull()
    account = world.forge.forge.account(login)
    assert account is not None
    installation = next(iter(world.forge.forge.installations)).id
    where = (pull["base"]["repo"]["id"], change.repository.name, installation, change.number)
    at = "2026-11-21T10:00:00Z"
    return CommentEvent(*where, 1, "/approve", at, login, user_id or account.id, "User")


def test_a_person_is_known_by_the_number_and_not_by_the_name(
    world: World, change: Change, services: Services
) -> None:
    pull = services.pull(change.pull()["base"]["repo"]["id"], change.number)
    config = RepositoryConfig(approval=Approval(users=("mara",)))
    mara = said_by(world, change, "mara")
    assert person(services, pull, mara, config).role == "write"

    # Somebody else took the name in between, or the delivery is older than a change of names.
    stranger = world.person("stranger")
    account = world.forge.forge.account("stranger")
    assert account is not None
    assert stranger.login == "stranger"
    other = said_by(world, change, "mara", account.id)
    known = person(services, pull, other, config)
    assert (known.login, known.role) == ("stranger", "read")

    nobody = said_by(world, change, "mara", 999_999)
    known = person(services, pull, nobody, config)
    assert (known.login, known.role, known.in_team) == ("", None, False)


def test_the_members_of_a_team_inside_a_team_are_its_members(world: World, change: Change) -> None:
    for login in ("kim", "nora"):
        said = change.say(world.person(login), "/hold")
        assert change.answered(said) == "+1"
        change.becomes("On hold")
        assert change.answered(change.say(world.person(login), "/unhold")) == "+1"
        change.becomes(READY)
    refused = change.say(world.person("passer-by"), "/hold")
    assert change.answered(refused) == "confused"
    assert len(change.replies(refused)) == 1


def test_a_person_who_used_up_the_previews_is_told_so_once(world: World, change: Change) -> None:
    used = change.say(change.author, "/preview 1")
    assert change.answered(used) == "+1"
    until(lambda: len(change.checks(change.pull()["head"]["sha"], "treewright / preview")) == 2, "the second")
    change.becomes(READY)
    over = change.say(change.author, "/preview 1")
    assert "used up the 2" in change.reply(over)
    assert change.answered(over) == "confused"
    more = change.say(world.person("mara"), "/preview 1")
    assert change.answered(more) == "+1"
    until(lambda: len(change.checks(change.pull()["head"]["sha"], "treewright / preview")) == 3, "the third")


def test_no_other_way_leads_round_the_budget(world: World, change: Change) -> None:
    text = (GOOD / NOTE).read_text()
    head = change.push({NOTE: text + "\n"})
    assert "used up the 2" in change.becomes("The preview did not work")
    again = change.say(change.author, "/retry")
    assert "used up the 2" in change.reply(again)
    assert change.checks(head, "treewright / preview") == []


def test_who_cannot_be_known_is_told_so_and_not_that_they_may_not(world: World, change: Change) -> None:
    path = f"/repos/{change.repository.name}/collaborators"
    fault = {"method": "GET", "path_prefix": path, "status": 403, "times": 10**6}
    world.admin("POST", "/faults", {"fail_requests": [fault]})
    try:
        said = change.say(world.person("mara"), "/hold")
        assert "could not find out" in change.reply(said)
    finally:
        world.admin("POST", "/faults", {})


def test_a_mark_that_somebody_wrote_into_our_comment_is_not_taken_for_ours(
    change: Change, services: Services
) -> None:
    pull = services.pull(change.pull()["base"]["repo"]["id"], change.number)
    repository = services.repository(pull)
    mark = marker(4711)
    # As the comment quotes the name of a file or of a field.
    repository.create_comment(pull.number, f"The field `{mark}` is not known.")
    assert repository.find_comment(pull.number, mark) is None
    made = repository.create_comment(pull.number, f"{mark}\n\nAn answer.")
    found = repository.find_comment(pull.number, mark)
    assert found is not None
    assert found["id"] == made["id"]


def test_previews_that_wait_in_the_queue_count_as_well(world: World) -> None:
    config = CONFIG.replace("per_day: 20", "per_day: 3\n  previews_in_flight: 9")
    change = world.repository(config=config).fork(world.person("queuer"))
    change.push(GOOD)
    change.open()
    change.becomes(READY)
    world.model.wait.clear()
    try:
        said = change.say(change.author, "/preview 999\n/preview 5\n/preview 6")
        assert "at most 50 samples" in change.reply(said)
        assert "used up the 3" in change.reply(said)
    finally:
        world.model.wait.set()


def test_an_event_that_comes_again_in_another_delivery_is_one_event(world: World, change: Change) -> None:
    said = change.say(world.person("mara"), "/help")
    change.reply(said)
    first = next(
        one
        for one in world.forge.forge.deliveries
        if (one.payload.get("comment") or {}).get("id") == said["id"]
    )
    # Another id, and other bytes: neither of the two first keys knows it.
    again = delivered(world, json.dumps(first.payload, indent=1).encode())
    store = Store(bot_settings(world).database_url)
    until(lambda: store.delivery(again)["state"] == "ignored", "the look at the second delivery")
    assert store.delivery(again)["detail"] == f"the same event as delivery {first.guid}"
    assert store.counters()["duplicate_events"] == 1
    assert len(change.replies(said)) == 1

    # A comment that was deleted before anybody looked at it: nothing is done, and nobody's fault.
    comment = {**first.payload["comment"], "id": 999_999, "body": "/hold"}
    gone = delivered(world, json.dumps({**first.payload, "comment": comment}).encode())
    until(lambda: store.delivery(gone)["state"] == "done", "the look at the deleted comment")
    assert store.delivery(gone)["detail"] == "withdrawn"
    assert store.dead_letters() == []
    assert change.title() != "On hold"
    store.close()


def delivered(world: World, body: bytes) -> str:
    """Send a signed delivery of a comment to the bot; returns its id."""
    secret = str(world.app["webhook_secret"]).encode()
    headers = {
        "X-GitHub-Event": "issue_comment",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
        "Content-Type": "application/json",
    }
    url: str = world.bot_url  # type: ignore[attr-defined]  # noted on the world by this test
    assert httpx.post(f"{url}/webhook", content=body, headers=headers).status_code == 202
    return headers["X-GitHub-Delivery"]
