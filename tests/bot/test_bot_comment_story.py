"""Stories about the one comment and the labels: put right when people touch them, silent where not asked."""

from __future__ import annotations

import base64

from bot_world import EXAMPLES, Change, World, until
from inline_snapshot import snapshot

from bot import publish
from bot.jobs import services
from bot.labels import LABELS

MENDED = EXAMPLES / "contributions/mended"
BAD = EXAMPLES / "contributions/bad"
CONFIG = ".github/treewright.yml"


def labels(change: Change) -> list[str]:
    return [row["name"] for row in change.pull()["labels"]]


def notes(number: int) -> dict[str, str]:
    """A leaf of which no answer of the models is stored yet."""
    leaf = "compositional_skills/writing/thank_you_notes"
    text = (MENDED / leaf / "qna.yaml").read_text()
    assert text.count("Write a thank-you note") >= 5
    return {
        f"{leaf}/qna.yaml": text.replace("Write a thank-you note", f"Write thank-you note {number + 7}"),
        f"{leaf}/attribution.txt": (MENDED / leaf / "attribution.txt").read_text(),
    }


def between(comment: str, start: str, end: str) -> str:
    return start + comment.partition(start)[2].partition(end)[0]


def test_labels_follow_the_state_and_people_keep_theirs(world: World) -> None:
    config = "version: 1\npull_requests: {labels: true, label_prefix: 'tree: '}\n"
    change = world.repository(config=config).fork(world.person("newcomer"))
    change.push(BAD)
    change.open()
    mara = world.person("mara")
    until(lambda: labels(change) == ["tree: needs fixes"], "the label of a red check")
    mara.api("POST", f"{change.path}/issues/{change.number}/labels", {"labels": ["bug", "tree: mine"]})
    change.push(MENDED)
    change.becomes("Ready for a maintainer")
    until(lambda: set(labels(change)) == {"bug", "tree: mine", "tree: ready"}, "the label of a green one")
    made = {row["name"]: row for row in mara.api("GET", f"{change.path}/labels?per_page=100")}
    assert made["tree: ready"]["color"] == "0e8a16"
    assert made["tree: ready"]["description"]
    # What a person took off stays off until the state changes.
    mara.api("DELETE", f"{change.path}/issues/{change.number}/labels/tree: ready")
    change.answered(change.say(mara, "/status"))
    assert "tree: ready" not in labels(change)
    change.say(mara, "/hold")
    change.becomes("On hold")
    until(lambda: set(labels(change)) == {"bug", "tree: mine", "tree: on hold"}, "the label of a hold")


def test_without_being_asked_for_there_is_no_label(world: World) -> None:
    change = world.repository().fork(world.person("newcomer"))
    change.push(MENDED)
    change.open()
    change.becomes("Ready for a maintainer")
    assert labels(change) == []
    known = world.person("mara").api("GET", f"{change.path}/labels?per_page=100")
    assert not [row for row in known if row["name"].startswith("treewright")]


def test_no_label_is_longer_than_github_takes() -> None:
    assert max(24 + len(name) for name, _, _ in LABELS.values()) <= 50


def test_a_comment_that_somebody_edited_or_deleted_is_put_right_at_the_next_event(world: World) -> None:
    change = world.repository().fork(world.person("newcomer"))
    change.push({"README.md": "# New words\n"})
    change.open()
    before = change.becomes("Ready for a maintainer")
    mara = world.person("mara")
    (mine,) = change.comments("treewright[bot]")
    place = f"{change.path}/issues/comments/{mine['id']}"
    mara.api("PATCH", place, {"body": "<!-- treewright:pull-request -->\nApproved by everybody."})
    change.answered(change.say(mara, "/status"))
    assert change.sticky() == before
    mara.api("DELETE", place)
    change.answered(change.say(mara, "/status"))
    assert until(change.sticky, "the comment") == before


