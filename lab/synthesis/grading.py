"""What a judge's answer is worth as a number between 0 and 1; `None` when the judge did not answer what it
was asked.

A grader is a pure function of the judge's text, the likelihoods of its first token, and the row. A small
judge says
the same word to nearly everything, so `yes_no` reads how sure it is, and `round_trip` does not ask for a
verdict at
all: the judge, shown the whole chunk, answers the question, and its answer has to lead back to the sentence
that the
question was made from (round-trip consistency, Alberti et al. 2019, arXiv 1906.05416). Measured on the
embedded
model with questions that people wrote: yes-or-no tells right from wrong with an area under the curve of
0.6; the round
trip led back to the right one of four sentences in 22 of 24 cases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lab.synthesis.checks import Values
from lab.synthesis.parsing import unfenced
from lab.synthesis.text import content_words, harmless, shared

_VERDICT = re.compile(r"<verdict>([^<]*)</verdict>", re.IGNORECASE)
_REASON = 300

Grader = Callable[[str, Mapping[str, float], Values], float | None]


def yes_no(text: str, likelihoods: Mapping[str, float], row: Values) -> float | None:
    """P(yes) / (P(yes) + P(no)) where the server tells likelihoods, otherwise 1 or 0 by the word."""
    yes, no = likelihoods.get("yes", 0.0), likelihoods.get("no", 0.0)
    if yes + no > 0:
        return round(yes / (yes + no), 4)
    match = re.match(r"\W*(yes|no)\b", text[:100].lower())
    return None if match is None else float(match.group(1) == "yes")


def one_to_three(text: str, likelihoods: Mapping[str, float], row: Values) -> float | None:
    """A mark of 1, 2 or 3 as 0, 0.5 or 1: the scale of LAB's pair judge. The mark must be the whole
    answer.
    """
    match = re.fullmatch(r"\W*(?:score\W*)?([123])\W*", text[:100].strip().lower())
    return None if match is None else (int(match.group(1)) - 1) / 2


def round_trip(text: str, likelihoods: Mapping[str, float], row: Values) -> float | None:
    """Overlap of the judge's answer with the question's own sentence, against the best other sentence: 1
    when only the own sentence fits, 0.5 at a tie, 0 when only another fits."""
    said = content_words(text)
    own = shared(content_words(row.source), said)
    other = max((shared(content_words(one), said) for one in row.siblings if one != row.source), default=0.0)
    return None if own + other == 0 else round(own / (own + other), 4)


def verdict(text: str, scale: Sequence[str]) -> float | None:
    """The place of the judge's verdict on its scale, between 0 (first) and 1 (last). The verdict is the field
    `verdict` of a JSON object, or stands in `<verdict>` tags, once; a word that is not on the scale, or two
    verdicts, are none.
    """
    words = [word.casefold() for word in scale]
    value = _object(text)
    said = _VERDICT.findall(text[:20_000]) if value is None else [str(value.get("verdict", ""))]
    found = {word.strip().casefold() for word in said}
    if len(found) != 1 or not found <= set(words):
        return None
    return words.index(found.pop()) / (len(words) - 1)


def reason(text: str) -> str:
    """Why a judge says what it says, in one line for the ledger; empty when it gave no reason."""
    value = _object(text)
    said = str(value.get("reason", "")) if value is not None else _VERDICT.sub("", text[:20_000])
    line = " ".join(harmless(said).split())
    return line[:_REASON] if len(line.split()) > 1 else ""


def _object(text: str) -> dict[str, Any] | None:
    if len(text) > 20_000:
        return None
    try:
        value = json.loads(unfenced(text))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def grade(
    options: Mapping[str, Any], text: str, likelihoods: Mapping[str, float], row: Values
) -> float | None:
    """By the grader that a judge's cell names."""
    if options["grader"] == "verdict":
        return verdict(text, options["scale"])
    return SCORES[options["grader"]](text, likelihoods, row)


SCORES: Mapping[str, Grader] = {"yes_no": yes_no, "one_to_three": one_to_three, "round_trip": round_trip}
GRADERS = (*SCORES, "verdict")
"""The names that a flow may use."""
