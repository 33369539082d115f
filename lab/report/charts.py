"""Charts as Mermaid, where a picture says more than a table. GitHub draws a fenced block of this language.

Every word in a chart passes `_label`: letters, digits and a few marks, so that no text, whoever wrote it,
can end a string, a line or the block, or give Mermaid a directive, a link or HTML.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from lab.report.markdown import clip, code_block

_MOST_SLICES = 8
_FEWEST = 4  # below that a sentence says it as well
_WIDTH = 36


def _label(text: str) -> str:
    flat = " ".join(re.sub(r"[^A-Za-z0-9 ,._-]+", " ", text).split())
    return clip(flat, _WIDTH).replace("…", "") or "other"


def pie(title: str, slices: Mapping[str, int] | Sequence[tuple[str, int]]) -> str:
    """A pie of counts in the given order, `""` when there is too little for a picture."""
    rows = list(slices.items()) if isinstance(slices, Mapping) else list(slices)
    named: Counter[str] = Counter()
    for name, number in rows:
        if number > 0:
            named[_label(name)] += number
    if len(named) < 2 or named.total() < _FEWEST:
        return ""
    shown = list(named.items())
    rest = sum(number for _, number in shown[_MOST_SLICES - 1 :]) if len(shown) > _MOST_SLICES else 0
    if rest:
        shown = [*shown[: _MOST_SLICES - 1], ("other reasons", rest)]
    lines = [f'    "{name}" : {number}' for name, number in shown]
    return code_block("\n".join([f"pie showData title {_label(title)}", *lines]), "mermaid")


def outcomes(leaves: Sequence[Mapping[str, object]]) -> str:
    """What became of the rows that the teacher wrote for a preview: passed, or rejected by which reason."""
    passed, reasons = 0, Counter[str]()
    for leaf in leaves:
        samples, rejected = leaf["samples"], leaf["rejected"]
        passed += sum(bool(sample["passed"]) for sample in samples)  # type: ignore[attr-defined]  # values of JSON
        reasons.update(f"{row['stage']}, {row['reason']}" for row in rejected)  # type: ignore[attr-defined]  # values of JSON
    return pie("What became of the rows", [("passed", passed), *reasons.most_common()])
