"""Check runs: "treewright / lint", "treewright / preview" and "treewright / release", as values to send.

GitHub's limits (REST API, checks): 50 annotations a request, 65,535 characters of summary, 64 KB of message,
255 characters of an annotation's title, three buttons with labels of 20, descriptions of 40 and identifiers
of 20 characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lab.report.comment import (
    PullRequestView,
    by_weight,
    count,
    file_link,
    finding_line,
    leaf_preview,
    severities,
)
from lab.report.markdown import SUMMARY_BUDGET, clip_bytes, code, link, plain, truncate, words
from lab.taxonomy.findings import Finding

ANNOTATIONS_A_REQUEST = 50
BYTES_A_REQUEST = 512 * 1024
"""GitHub names no limit of a request's bytes; this one is ours."""
_MESSAGE_BYTES = 60_000
"""GitHub's limit of a message and of raw details is 64 KB each."""
MOST_ANNOTATIONS = 1000
_LEVELS = {"error": "failure", "warning": "warning", "note": "notice"}

Conclusion = Literal["success", "failure", "neutral", "cancelled", "action_required"]


@dataclass(frozen=True)
class Button:
    label: str
    description: str
    identifier: str


@dataclass(frozen=True)
class Check:
    """`conclusion` None means that it is still running."""

    name: str
    title: str
    summary: str
    conclusion: Conclusion | None = None
    annotations: tuple[Mapping[str, Any], ...] = ()
    buttons: tuple[Button, ...] = ()
    details_url: str = ""

    def batches(self, sent: int = 0) -> Iterator[list[Mapping[str, Any]]]:
        """The annotations that are still to send: at most 50 at a time, and no more bytes than one request
        may have. One annotation always fits.
        """
        batch: list[Mapping[str, Any]] = []
        room = BYTES_A_REQUEST
        for row in self.annotations[sent:]:
            needed = len(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
            if batch and (len(batch) == ANNOTATIONS_A_REQUEST or needed > room):
                yield batch
                batch, room = [], BYTES_A_REQUEST
            batch.append(row)
            room -= needed
        if batch:
            yield batch


LINT = "treewright / lint"
PREVIEW = "treewright / preview"
RELEASE = "treewright / release"
AGAIN = Button("Check again", "Runs the validator once more", "lint")
PREVIEW_AGAIN = Button("Preview again", "Asks the models once more", "preview")
RETRY = Button("Try again", "Repeats what failed", "retry")


def annotation(finding: Finding) -> dict[str, Any]:
    """A finding at its line. Annotations are plain text, not Markdown."""
    fix = f"\n\nFix: {finding.help}" if finding.help else ""
    place: dict[str, Any] = {
        "path": plain(finding.file, 1000),
        "start_line": max(1, finding.line),
        "end_line": max(1, finding.line),
        "annotation_level": _LEVELS[finding.severity],
        "title": plain(finding.rule, 255),
        "message": clip_bytes(plain(finding.message + fix, 8000), _MESSAGE_BYTES) or finding.rule,
    }
    if finding.suggestion:
        place["raw_details"] = clip_bytes(plain(finding.suggestion, 8000), _MESSAGE_BYTES)
    return place


def lint_check(view: PullRequestView) -> Check:
    """The finished lint check of a head: red when there is an error."""
    findings = by_weight(view.findings)
    red = any(finding.severity == "error" for finding in findings)
    title = severities(findings) if findings else f"{count(view.files, 'file')} in order"
    lines = [finding_line(one, file_link(view, one.file, one.line)) for one in findings]
    read = f"The validator read {count(view.files, 'file')} of {code(view.head)}"
    top = f"{read} and found {severities(findings)}."
    cut = len(findings) - MOST_ANNOTATIONS
    note = f"\n\nThe first {MOST_ANNOTATIONS} are annotated." if cut > 0 else ""
    body = truncate(
        lines,
        SUMMARY_BUDGET - 2000,
        lambda left: f"- {count(left, 'more finding')} did not fit.",
        separator="\n",
    )
    return Check(
        LINT,
        title[:1].upper() + title[1:],
        f"{top}{note}\n\n{body}".strip(),
        "failure" if red else "success",
        tuple(annotation(finding) for finding in findings[:MOST_ANNOTATIONS]),
        (AGAIN,),
    )


def running(name: str, title: str, summary: str, details_url: str = "") -> Check:
    return Check(name, title, summary, details_url=details_url)


def preview_check(view: PullRequestView) -> Check:
    """The finished preview check. It informs and never blocks: a failed preview is neutral, and can be
    tried again.
    """
    if view.preview is None:
        trouble = words(view.trouble, 2000) or "There is no leaf to preview."
        title = "The preview did not work" if view.trouble else "Nothing to preview"
        buttons = (RETRY,) if view.trouble else ()
        return Check(PREVIEW, title, trouble, "neutral", buttons=buttons)
    leaves = view.preview["leaves"]
    asked = sum(len(leaf["base"]) for leaf in leaves)
    right = sum(bool(answer["correct"]) for leaf in leaves for answer in leaf["base"])
    passed = sum(bool(sample["passed"]) for leaf in leaves for sample in leaf["samples"])
    rejected = sum(len(leaf["rejected"]) for leaf in leaves)
    body = truncate(
        [leaf_preview(leaf) for leaf in leaves],
        SUMMARY_BUDGET - 500,
        lambda left: f"{count(left, 'more leaf', 'more leaves')} did not fit.",
    )
    title = f"{passed} samples passed, {rejected} rejected; the base model knows {right} of {asked}"
    return Check(PREVIEW, title, body, "success", buttons=(PREVIEW_AGAIN,))


def release_check(state: str, key: str, run_url: str, trouble: str = "", release_url: str = "") -> Check:
    """The release that a pull request went into, shown on its head."""
    run = f" {link('Follow the run', run_url)}." if run_url else ""
    if state == "published":
        where = f" {link('See the release', release_url)}." if release_url else ""
        return Check(
            RELEASE, "Released", f"The model is out.{where}{run}", "success", details_url=release_url
        )
    if state == "failed":
        why = words(trouble, 2000) or "The release workflow failed."
        return Check(
            RELEASE, "The release failed", f"{why}{run}", "failure", buttons=(RETRY,), details_url=run_url
        )
    titles = {"dispatching": "Starting", "queued": "Waiting for a runner", "running": "Under way"}
    summary = f"Release {code(key)}.{run}"
    return Check(RELEASE, titles.get(state, "Under way"), summary, details_url=run_url)


def superseded(name: str) -> Check:
    return Check(name, "Superseded", "A newer commit took this one's place.", "cancelled")


def stopped(name: str, why: str) -> Check:
    """Work that was given up. A lint that did not happen must not look green, so it is a failure."""
    conclusion: Conclusion = "failure" if name == LINT else "neutral"
    return Check(name, "Stopped", words(why, 2000), conclusion, buttons=(RETRY,))


__all__: Sequence[str] = [
    "AGAIN",
    "ANNOTATIONS_A_REQUEST",
    "LINT",
    "PREVIEW",
    "RELEASE",
    "Button",
    "Check",
    "annotation",
    "lint_check",
    "preview_check",
    "release_check",
    "running",
    "stopped",
    "superseded",
]
