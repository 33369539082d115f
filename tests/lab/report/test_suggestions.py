"""Suggested fixes: what is offered, what a comment holds under hostile input, what later heads change."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from markdown_it import MarkdownIt

from lab.report.suggestions import Offered, Suggestion, body, key_in, settled, steps, suggestions
from lab.taxonomy.findings import Finding

settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
GFM = MarkdownIt("gfm-like")
FILE = "knowledge/a/qna.yaml"
EVERYWHERE = {FILE: [(1, 1000)]}
SPACE = Finding(FILE, 9, 8, "trailing-space", "warning", "The line ends in a space.", "Remove it.", "  text:")
FIELD = Finding(
    FILE, 3, 1, "unknown-field", "error", "`qestion` is no field.", "Did you mean `question`?", "q:"
)


def test_a_suggestion_comment_says_what_is_wrong_and_carries_the_mended_line() -> None:
    (one,) = suggestions([FIELD], EVERYWHERE)
    assert body(one) == snapshot("""\
<!-- treewright:suggestion:87cfef2f79cb25dae6bc -->
**error** `qestion` is no field.<br>**Fix:** Did you mean `question`? (`unknown-field`)

```suggestion
q:
```\
""")
    assert key_in(body(one)) == one.key
    assert key_in("> " + body(one)) is None


def test_neighbouring_lines_of_one_rule_are_one_comment_and_errors_come_first() -> None:
    rows = [replace(SPACE, line=line, suggestion=f"line {line}") for line in (9, 10, 11, 13)]
    made = suggestions([*rows, FIELD], EVERYWHERE)
    assert [(one.first, one.last, one.text) for one in made] == [
        (3, 3, "q:"),
        (9, 11, "line 9\nline 10\nline 11"),
        (13, 13, "line 13"),
    ]
    assert "The next 2 lines likewise." in body(made[1])


def test_lines_outside_of_the_diff_are_not_offered_and_no_comment_spans_two_hunks() -> None:
    rows = [replace(SPACE, line=line) for line in (4, 5, 6, 9)]
    made = suggestions([*rows, replace(FIELD, file="other")], {FILE: [(1, 5), (6, 8)]})
    assert [(one.first, one.last) for one in made] == [(4, 5), (6, 6)]


def test_two_mends_of_one_line_are_one_when_the_second_only_drops_spaces() -> None:
    both = [replace(FIELD, line=9, suggestion="q: x  "), SPACE]
    assert [one.text for one in suggestions(both, EVERYWHERE)] == ["q: x"]
    clash = [FIELD, replace(FIELD, rule="wrong-type", suggestion="'q':")]
    assert len(suggestions(clash, EVERYWHERE)) == 1


def test_what_a_page_cannot_show_as_it_is_is_not_offered() -> None:
    for text in ("a\u202eb", "a\x00b", "a\x1bb", "a\rb", "\u200bx", "x" * 20_000):
        assert suggestions([replace(SPACE, suggestion=text)], EVERYWHERE) == []
    for text in ("\ttab", "", "  indented", "``` fence", "é 漢字 🙂"):
        assert [one.text for one in suggestions([replace(SPACE, suggestion=text)], EVERYWHERE)] == [text]


HOSTILE = st.text() | st.lists(
    st.sampled_from(
        ["```", "````suggestion", "\n", "<!--", "-->", "@mara", "<b>", "~~~", "`", "</details>", " "]
    )
).map("".join)


@settings(max_examples=150)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_nothing_contributed_breaks_out_of_the_comment_or_its_fence(
    text: str, message: str, help_: str
) -> None:
    for one in suggestions([replace(FIELD, suggestion=text, message=message, help=help_)], EVERYWHERE):
        tokens = GFM.parse(body(one))
        fences = [token for token in tokens if token.type == "fence"]
        assert [(fence.info, fence.content) for fence in fences] == [("suggestion", text + "\n")]
        assert tokens[-1].type == "fence"
        assert [token.content.strip() for token in tokens if token.type == "html_block"] == [
            f"<!-- treewright:suggestion:{one.key} -->"
        ]
        for token in tokens:
            for child in token.children or []:
                assert child.type not in {"image", "em_open", "s_open", "link_open"}
                assert child.type != "text" or "@mara" not in child.content
                if child.type == "html_inline":
                    assert child.content in {"<code>", "</code>", "<br>"}


def suggestion(line: int, text: str = "x") -> Suggestion:
    return Suggestion(FILE, line, line, text, replace(SPACE, line=line, suggestion=text))


KEY = suggestion(1).key


def test_what_is_offered_already_is_not_offered_again() -> None:
    assert steps([suggestion(4)], [Offered(1, KEY, 4, False)], {}, 20) == steps([], [], {}, 20)
    moved = steps([suggestion(7)], [Offered(1, KEY, 4, False)], {KEY: 1}, 20)
    assert (moved.create, moved.delete) == ((), ())


def test_equal_lines_keep_their_own_comments() -> None:
    two = [Offered(1, KEY, 4, False), Offered(2, KEY, 9, False)]
    assert steps([suggestion(9)], two, {KEY: 2}, 20).delete == (1,)
    assert [one.first for one in steps([suggestion(4), suggestion(9)], two[:1], {KEY: 1}, 20).create] == [9]


def test_a_mistake_that_is_gone_takes_its_comment_along_but_not_peoples_words() -> None:
    done = steps(
        [], [Offered(1, KEY, 4, False), Offered(2, KEY, 5, True), Offered(3, KEY, None, False)], {}, 20
    )
    assert (done.delete, done.settle, done.create) == ((1,), (2,), ())
    struck = settled(body(suggestion(4)))
    assert "```" not in struck
    assert key_in(struck) is None


def test_an_outdated_comment_makes_room_for_the_same_mend_at_a_line_of_today() -> None:
    again = steps([suggestion(6)], [Offered(1, KEY, None, False)], {KEY: 1}, 20)
    assert ([one.first for one in again.create], again.delete) == ([6], (1,))


def test_what_people_deleted_is_not_offered_again() -> None:
    assert steps([suggestion(4)], [], {KEY: 1}, 20).create == ()
    assert len(steps([suggestion(4), suggestion(6)], [], {KEY: 1}, 20).create) == 1


def test_no_more_than_the_cap_stand_at_once() -> None:
    many = [suggestion(line, f"line {line}") for line in range(1, 40, 2)]
    assert len(steps(many, [], {}, 5).create) == 5
    standing = [Offered(n, one.key, one.first, False) for n, one in enumerate(many[:4])]
    assert [one.first for one in steps(many, standing, {}, 5).create] == [9]


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from("ab")), unique_by=lambda pair: pair[0], max_size=6),
    st.lists(st.tuples(st.sampled_from("ab"), st.none() | st.integers(1, 9), st.booleans()), max_size=6),
)
def test_one_round_settles_everything(
    wanted: list[tuple[int, str]], have: list[tuple[str, int | None, bool]]
) -> None:
    keys = {text: suggestion(1, text).key for text in "ab"}
    goal = [suggestion(line, text) for line, text in wanted]
    offered = [Offered(n, keys[text], line, answered) for n, (text, line, answered) in enumerate(have)]
    first = steps(goal, offered, {}, 20)
    gone = {*first.delete, *first.settle}
    after = [one for one in offered if one.id not in gone]
    after += [Offered(100 + n, one.key, one.last, False) for n, one in enumerate(first.create)]
    again = steps(goal, after, {}, 20)
    assert again == steps([], [], {}, 20)
    assert len([one for one in after if one.line is not None]) == len(goal)
