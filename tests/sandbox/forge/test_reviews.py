"""Reviews on the forge: comments on lines of the diff, where they go after a push, and what is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from forge_world import World, commit, git
from github import GithubException

FILE = "knowledge/new/qna.yaml"
TEXT = "".join(f"line {n}\n" for n in range(1, 21))
MEND = "Mend it.\n\n```suggestion\nline two\n```"


def push(world: World, text: str, branch: str = "topic") -> str:
    work = world.folder / "fork"
    sha = commit(work, {FILE: text}, "Change it")
    git("-C", str(work), "push", "-q", "origin", branch)
    return sha


def review(world: World, *comments: dict[str, Any], **more: Any) -> httpx.Response:
    body = {"event": "COMMENT", "comments": list(comments), **more}
    return world.http(world.bot_token()).post("/repos/acme/taxonomy/pulls/1/reviews", json=body)


def test_a_review_holds_its_comments_and_shows_them_on_both_pages(world: World) -> None:
    pull = world.contribute(text=TEXT)
    answer = review(
        world,
        {"path": FILE, "line": 2, "side": "RIGHT", "body": MEND},
        {
            "path": FILE,
            "start_line": 4,
            "line": 6,
            "start_side": "RIGHT",
            "side": "RIGHT",
            "body": "Three <b>",
        },
        commit_id=pull.head.sha,
    )
    assert answer.status_code == 200
    assert answer.json()["state"] == "COMMENTED"
    listed = list(world.github(world.grace).get_repo("acme/taxonomy").get_pull(1).get_review_comments())
    assert [(c.path, c.line, c.start_line, c.commit_id) for c in listed] == [
        (FILE, 2, None, pull.head.sha), (FILE, 6, 4, pull.head.sha)]  # fmt: skip
    assert [c.user.login for c in listed] == ["treewright[bot]"] * 2
    assert world.github(world.ada).get_repo("acme/taxonomy").get_pull(1).review_comments == 2
    for tab in ("", "/files"):
        page = httpx.get(f"{world.running.url}/acme/taxonomy/pull/1{tab}", trust_env=False).text
        assert "Mend it." in page
        assert "lines 4 to 6" in page
        assert "line two" in page


OUTSIDE = [
    ({"path": "README.md", "line": 1}, "Path could not be resolved"),
    ({"path": FILE, "line": 21}, "Line could not be resolved"),
    ({"path": FILE, "line": 1, "side": "LEFT"}, "Line could not be resolved"),
    ({"path": FILE, "start_line": 6, "line": 4}, "Start line must precede the end line."),
]


def test_a_line_outside_of_the_diff_refuses_the_whole_review(world: World) -> None:
    head = world.contribute(text=TEXT).head.sha
    good = {"path": FILE, "line": 2, "body": "Fine."}
    http = world.http(world.grace)
    for place, why in OUTSIDE:
        answer = review(world, good, {"body": "Not fine.", **place})
        assert (answer.status_code, answer.json()["errors"]) == (422, [why])
        alone = {"body": "x", "commit_id": head, **place}
        assert http.post("/repos/acme/taxonomy/pulls/1/comments", json=alone).status_code == 422
    assert http.get("/repos/acme/taxonomy/pulls/1/comments").json() == []


def test_lines_of_two_hunks_make_no_comment(make_world: Any) -> None:
    world = make_world(files={FILE: TEXT})
    world.contribute(text=TEXT.replace("line 2\n", "two\n").replace("line 18\n", "eighteen\n"))
    answer = review(world, {"path": FILE, "start_line": 2, "line": 18, "body": "Both."})
    assert answer.json()["errors"] == ["Start line and line must be part of the same hunk."]
    assert review(world, {"path": FILE, "line": 5, "body": "Context."}).status_code == 200
    assert review(world, {"path": FILE, "line": 10, "body": "Far from it."}).status_code == 422


def test_a_comment_moves_with_its_line_and_is_outdated_once_the_line_changed(world: World) -> None:
    pull = world.contribute(text=TEXT)
    assert review(
        world,
        {"path": FILE, "line": 2, "body": "two"},
        {"path": FILE, "start_line": 10, "line": 12, "body": "ten to twelve"},
    ).is_success
    moved = push(world, "new first\n" + TEXT.replace("line 2\n", "line two\n"))
    api = world.http(world.grace)
    two, ten = api.get("/repos/acme/taxonomy/pulls/1/comments").json()
    assert (two["line"], two["position"], two["original_line"], two["commit_id"]) == (
        None, None, 2, pull.head.sha)  # fmt: skip
    assert (ten["start_line"], ten["line"], ten["commit_id"]) == (11, 13, moved)
    push(world, TEXT.replace("line 11\n", "line 11\nand more\n"))
    assert [c["line"] for c in api.get("/repos/acme/taxonomy/pulls/1/comments").json()] == [2, None]
    page = httpx.get(f"{world.running.url}/acme/taxonomy/pull/1", trust_env=False).text
    assert "outdated" in page


def test_replies_edits_and_removal_and_the_empty_review_goes_with_its_last_comment(world: World) -> None:
    pull = world.contribute(text=TEXT)
    made = review(world, {"path": FILE, "line": 2, "body": "two"}).json()
    bot = world.bot().get_repo("acme/taxonomy").get_pull(1)
    first = next(iter(bot.get_review_comments()))
    answer = world.github(world.grace).get_repo("acme/taxonomy").get_pull(1).create_review_comment_reply(
        first.id, "Why?"
    )  # fmt: skip
    assert (answer.in_reply_to_id, answer.line) == (first.id, 2)
    first.edit("two, because")
    api = world.http(world.grace)
    assert (
        api.patch(f"/repos/acme/taxonomy/pulls/comments/{first.id}", json={"body": "mine"}).status_code == 403
    )
    assert api.delete(f"/repos/acme/taxonomy/pulls/comments/{first.id}").status_code == 403
    first.delete()
    left = api.get("/repos/acme/taxonomy/pulls/1/reviews").json()
    assert made["id"] not in [row["id"] for row in left]
    with pytest.raises(GithubException) as own:
        world.github(world.grace).get_repo("acme/taxonomy").get_pull(1).create_review(event="APPROVE")
    assert own.value.status == 422
    assert review(world, commit_id=pull.head.sha).status_code == 422
    assert review(world, {"path": FILE, "line": 2, "body": "x"}, commit_id="0" * 40).status_code == 422
    read_only = world.http(world.bot_token({"pull_requests": "read"}))
    refused = read_only.post("/repos/acme/taxonomy/pulls/1/reviews", json={"event": "COMMENT", "body": "x"})
    assert refused.status_code == 403


def test_a_label_is_asked_for_by_name(world: World) -> None:
    bot = world.bot().get_repo("acme/taxonomy")
    made = bot.create_label("treewright: ready", "0e8a16", "Checked.")
    assert bot.get_label("treewright: ready").id == made.id
    with pytest.raises(GithubException) as twice:
        bot.create_label("Treewright: Ready", "0e8a16")
    assert twice.value.status == 422
    with pytest.raises(GithubException) as missing:
        bot.get_label("treewright: other")
    assert missing.value.status == 404
