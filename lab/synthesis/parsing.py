"""Reading what a model wrote. Model output is hostile: a parser gives one whole value or `None`, and never
raises.

The predecessor zipped tag columns found anywhere in a completion, so that one missing tag paired a question
with the next item's answer. Here every completion is asked for exactly one item, a completion that holds
more than one is refused, and a question never meets an answer that another completion gave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

Parsed = Mapping[str, str]
_LIMIT = 8000
_SPACES = re.compile(r"\s+")
_LABEL = re.compile(r"^(?:question|answer|q|a|output|response)\s*:\s*", re.IGNORECASE)


def _tidy(text: object) -> str:
    """One line of text without quotes around it, labels before it or chat markup in it; empty when
    unusable.
    """
    if not isinstance(text, str) or len(text) > _LIMIT or "<|" in text or "\x00" in text:
        return ""
    line = _SPACES.sub(" ", text).strip()
    if len(line) >= 2 and line[0] == line[-1] and line[0] in "\"'`":
        line = line[1:-1].strip()
    return _LABEL.sub("", line)


def _object(text: str, *fields: str) -> Parsed | None:
    """A JSON object with exactly these text fields, nothing before it and nothing after it."""
    if len(text) > _LIMIT:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or set(value) != set(fields):
        return None
    found = {field: _tidy(value[field]) for field in fields}
    return found if all(found.values()) else None


def question(text: str) -> Parsed | None:
    """`{"question": ...}`, or one plain line that ends in a question mark."""
    found = _object(text, "question")
    if found is not None:
        return found
    lines = [line for line in text.splitlines() if line.strip()] if len(text) <= _LIMIT else []
    if len(lines) != 1 or lines[0].lstrip().startswith(("{", "[")):
        return None
    line = _tidy(lines[0])
    return {"question": line} if line.endswith("?") and line.count("?") == 1 else None


def task(text: str) -> Parsed | None:
    """`{"task": ...}`: an instruction, which need not be a question."""
    found = _object(text, "task")
    return {"question": found["task"]} if found else None


def grounded_task(text: str) -> Parsed | None:
    """`{"text": ..., "task": ...}`: a context and an instruction about it, from one completion."""
    found = _object(text, "text", "task")
    return {"context": found["text"], "question": found["task"]} if found else None


def answer(text: str) -> Parsed | None:
    """The whole completion as the answer: several lines are welcome, several speakers are not."""
    body = text.strip()
    if not body or len(body) > _LIMIT or "<|" in body or "\x00" in body:
        return None
    if re.search(r"^\s*(?:user|question|human)\s*:", body, re.IGNORECASE | re.MULTILINE):
        return None
    said = _LABEL.sub("", body).strip()
    return {"answer": said} if said else None


PARSERS: Mapping[str, Callable[[str], Parsed | None]] = {
    "question": question,
    "task": task,
    "grounded_task": grounded_task,
    "answer": answer,
}
