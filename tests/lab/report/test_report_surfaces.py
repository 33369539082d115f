"""The newer parts of the comment under hostile input: charts, settings, costs, the turn in the queue."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from markdown_it import MarkdownIt

from lab.config import (
    Approval,
    DocumentPolicy,
    LintPolicy,
    PullRequests,
    ReleaseSettings,
    RepositoryConfig,
    load_config,
)
from lab.report import charts, checks, config_changes
from lab.report.comment import PullRequestView, Turn, duration, pull_request_comment
from lab.report.markdown import COMMENT_BUDGET, SUMMARY_BUDGET, size
from lab.taxonomy.findings import Finding

settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
GFM = MarkdownIt("gfm-like")
VIEW = PullRequestView(
    state="ready",
    marker="<!-- m -->",
    repository_url="https://github.com/acme/taxonomy",
    author="newcomer",
    head="a" * 40,
)
HOSTILE = st.text() | st.lists(
    st.sampled_from(
        [
            "<img src=x>",
            "@mara",
            "#1",
            "```",
            "|",
            "\n",
            "</details>",
            '"',
            ":",
            "%%{init: {}}%%",
            "click a",
            "`",
        ]
    )
).map("".join)


def quiet(markdown: str, fences: int) -> None:
    """Whatever was contributed, the page has no markup, no mention and no more fences than ours."""
    tokens = GFM.parse(markdown)
    assert [token.info for token in tokens if token.type == "fence"] == ["mermaid"] * fences
    for token in tokens:
        if token.type == "html_block":
            ours = r"<!-- m -->|</?details>|<details><summary>[^<>]*</summary>"
            assert re.fullmatch(rf"(?:{ours}|\s)*", token.content), token.content
        for child in token.children or []:
            assert child.type not in {"image", "em_open", "s_open", "link_open"}
            assert child.type != "text" or "@mara" not in child.content
            if child.type == "html_inline":
                assert child.content in {"<code>", "</code>", "<br>"}


def leaf(reasons: list[str]) -> dict[str, Any]:
    rejected = [{"stage": "checks", "reason": reason, "text": reason, "score": None} for reason in reasons]
    passed = {"question": "Q?", "answer": "A.", "grade": 1.0, "passed": True, "source": "A."}
    return {"leaf": "knowledge/a", "base": [], "samples": [passed] * 3, "rejected": rejected, "requested": 9}


def test_a_chart_shows_what_became_of_the_rows() -> None:
    assert charts.outcomes([leaf(["copy", "copy", "off topic"])]) == snapshot("""\
