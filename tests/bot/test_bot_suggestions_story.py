"""Stories about fixes that one click takes: offered once, at their lines, taken back when they are done."""

from __future__ import annotations

import re
from typing import Any

from bot_world import EXAMPLES, Change, World, until
from inline_snapshot import snapshot

from lab.config import RepositoryConfig
from lab.taxonomy.lint import lint
from lab.taxonomy.tree import FilesTree

LEAF = "compositional_skills/writing/thank_you_notes"
QNA = f"{LEAF}/qna.yaml"
MENDED = EXAMPLES / "contributions/mended"
GOOD = (MENDED / QNA).read_text()
ATTRIBUTION = (MENDED / LEAF / "attribution.txt").read_text()
BROKEN = GOOD.replace("created_by:", "createdby:").replace("seed_examples:", "seed_examples:  ")
Json = dict[str, Any]


def remarks(change: Change) -> list[Json]:
    rows = change.author.api("GET", f"{change.path}/pulls/{change.number}/comments?per_page=100")
    return [row for row in rows if row["user"]["login"] == "treewright[bot]"]


def contribute(world: World, qna: str, config: str | None = None) -> tuple[Change, str]:
    change = world.repository(config=config).fork(world.person("newcomer"))
    head = change.push({QNA: qna, f"{LEAF}/attribution.txt": ATTRIBUTION})
    change.open()
    change.check(head)
    return change, head


def taken(text: str, remark: Json) -> str:
    """What the file becomes when somebody presses the button of a suggestion."""
    lines = text.split("\n")
    found = re.search(r"^(`{3,})suggestion\n(.*)\n\1\Z", remark["body"], re.DOTALL | re.MULTILINE)
    assert found is not None
    first = remark["start_line"] or remark["line"]
    lines[first - 1 : remark["line"]] = found.group(2).split("\n")
    return "\n".join(lines)


def test_suggestions_come_at_their_lines_once_and_taking_them_turns_the_check_green(world: World) -> None:
    change, head = contribute(world, BROKEN)
    offered = until(lambda: len(remarks(change)) == 2 and remarks(change), "two suggestions")
    assert {row["commit_id"] for row in offered} == {head}
    field, space = sorted(offered, key=lambda row: row["line"])
    assert field["body"] == snapshot("""\
<!-- treewright:suggestion:10995a910ee37bc7d4d1 -->
**error** `createdby` is not a field.<br>**Fix:** Did you mean `created_by`? (`unknown-field`)

```suggestion
created_by: newcomer
```\
""")
    assert space["body"].endswith("```suggestion\nseed_examples:\n```")
    reviews = change.author.api("GET", f"{change.path}/pulls/{change.number}/reviews")
    assert [(row["state"], row["body"]) for row in reviews] == [("COMMENTED", "")]

    again = change.say(world.person("mara"), "/lint")
    assert change.answered(again) == "+1"
    until(lambda: len(change.checks(head, "treewright / lint")) == 2, "the second check")
    change.becomes(change.title())
    assert [row["id"] for row in remarks(change)] == [row["id"] for row in offered]

    text = taken(taken(BROKEN, space), field)
    files = {QNA: text.encode(), f"{LEAF}/attribution.txt": ATTRIBUTION.encode()}
    assert lint(FilesTree(files), RepositoryConfig(), None, True).findings == ()
    mended = change.push({QNA: text})
    assert change.check(mended)["conclusion"] == "success"
    change.becomes("Ready for a maintainer")
    # GitHub folds them as outdated: their lines have changed.
    assert [row["line"] for row in remarks(change)] == [None, None]


