"""Contributed text stays text: property tests of the renderer's escaping against a real GFM parser."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from lab.report import markdown

settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
GFM = MarkdownIt("gfm-like")
assert GFM.linkify is not None
# GitHub links schemes, www. and e-mail addresses (GFM 6.9), not every word with a dot in it.
GFM.linkify.set({"fuzzy_link": False})

HOSTILE = st.text(
    st.one_of(
        st.sampled_from(list("`~*_[]()<>!|\\@#&;:/.-+=$ \n\r\t0123456789ahwtps\"'{}^")),
        st.characters(),
    ),
    max_size=80,
) | st.lists(
    st.sampled_from(
        [
            "<script>",
            "<!--",
            "-->",
            "@maintainer",
            "#12",
            "GH-12",
            "http://evil.example",
            "https://evil.example",
            "www.evil.example",
            "mailto:a@b.example",
            "a@b.example",
            "![x](y)",
            "[x](javascript:y)",
            "```",
            "~~~~",
            "\n\n# title",
            "| a | b |\n|---|---|",
            "</details>",
            "&#64;",
            "**bold**",
            "- ",
            "1. ",
            "\u202e",
            "\ud800",
            "$x$",
            "\\",
            " ",
        ]
    ),
    max_size=12,
).map("".join)


def tokens(source: str) -> list[Token]:
    flat: list[Token] = []
    for token in GFM.parse(source):
        flat.extend([token, *(token.children or [])])
    return flat


def kinds(source: str) -> set[str]:
    return {token.type for token in tokens(source)}


def shown(source: str) -> str:
    return "".join(token.content for token in tokens(source) if token.type in {"text", "text_special"})


@given(HOSTILE)
@example("<script>alert(1)</script> @maintainer #12 [x](y) **b** `c` | d")
@example("- not a list")
@example("12) not a list")
@example("www.evil.example")
def test_contributed_text_is_nothing_but_text(hostile: str) -> None:
    rendered = markdown.text(hostile)
    assert kinds(rendered) <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}
    assert "\n" not in rendered


@given(HOSTILE)
def test_contributed_text_pings_nobody_and_refers_to_nothing(hostile: str) -> None:
    seen = shown(markdown.text(hostile))
    assert not re.search(r"@[\w-]", seen)
    assert not re.search(r"#\d", seen)
    assert not re.search(r"(?i)\b(gh-\d|www\.|[a-z]+://)", seen)


@given(HOSTILE)
def test_contributed_text_inside_html_opens_no_element(hostile: str) -> None:
    rendered = markdown.fold(hostile, "body")
    assert rendered.count("<") == 4
    assert "body" in shown(rendered)


@given(HOSTILE, st.sampled_from(["", "yaml", "a b`c"]))
def test_a_code_block_is_closed_by_its_own_fence_only(hostile: str, language: str) -> None:
    parsed = GFM.parse(markdown.code_block(hostile, language) + "\n\nafter")
    assert [token.type for token in parsed] == ["fence", "paragraph_open", "inline", "paragraph_close"]


@given(HOSTILE)
def test_inline_code_holds_no_markup(hostile: str) -> None:
    rendered = "x " + markdown.code(hostile) + " y"
    found = [token for token in tokens(rendered) if token.type not in {"text", "text_special"}]
    assert {token.type for token in found} <= {
        "paragraph_open",
        "inline",
        "paragraph_close",
        "code_inline",
        "html_inline",
    }
    assert {token.content for token in found if token.type == "html_inline"} <= {"<code>", "</code>"}


@given(HOSTILE)
@example("The field `<b>@x` is missing; see `a``b` and ` `")
def test_our_words_with_quotes_hold_code_and_no_other_markup(hostile: str) -> None:
    found = tokens(markdown.words(hostile))
    allowed = {"paragraph_open", "inline", "paragraph_close", "code_inline", "html_inline"}
    assert {token.type for token in found} <= allowed | {"text", "text_special"}
    assert {t.content for t in found if t.type == "html_inline"} <= {"<code>", "</code>"}
    seen = "".join(t.content for t in found if t.type in {"text", "text_special"})
    assert not re.search(r"@[\w-]", seen)


@given(st.lists(st.lists(HOSTILE, max_size=4), max_size=4))
def test_a_table_keeps_its_shape(rows: list[list[str]]) -> None:
    rendered = markdown.table(["a", "b", "c"], [[markdown.text(cell) for cell in row] for row in rows])
    parsed = [token.type for token in GFM.parse(rendered)]
    assert parsed.count("td_open") == 3 * len(rows)
    assert parsed.count("table_open") == parsed.count("table_close") == 1
    assert parsed[-1] == "table_close"


@given(st.lists(HOSTILE, max_size=4))
def test_a_table_of_raw_cells_still_keeps_its_shape(cells: list[str]) -> None:
    parsed = [token.type for token in GFM.parse(markdown.table(["a", "b"], [cells]))]
    assert parsed.count("tr_open") == 2


@given(HOSTILE, HOSTILE)
def test_a_link_goes_to_the_web_or_nowhere(label: str, url: str) -> None:
    for token in tokens(markdown.link(label, url)):
        if token.type == "link_open":
            assert str(token.attrs["href"]).startswith(("http://", "https://"))


@given(st.lists(HOSTILE.map(markdown.text), min_size=1, max_size=30), st.integers(60, 400))
def test_truncation_keeps_the_budget_and_says_what_was_left_out(blocks: list[str], budget: int) -> None:
    cut = markdown.truncate(blocks, budget, lambda n: f"{n} more were left out.")
    assert markdown.size(cut) <= budget
    if markdown.size("\n\n".join(blocks)) > budget:
        assert re.search(r"\d+ more were left out\.$", cut)


def test_ordinary_words_stay_readable_in_the_source() -> None:
    assert markdown.text("The field created_by is missing (line 3).") == (
        "The field created_by is missing (line 3)."
    )
