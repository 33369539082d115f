"""The bot's comments on a pull request: the one that is edited in place, and the last one, after the release.

All wording that people read there is in this file. The first lines say where the pull request stands, what is
next and whose turn it is; then what is to be fixed, what changes, and what the preview showed. Everything
that was contributed or that a model wrote goes through `markdown.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from lab.report import charts, config_changes
from lab.report.markdown import (
    COMMENT_BUDGET,
    clip,
    code,
    fold,
    link,
    size,
    table,
    text,
    truncate,
    words,
)
from lab.taxonomy.findings import Finding, Severity

Json = Mapping[str, Any]
State = Literal[
    "waiting",
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
]

_FINDINGS_BUDGET = 22_000
_PREVIEW_BUDGET = 30_000
_CELL = 300
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Turn:
    """Where the work on a pull request stands in the queue. `ahead`: jobs that come before it. `seconds`: the
    median duration of our own newest jobs of this kind; None while none was recorded.
    """

    running: bool
    ahead: int
    seconds: float | None


@dataclass(frozen=True)
class PullRequestView:
    """All that the comment says. `preview` is as in `schemas/preview.json`, `cost` as `lab.taxonomy.cost`
    tells it, `config` the changed settings (None: the file does not change).
    """

    state: State
    marker: str
    repository_url: str
    author: str
    head: str
    findings: Sequence[Finding] = ()
    files: int = 0
    changes: Sequence[Json] = ()
    preview: Json | None = None
    trouble: str = ""
    held_by: str = ""
    approved_by: str = ""
    merge_sha: str = ""
    run_url: str = ""
    release_url: str = ""
    turn: Turn | None = None
    cost: Json | None = None
    config: Sequence[Mapping[str, str]] | None = None
    config_readable: bool = True
    commands: Sequence[tuple[str, str, str]] = field(default=())


def count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def severities(findings: Sequence[Finding]) -> str:
    """`3 errors and 1 warning`; `nothing` when there is none."""
    tally = Counter(finding.severity for finding in findings)
    parts = [count(tally[name], name) for name in _SEVERITIES if tally[name]]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "nothing"


def by_weight(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, then by place."""
    return sorted(findings, key=lambda finding: (_SEVERITIES.index(finding.severity), finding))


def file_link(view: PullRequestView, file: str, line: int) -> str:
    url = f"{view.repository_url}/blob/{view.head}/{quote(file)}#L{line}"
    return link(clip(f"{file}:{line}", 160), url)


def headline(view: PullRequestView) -> tuple[str, str, str, str]:
    """Title, where it stands, what is next, whose turn."""
    sha = code(view.head[:10])
    author = text(view.author)
    errors = sum(finding.severity == "error" for finding in view.findings)
    retry = "comment `/retry`"
    match view.state:
        case "waiting":
            return (
                "Waiting for a turn",
                f"{sha} is in the queue.{_queue(view)}",
                "Wait; the work begins by itself.",
                "Treewright",
            )
        case "checking":
            return "Checking", f"The validator reads {sha}.{_usual(view)}", "Wait a moment.", "Treewright"
        case "fix":
            return (
                f"{count(errors, 'error')} to fix",
                f"The validator found {severities(view.findings)} in {sha}.",
                "Push a commit that fixes them. This comment and the check follow by themselves.",
                author,
            )
        case "previewing":
            return (
                "Previewing",
                f"The validator is content with {sha}. The teacher writes a few samples.",
                f"Wait.{_usual(view) or ' This takes a minute or a few.'}",
                "Treewright",
            )
        case "preview_failed":
            return (
                "The preview did not work",
                f"The validator is content with {sha}, but the preview failed: {words(view.trouble, 600)}",
                f"Look at the reason; then {retry}.",
                "a maintainer",
            )
        case "ready":
            return (
                "Ready for a maintainer",
                f"The validator is content with {sha} and the preview is below.{_barren(view)}",
                "A maintainer reads the preview and comments `/approve`, or says what to improve.",
                "a maintainer",
            )
        case "nothing_to_learn":
            return (
                "Ready for a maintainer",
                f"The validator is content with {sha}. It changes no leaf that could be previewed.",
                "A maintainer reads the change and comments `/approve`.",
                "a maintainer",
            )
        case "held":
            return (
                "On hold",
                f"{text(view.held_by)} put this pull request on hold.",
                "Nothing is previewed or merged until a maintainer comments `/hold off`.",
                "a maintainer",
            )
        case "closed":
            return "Closed", "This pull request was closed without a merge.", "Nothing.", "nobody"
        case "merged":
            return (
                "Merged",
                f"{_approved(view)}, {_merged(view)}.",
                "Nothing: there is no release for it.",
                "nobody",
            )
        case "releasing":
            run = f" {link('Follow the run', view.run_url)}." if view.run_url else ""
            return (
                "Merged, release under way",
                f"{_approved(view)}, {_merged(view)}.{run}",
                "The runners generate the data, tune, benchmark and publish. The result comes here.",
                "Treewright",
            )
        case "released":
            where = f" {link('See the release', view.release_url)}." if view.release_url else ""
            return (
                "Released",
                f"{_approved(view)}, {_merged(view)}, and the model is out.{where}",
                "Nothing: the result is in the last comment.",
                "nobody",
            )
        case "release_failed":
            run = f" {link('See the run', view.run_url)}." if view.run_url else ""
            return (
                "Merged, but the release failed",
                f"{_approved(view)}, {_merged(view)}. {words(view.trouble, 600)}{run}",
                f"Look at the run; then {retry}. What was finished is not done again.",
                "a maintainer",
            )
        case "trouble":
            return (
                "Something went wrong here",
                f"The work on {sha} stopped: {words(view.trouble, 600)}",
                f"If it looks like a hiccup, {retry}; else ask whoever runs this bot.",
                "a maintainer",
            )