def test_a_suggestion_whose_mistake_is_gone_is_taken_back_and_an_answered_one_struck_out(
    world: World,
) -> None:
    strict = "version: 1\nlint: {rules: {trailing-space: error}}\n"
    first, second = 'borrowed ladder."', 'jam."'
    text = GOOD.replace(first, first + " ", 1).replace(second, second + "  ", 1)
    change, _ = contribute(world, text, strict)
    offered = until(lambda: len(remarks(change)) == 2 and remarks(change), "two suggestions")
    where = f"{change.path}/pulls/{change.number}/comments/{offered[0]['id']}/replies"
    change.author.api("POST", where, {"body": "Is that so bad?"})
    # The rule is turned off on the default branch: nothing is wrong at these lines any more.
    mara = world.person("mara")
    place = f"{change.path}/contents/.github/treewright.yml"
    old = mara.api("GET", place)["sha"]
    import base64

    content = base64.b64encode(b"version: 1\nlint: {rules: {trailing-space: off}}\n").decode()
    mara.api("PUT", place, {"message": "Allow it", "content": content, "sha": old})
    change.say(mara, "/lint")
    left = until(lambda: len(remarks(change)) == 1 and remarks(change), "one to be taken back")
    assert left[0]["id"] == offered[0]["id"]
    until(lambda: "This is settled" in remarks(change)[0]["body"], "the answered one to be settled")
    assert "```" not in remarks(change)[0]["body"]


def test_what_people_delete_stays_deleted(world: World) -> None:
    change, head = contribute(world, BROKEN)
    offered = until(lambda: len(remarks(change)) == 2 and remarks(change), "two suggestions")
    world.person("mara").api("DELETE", f"{change.path}/pulls/comments/{offered[0]['id']}")
    change.say(world.person("mara"), "/lint")
    until(lambda: len(change.checks(head, "treewright / lint")) == 2, "the second check")
    newer = change.push({f"{LEAF}/notes.md": "x\n"})
    change.check(newer)
    assert [row["id"] for row in remarks(change)] == [offered[1]["id"]]


def test_many_mistakes_are_a_few_comments_and_hostile_ones_stay_in_their_fence(world: World) -> None:
    evil = '"````  @mara <b>``` </details>": 1 \n'
    spaced = "".join(f"{line} \n" for line in GOOD.splitlines())
    change, _ = contribute(world, spaced + evil, "version: 1\npull_requests: {suggestions: 3}\n")
    offered = until(lambda: remarks(change), "suggestions")
    assert 1 <= len(offered) <= 3
    long = next(row for row in offered if row["start_line"] is not None)
    assert long["start_line"] < long["line"]
    assert taken(spaced + evil, long) != spaced + evil
    assert "@mara" not in re.sub(r"(`{3,})suggestion\n.*\n\1", "", offered[0]["body"], flags=re.DOTALL)


def test_a_review_whose_answer_was_lost_is_not_written_twice(world: World) -> None:
    repository = world.repository()
    lost = {"method": "POST", "path_prefix": f"/repos/{repository.name}/pulls/1/reviews", "when": "after"}
    world.admin("POST", "/faults", {"fail_requests": [{**lost, "times": 1, "status": 502}]})
    change = repository.fork(world.person("newcomer"))
    change.push({QNA: BROKEN, f"{LEAF}/attribution.txt": ATTRIBUTION})
    change.open()
    until(lambda: len(remarks(change)) == 2, "two suggestions")
    said = change.say(world.person("mara"), "/status")  # answered after the repeated step
    assert change.answered(said) == "+1"
    reviews = change.author.api("GET", f"{change.path}/pulls/{change.number}/reviews")
    assert len(reviews) == 1
    assert len(remarks(change)) == 2


def test_a_refusal_of_one_file_leaves_the_suggestions_of_the_others(world: World) -> None:
    repository = world.repository()
    where = f"/repos/{repository.name}/pulls/1/reviews"
    # As GitHub does for a file whose diff it does not show: the whole review, then the first file alone.
    refused = {"method": "POST", "path_prefix": where, "status": 422, "times": 2}
    world.admin("POST", "/faults", {"fail_requests": [refused]})
    change = repository.fork(world.person("newcomer"))
    other = "compositional_skills/writing/other_notes"
    head = change.push({
        QNA: BROKEN, f"{LEAF}/attribution.txt": ATTRIBUTION,
        f"{other}/qna.yaml": BROKEN.replace("note", "letter"), f"{other}/attribution.txt": ATTRIBUTION,
    })  # fmt: skip
    change.open()
    until(lambda: remarks(change), "the suggestions of one file")
    assert len({row["path"] for row in remarks(change)}) == 1
    assert change.check(head)["conclusion"] == "failure"
    change.say(world.person("mara"), "/lint")
    until(lambda: len({row["path"] for row in remarks(change)}) == 2, "those of the other at the next look")
