"""The grammar of commands: what is one, what only looks like one, and that nothing breaks the parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.commands import ALIASES, MOST_COMMANDS, SPECS, TABLE, Command, Misused, Unknown, parse

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("/approve", [Command("approve")]),
        ("  /Approve  ", [Command("approve")]),
        (f"/approve {SHA}", [Command("approve", SHA)]),
        ("/preview 12", [Command("preview", "12")]),
        ("Looks good.\n/approve\nThank you!", [Command("approve")]),
        ("<details>\n\nA log\n\n</details>\n\n/approve", [Command("approve")]),
        ("<!-- <details> -->\n<br>\n\n/approve", [Command("approve")]),
        ("</div>\n\n<hr>\n\n/approve", [Command("approve")]),
        ("/lint\n/status", [Command("lint"), Command("status")]),
        ("/lint\n\n/lint", [Command("lint")]),
        ("/hold OFF", [Command("hold", "OFF")]),
        ("/explain seed-count", [Command("explain", "seed-count")]),
        ("/explain", [Misused("explain", None)]),
        ("/preview many", [Misused("preview", "many")]),
        ("/approve; rm -rf /", []),
        ("/help me", [Misused("help", "me")]),
        ("/aprove", [Unknown("aprove", "approve")]),
        ("/xyzzy", [Unknown("xyzzy", None)]),
        ("/check", [Command("lint")]),
        ("/merge " + SHA, [Command("approve", SHA)]),
        ("/pause", [Command("hold")]),
        ("/unhold", [Command("hold", "off")]),
        ("/stop it", [Misused("cancel", "it")]),
        ("/unholt", [Unknown("unholt", "unhold")]),
    ],
)
def test_a_line_of_its_own_is_a_command(comment: str, said: list[object]) -> None:
    assert parse(comment) == said


@pytest.mark.parametrize(
    "comment",
    [
        "> /approve",
        ">> /approve\nand more",
        "`/approve`",
        "    /approve",
        "```\n/approve\n```",
        "~~~\n/approve",
        "- /approve",
        "1. /approve",
        "# /approve",
        "/approve\n===",
        "[/approve](https://example.org)",
        "**/approve**",
        "\\/approve",
        "&#47;approve",
        "<!-- /approve -->",
        "<div>\n/approve\n</div>",
        "<blockquote>\n\n/approve\n\n</blockquote>",
        "<details open>\n<summary>The log</summary>\n\n/approve\n\n</details>",
        "<details>\n\n<DETAILS>\n\nx\n\n</details>\n\n/approve",
        "<ul><li>\n\n/approve",
        "please /approve",
        "/usr/bin/approve",
        "//approve",
        "![/approve](x)",
        "",
    ],
)
def test_talk_about_a_command_is_not_a_command(comment: str) -> None:
    assert parse(comment) == []


@given(st.text() | st.lists(st.sampled_from([*"/>`-#*\n ~<![]()", "approve", "```", SHA])).map("".join))
def test_the_parser_takes_any_comment(comment: str) -> None:
    said = parse(comment)
    assert len(said) <= MOST_COMMANDS
    for one in said:
        if isinstance(one, Command):
            assert one.name in TABLE


@given(st.text())
def test_a_quoted_comment_never_commands(comment: str) -> None:
    lines = comment.replace("\r", "\n").split("\n")
    assert parse("\n".join("> " + line for line in lines)) == []


@given(st.text(alphabet=st.characters(blacklist_characters="`")))
def test_a_fenced_comment_never_commands(comment: str) -> None:
    assert parse("```\n" + comment + "\n/approve\n```") == []


@given(st.sampled_from(SPECS), st.text(alphabet="0123456789abcdef", max_size=70))
def test_only_arguments_of_the_table_pass(spec: object, argument: str) -> None:
    from bot.commands import Spec

    assert isinstance(spec, Spec)
    for one in parse(f"/{spec.name} {argument}"):
        if isinstance(one, Command) and one.argument is not None:
            assert spec.pattern


def test_every_word_for_a_command_is_its_own_and_is_in_the_help() -> None:
    from bot.replies import help_text

    words = [*TABLE, *ALIASES]
    assert len(words) == len(set(words))
    for word in words:
        assert f"`/{word}" in help_text()


def test_nobody_can_start_a_storm_with_one_comment() -> None:
    assert len(parse("\n".join(f"/preview {n}" for n in range(1, 200)))) == MOST_COMMANDS
