"""Findings and previews for a terminal: plain lines, aligned, without control characters from contributed
text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.report.comment import by_weight, count, severities
from lab.report.markdown import plain
from lab.taxonomy.findings import Finding


def _line(words: str, limit: int = 400) -> str:
    return " ".join(plain(words, limit).split())


def findings(found: Sequence[Finding], files: int) -> list[str]:
    """`file:line:column: severity: message [rule]`, the fix below it, and a last line that counts."""
    lines: list[str] = []
    for one in by_weight(found):
        place = f"{_line(one.file)}:{one.line}:{one.column}"
        lines.append(f"{place}: {one.severity}: {_line(one.message)} [{_line(one.rule)}]")
        if one.help:
            lines.append(f"    fix: {_line(one.help)}")
    lines.append(f"{count(files, 'file')} read, {severities(found)} found")
    return lines


def preview(value: Mapping[str, Any]) -> list[str]:
    """A preview (`schemas/preview.json`) in a few lines for each leaf."""
    lines: list[str] = []
    for leaf in value["leaves"]:
        base, samples = leaf["base"], leaf["samples"]
        right = sum(bool(answer["correct"]) for answer in base)
        passed = [sample for sample in samples if sample["passed"]]
        lines.append(f"{_line(leaf['leaf'])} ({leaf['kind']})")
        lines.append(f"  the base model answers {right} of {count(len(base), 'seed question')}")
        lines.append(
            f"  {len(passed)} of {count(len(samples), 'sample')} passed, {len(leaf['rejected'])} rejected"
        )
        for sample in passed[:5]:
            grade = "" if sample["grade"] is None else f"  ({float(sample['grade']):.2f})"
            lines.append(f"    Q {_line(sample['question'], 200)}")
            lines.append(f"    A {_line(sample['answer'], 200)}{grade}")
    return lines
