"""A preview for a terminal: plain lines. What contributors and models wrote can send nothing to the terminal.

Findings are shown by `lab/taxonomy/render.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lab.report.comment import count
from lab.report.markdown import plain


def _line(words: str, limit: int = 4000) -> str:
    return " ".join(plain(words, limit).split())


def preview(value: Mapping[str, Any]) -> list[str]:
    """A preview (`schemas/preview.json`): for each leaf the base model's answers, the rows that passed with
    their grades, and how many were rejected for which reason.
    """
    if not value["leaves"]:
        return ["No leaf differs from the base."]
    lines = [line for leaf in value["leaves"] for line in _leaf(leaf)]
    models = f"Teacher {value['teacher']}, judge {value['judge']}, base model {value['base']}"
    return [*lines, "", _line(models), value["rule"], f"Digest {value['digest']}"]


def _leaf(leaf: Mapping[str, Any]) -> list[str]:
    base, samples, rejected = leaf["base"], leaf["samples"], leaf["rejected"]
    right = sum(answer["correct"] for answer in base)
    lines = ["", f"{_line(leaf['leaf'])} ({leaf['kind']}, {leaf['seconds']:.0f} s)"]
    lines.append(f"  The base model answers {right} of {count(len(base), 'seed question')} correctly today:")
    for answer in base:
        lines.append(f"    {'right' if answer['correct'] else 'wrong'}  {_line(answer['question'])}")
        lines.append(f"           {_line(answer['answered'])}")
    passed = [sample for sample in samples if sample["passed"]]
    lines.append(f"  {len(passed)} of {count(leaf['requested'], 'row')} passed:")
    for sample in passed:
        grade = "    " if sample["grade"] is None else f"{sample['grade']:.2f}"
        lines.append(f"    {grade}   {_line(sample['question'])}")
        lines.append(f"           {_line(sample['answer'])}")
    for reason, number in sorted(Counter(one["reason"] for one in rejected).items()):
        example = next(one["text"] for one in rejected if one["reason"] == reason)
        lines.append(f"    rejected {number}: {_line(reason)}, such as {_line(example, 120)}")
    return lines
