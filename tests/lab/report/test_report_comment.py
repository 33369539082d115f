"""What people read: the comment and the checks, by example and under hostile input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from markdown_it import MarkdownIt

from lab.contracts import require
from lab.report import checks, terminal
from lab.report.comment import PullRequestView, pull_request_comment, release_comment
from lab.report.markdown import COMMENT_BUDGET, SUMMARY_BUDGET, size
from lab.taxonomy.findings import Finding

settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
GFM = MarkdownIt("gfm-like")
ERROR = Finding("knowledge/a/qna.yaml", 3, 5, "seed-count", "error", "Only 2 seeds.", "Write 5.")
WARNING = Finding("knowledge/a/qna.yaml", 9, 1, "spaces", "warning", "A space at the end.", "Remove it.")
VIEW = PullRequestView(
    state="fix",
    marker="<!-- m -->",
    repository_url="https://github.com/acme/taxonomy",
    author="newcomer",
    head="a" * 40,
    findings=(WARNING, ERROR),
    files=1,
    commands=(("/help", "anyone", "Shows this list."),),
)


def preview(question: str = "Q?", answer: str = "A.", samples: int = 1) -> dict[str, Any]:
    check = {"check": "on_topic", "score": 1.0, "passed": True, "detail": "shares words"}
    sample = {"leaf": "knowledge/a", "question": question, "answer": answer, "grade": 0.9, "passed": True}
    rejected = {"leaf": "knowledge/a", "seed": None, "chunk": None, "stage": "checks", "reason": "copy"}
    base = {"leaf": "knowledge/a", "question": question, "expected": answer, "answered": answer}
    leaf = {
        "leaf": "knowledge/a",
        "kind": "knowledge",
        "base": [{**base, "correct": False}] * samples,
        "samples": [{**sample, "source": answer, "checks": [check]}] * samples,
        "rejected": [{**rejected, "score": None, "text": question, "requests": []}],
        "requested": 2,
        "seconds": 1.0,
    }
    value = {
        "leaves": [leaf],
        "digest": "sha256:" + "0" * 64,
        "teacher": "t@1",
        "judge": "j@1",
        "base": "b@1",
    }
    value["rule"] = "A rule."
    require("preview", value)
    return value


def test_the_comment_says_where_it_stands_what_is_next_and_whose_turn_it_is() -> None:
    assert pull_request_comment(VIEW) == snapshot("""\
<!-- m -->

### 1 error to fix

**Where it stands.** The validator found 1 error and 1 warning in `aaaaaaaaaa`.

**Next.** Push a commit that fixes them. This comment and the check follow by themselves.

**Whose turn.** newcomer

#### What the validator found: 1 error and 1 warning

