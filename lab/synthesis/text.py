"""Words, names and likeness of short texts: the pure ground that the deterministic checks stand on.

Everything here is a plain function of strings, linear in their length (hostile text must not cost more), and
made for English; other languages lose precision in `content_words`, never safety.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_MARKUP = re.compile(
    r"<(?=[|｜])|\|(?=>)|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>)|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)
"""The first sign of what servers read as the marks of a turn: of ChatML and Llama 3, DeepSeek, Llama 2 and
Mistral, Gemma."""
_END = re.compile(r"[^\s\d][.!?…][\"'”’)\]*]{0,4}(?=\s|$)|[。！？]")
"""The end of a sentence; the number of a list's entry ("2.") is none."""
_FUNCTION_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both
but by
can could did do does doing done during each either else ever every few for from further had has have having
he her
here hers him his how i if in into is it its itself just many may me might more most much must my no nor not
of off
on once one only or other our out over own said same shall she should so some such than that the their them
then
there these they this those through to too under until up upon us very was we were what when where whether
which
while who whom whose why will with without would you your
"""
STOPWORDS = frozenset(_FUNCTION_WORDS.split())
"""Function words of English: they say nothing about what a sentence is about."""


def words(text: str) -> list[str]:
    """Words in lower case, in order; possessives lose their ending."""
    return [_possessive(word) for word in _WORD.findall(text.lower())]


def _possessive(word: str) -> str:
    return word[:-2] if word.endswith(("'s", "’s")) else word


def stem(word: str) -> str:
    """A word without a common English ending, so that `building`, `builds` and `build` meet.

    Far cruder than Porter's algorithm, and enough to compare a question with its own sentence.
    """
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


@lru_cache(maxsize=4096)
def content_words(text: str) -> frozenset[str]:
    """Stems of the words that carry meaning. Remembered, for every row of a leaf is held against all of the
    leaf's sentences.
    """
    return frozenset(stem(word) for word in words(text) if word not in STOPWORDS)


def names(text: str) -> frozenset[str]:
    """Words that start with a capital letter beyond the first word: the cheapest sign of a proper noun."""
    found = _WORD.findall(text)
    return frozenset(_possessive(word.lower()) for word in found[1:] if word[0].isupper())


def normal(text: str) -> str:
    """The text as its words alone: two questions that differ in case and punctuation are one."""
    return " ".join(words(text))


def likeness(left: str, right: str) -> float:
    """Overlap of word pairs and words between 0 and 1 (Dice), which keeps word order in play."""
    return dice(grams(left), grams(right))


def dice(first: frozenset[tuple[str, ...]], second: frozenset[tuple[str, ...]]) -> float:
    if not first or not second:
        return 0.0
    return 2 * len(first & second) / (len(first) + len(second))


def grams(text: str) -> frozenset[tuple[str, ...]]:
    """The words of a text and its pairs of neighbouring words."""
    found = words(text)
    return frozenset({(word,) for word in found} | set(itertools.pairwise(found)))


def ngrams(text: str, size: int) -> frozenset[tuple[str, ...]]:
    """Runs of `size` words, as GPT-3's contamination check counts them (arXiv 2005.14165, appendix C: 13)."""
    found = words(text)
    return frozenset(tuple(found[index : index + size]) for index in range(len(found) - size + 1))


def shared(left: Iterable[str], right: Iterable[str]) -> float:
    """Which part of `left` is also in `right`, between 0 and 1; 0 when `left` is empty."""
    wanted = frozenset(left)
    return len(wanted & frozenset(right)) / len(wanted) if wanted else 0.0


def whole(text: str) -> str:
    """A text that was cut off, up to the end of its last whole sentence; empty where there is none."""
    end = 0
    for found in _END.finditer(text):
        end = found.end()
    return text[:end].strip()


def has_marks(text: str) -> bool:
    """Whether the text holds chat markup."""
    return _MARKUP.search(text) is not None


def harmless(text: str) -> str:
    """Chat markup taken apart: a document must not end its turn and speak as somebody else."""
    return _MARKUP.sub(lambda match: f"{match.group()} ", text).strip()
