"""Stories about which commit is meant: force-pushes, a base that moved on, closed and opened again, forks and
branches that are gone, repositories that got another name or another owner.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest
from bot_stories import WORKFLOW, opened, publish_at_once
from bot_world import EXAMPLES, Change, Person, World, bot, bot_settings, new_world, until

from bot import approve
from bot.services import Services, Trees
from bot.store import Pull, Store

GOOD = EXAMPLES / "contributions/good"
LEAF = "knowledge/geography/farne_mora"
LINT = "treewright / lint"
READY = "Ready for a maintainer"
NOTE = f"{LEAF}/attribution.txt"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("ledger")) as made, bot(made, reconcile_seconds=1):
        publish_at_once(made)  # what a merge starts is another file's story
        yield made


@pytest.fixture(scope="module")
def store(world: World) -> Iterator[Store]:
    opened = Store(bot_settings(world).database_url)
    yield opened
    opened.close()


def ready(world: World) -> tuple[Change, str, Person]:
    story = opened(world)
    story.change.becomes(READY)
    return story.change, story.head, world.person("mara")


def merged_head(change: Change) -> str:
    until(lambda: change.pull()["merged"], "the merge")
    sha = change.pull()["merge_commit_sha"]
    return str(change.author.api("GET", f"{change.path}/commits/{sha}")["parents"][1]["sha"])


def attribution(extra: str) -> dict[str, str | bytes | None]:
    return {NOTE: (GOOD / NOTE).read_text() + extra}


def test_a_push_back_and_forth_ends_at_the_first_commit_and_reviews_it_once(
    world: World, store: Store
) -> None:
    change, first, mara = ready(world)
    second = change.push(attribution("\n"))
    until(lambda: second[:10] in change.sticky(), "the second commit")
    change.becomes(READY)
    change.author.git("reset", "-q", "--hard", first, cwd=change.clone)
    change.author.git("push", "-q", "-f", "origin", "HEAD:refs/heads/mine", cwd=change.clone)
    until(lambda: first[:10] in change.sticky(), "the first commit again")
    assert change.title() == READY
    assert len(change.checks(first, LINT)) == len(change.checks(second, LINT)) == 1
    ledger = store.heads(change.pull()["base"]["repo"]["id"], change.number)
    assert [head.sha for head in ledger] == [first, second, first]
    assert [head.until is None for head in ledger] == [False, False, True]
    # Who approves without a sha must have written after the comment showed this head again.
    pull = store.pull(change.pull()["base"]["repo"]["id"], change.number)
    assert pull is not None
    until(lambda: store.review(pull, first)["shown"] >= ledger[-1].since, "the first commit is shown", 20)
    assert store.review(pull, second)["shown"] == ""

    stale = change.say(mara, f"/approve {second}")
    assert f"`/approve {first}`" in change.reply(stale)
    change.say(mara, f"/approve {first}")
    assert merged_head(change) == first


def test_an_approval_does_not_hold_when_the_base_changed_the_same_leaf(world: World) -> None:
    change, head, mara = ready(world)
    name = change.repository.name
    theirs = world.forge.forge.named(name)
    git = world.forge.forge.git(theirs)
    clone = world.folder / f"base-{change.number}-{theirs.id}"
    mara.git("clone", "-q", f"{world.forge.url}/{name}.git", str(clone))

    def push(file: str) -> None:
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        (clone / file).write_text("Something else\n")
        mara.git("add", "-A", cwd=clone)
        mara.git("commit", "-q", "-m", "Main moves on", cwd=clone)
        mara.git("push", "-q", "origin", "HEAD:refs/heads/main", cwd=clone)

    push(f"{LEAF}/NOTES.md")
    assert git.resolve("main") != head
    refused = change.say(mara, f"/approve {head}")
    assert "changed the same leaf" in change.reply(refused)
    assert change.pull()["merged"] is False

    # The author brings the branch up to date; what is previewed then is what is merged.
    base = f"{world.forge.url}/{name}.git"
    change.author.git("pull", "-q", "--no-edit", "--no-rebase", base, "main", cwd=change.clone)
    (change.clone / LEAF / "NOTES.md").unlink()
    newer = change.push({})
    until(lambda: newer[:10] in change.sticky(), "the merged branch")
    change.becomes(READY)
    push("docs/elsewhere.md")
    change.say(mara, f"/approve {newer}")
    assert merged_head(change) == newer


def test_a_preview_that_changes_while_its_approval_is_decided_is_not_merged(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, head, mara = ready(world)
    pull = store.pull(change.pull()["base"]["repo"]["id"], change.number)
    assert pull is not None
    look = approve.open_trees

    def slowly(services: Services, asked: Pull, sha: str) -> Trees:
        if asked.repo_id == pull.repo_id:
            store.update_review(pull, head, preview_digest="sha256:of-another-preview")
        return look(services, asked, sha)

    monkeypatch.setattr(approve, "open_trees", slowly)
    assert "preview of this commit changed" in change.reply(change.say(mara, f"/approve {head}"))
    assert change.pull()["merged"] is False


def test_an_approval_that_github_refused_is_not_taken_up_by_a_merge_by_hand(
    world: World, store: Store
) -> None:
    change, head, mara = ready(world)
    merge = f"{change.path}/pulls/{change.number}/merge"
    fault = {"method": "PUT", "path_prefix": merge, "status": 405, "message": "Not now", "times": 1}
    world.admin("POST", "/faults", {"fail_requests": [fault]})
    assert "did not merge it: Not now" in change.reply(change.say(mara, f"/approve {head}"))
    mara.api("PUT", merge, {"sha": head})
    assert "merged by hand" in change.becomes("Merged")
    # What reconcile would start a release of.
    assert store.merges_without_release(change.pull()["base"]["repo"]["id"]) == []


def test_nobody_may_approve_while_the_settings_cannot_be_read(world: World) -> None:
    change, head, mara = ready(world)
    clone = world.folder / f"broken-{time.time_ns()}"
    mara.git("clone", "-q", f"{world.forge.url}/{change.repository.name}.git", str(clone))
    settings = clone / ".github/treewright.yml"
    settings.write_text(settings.read_text().replace("permission: write", "permission: admin") + "nope: 1\n")
    mara.git("commit", "-q", "-a", "-m", "Admins only, and a slip", cwd=clone)
    mara.git("push", "-q", "origin", "HEAD:refs/heads/main", cwd=clone)
    reply = change.reply(change.say(mara, f"/approve {head}"))
    assert "settings on the default branch cannot be read" in reply
    assert "`.github/treewright.yml:" in reply
    assert change.pull()["merged"] is False


def test_leaves_that_another_base_brings_in_are_previewed_before_they_can_be_approved(world: World) -> None:
    repository = world.repository(WORKFLOW)
    mara, rhymes = world.person("mara"), "compositional_skills/writing/weather_rhymes"
    clone = world.folder / f"older-{time.time_ns()}"
    mara.git("clone", "-q", f"{world.forge.url}/{repository.name}.git", str(clone))
    mara.git("push", "-q", "origin", "HEAD:refs/heads/older", cwd=clone)
    shutil.copytree(EXAMPLES / "contributions/mended" / rhymes, clone / rhymes)
    mara.git("add", "-A", cwd=clone)
    mara.git("commit", "-q", "-m", "A leaf that older has not", cwd=clone)
    mara.git("push", "-q", "origin", "HEAD:refs/heads/main", cwd=clone)

    change = repository.fork(world.person("newcomer"))
    head = change.push(GOOD)
    change.open()
    assert rhymes not in change.becomes(READY)
    change.author.api("PATCH", f"{change.path}/pulls/{change.number}", {"base": "older"})
    until(lambda: rhymes in change.sticky(), "the look at the other base")
    assert f"Preview of `{rhymes}`" in change.becomes(READY)
    change.say(mara, f"/approve {head}")
    assert merged_head(change) == head


def test_a_closed_pull_request_is_opened_again_and_goes_on(world: World) -> None:
    change, head, mara = ready(world)
    change.author.api("PATCH", f"{change.path}/pulls/{change.number}", {"state": "closed"})
    change.becomes("Closed")
    assert "not open any more" in change.reply(change.say(mara, f"/approve {head}"))
    change.author.api("PATCH", f"{change.path}/pulls/{change.number}", {"state": "open"})
    change.becomes(READY)
    change.say(mara, f"/approve {head}")
    assert merged_head(change) == head
    assert len([one for one in change.from_bot() if "treewright:pull-request" in one]) == 1


def test_a_fork_that_was_deleted_takes_nothing_away(world: World) -> None:
    change, head, mara = ready(world)
    fork = change.author.api("GET", f"{change.path}/pulls/{change.number}")["head"]["repo"]
    world.forge.forge.delete_repo(world.forge.forge.named(fork["full_name"]))
    until(lambda: change.pull()["head"]["repo"] is None, "the fork is gone")
    again = change.say(change.author, "/lint")
    assert change.answered(again) == "+1"
    until(lambda: len(change.checks(head, LINT)) == 2, "the lint again")
    change.becomes(READY)
    change.say(mara, f"/approve {head}")
    assert merged_head(change) == head


def test_a_branch_that_was_deleted_closes_the_pull_request_until_it_is_back(world: World) -> None:
    change, head, mara = ready(world)
    change.author.git("push", "-q", "origin", "--delete", "mine", cwd=change.clone)
    change.becomes("Closed")  # GitHub closes it
    assert "not open any more" in change.reply(change.say(mara, f"/approve {head}"))
    change.author.git("push", "-q", "origin", "HEAD:refs/heads/mine", cwd=change.clone)
    change.author.api("PATCH", f"{change.path}/pulls/{change.number}", {"state": "open"})
    change.becomes(READY)
    change.say(mara, f"/approve {head}")
    assert merged_head(change) == head


def move(world: World, change: Change, owner: str, name: str) -> None:
    world.admin("POST", f"/repos/{change.repository.name}/move", {"owner": owner, "name": name})
    change.repository.name = f"{owner}/{name}"


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "unheard"])
def test_a_renamed_repository_is_the_same_repository(world: World, heard: bool) -> None:
    change, head, mara = ready(world)
    world.admin("POST", "/faults", {} if heard else {"lose_deliveries": 1})
    move(world, change, "acme", f"renamed-{time.time_ns()}")
    newer = change.push(attribution("\n"))
    until(lambda: newer[:10] in change.sticky(), "the newer commit")
    change.becomes(READY)
    assert len([one for one in change.from_bot() if "treewright:pull-request" in one]) == 1
    assert len(change.checks(head, LINT)) == 1
    change.say(mara, f"/approve {newer}")
    assert merged_head(change) == newer


def test_a_transferred_repository_is_seen_through_its_new_owner(world: World) -> None:
    world.admin("POST", "/orgs", {"login": "beta"})
    world.admin("POST", "/repos", {"owner": "beta", "name": "other"})
    world.admin("PATCH", "/apps/treewright", {"repositories": ["beta/other"]})
    change, _, mara = ready(world)
    move(world, change, "beta", f"moved-{time.time_ns()}")
    newer = change.push(attribution("\n"))
    until(lambda: newer[:10] in change.sticky(), "the newer commit")
    change.becomes(READY)
    change.say(mara, f"/approve {newer}")
    assert merged_head(change) == newer


def test_a_comment_that_was_deleted_and_a_merge_that_was_not_followed_up_are_mended(
    world: World, store: Store
) -> None:
    story = opened(world)
    change, mara = story.change, world.person("mara")
    change.becomes(READY)
    sticky = next(one for one in change.comments() if "treewright:pull-request" in one["body"])
    mara.api("DELETE", f"{change.path}/issues/comments/{sticky['id']}")
    change.becomes(READY)
    assert len(change.from_bot()) == 1

    # As after a crash that nobody took up: approved and merged, and no release.
    pull = store.pull(change.pull()["base"]["repo"]["id"], change.number)
    assert pull is not None
    digest = store.review(pull, story.head)["preview_digest"]
    at = "2026-11-21T10:00:00Z"
    approval = {"head": story.head, "preview_digest": digest, "login": "mara", "user_id": 1, "comment_id": 1}
    store.approve(pull, **approval, at=at)
    mara.api("PUT", f"{change.path}/pulls/{change.number}/merge", {"sha": story.head})
    change.becomes("Released")
    runs = change.author.api("GET", f"{change.path}/actions/runs")["workflow_runs"]
    assert len(runs) == 1
    counters = store.counters()
    assert counters["healed_comments"] >= 1
    assert counters["healed_merges"] == 1
