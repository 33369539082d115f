"""Reading what a model wrote. Model output is hostile: a parser gives one whole value or `None`, and never
raises.

The predecessor zipped tag columns found anywhere in a completion, so that one missing tag paired a question
with the next item's answer. Here a completion that is asked for one item and holds more is refused, and one
that is asked for several (`pairs`) is read in order: an item is whole, or it is lost with a reason, and what
comes after it keeps its own partner. A question never meets an answer that another completion gave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lab.synthesis.text import has_marks

Parsed = Mapping[str, str]
_LIMIT = 8000
_SPACES = re.compile(r"\s+")
_SPEAKER = re.compile(r"^[^\S\n]*(?:user|question|human)\s*:", re.IGNORECASE | re.MULTILINE)
_LABEL = re.compile(r"^(?:question|answer|q|a|output|response)\s*:\s*", re.IGNORECASE)


_PAIRS = 32
"""Pairs of one completion that are read at most."""
_PAIR = re.compile("<pair>")
_QUESTION = re.compile("<question>([^<]*)</question>")
_ANSWER = re.compile("<answer>([^<]*)</answer>")


@dataclass(frozen=True)
class Items:
    """What was read of a completion with several items: the whole ones in order, and the (reason, text) of
    each lost one.
    """

    found: tuple[Parsed, ...]
    lost: tuple[tuple[str, str], ...]

    def told(self) -> str:
        """What a model has to know to write the lost ones again."""
        if not self.lost:
            return f"Wanted: {WANTED['pairs']}."
        reasons = "; ".join(f"{reason}: {text[:120]}" for reason, text in self.lost[:5])
        return f"{len(self.found)} pairs were read, these were not ({reasons}). Write only those."


def _tidy(text: object) -> str:
    """One line of text without quotes around it, labels before it or chat markup in it; empty when
    unusable.
    """
    if not isinstance(text, str) or len(text) > _LIMIT or has_marks(text) or "\x00" in text:
        return ""
    line = _SPACES.sub(" ", text).strip()
    if len(line) >= 2 and line[0] == line[-1] and line[0] in "\"'`":
        line = line[1:-1].strip()
    return _LABEL.sub("", line)


def unfenced(text: str) -> str:
    """Without the code fence that models like to put around JSON. No pattern: on empty lines without an end
    one took seconds, for every other row too."""
    opening, _, rest = text.strip().partition("\n")
    fenced = opening.rstrip() in {"```", "```json"} and rest.endswith("\n```")
    return rest.removesuffix("```") if fenced else text


def _object(text: str, *fields: str) -> Parsed | None:
    """A JSON object with exactly these text fields, nothing before it and nothing after it."""
    if len(text) > _LIMIT:
        return None
    try:
        value = json.loads(unfenced(text))
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
    if not body or len(body) > _LIMIT or has_marks(body) or "\x00" in body:
        return None
    if _SPEAKER.search(body):
        return None
    said = _LABEL.sub("", body).strip()
    return {"answer": said} if said else None


def text(said: str) -> Parsed | None:
    """A whole text of one speaker, such as a summary or a list; the value has the cell's own name."""
    found = answer(said)
    return {"text": found["answer"]} if found else None


def pairs(said: str) -> Items:
    """`{"pairs": [{"question": ..., "answer": ...}, ...]}`, or in tags, each pair within `<pair>`:
    `<pair><question>`…`</question><answer>`…`</answer></pair>`.
    """
    if len(said) > _LIMIT * 4:
        return Items((), (("too-long", said[:200]),))
    try:
        value = json.loads(unfenced(said))
    except (ValueError, RecursionError):
        return _whole(_tagged(said))
    entries = value.get("pairs") if isinstance(value, dict) else value
    if not isinstance(entries, list):
        return Items((), (("no-pairs", said[:200]),))
    return _whole(
        [
            (one.get("question"), one.get("answer")) if isinstance(one, dict) else (None, None)
            for one in entries
        ]
    )


def still_lost(before: Sequence[tuple[str, str]], again: Items) -> tuple[tuple[str, str], ...]:
    """What of the lost items a second answer did not bring: those whose text is in none of its pairs, but for
    one for each pair that is new in all its words.
    """
    texts = {text for item in again.found for text in item.values()}
    known = {text for _, text in before}
    rest = [one for one in before if one[1] not in texts]
    new = sum(not known.intersection(item.values()) for item in again.found)
    return tuple(rest[new:])


def _tagged(said: str) -> list[tuple[object, object]]:
    """Question and answer of each `<pair>`. Without that border a question whose answer is missing would
    meet the answer whose question is missing, and nobody could tell. A block with several of one kind is no
    pair.
    """
    found: list[tuple[object, object]] = []
    for block in _PAIR.split(said)[1:]:
        inside = block.partition("</pair>")[0]
        asked, answered = _QUESTION.findall(inside), _ANSWER.findall(inside)
        if len(asked) > 1 or len(answered) > 1:
            found.append((None, None))
        else:
            found.append((asked[0] if asked else None, answered[0] if answered else None))
    return found


def _whole(entries: Sequence[tuple[object, object]]) -> Items:
    """Entries with both parts usable; the others by what they lack."""
    found: list[Parsed] = []
    lost: list[tuple[str, str]] = []
    for asked, said in entries[:_PAIRS]:
        question_, answer_ = _tidy(asked), _tidy(said)
        if question_ and answer_:
            found.append({"question": question_, "answer": answer_})
        elif question_:
            lost.append(("missing-answer", question_))
        elif answer_:
            lost.append(("missing-question", answer_))
        else:
            lost.append(("missing-both", str(asked)[:200]))
    return Items(tuple(found), tuple(lost))


PARSERS: Mapping[str, Callable[[str], Parsed | Items | None]] = {
    "question": question,
    "task": task,
    "grounded_task": grounded_task,
    "answer": answer,
    "text": text,
    "pairs": pairs,
}

PROSE = frozenset({"answer", "text"})
"""Parsers of running text, which may end anywhere; the others want a form that ends."""

WANTED: Mapping[str, str] = {
    "question": 'one question, as {"question": "..."}',
    "task": 'one task, as {"task": "..."}',
    "grounded_task": 'one text with its task, as {"text": "...", "task": "..."}',
    "answer": "the answer alone, of one speaker",
    "text": "the text alone, of one speaker",
    "pairs": 'every pair whole, as {"pairs": [{"question": "...", "answer": "..."}]}',
}
"""What each parser reads, in words for the model that wrote something else."""
