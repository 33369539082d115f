"""When a written answer counts as right: one stated rule, the same for base and candidate, no model involved.

The rule. Both texts are split into words (NFKC, case folded, possessive and plural `s` dropped; scripts
without spaces word by character). Of the expected answer only its *distinctive* words count: no function
words, and none that the question already says. An answer is right when

1. it holds at least 60 % of the distinctive words, each once however often it repeats one, and
2. when there are numbers among them, at least 60 % of those numbers, for a wrong year is a wrong answer, and
3. where the expected answer opens with yes or no, it opens with the same.

Where nothing is distinctive ("It is the same"), the answer must hold the whole expected answer in its
order. This is the recall half of SQuAD's token F1 (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1):
precision is left out since a chat model wraps its fact in a sentence; the length limit of the answers keeps
a list of every word from winning. What it cannot see: a right answer in other words, or much shorter than
the expected one.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

RECALL = 0.6
MAX_NEW_TOKENS = 40

_OPENINGS = {"yes": "yes", "yeah": "yes", "no": "no", "nope": "no"}
# Scripts that are written without spaces: Thai to Khmer, kana, CJK ideographs.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+")
_POSSESSIVE = re.compile(r"['’]s\b")


@dataclass(frozen=True)
class Scored:
    """One model's answer to one item, `score` from 0 to 1; `readable` is false when there was nothing to
    score (an empty answer, likelihoods that are not numbers, a judge's words without a mark)."""

    score: float
    text: str
    readable: bool = True


def words(text: str) -> list[str]:
    """The comparable words of a text, in order."""
    return [_form(word) for word in _WORD.findall(_POSSESSIVE.sub("", folded(text)))]


def folded(text: str) -> str:
    """The text without case, and without marks that are characters of their own: to a regular expression the
    vowel signs of Devanagari and its like are no letters, and would cut every word into single ones."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    if plain.isascii():
        return plain
    return "".join(letter for letter in plain if unicodedata.category(letter)[0] != "M")


def _form(word: str) -> str:
    if word[0].isdigit():
        return word.replace(",", "")
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


# Words that any English answer may hold without saying anything; negations are not among them.
_FUNCTION_WORDS = frozenset(
    _form(word)
    for line in (
        "a an the this that these those it its itself he him his she her hers they them their theirs we us",
        "our you your i me my mine and or but nor so as if than then too very also just only of in on at by",
        "to from for with without into onto over under up down out off about after before between through",
        "during is are was were be been being am do does did doing done have has had having will would shall",
        "should can could may might must there here who whom whose which what when where why how  while",
        "because since until each every any some all both more most other another such own same s t",
    )
    for word in line.split()
)


def distinctive(question: str, expected: str) -> frozenset[str]:
    """The words of the expected answer that only who knows the answer would write."""
    said = set(words(question))
    return frozenset(word for word in words(expected) if word not in _FUNCTION_WORDS and word not in said)


def is_right(question: str, expected: str, answer: str) -> bool:
    """Whether `answer` counts as right by the rule of this module."""
    given, wanted = words(answer), words(expected)
    opening = _OPENINGS.get(wanted[0]) if wanted else None
    if opening and (not given or _OPENINGS.get(given[0]) != opening):
        return False
    needed = distinctive(question, expected) - _OPENINGS.keys()
    if not needed:
        return bool(wanted) and (opening is not None or _holds(given, wanted))
    numbers = frozenset(word for word in needed if word[0].isdigit())
    return all(len(part & set(given)) >= RECALL * len(part) for part in (needed, numbers))


def _holds(given: list[str], wanted: list[str]) -> bool:
    return any(given[start : start + len(wanted)] == wanted for start in range(len(given)))


def readable(answer: str) -> bool:
    """Whether a generated answer says anything at all."""
    return bool(words(answer))
