"""The pages: what a person sees, and that nothing contributed can run there."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import httpx
import pytest
from forge_world import World
from hypothesis import given
from hypothesis import strategies as st

from sandbox.forge.markdown import render
from sandbox.forge.pages import diff_lines


def get(world: World, path: str) -> str:
    answer = httpx.get(world.running.url + path, trust_env=False)
    assert answer.status_code == 200, path
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return answer.text


def test_a_pull_request_is_shown_with_its_talk_checks_files_and_commits(world: World) -> None:
    sha = world.contribute().head.sha
    repo = world.bot().get_repo("acme/taxonomy")
    repo.get_issue(1).create_comment(
        "Hello @grace\n\n| leaf | state |\n|---|---|\n| new | ok |\n\n"
        "<details><summary>More</summary>\n\n- [x] read\n\n</details>"
    )
    world.github(world.grace).get_repo("acme/taxonomy").get_issue(1).get_comments()[0].create_reaction(
        "heart"
    )
    note = {"path": "knowledge/new/qna.yaml", "start_line": 2, "end_line": 2, "annotation_level": "failure",
            "message": "say <more>", "title": "seed-count"}  # fmt: skip
    output = {"title": "1 error", "summary": "One **error**.", "annotations": [note]}
    repo.create_check_run("Lint", sha, conclusion="failure", status="completed", output=output)
    talk = get(world, "/acme/taxonomy/pull/1")
    assert '<span class="mention">@grace</span>' in talk
    assert "<details><summary>More</summary>" in talk
    assert "<td>new</td>" in talk
    assert "❤️ 1" in talk
    assert "1 error" in talk
    checks = get(world, "/acme/taxonomy/pull/1/checks")
    assert "say &lt;more&gt;" in checks
    assert "<strong>error</strong>" in checks
    files = get(world, "/acme/taxonomy/pull/1/files")
    line = '<tr class="add"><td class="n"></td><td class="n">2</td><td class="t">task: new</td></tr>'
    assert line in files
    assert "seed-count" in files
    assert "Add topic" in get(world, "/acme/taxonomy/pull/1/commits")
    assert "Add topic" in get(world, "/acme/taxonomy/pulls")
    assert "A tree of <em>leaves</em>." in get(world, "/acme/taxonomy")
    assert "version: 3" in get(world, "/acme/taxonomy/blob/main/knowledge/old/qna.yaml")
    assert "+task: new" in httpx.get(f"{world.running.url}/acme/taxonomy/pull/1.diff", trust_env=False).text
    for path in ("/actions", "/releases", "/tree/main/knowledge", f"/commit/{sha}"):
        get(world, f"/acme/taxonomy{path}")
    for path in ("/", "/grace/taxonomy"):
        get(world, path)


def test_hostile_titles_names_and_files_are_text(world: World) -> None:
    evil = "<script>alert(1)</script>"
    pull = world.contribute(text=f"{evil}\n")
    pull.edit(
        title=f"{evil} title", body=f"{evil}\n\n<img src=x onerror=alert(1)>\n\n[x](javascript:alert(1))"
    )
    pull.create_issue_comment(
        f"<iframe src='//evil'></iframe>{evil}<style>*{{}}</style><a href='data:text/html,x'>y</a>"
    )
    for path in ("/acme/taxonomy/pulls", "/acme/taxonomy/pull/1", "/acme/taxonomy/pull/1/files"):
        text = get(world, path)
        assert "<script" not in text
        assert "onerror" not in text
        assert "<iframe" not in text
        assert "javascript:alert" not in re.sub(r">[^<]*<", "><", text)
    raw = httpx.get(f"{world.running.url}/acme/taxonomy/raw/main/README.md", trust_env=False)
    assert raw.headers["content-type"].startswith("text/plain")
    assert raw.headers["x-content-type-options"] == "nosniff"


def test_a_private_repository_and_what_is_not_there_have_no_page(world: World) -> None:
    world.forge.create_repo("acme", "secret", private=True)
    for path in ("/acme/secret", "/acme/secret/pulls", "/acme/taxonomy/pull/9", "/acme/taxonomy/blob/main/no",
                 "/acme/taxonomy/blob/main/../../etc/passwd", "/acme/taxonomy/tree/main/a%00b",
                 "/nobody/nothing", "/acme/taxonomy/runs/1"):  # fmt: skip
        answer = httpx.get(world.running.url + path, trust_env=False)
        assert answer.status_code == 404, path


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in (
            "script",
            "style",
            "iframe",
            "object",
            "embed",
            "form",
            "link",
            "meta",
            "base",
            "svg",
            "math",
        ):
            self.bad.append(tag)
        for name, value in attrs:
            target = re.sub(r"[\s\x00-\x1f]", "", value or "").lower()
            if name.startswith("on") or (
                name in ("href", "src") and target.startswith(("javascript:", "vbscript:", "data:"))
            ):
                self.bad.append(f"{tag}.{name}")


PIECES = [
    "<script>", "</script>", "<img src=x onerror=a>", "javascript:x", "[a](", ")", "<", ">", "\n", "`",
    "```", "<!--", "-->", "@ada", "<svg/onload=x>", "&#106;avascript:", "<details open ontoggle=x>", "|",
    "-", "![", "](data:text/html,x)", "<a href='", "'>", "\"", "https://e.org/",
    "<math><mi//xlink:href=", "* ", "\t", "\x00",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=25).map("".join))
def test_no_markdown_at_all_gives_a_live_element(source: str) -> None:
    seen = Tags()
    seen.feed(render(source))
    assert seen.bad == []


@pytest.mark.parametrize("name", ["ada", "a-b", "X9"])
def test_mentions_are_marked_in_text_only(name: str) -> None:
    html = render(f"@{name} `@{name}` [@{name}](https://e.org) a@{name}.org")
    assert html.count('class="mention"') == 1


def test_a_diff_counts_both_sides() -> None:
    lines = diff_lines("@@ -3,2 +3,3 @@ head\n same\n-old\n+new\n+more\n\\ No newline at end of file")
    assert [(line.kind, line.old, line.new) for line in lines] == [
        ("hunk", None, None), ("same", 3, 3), ("del", 4, None), ("add", None, 4), ("add", None, 5),
        ("note", None, None),
    ]  # fmt: skip
