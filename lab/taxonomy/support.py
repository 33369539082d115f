# ruff: noqa: SIM905 - word lists read better in running text
"""Whether an answer follows from its context, as far as words can tell: copies, and what the context lacks.

Cheap signs, not proof: a number that stands neither in the context nor in the question, and a name (a word
with a capital letter inside a sentence) that nothing in the leaf's text resembles. The teacher's
faithfulness judge asks the model; here a contributor gets the plainest slips within a second. English spells
names with capitals, German spells all nouns so: names are looked at only when few words are capitalised.
"""

from __future__ import annotations

import re
from functools import cached_property
from itertools import pairwise

from lab.taxonomy.passages import Passage, words
from lab.taxonomy.sentences import split

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
_TENS = {
    word: 10 * n
    for n, word in enumerate("thirty forty fifty sixty seventy eighty ninety hundred".split(), start=3)
}
_ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
    "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
_SPELLED: dict[str, tuple[str, ...]] = {
    **{word: (str(n),) for n, word in enumerate(_SMALL)},
    **{word: (str(n),) for word, n in _TENS.items()},
    **{word: (str(n),) for n, word in enumerate(_ORDINALS)},
    "once": ("1",),
    "twice": ("2",),
    "both": ("2",),
    "pair": ("2",),
    "half": ("2", "50", "0.5"),
    "quarter": ("4", "25", "0.25"),
    "dozen": ("12",),
    "thousand": ("1000", "000"),
    "million": ("1000000", "000000"),
}
_NUMBER = re.compile(
    r"(?<![\w.,-])\d+(?:[.,]\d+)*(?![\w])|(?<![\w.,-])\d+(?=(?:st|nd|rd|th|s|%|km|m|kg|g|cm|mm)\b)"
)
_ANY_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_LISTED = re.compile(r"^\s*\(?\d{1,3}[.):]\s", re.MULTILINE)
_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE = re.compile(
    r"[.!?:;]\s*[\"'”’»)\]*_]*$|^\s*(?:[-*+•|>]|\d+[.)])?\s*[\"'“‘«(\[*_]*$|\n\s*[-*+•\"'“‘«(\[*_]*$"
)
# Capitalised by habit, not as a name of something.
_HABIT = frozenset(
    "i ok mr mrs ms dr sir yes no english true false bc ad ce bce am pm us uk eu un usa".split()
)
_POINTS = re.compile(
    r"\b(?:according to|based on|(?:stated|mentioned|described|given|said) in|in|from|by) "
    r"(?:the|this)(?: (?:above|given|provided|following))? "
    r"(?:passage|context|excerpt|paragraph|text|article)\b(?: above)?",
    re.IGNORECASE,
)
_TAIL = re.compile(r"['’].*$")
_MOST = 4  # what a message lists
COPY = 0.9
_COPY_WORDS = 8


def points(question: str) -> str | None:
    """The words of a question of knowledge that point at the text it was taken from."""
    match = _POINTS.search(question)
    return match.group() if match else None


class Given:
    """What a text gives an answer to lean on. A context is read once for all of its questions."""

    def __init__(self, text: str, found: tuple[str, ...]) -> None:
        self.text, self.words = text, found

    @cached_property
    def numbers(self) -> frozenset[str]:
        known = {_value(each) for each in _ANY_NUMBER.findall(self.text)}
        for word in self.words:
            if word in _SPELLED:
                known.update(_SPELLED[word])
            elif word[0].isdigit():
                known.update(re.findall(r"\d+", word))
        return frozenset(known | {part for each in known for part in re.split(r"\D", each)})

    @cached_property
    def digits(self) -> str:
        """All digits in a row: a number may be written with spaces."""
        return re.sub(r"\D", "", self.text) if len(self.text) < 20_000 else ""

    @cached_property
    def roots(self) -> frozenset[str]:
        plain = {_TAIL.sub("", word) if "'" in word or "’" in word else word for word in self.words}
        return frozenset(plain | {word[:4] + "*" for word in plain if len(word) >= 4})

    @cached_property
    def initials(self) -> str:
        return "".join(word[0] for word in self.words)

    @cached_property
    def sentences(self) -> int:
        return len(split(self.text))

    @cached_property
    def pairs(self) -> frozenset[tuple[str, str]]:
        return frozenset(pairwise(self.words))


def context_of(passage: Passage) -> Given:
    return Given(passage.context.text if passage.context is not None else "", passage.told)


def copies(passage: Passage, given: Given, knowledge: bool) -> bool:
    """Whether the answer is the context again. A sentence of it may well be the answer, even when the
    context has no other; several sentences are not.

    A grounded skill may edit its context, so there only the same words count.
    """
    told, answered = passage.told, passage.answered
    if len(answered) < _COPY_WORDS or not told:
        return False
    if not knowledge:
        return answered == told
    if not COPY <= len(answered) / len(told) <= 1 / COPY or given.sentences < 2:
        return False
    second = set(pairwise(answered))
    return len(given.pairs & second) >= COPY * len(given.pairs | second)


def unsupported_numbers(passage: Passage, given: Given) -> list[str]:
    """Numbers of the answer that neither context nor question has, as they are written."""
    if passage.context is None:
        return []
    found = _NUMBER.findall(_LISTED.sub(" ", passage.answer.text))
    if not found:
        return []
    asked = Given(passage.question.text, passage.asked)
    missing = []
    for each in dict.fromkeys(found):
        value = _value(each)
        spaced = len(value) > 3 and (value in given.digits or value in asked.digits)
        if value not in given.numbers and value not in asked.numbers and not spaced:
            missing.append(each)
    return missing[:_MOST]


def _value(written: str) -> str:
    plain = written.replace(",", "") if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", written) else written
    whole, _, part = plain.replace(",", ".").partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def unsupported_names(passage: Passage, given: Given, outline: Given) -> list[str]:
    """Names in the answer that nothing in context, question or the leaf's outline resembles."""
    if passage.context is None:
        return []
    answer = passage.answer.text
    tokens = list(_TOKEN.finditer(answer))
    capital = [match for match in tokens if match.group()[0].isupper()]
    if len(capital) > max(4, 0.5 * len(tokens)):  # a title, a table, German
        return []
    asked = Given(passage.question.text, passage.asked)
    missing: dict[str, None] = {}
    for match in capital:
        if _SENTENCE.search(answer[max(0, match.start() - 12) : match.start()] or "\n"):
            continue
        name = match.group()
        parts = [_TAIL.sub("", part) for part in words(name.replace("-", " "))]
        if all(
            part in _HABIT
            or len(part) < 2
            or any(_known(part, each.roots) for each in (given, asked, outline))
            for part in parts
        ):
            continue
        if name.isupper() and name.casefold() in given.initials:
            continue
        missing.setdefault(name)
    return list(missing)[:_MOST]


def _known(part: str, known: frozenset[str]) -> bool:
    """The word itself, or one that begins like it: `America` speaks for `American`."""
    return part in known or part.rstrip("s") in known or f"{part}s" in known or part[:4] + "*" in known