def test_of_two_comments_of_ours_the_oldest_stays_and_a_copy_by_others_means_nothing(world: World) -> None:
    change = world.repository().fork(world.person("newcomer"))
    change.push({"README.md": "# New words\n"})
    change.open()
    body = change.becomes("Ready for a maintainer")
    (first,) = change.comments("treewright[bot]")
    copy = change.say(world.person("newcomer"), body)
    mine = services()
    pull = next(one for one in mine.store.open_pulls() if one.repo == change.repository.name)
    repository = mine.repository(pull)
    # Another replica, which does not know of the first comment yet, writes one in the same moment.
    kept = publish._first(repository, pull, repository.create_comment(pull.number, body), body)
    assert kept["id"] == first["id"]
    assert [row["id"] for row in change.comments("treewright[bot]")] == [first["id"]]
    # And what was forgotten is found again.
    mine.store.update_pull(pull, comment_id=None, comment_digest="")
    change.say(world.person("mara"), "/hold")
    until(lambda: any("### On hold" in row["body"] for row in change.comments("treewright[bot]")), "the hold")
    assert [row["id"] for row in change.comments("treewright[bot]")] == [first["id"]]
    assert next(row for row in change.comments() if row["id"] == copy["id"])["body"] == body


def test_a_pull_request_that_changes_the_settings_says_what_would_change(world: World) -> None:
    old = "version: 1\npreview: {samples: 4}\n"
    new = "version: 1\napproval: {permission: none, users: [newcomer], author_may_approve: true}\n"
    change = world.repository(config=old).fork(world.person("newcomer"))
    head = change.push({CONFIG: new})
    change.open()
    assert change.check(head)["conclusion"] == "success"
    comment = change.becomes("Ready for a maintainer")
    assert between(comment, "#### What changes in", "<details>") == snapshot("""\
#### What changes in `.github/treewright.yml`

| setting | now | after the merge |
| --- | --- | --- |
| **`approval.author_may_approve`** | `false` | `true` |
| **`approval.permission`** | `write` | `none` |
| **`approval.users`** | `[]` | `["newcomer"]` |
| `preview.samples` | `4` | `8` |

Settings in bold decide who may approve, what is fetched, and what is released. Settings are read from the default branch only, so nothing of this holds before the merge.

""")  # noqa: E501 - shown whole
    # It does not hold yet: the author still may not approve.
    said = change.say(world.person("newcomer"), f"/approve {head}")
    assert change.answered(said) == "confused"
    assert change.pull()["merged"] is False

    broken = change.push({CONFIG: "version: 1\napproval: {permision: none}\n"})
    assert change.check(broken)["conclusion"] == "failure"
    comment = change.becomes("1 error to fix")
    assert "The new file has errors." in comment
    assert "Did you mean `permission`?" in comment


def test_settings_on_the_default_branch_hold_from_the_next_event_on(world: World) -> None:
    change = world.repository(config="version: 1\n").fork(world.person("newcomer"))
    change.push(MENDED)
    change.open()
    change.becomes("Ready for a maintainer")
    mara = world.person("mara")
    place = f"{change.path}/contents/{CONFIG}"
    content = base64.b64encode(b"version: 1\npull_requests: {labels: true}\n").decode()
    values = {"message": "Ask for labels", "content": content, "sha": mara.api("GET", place)["sha"]}
    mara.api("PUT", place, values)
    change.say(mara, "/lint")
    until(lambda: labels(change) == ["treewright: ready"], "a label")


def test_while_others_are_worked_on_the_comment_says_how_many_are_ahead(world: World) -> None:
    workers = services().settings.workers
    busy = []
    world.model.wait.clear()  # the previews hold every worker
    try:
        for number in range(workers):
            other = world.repository().fork(world.person("newcomer"))
            other.push(notes(number))
            other.open()
            busy.append(other)
        for other in busy:
            other.becomes("Previewing")
        change = world.repository().fork(world.person("newcomer"))
        change.push(MENDED)
        change.open()
        comment = change.becomes("Waiting for a turn")
    finally:
        world.model.wait.set()
    assert f"{workers} jobs are ahead of it" in comment
    assert "usually takes" in comment  # the stories above were measured
    change.becomes("Ready for a maintainer")
