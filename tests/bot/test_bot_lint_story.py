"""Stories about the check and the comment: a pull request with mistakes, and how it turns green."""

from __future__ import annotations

import re

from bot_world import EXAMPLES, World, until

BAD = EXAMPLES / "contributions/bad"
MENDED = EXAMPLES / "contributions/mended"
LINT = "treewright / lint"


def test_a_bad_pull_request_turns_red_at_exact_lines_and_green_when_mended(world: World) -> None:
    repository = world.repository()
    change = repository.fork(world.person("newcomer"))
    head = change.push(BAD)
    change.open()

    check = change.check(head)
    assert check["conclusion"] == "failure"
    notes = change.annotations(check)
    places = {(note["path"], note["start_line"]) for note in notes}
    thanks = "compositional_skills/writing/thank_you_notes/qna.yaml"
    lines = (BAD / thanks).read_text().splitlines()
    twice = [n for n, line in enumerate(lines, 1) if "a borrowed ladder." in line]
    assert (thanks, twice[1]) in places
    comment = until(change.sticky, "the comment")
    assert "to fix" in change.title()
    assert f"{thanks}:{twice[1]}" in comment
    assert "**Fix:**" in comment

    mended = change.push(MENDED)
    green = change.check(mended)
    assert (green["name"], green["conclusion"]) == (LINT, "success")
    change.becomes("Ready for a maintainer")
    assert "to fix" not in change.sticky()
    assert len(change.from_bot()) == 1


def test_hostile_names_and_texts_ping_nobody(world: World) -> None:
    repository = world.repository()
    change = repository.fork(world.person("newcomer"))
    evil = 'version: 3\ncreated_by: x\n"@mara <b>#1</b> ![x](http://evil.example/p.png)": 1\n'
    head = change.push({"compositional_skills/writing/evil @mara `x` <b>/qna.yaml": evil})
    change.open()
    assert change.check(head)["conclusion"] == "failure"
    comment = until(change.sticky, "the comment")
    outside_code = re.sub(r"`[^`]*`", "", comment)
    assert not re.search(r"@\w", outside_code)
    assert "<b>" not in outside_code
    assert "](http://evil" not in outside_code


def test_a_yaml_bomb_is_answered_and_the_next_pull_request_goes_on(world: World) -> None:
    repository = world.repository()
    bomb = "a: &a [x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    )
    change = repository.fork(world.person("newcomer"))
    head = change.push({"knowledge/bomb/qna.yaml": bomb, "knowledge/big/qna.yaml": b"a: " + b"x" * 3_000_000})
    change.open()
    assert change.check(head)["conclusion"] == "failure"
    assert "knowledge/bomb/qna.yaml:1" in until(change.sticky, "the comment")


def test_what_touches_no_leaf_is_ready_without_a_preview(world: World) -> None:
    repository = world.repository()
    change = repository.fork(world.person("newcomer"))
    head = change.push({"README.md": "# New words\n"})
    change.open()
    assert change.check(head)["conclusion"] == "success"
    assert "changes no leaf" in change.becomes("Ready for a maintainer")
    assert change.checks(head, "treewright / preview") == []