- **error** [knowledge/a/qna.yaml:3](<https://github.com/acme/taxonomy/blob/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/knowledge/a/qna.yaml#L3>) Only 2 seeds.<br>**Fix:** Write 5. (`seed-count`)
- **warning** [knowledge/a/qna.yaml:9](<https://github.com/acme/taxonomy/blob/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/knowledge/a/qna.yaml#L9>) A space at the end.<br>**Fix:** Remove it. (`spaces`)

<details><summary>Commands</summary>

| comment | who may | what happens |
| --- | --- | --- |
| `/help` | anyone | Shows this list. |

</details>\
""")  # noqa: E501 - shown whole


@pytest.mark.parametrize(
    "state",
    [
        "checking",
        "fix",
        "previewing",
        "preview_failed",
        "ready",
        "nothing_to_learn",
        "held",
        "closed",
        "merged",
        "releasing",
        "released",
        "release_failed",
        "trouble",
    ],
)
def test_every_state_has_a_headline_a_next_step_and_somebody_whose_turn_it_is(state: Any) -> None:
    comment = pull_request_comment(replace(VIEW, state=state, preview=preview(), trouble="It rained."))
    for words in ("### ", "**Where it stands.** ", "**Next.** ", "**Whose turn.** "):
        assert words in comment


def test_a_preview_from_which_nothing_passed_is_not_praised() -> None:
    value = preview()
    value["leaves"][0]["samples"] = []
    comment = pull_request_comment(replace(VIEW, state="ready", findings=(), preview=value))
    assert "**No sample passed for `knowledge/a`**" in comment


def test_a_thousand_findings_fit_with_errors_first_and_the_rest_counted() -> None:
    many = [replace(WARNING, line=n, message="x" * 500) for n in range(1, 1200)] + [replace(ERROR, line=2000)]
    view = replace(VIEW, findings=many)
    comment = pull_request_comment(view)
    assert size(comment) <= COMMENT_BUDGET
    assert comment.index("qna.yaml:2000") < comment.index("qna.yaml:1]")
    assert "more findings are in the check's annotations" in comment
    assert "<summary>Commands</summary>" in comment
    check = checks.lint_check(view)
    assert size(check.summary) <= SUMMARY_BUDGET
    assert check.annotations[0]["start_line"] == 2000
    assert [len(batch) for batch in check.batches()] == [50] * 20
    assert [len(batch) for batch in check.batches(sent=960)] == [40]


def test_the_check_is_red_only_for_errors() -> None:
    assert checks.lint_check(VIEW).conclusion == "failure"
    assert checks.lint_check(replace(VIEW, findings=(WARNING,))).conclusion == "success"
    assert checks.preview_check(replace(VIEW, trouble="down")).conclusion == "neutral"
    assert checks.stopped(checks.LINT, "why").conclusion == "failure"


HOSTILE = st.text() | st.lists(
    st.sampled_from(
        ["<img src=x>", "@mara", "#1", "```", "|", "\n", "</details>", "![a](b)", "**", "`", "a" * 300]
    )
).map("".join)


@settings(max_examples=60)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_nothing_contributed_becomes_markup_of_the_comment(one: str, two: str, three: str) -> None:
    finding = replace(ERROR, file=one or "x", message=two, help=three, rule="r")
    view = replace(VIEW, state="ready", author=three, findings=(finding,), preview=preview(one, two, 25))
    calm = replace(VIEW, state="ready", findings=(ERROR,), preview=preview(samples=25))
    for render in (pull_request_comment, lambda v: checks.lint_check(v).summary):
        tokens = GFM.parse(render(view))
        ours = [token.type for token in GFM.parse(render(calm))]
        assert [token.type for token in tokens].count("html_block") == ours.count("html_block")
        for token in tokens:
            for child in token.children or []:
                assert child.type not in {"image", "em_open", "s_open"}
                if child.type == "html_inline":
                    assert child.content in {"<code>", "</code>", "<br>"}


def report() -> dict[str, Any]:
    where = {"id": "acme/lm", "url": "https://hub.example/acme/lm", "revision": "1" * 40}
    scores = [
        ("new leaves", "pooled", None),
        ("knowledge/a", "leaf", "knowledge/a"),
        ("general", "general", None),
    ]
    value = {
        "tag": "v1",
        "model": where,
        "dataset": {**where, "id": "acme/data"},
        "verdict": "pass",
        "scores": [
            {
                "name": name,
                "kind": kind,
                "leaf": leaf,
                "metric": "choice",
                "items": 9,
                "base": 0.25,
                "candidate": 1.0,
                "low": None,
                "high": None,
            }
            for name, kind, leaf in scores
        ],
        "examples": [
            {"leaf": "knowledge/a", "question": "Q?", "expected": "E", "base": "B", "candidate": "C"},
            {"leaf": "knowledge/b", "question": "Other?", "expected": "E", "base": "B", "candidate": "C"},
        ],
        "contributions": [
            {"pull_request": 2, "leaf": "knowledge/a", "rows": 40, "base": 0.25, "candidate": 1.0},
            {"pull_request": 3, "leaf": "knowledge/b", "rows": 40, "base": None, "candidate": None},
        ],
        "key": "k",
    }
    require("report", value)
    return value


def test_the_last_comment_shows_a_contributor_what_their_leaf_gained() -> None:
    comment = release_comment(report(), "<!-- r -->", "https://github.com/acme/taxonomy/releases/v1", 2)
    assert comment == snapshot("""\
<!-- r -->

### Released as v1

What you wrote is in a model now ([release notes](<https://github.com/acme/taxonomy/releases/v1>)). Thank you.

- Model: [acme/lm](<https://hub.example/acme/lm>) at `1111111111111111111111111111111111111111`
- Data set: [acme/data](<https://hub.example/acme/lm>) at `1111111111111111111111111111111111111111`
- Gate: **pass**

#### Held-out questions, before and after

Nobody trained on these: they were set aside before the data was generated.

| question | expected | before | after |
| --- | --- | --- | --- |
| Q? | E | B | C |

#### Scores

| set | items | base | this model | 95 % interval of the gain |
| --- | --- | --- | --- | --- |
| new leaves | 9 | 25.0 % | **100.0 %** | – |
| knowledge/a | 9 | 25.0 % | **100.0 %** | – |
| general | 9 | 25.0 % | **100.0 %** | – |

<details><summary>Rows of training data by leaf</summary>

| leaf | rows | base | this model |
| --- | --- | --- | --- |
| `knowledge/a` | 40 | 25.0 % | 100.0 % |

</details>\
""")


def test_the_last_comment_of_another_pull_request_shows_its_own_leaf() -> None:
    comment = release_comment(report(), number=3)
    assert "Other?" in comment
    assert "Q?" not in comment


def test_a_preview_sends_nothing_to_the_terminal_that_people_or_models_wrote() -> None:
    def soiled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: soiled(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [soiled(inner) for inner in value]
        return f"{value}\x1b]0;owned\x07\n\u202e" if isinstance(value, str) else value

    kept = ("kind", "rule", "digest")
    value = {name: inner if name in kept else soiled(inner) for name, inner in preview().items()}
    value["leaves"] = [{**leaf, "kind": "knowledge"} for leaf in value["leaves"]]
    lines = terminal.preview(value)
    assert any("Q" in line for line in lines)
    assert all(line.isprintable() for line in lines)
