"""Hostile input is answered, never obeyed: YAML, paths, patterns, URLs, commit ids."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.untrusted import (
    Refused,
    YamlBudgets,
    YamlNode,
    clone_url,
    commit_id,
    glob_pattern,
    matches,
    may_lead,
    parse_yaml,
    printable,
    read_yaml,
    relative_path,
)

HOSTS = ("github.com",)


def problem(data: bytes) -> tuple[int, int, str]:
    found = parse_yaml(data)
    assert isinstance(found, list)
    return found[0].line, found[0].column, found[0].rule


def test_every_scalar_keeps_its_line_and_column() -> None:
    root = parse_yaml(b"a: 1\nb:\n  - x\n  - 'y'\n")
    assert isinstance(root, YamlNode)
    items = root.get("b")
    assert items is not None
    assert [(item.text, item.line, item.column) for item in items.items] == [("x", 3, 5), ("y", 4, 5)]
    assert root.plain() == {"a": 1, "b": ["x", "y"]}


def test_a_bare_yes_is_a_boolean_and_a_quoted_one_is_text() -> None:
    root = parse_yaml(b"a: Yes\nb: 'Yes'\nc: 2024-05-01\nd: 1_000\ne: ~\n")
    assert isinstance(root, YamlNode)
    assert [value.type for _, value in root.entries] == ["bool", "str", "timestamp", "int", "null"]
    assert root.plain() == {"a": True, "b": "Yes", "c": "2024-05-01", "d": 1000, "e": None}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: 'open\nb: 2\n", (1, 4, "yaml-syntax")),
        (b"a: b: c\n", (1, 5, "yaml-syntax")),
        (b"a:\n\t- b\n", (2, 1, "yaml-syntax")),
        (b"a: 'It's'\n", (1, 8, "yaml-syntax")),
        (b'a: "open\nb: 1\nc: "shut"\n', (1, 4, "yaml-syntax")),
        ("a:\n  - b: 1\n\u00a0\u00a0\u00a0\u00a0c: 2\n    d: 3\n".encode(), (3, 1, "yaml-syntax")),
        (b"a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> x\n", (2, 1, "yaml-syntax")),
        (b"a: 1\n---\nb: 1\n", (2, 1, "yaml-syntax")),
        (b"a: [1\nb: 2\n", (1, 4, "yaml-syntax")),
        (b"a: 1\na: 2\n", (2, 1, "duplicate-key")),
        (b"x: &a 1\n", (1, 4, "yaml-alias")),
        (b"x: *a\n", (1, 4, "yaml-alias")),
        (b"x: !!python/object/apply:os.system [ls]\n", (1, 4, "yaml-tag")),
        (b"a: \xff\n", (1, 4, "yaml-encoding")),
        (b"\xef\xbb\xbfa: 1\n", (1, 1, "yaml-encoding")),
        (b"a: 1\nb: \x07\n", (2, 4, "yaml-encoding")),
        (b"a: 1\r\nb: 2\r\n", (1, 1, "line-ending")),
        (b"a: 1\rb: c: d\rc: 3\r\n", (1, 1, "yaml-encoding")),
        (b'a: 1\nb: "x \\\\ \\e[31m"\n', (2, 10, "yaml-encoding")),
        (b'a: "\n  nul: \\0"\n', (2, 8, "yaml-encoding")),
        (b'a: "\\u202Eb"\n', (1, 5, "yaml-encoding")),
        ("a: 1\nb: é\u2066c\n".encode(), (2, 5, "yaml-encoding")),
        ("# \u202e\na: 1\n".encode(), (1, 3, "yaml-encoding")),
        ("a: b\U000e0069\U000e0067c\n".encode(), (1, 5, "yaml-encoding")),
        ("a: b\ufe01\U000e0100c\n".encode(), (1, 5, "yaml-encoding")),
    ],
)
def test_a_mistake_is_named_at_its_own_place(data: bytes, expected: tuple[int, int, str]) -> None:
    assert problem(data) == expected


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
        "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a joiner
        "\u05e9\u05dc\u05d5\u05dd\u200f!",  # Hebrew, with a direction mark
        "\u2764\ufe0f\u200d\U0001f525",
        '"tab \\t line \\n space \\_ quote \\" path C:\\\\e \\u00e9"',
    ],
)
def test_text_that_needs_what_cannot_be_seen_is_taken(text: str) -> None:
    assert isinstance(parse_yaml(f"a: {text}\n".encode()), YamlNode)


@pytest.mark.parametrize(
    ("text", "told", "suggestion"),
    [
        ("a: [Mora](https://example.org)", "Text follows a closing `]`", "a: '[Mora](https://example.org)'"),
        ("a: {name} is here", "Text follows a closing `}`", "a: '{name} is here'"),
        ("a:\n  - b: 1\n  -b: 2", "A space is missing after the dash", "  - b: 2"),
        ("a:\n  - b: 1\n   c: 2", "in column 4 here, in column 5 on the line above", None),
        ("```yaml\na: 1\n```", "Markdown fence", None),
        ("a:\n  - b: 1\n\u00a0\u00a0\u00a0 c: 2\n    d: 3", "U+00A0", "    c: 2"),
    ],
)
def test_a_mistake_is_told_as_what_a_person_did(text: str, told: str, suggestion: str | None) -> None:
    found = parse_yaml(f"{text}\n".encode())
    assert isinstance(found, list)
    assert told in found[0].message
    assert found[0].suggestion == suggestion


def test_a_value_with_a_colon_gets_the_line_in_quotes_as_a_suggestion() -> None:
    found = parse_yaml(b"question: Say it: now\n")
    assert isinstance(found, list)
    assert found[0].suggestion == "question: 'Say it: now'"
    assert isinstance(parse_yaml(found[0].suggestion.encode()), YamlNode)


def test_a_line_separator_of_unicode_is_no_line() -> None:
    document = read_yaml("a: x\u2028y\nb: 'open\n".encode())
    assert [(each.line, each.column) for each in document.problems] == [(1, 5), (2, 4)]


@pytest.mark.parametrize(
    "bomb",
    [
        b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n",
        b"[" * 900_000,
        b"- " * 450_000,
        b"? " * 450_000,
        b"{a: " * 200_000,
        b"- a\n" * 200_000,
        b"a: 1\n" * 150_000,
        b"&" * 900_000,
        b"'" * 900_001,
        b"a: |\n" + b" " * 900_000,
        b"x" * (50 << 20),
    ],
)
def test_a_bomb_is_answered_within_two_seconds(bomb: bytes) -> None:
    start = time.process_time()
    found = parse_yaml(bomb)
    assert time.process_time() - start < 2
    if isinstance(found, list):
        assert len(found) <= YamlBudgets().problems + 1
        assert all(each.line >= 1 and each.message and each.help for each in found)


def test_mendable_problems_leave_the_tree_readable() -> None:
    document = read_yaml(b"a: 1\r\na: 2\r\nb: 3\r\n")
    assert document.root is not None
    assert document.root.plain() == {"a": 1, "b": 3}
    assert [each.rule for each in document.problems] == ["line-ending", "duplicate-key"]


YAMLISH = st.text(alphabet="ab:-#'\"|>[]{}&*!%@`,? \t\n\r\\\u2028\u0085é\ufeff0", max_size=60)


@given(st.one_of(YAMLISH.map(str.encode), st.binary(max_size=60)))
@settings(max_examples=600, deadline=None)
def test_no_bytes_raise_and_every_place_is_inside_the_file(data: bytes) -> None:
    found = parse_yaml(data)
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    if isinstance(found, list):
        assert found
        for each in found:
            assert 1 <= each.line <= len(lines)
            assert each.column >= 1
            assert each.column <= len(lines[each.line - 1].decode("utf-8", "replace")) + 1


@given(YAMLISH)
@settings(max_examples=400, deadline=None)
def test_what_is_read_says_what_pyyaml_says(text: str) -> None:
    found = parse_yaml(text.encode())
    if isinstance(found, YamlNode) and "=" not in text and "<<" not in text:
        loaded = yaml.load(text, Loader=yaml.CBaseLoader)  # noqa: S506 - strings only
        assert strings(found) == (loaded if loaded is not None else "")


def strings(node: YamlNode) -> object:
    if node.kind == "mapping":
        return {key.text: strings(value) for key, value in node.entries}
    return [strings(item) for item in node.items] if node.kind == "sequence" else node.text


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a\\b",
        "a\0b",
        "C:x",
        "a/.git/config",
        "./a",
        "a/",
        "a\u202eb",
    ],
)
def test_a_path_that_leaves_its_tree_is_refused(path: str) -> None:
    with pytest.raises(Refused):
        relative_path(path)


@pytest.mark.parametrize(
    "pattern", ["../*.md", "/x/*.md", "!a", ":(top)x", "-x", "a**b/*.md", "{a,b}.md", "[a.md", "*" * 30]
)
def test_a_pattern_that_could_do_harm_is_refused_with_a_hint(pattern: str) -> None:
    with pytest.raises(Refused) as refused:
        glob_pattern(pattern)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("docs/*.md", "docs/a.md", True),
        ("docs/*.md", "docs/sub/a.md", False),
        ("docs/**/*.md", "docs/a.md", True),
        ("docs/**/*.md", "docs/x/y/a.md", True),
        ("**", "a/b/c.md", True),
        ("*.md", ".hidden.md", False),
        ("a?[bc].md", "axb.md", True),
        ("a[!b].md", "ab.md", False),
        ("a.md", "axmd", False),
    ],
)
def test_patterns_match_like_globs(pattern: str, path: str, fits: bool) -> None:
    assert matches(glob_pattern(pattern), path) is fits


def test_a_pattern_cannot_make_matching_slow() -> None:
    start = time.process_time()
    assert not matches("*a" * 20, "a" * 5000 + "b")
    assert time.process_time() - start < 2


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_pattern_matches_a_path_outside(pattern: str, path: str) -> None:
    try:
        fits = matches(glob_pattern(pattern), relative_path(path))
    except Refused:
        return
    assert fits in (True, False)
    assert ".." not in path.split("/")


@pytest.mark.parametrize(
    "url",
    [
        "file:///srv/x.git",
        "ext::sh -c id",
        "git@github.com:a/b.git",
        "http://github.com/a/b",
        "https://user:pw@github.com/a/b",
        "https://github.com:8443/a/b",
        "https://evil.example/a/b",
        "https://127.0.0.1/a/b",
        "https://0x7f.1/a/b",
        "https://[::1]/a/b",
        "https://github.com/a",
        "https://github.com/a/../b",
        "https://github.com/a/b?x=1",
        "https://github.com/a/b#x",
        "https://github.com/a/b/tree/main/docs",
        "https://github.com/-x/b",
        "https://github.com/a/b\n",
        "https://github.com.evil.example/a/b",
        "https://github.com\\@evil.example/a/b",
        "",
    ],
)
def test_a_hostile_url_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        clone_url(url, HOSTS)


def test_a_plain_url_passes_and_no_hosts_mean_nobody() -> None:
    assert (
        clone_url("https://GitHub.com/acme/documents.git/", HOSTS) == "https://github.com/acme/documents.git"
    )
    with pytest.raises(Refused, match="not allowed"):
        clone_url("https://github.com/acme/documents.git", ())


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_only_https_of_a_listed_host_ever_passes(rest: str) -> None:
    for text in (rest, f"https://{rest}", f"https://github.com/{rest}"):
        try:
            assert clone_url(text, HOSTS).startswith("https://github.com/")
        except Refused:
            continue


def test_only_a_full_commit_id_pins() -> None:
    assert commit_id("A" * 40) == "a" * 40
    for text in ("main", "abc1234", "g" * 40, "a" * 41, ""):
        with pytest.raises(Refused):
            commit_id(text)


def test_text_for_a_terminal_has_no_escapes() -> None:
    assert "\x1b" not in printable("\x1b[31mred\u202e")
    assert printable("a\nb\tc") == "a b c"
    assert len(printable("x" * 500, 20)) == 20


PARTS = st.sampled_from(["a", "b", "*", "a*", "?", "**", "[ab]", "a.md", "*.md"])
NAMES = st.sampled_from(["a", "b", "ab", "a.md", ".a"])


@given(st.lists(PARTS, min_size=1, max_size=5), st.lists(NAMES, min_size=2, max_size=5))
@settings(max_examples=500, deadline=None)
def test_no_folder_of_a_matching_path_is_left_out(pattern: list[str], path: list[str]) -> None:
    if matches("/".join(pattern), "/".join(path)):
        for depth in range(1, len(path)):
            assert may_lead("/".join(pattern), "/".join(path[:depth]))


def test_folders_that_cannot_match_are_not_opened() -> None:
    assert may_lead("docs/*/a.md", "docs")
    assert may_lead("docs/**/a.md", "docs/x/y/z")
    assert not may_lead("docs/*/a.md", "src")
    assert not may_lead("docs/*/a.md", "docs/x/y")
    assert not may_lead("*.md", "docs")