def _queue(view: PullRequestView) -> str:
    if view.turn is None:
        return ""
    ahead = count(view.turn.ahead, "job is", "jobs are")
    place = f" {ahead} ahead of it, as of this writing." if view.turn.ahead else " It is the next one."
    return place + _usual(view)


def _usual(view: PullRequestView) -> str:
    """The estimate, only when it was measured."""
    if view.turn is None or view.turn.seconds is None:
        return ""
    return f" Such work usually takes {duration(view.turn.seconds)} here (median of the last ones)."


def duration(seconds: float) -> str:
    """`8 seconds`, `3 minutes`, `2.5 hours`: as exact as an estimate is."""
    if seconds < 90:
        return count(max(1, round(seconds)), "second")
    if seconds < 5400:
        return count(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def _barren(view: PullRequestView) -> str:
    """A leaf from which nothing could be made would teach nothing; say so at the top."""
    leaves = view.preview["leaves"] if view.preview is not None else ()
    bare = [str(leaf["leaf"]) for leaf in leaves if not any(one["passed"] for one in leaf["samples"])]
    if not bare:
        return ""
    names = ", ".join(code(name, 160) for name in bare[:5])
    return f" **No sample passed for {names}**: see the reasons before you approve."


def _approved(view: PullRequestView) -> str:
    who = text(view.approved_by)
    return f"{who} approved {code(view.head)}" if who else f"{code(view.head)} was merged by hand"


def _merged(view: PullRequestView) -> str:
    return f"merged as {code(view.merge_sha[:10])}" if view.merge_sha else "merged"


def finding_line(finding: Finding, where: str) -> str:
    """One finding as a list item: place, rule, what is wrong, what to do."""
    what = f"- **{finding.severity}** {where} {words(finding.message, 600)}"
    fix = f"<br>**Fix:** {words(finding.help, 600)}" if finding.help else ""
    return f"{what}{fix} ({code(finding.rule, 80)})"


def _lint_section(view: PullRequestView) -> list[str]:
    if not view.findings:
        return []
    lines = [finding_line(one, file_link(view, one.file, one.line)) for one in by_weight(view.findings)]
    body = truncate(
        lines,
        _FINDINGS_BUDGET,
        lambda left: f"- {count(left, 'more finding is', 'more findings are')} in the check's annotations.",
        separator="\n",
    )
    return [f"#### What the validator found: {severities(view.findings)}", body]


def _change_words(change: Json) -> str:
    said = [
        count(int(change[f"seeds_{kind}"]), "seed example") + f" {kind}"
        for kind in ("added", "changed", "removed")
        if change[f"seeds_{kind}"]
    ]
    if change["change"] in {"changed", "renamed"}:
        said += ["source document changed"] if change["document_changed"] else []
        said += ["attribution changed"] if change["attribution_changed"] else []
    return ", ".join(said) or "no seed example"


def _changes_section(view: PullRequestView) -> list[str]:
    if not view.changes:
        return []
    rows = []
    for change in view.changes[:50]:
        old = f" (was {code(str(change['old_path']), 160)})" if change.get("old_path") else ""
        rows.append([code(str(change["path"]), 160) + old, str(change["change"]), _change_words(change)])
    more = len(view.changes) - len(rows)
    note = [f"{count(more, 'more leaf', 'more leaves')} left out."] if more > 0 else []
    return ["#### What changes", table(["leaf", "change", "what"], rows), *note]


def _cost_section(view: PullRequestView) -> list[str]:
    """What the release would ask of the models for these leaves: counts, before anybody runs it."""
    cost = view.cost
    if cost is None or not cost["leaves"]:
        return []
    rows = [
        [code(str(leaf["leaf"]), 160), *(f"{int(leaf[name]):,}" for name in _COSTS)]
        for leaf in cost["leaves"][:30]
    ]
    total, leaves = cost["total"], count(len(cost["leaves"]), "leaf", "leaves")
    if len(cost["leaves"]) > 1:
        rows.append([f"**all {leaves}**", *(f"{int(total[name]):,}" for name in _COSTS)])
    requests = int(total["teacher_requests"]) + int(total["judge_requests"])
    summary = f"What generating {leaves} will cost: {total['rows']:,} rows, about {requests:,} requests"
    how = "counted with the teacher's tokenizer" if cost.get("tokens") == "counted" else "estimated"
    body = table(["leaf", "rows", "to the teacher", "to the judge", "tokens read", "tokens written"], rows)
    return [fold(summary, f"{body}\n\nTokens read are {how}; tokens written are the most that there can be.")]


_COSTS = ("rows", "teacher_requests", "judge_requests", "prompt_tokens", "completion_tokens")


def _grade(sample: Json) -> str:
    grade = sample.get("grade")
    return "–" if grade is None else f"{float(grade):.2f}"


def leaf_preview(leaf: Json, budget: int = _PREVIEW_BUDGET) -> str:
    """What the preview of one leaf showed, with as many rows as fit the budget."""
    fitting = (shown for rows in (20, 8, 3) if size(shown := _leaf_preview(leaf, rows)) <= budget)
    return next(fitting, _leaf_preview(leaf, 1))


def _leaf_preview(leaf: Json, most: int) -> str:
    base, samples, rejected = leaf["base"], leaf["samples"], leaf["rejected"]
    right = sum(bool(answer["correct"]) for answer in base)
    passed = [sample for sample in samples if sample["passed"]]
    parts = [f"#### Preview of {code(str(leaf['leaf']), 160)}"]
    if base:
        rows = [
            [text(a["question"], _CELL), text(a["expected"], _CELL), text(a["answered"], _CELL), _tick(a)]
            for a in base[:most]
        ]
        parts.append(f"**Today the base model answers {right} of {count(len(base), 'seed question')}.**")
        parts.append(table(["question", "your answer", "the base model's answer", "right"], rows))
    parts.append(
        f"**The teacher wrote {count(int(leaf['requested']), 'row')}: {len(passed)} passed, "
        f"{len(rejected)} rejected.**"
    )
    if samples:
        rows = [
            [text(s["question"], _CELL), text(s["answer"], _CELL), _grade(s), "yes" if s["passed"] else "no"]
            for s in sorted(samples, key=lambda s: not s["passed"])[:most]
        ]
        shown = table(["question", "answer", "grade", "passed"], rows)
        sources = [
            f"- {text(s['question'], 120)}: {text(str(s['source']), _CELL)}"
            for s in passed[:most]
            if s.get("source") not in {"", s["answer"]}
        ]
        body = shown + ("\n\nWhere the answers come from:\n\n" + "\n".join(sources) if sources else "")
        parts.append(fold(f"{count(len(samples), 'sample')} with grades", body))
    if rejected:
        tally = Counter(f"{row['stage']}: {row['reason']}" for row in rejected)
        reasons = table(["reason", "rejected"], [[text(name), str(n)] for name, n in tally.most_common(12)])
        examples = "\n".join(
            f"- {text(str(row['reason']), 80)}: {text(str(row['text']), _CELL)}" for row in rejected[:most]
        )
        body = f"{reasons}\n\n{examples}"
        parts.append(fold(f"{count(len(rejected), 'rejection')} by reason", body))
    return "\n\n".join(parts)


def _tick(answer: Json) -> str:
    return "yes" if answer["correct"] else "no"


def _preview_section(view: PullRequestView) -> list[str]:
    if view.preview is None:
        return []
    body = truncate(
        [leaf_preview(leaf) for leaf in view.preview["leaves"]],
        _PREVIEW_BUDGET,
        lambda left: f"{count(left, 'more leaf is', 'more leaves are')} in the preview's check.",
    )
    names = ", ".join(
        f"{role} {code(str(view.preview[role]), 120)}"
        for role in ("teacher", "judge", "base")
        if view.preview.get(role)
    )
    rule = f" {text(str(view.preview['rule']), 400)}" if "rule" in view.preview else ""
    chart = charts.outcomes(view.preview["leaves"])
    picture = [fold("What became of the rows, as a chart", chart)] if chart else []
    return [body, *picture, f"Models: {names}.{rule}"]


def commands_fold(commands: Sequence[tuple[str, str, str]]) -> str:
    """`commands`: usage, who may, what it does."""
    rows = [[code(usage), who, what] for usage, who, what in commands]
    return fold("Commands", table(["comment", "who may", "what happens"], rows))


def pull_request_comment(view: PullRequestView) -> str:
    """The comment that is edited in place, within GitHub's budget; what was left out is said."""
    title, stands, following, who = headline(view)
    top = [
        view.marker,
        f"### {title}",
        f"**Where it stands.** {stands}\n\n**Next.** {following}\n\n**Whose turn.** {who}",
    ]
    bottom = [commands_fold(view.commands)] if view.commands else []
    middle = [
        *_lint_section(view),
        *config_changes.section(view.config, view.config_readable),
        *_changes_section(view),
        *_cost_section(view),
        *_preview_section(view),
    ]
    room = COMMENT_BUDGET - size("\n\n".join([*top, *bottom])) - 16
    body = truncate(middle, room, lambda left: "More did not fit; see the checks.") if middle else ""
    return "\n\n".join(part for part in [*top, body, *bottom] if part)


def percent(value: object) -> str:
    return "–" if not isinstance(value, int | float) else f"{100 * value:.1f} %"


def _score_row(score: Json) -> list[str]:
    low, high = score.get("low"), score.get("high")
    interval = f"{percent(low)} to {percent(high)}" if low is not None and high is not None else "–"
    name = text(str(score["name"]), 200)  # it names the measure, too: a leaf has a row for each
    return [
        name,
        str(score["items"]),
        percent(score["base"]),
        f"**{percent(score['candidate'])}**",
        interval,
    ]


def release_comment(report: Json, marker: str = "", release_url: str = "", number: int | None = None) -> str:
    """The last comment of a pull request: what the model learned, and where it is. `report`:
    `schemas/report.json`.
    """
    mine = {row["leaf"] for row in report["contributions"] if number in {None, row["pull_request"]}}
    examples = [row for row in report["examples"] if row["leaf"] in mine] or list(report["examples"])
    tag = text(str(report["tag"]), 80)
    release = f" ({link('release notes', release_url)})" if release_url else ""
    model, data = report["model"], report["dataset"]
    blocks = [
        f"### Released as {tag}",
        f"What you wrote is in a model now{release}. Thank you.",
        "\n".join(
            [
                f"- Model: {link(str(model['id']), str(model['url']))} at {code(str(model['revision']), 64)}",
                f"- Data set: {link(str(data['id']), str(data['url']))} at {code(str(data['revision']), 64)}",
                f"- Gate: **{text(str(report['verdict']), 40)}**",
            ]
        ),
    ]
    if examples:
        rows = [
            [
                text(str(row["question"]), _CELL),
                text(str(row["expected"]), _CELL),
                text(str(row["base"]), _CELL),
                text(str(row["candidate"]), _CELL),
            ]
            for row in examples[:12]
        ]
        blocks.append("#### Held-out questions, before and after")
        blocks.append("Nobody trained on these: they were set aside before the data was generated.")
        blocks.append(table(["question", "expected", "before", "after"], rows))
    order = {"pooled": 0, "leaf": 1, "general": 2}
    scores = sorted(report["scores"], key=lambda score: order.get(str(score["kind"]), 3))
    if scores:
        blocks.append("#### Scores")
        headers = ["set", "items", "base", "this model", "95 % interval of the gain"]
        blocks.append(table(headers, [_score_row(score) for score in scores[:60]]))
    rows = [
        [code(str(row["leaf"]), 160), str(row["rows"]), percent(row["base"]), percent(row["candidate"])]
        for row in report["contributions"]
        if row["leaf"] in mine
    ]
    if rows:
        blocks.append(
            fold("Rows of training data by leaf", table(["leaf", "rows", "base", "this model"], rows))
        )
    head = [marker] if marker else []
    return "\n\n".join(
        [
            *head,
            truncate(
                blocks, COMMENT_BUDGET - size(marker) - 8, lambda left: "More is in the release's notes."
            ),
        ]
    )
