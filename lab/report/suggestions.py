"""Machine-made fixes as GitHub suggestions: which lines they replace, and the words of each review comment.

A finding that carries the whole mended line becomes a review comment with a `suggestion` block, so that its
author takes it by one click. Neighbouring lines with the same kind of mistake make one comment. GitHub shows
(and takes) comments only on lines that the pull request's diff shows, so the caller says which these are.

A suggestion is written into the file as it stands, so here nothing is escaped: a text that cannot be shown
as it is (control or hidden characters) is not offered at all, and the fence is longer than any in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lab.canonical import digest
from lab.report.markdown import code, plain, size, words
from lab.taxonomy.findings import Finding, Severity

Ranges = Sequence[tuple[int, int]]
"""First and last line (from 1) of each hunk on the new side of a file's diff."""

_WEIGHT: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
_MOST_BYTES = 16_000  # of one suggestion; a comment holds 65,536 characters
_MOST_LINES = 60
_MARKER = re.compile(r"<!-- treewright:suggestion:([0-9a-f]{20}) -->")


@dataclass(frozen=True)
class Suggestion:
    """`text` takes the place of the lines `first` to `last` of `file`."""

    file: str
    first: int
    last: int
    text: str
    finding: Finding

    @property
    def key(self) -> str:
        """The same for the same mend of the same mistake, wherever in the file the line has moved to."""
        return digest([self.finding.rule, self.file, self.text]).removeprefix("sha256:")[:20]


def marker(key: str) -> str:
    return f"<!-- treewright:suggestion:{key} -->"


def key_in(body: str) -> str | None:
    """The key of a comment that `body()` wrote."""
    found = _MARKER.match(body)
    return found.group(1) if found else None


def suggestions(findings: Iterable[Finding], shown: Mapping[str, Ranges]) -> list[Suggestion]:
    """What can be offered, errors first; `shown` by file."""
    chosen: dict[tuple[str, int], Finding] = {}
    for finding in sorted(findings, key=lambda one: (_WEIGHT[one.severity], one)):
        if finding.suggestion is None or not _showable(finding.suggestion):
            continue
        place = finding.file, finding.line
        if place not in chosen:
            chosen[place] = finding
        elif "trailing-space" in (chosen[place].rule, finding.rule):
            # The one other suggestion for a line that goes with any: without the spaces at its end.
            kept = chosen[place] if chosen[place].rule != "trailing-space" else finding
            chosen[place] = _without_trailing(kept)
    made: list[Suggestion] = []
    for (file, line), finding in sorted(chosen.items()):
        hunk = next((span for span in shown.get(file, ()) if span[0] <= line <= span[1]), None)
        if hunk is None:
            continue
        text = finding.suggestion or ""
        last = made[-1] if made else None
        if last is not None and _goes_on(last, finding, hunk, text):
            made[-1] = Suggestion(file, last.first, line, f"{last.text}\n{text}", last.finding)
        else:
            made.append(Suggestion(file, line, line, text, finding))
    return sorted(made, key=lambda one: (_WEIGHT[one.finding.severity], one.file, one.first))


def _showable(text: str) -> bool:
    """Whether a page shows this text as it is, so that nobody takes what they have not seen."""
    flat = text.replace("\t", " ")
    return plain(f"|{flat}|", len(flat) + 2) == f"|{flat}|" and size(text) <= _MOST_BYTES


def _without_trailing(finding: Finding) -> Finding:
    bare = "\n".join(line.rstrip(" \t") for line in (finding.suggestion or "").split("\n"))
    return Finding(
        finding.file, finding.line, finding.column, finding.rule, finding.severity, finding.message,
        finding.help, bare,
    )  # fmt: skip


def _goes_on(last: Suggestion, finding: Finding, hunk: tuple[int, int], text: str) -> bool:
    return (
        (last.file, last.last + 1, last.finding.rule) == (finding.file, finding.line, finding.rule)
        and hunk[0] <= last.first
        and last.last - last.first + 1 < _MOST_LINES
        and size(last.text) + size(text) < _MOST_BYTES
    )


def body(suggestion: Suggestion) -> str:
    """The whole review comment."""
    finding = suggestion.finding
    more = suggestion.last - suggestion.first
    likewise = f" The next {'line' if more == 1 else f'{more} lines'} likewise." if more else ""
    fix = f"<br>**Fix:** {words(finding.help, 600)}" if finding.help else ""
    said = f"**{finding.severity}** {words(finding.message, 600)}{likewise}{fix} ({code(finding.rule, 80)})"
    return f"{marker(suggestion.key)}\n{said}\n\n{block(suggestion.text)}"


def block(text: str) -> str:
    """The fenced block that GitHub offers as a commit. An empty text is one empty line, not a removal."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}suggestion\n{text}\n{fence}"


def settled(body_before: str) -> str:
    """What stays of a comment that people answered, once its mistake is gone: no button to press by error."""
    said = body_before.partition("\n")[2].partition("\n\n```")[0]
    return (
        f"<!-- treewright:suggestion-settled -->\n~~{said}~~\n\nThis is settled: nothing is left to do here."
    )


# --- what is on the pull request already, and what to do about it
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offered:
    """One of our comments on the pull request. `line` is None when it is outdated."""

    id: int
    key: str
    line: int | None
    answered: bool


@dataclass(frozen=True)
class Steps:
    """`settle` are comments that people answered: they stay, without their suggestion."""

    create: tuple[Suggestion, ...]
    delete: tuple[int, ...]
    settle: tuple[int, ...]


def steps(
    wanted: Sequence[Suggestion], offered: Sequence[Offered], told: Mapping[str, int], most: int
) -> Steps:
    """Compare what should be offered with what is. `told` counts by key what was ever written and not taken
    back by us: what is missing of it was deleted by people, and is not offered again. At most `most` stand.
    """
    create: list[Suggestion] = []
    delete: list[int] = []
    settle: list[int] = []
    groups: dict[str, list[Suggestion]] = {}
    for suggestion in wanted:
        groups.setdefault(suggestion.key, []).append(suggestion)
    standing = 0
    for key in {one.key: None for one in offered} | dict.fromkeys(groups):
        mine = [one for one in offered if one.key == key]
        live = [one for one in mine if one.line is not None]
        left = list(groups.get(key, ()))
        for exact in (True, False):
            for one in list(live):
                match = next((s for s in left if not exact or s.last == one.line), None)
                if match is not None:
                    left.remove(match)
                    live.remove(one)
                    standing += 1
        for one in live:  # it still stands at a line, but its mistake is gone: taking it would do harm
            (settle if one.answered else delete).append(one.id)
        gone = max(0, told.get(key, 0) - len(mine))
        fresh = left[gone:]
        create += fresh
        # What is outdated makes room for the same at its new place; else GitHub folds it, and it may stay.
        outdated = [one for one in mine if one.line is None and not one.answered]
        delete += [one.id for one in outdated[: len(fresh)]]
    order = {id(suggestion): index for index, suggestion in enumerate(wanted)}
    create.sort(key=lambda suggestion: order[id(suggestion)])
    return Steps(tuple(create[: max(0, most - standing)]), tuple(delete), tuple(settle))