```mermaid
pie showData title What became of the rows
    "passed" : 3
    "checks, copy" : 2
    "checks, off topic" : 1
```\
""")


def test_a_chart_of_one_outcome_or_of_three_rows_says_nothing_that_a_sentence_does_not() -> None:
    assert charts.outcomes([leaf([])]) == ""
    assert charts.pie("x", {"a": 1, "b": 1}) == ""
    many = charts.pie("x", {f"reason {n}": 2 for n in range(30)})
    assert many.count("\n    ") == 8
    assert '"other reasons" : 46' in many


@settings(max_examples=100)
@given(st.lists(HOSTILE, min_size=1, max_size=12))
def test_no_reason_breaks_a_chart_or_speaks_to_mermaid(reasons: list[str]) -> None:
    chart = charts.outcomes([leaf(["copy", *reasons])])
    (fence,) = GFM.parse(chart)
    assert fence.type == "fence"
    lines = fence.content.rstrip("\n").split("\n")
    assert lines[0] == "pie showData title What became of the rows"
    for line in lines[1:]:
        assert re.fullmatch(r'    "[A-Za-z0-9 ,._-]+" : [0-9]+', line), line
    quiet(pull_request_comment(replace(VIEW, preview={"leaves": [leaf(["copy", *reasons])], "rule": ""})), 1)


def test_changed_settings_are_told_one_by_one_the_guarding_ones_first() -> None:
    new = RepositoryConfig(
        approval=Approval(users=("mona",)),
        lint=LintPolicy(rules={"context-length": "off"}),
        documents=DocumentPolicy(hosts=("git.example",)),
    )
    found = config_changes.changes(RepositoryConfig(), new)
    assert [(one.name, one.old, one.new) for one in found] == [
        ("approval.users", "[]", '["mona"]'),
        ("documents.hosts", '["github.com", "huggingface.co", "gitlab.com"]', '["git.example"]'),
        ("lint.rules.context-length", "", "off"),
    ]
    assert config_changes.changes(new, new) == []
    assert config_changes.section(None, True) == []
    assert "in other words" in config_changes.section([], True)[1]
    assert "has errors" in config_changes.section([], False)[1]


@settings(max_examples=60)
@given(HOSTILE, HOSTILE)
def test_no_setting_breaks_the_comment(name: str, value: str) -> None:
    new = RepositoryConfig(
        lint=LintPolicy(rules={name: "off"}),  # a rule's name in a file is any text
        release=ReleaseSettings(model=value),
        pull_requests=PullRequests(label_prefix=value),
        approval=Approval(teams=(name, value)),
    )
    rows = [one.to_json() for one in config_changes.changes(RepositoryConfig(), new)]
    comment = pull_request_comment(replace(VIEW, config=rows))
    quiet(comment, 0)
    table = [line for line in comment.split("\n") if line.startswith("| ")]
    assert all(line.count("|") == 4 for line in table)
    assert len(table) == len(rows) + 2


def test_thousands_of_changed_settings_fit() -> None:
    new = RepositoryConfig(lint=LintPolicy(rules={f"rule-{n}": "off" for n in range(3000)}))
    rows = [one.to_json() for one in config_changes.changes(RepositoryConfig(), new)]
    comment = pull_request_comment(replace(VIEW, config=rows))
    assert size(comment) < COMMENT_BUDGET
    assert "2940 more changed settings are left out" in comment


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (
            Turn(False, 3, 40.2),
            "3 jobs are ahead of it, as of this writing. Such work usually takes 40 seconds",
        ),
        (Turn(False, 1, None), "1 job is ahead of it, as of this writing."),
        (Turn(False, 0, None), "It is the next one."),
    ],
)
def test_who_waits_sees_the_place_and_an_estimate_only_when_it_was_measured(turn: Turn, told: str) -> None:
    comment = pull_request_comment(replace(VIEW, state="waiting", turn=turn))
    assert told in comment
    assert ("usually" in comment) is (turn.seconds is not None)
    assert "### Waiting for a turn" in comment


def test_durations_are_as_exact_as_an_estimate() -> None:
    assert [duration(seconds) for seconds in (0.2, 1, 89, 90, 600, 9000)] == [
        "1 second", "1 second", "89 seconds", "2 minutes", "10 minutes", "2.5 hours"]  # fmt: skip


def test_the_cost_says_whether_tokens_were_counted() -> None:
    names = ("rows", "tries", "teacher_requests", "judge_requests", "prompt_tokens", "completion_tokens")
    numbers = dict(zip(names, (200, 250, 500, 260, 12345, 64000), strict=True))
    cost = {"leaves": [{"leaf": "knowledge/@mara`|`", **numbers}], "total": numbers, "tokens": "estimated"}
    comment = pull_request_comment(replace(VIEW, cost=cost))
    assert "What generating 1 leaf will cost: 200 rows, about 760 requests" in comment
    assert "| 200 | 500 | 260 | 12,345 | 64,000 |" in comment
    assert "Tokens read are estimated" in comment
    quiet(comment, 0)
    counted = pull_request_comment(replace(VIEW, cost={**cost, "tokens": "counted"}))
    assert "counted with the teacher's tokenizer" in counted


def test_budgets_are_of_bytes_and_not_only_of_characters() -> None:
    wide = "灯塔🙂" * 300
    finding = Finding("knowledge/a/qna.yaml", 1, 1, "seed-count", "error", wide, wide, wide)
    many = [replace(finding, line=line) for line in range(1, 400)]
    view = replace(
        VIEW, state="fix", findings=many, preview={"leaves": [leaf([wide] * 30)] * 20, "rule": wide}
    )
    assert size(pull_request_comment(view)) <= COMMENT_BUDGET
    check = checks.lint_check(view)
    assert size(check.summary) <= SUMMARY_BUDGET
    for row in check.annotations:
        assert size(row["message"]) < 64 * 1024
        assert size(row["raw_details"]) < 64 * 1024
    batches = list(check.batches())
    assert sum(len(batch) for batch in batches) == 399
    assert max(len(batch) for batch in batches) <= 50
    assert max(size(str(batch)) for batch in batches) <= checks.BYTES_A_REQUEST
    assert [row["start_line"] for batch in batches for row in batch] == list(range(1, 400))
    assert [row for batch in check.batches(sent=60) for row in batch] == list(check.annotations[60:])


@settings(max_examples=100)
@given(HOSTILE)
def test_a_label_can_only_be_made_of_plain_words(prefix: str) -> None:
    text = f"version: 1\npull_requests: {{labels: true, label_prefix: {json.dumps(prefix)}}}\n"
    config, findings = load_config(text.encode("utf-8", "replace"))
    kept = config.pull_requests.label_prefix
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{2,23}", kept)
    assert config.pull_requests.labels is not bool(findings)


@pytest.mark.parametrize("prefix", ["tree: \n", "x", "a" * 25, "@mara: ", " tree: "])
def test_a_prefix_that_is_no_plain_word_is_refused_with_its_line(prefix: str) -> None:
    text = f"version: 1\npull_requests: {{labels: true, label_prefix: {json.dumps(prefix)}}}\n"
    (finding,) = load_config(text.encode())[1]
    assert (finding.line, finding.message.split(":")[0]) == (2, "pull_requests.label_prefix")
