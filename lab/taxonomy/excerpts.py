"""Holds a knowledge leaf against its pinned documents: is each context a passage of one, and which is near?

Reach it by `findings(leaf, file, documents)` wherever documents are at hand (plan, preview, `treewright lint
--documents`); lint itself never goes to the network. Compared are words, so line breaks, Markdown's marks
and typographic quotes do not matter, and a context may leave sentences out: each sentence must stand in one
of the documents. The nearest passage is the stretch that shares most runs of three words.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.config import LintPolicy
from lab.taxonomy.collect import MOST, Findings
from lab.taxonomy.content import TYPES
from lab.taxonomy.findings import Finding
from lab.taxonomy.model import Leaf, Seed
from lab.taxonomy.sentences import split
from lab.untrusted import Refused, glob_pattern, matches, printable

if TYPE_CHECKING:
    from lab.taxonomy.documents import SourceDocument

_WORD = re.compile(r"[^\W_]+")
_RUN = 3
_LINK = re.compile(r"!?\[([^\]\[]{0,300})\]\([^()]{0,600}(?:\([^()]{0,200}\)[^()]{0,200})?\)")
_MOST_WORDS = 4000  # of one context; a longer one is a document


@dataclass(frozen=True)
class _Source:
    """A document's words, and where each starts in its text."""

    document: SourceDocument
    text: str  # the words between single spaces
    plain: str  # the same without links' targets and HTML tags
    words: tuple[str, ...]
    starts: tuple[int, ...]

    def line(self, word: int) -> int:
        at = self.starts[min(word, len(self.starts) - 1)] if self.starts else 0
        return self.document.text.count("\n", 0, at) + 1

    def shown(self, first: int, last: int) -> str:
        start, end = self.starts[first], self.starts[min(last, len(self.starts)) - 1]
        return " ".join(
            self.document.text[start : end + len(self.words[min(last, len(self.words)) - 1])].split()
        )


def findings(
    leaf: Leaf,
    file: str,
    documents: Sequence[SourceDocument],
    policy: LintPolicy | None = None,
    text: str = "",
) -> list[Finding]:
    """What is wrong between the leaf and its documents. `text`, the leaf's file, gives patterns their lines.

    Leaves without documents of their own (skills) have no findings.
    """
    if leaf.document is None:
        return []
    found = Findings(file, policy or LintPolicy(), text)
    _patterns(found, leaf.document.patterns, documents)
    sources = [_source(document) for document in documents]
    for number, seed in enumerate(leaf.seeds, start=1):
        if seed.context is not None and sources:
            _context(found, number, seed, seed.context, sources)
    return found.all()


def _patterns(found: Findings, patterns: Sequence[str], documents: Sequence[SourceDocument]) -> None:
    for pattern in patterns:
        try:
            glob_pattern(pattern)
        except Refused:  # lint's to say
            continue
        if not any(matches(pattern, document.path) for document in documents):
            near = difflib.get_close_matches(
                pattern, [document.path for document in documents], n=1, cutoff=0.5
            )
            help_ = f"The documents have `{printable(near[0])}`." if near else ""
            message = f"The pattern `{printable(pattern, 80)}` takes no document at the pinned commit."
            found.add("document-match", _place(found, pattern), message, help_)
    endings = (f".{document.path.rpartition('.')[2].lower()}" for document in documents)
    kinds = Counter(TYPES.get(ending, ending) for ending in endings)
    if len(kinds) > 1:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        message = f"The patterns take documents of several types: {told}."
        found.add("document-mixed", _place(found, "patterns:"), message)


def _place(found: Findings, sought: str) -> tuple[int, int]:
    for number, line in enumerate(found.lines, start=1):
        column = line.find(sought)
        if column >= 0 and not line.lstrip().startswith("#"):
            return number, column + 1
    return 1, 1


def _context(found: Findings, number: int, seed: Seed, context: str, sources: Sequence[_Source]) -> None:
    for sentence in _sentences(context):
        sought = _words(sentence)
        if not sought or _stands(sought, sources) or _stands(_words(_unlinked(sentence)), sources):
            continue
        shown = printable(" ".join(sentence.split()), 100)
        message = f"The context of seed example {number} is no passage of the pinned documents: `{shown}`."
        # The search costs 60 ms in documents of 200,000 words, and no more findings of a file are shown.
        near = _nearest(sought, sources) if len(found.every()) < MOST else None
        help_ = ""
        if near is not None:
            source, first, last = near
            passage = printable(source.shown(first, last), 200)
            place = f"{printable(source.document.path)}, line {source.line(first)}"
            help_ = f"The nearest passage is in {place}: `{passage}`.{_change(sought, source, first, last)}"
        line = found.line(seed.line)
        found.add("context-not-excerpt", (seed.line, len(line) - len(line.lstrip()) + 1), message, help_)
        return  # the first sentence tells enough


def _stands(sought: Sequence[str], sources: Sequence[_Source]) -> bool:
    run = f" {' '.join(sought)} "
    return any(run in source.text or run in source.plain for source in sources)


def _change(sought: Sequence[str], source: _Source, first: int, last: int) -> str:
    """The first words that differ, when few do."""
    matcher = difflib.SequenceMatcher(None, sought[:400], source.words[first:last][:400], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal" and matcher.ratio() > 0.6:
            here = " ".join(sought[a:b][:8]) or "nothing"
            there = " ".join(source.words[first + c : first + d][:8]) or "nothing"
            return f" It has `{there}` where the context has `{here}`."
    return ""


def _nearest(sought: Sequence[str], sources: Sequence[_Source]) -> tuple[_Source, int, int] | None:
    """The stretch of the same length that shares most words, among those where most runs of words begin at
    the same place; None when no run is shared.
    """
    runs: dict[tuple[str, ...], list[int]] = {}
    for at in range(max(1, len(sought) - _RUN + 1)):
        places = runs.setdefault(tuple(sought[at : at + _RUN]), [])
        if len(places) < 4:
            places.append(at)
    wanted, best = Counter(sought), (0, 0, 0)
    for number, source in enumerate(sources):
        starts: Counter[int] = Counter()
        for at in range(len(source.words) - _RUN + 1):
            for place in runs.get(source.words[at : at + _RUN], ()):
                starts[max(0, at - place)] += 1
        for start, _ in starts.most_common(8):
            window = Counter(source.words[start : start + len(sought)])
            best = max(best, ((window & wanted).total(), number, -start))
    if not best[0]:
        return None
    source, first = sources[best[1]], -best[2]
    return source, first, min(len(source.words), first + len(sought))


def _source(document: SourceDocument) -> _Source:
    # The starts are those of the text as it is, so only changes that keep its length are made here.
    text = document.text
    found = [(match.group(), match.start()) for match in _WORD.finditer(text)]
    words = tuple(_fold(word) for word, _ in found)
    plain = f" {' '.join(_words(_unlinked(text), len(text)))} "
    return _Source(document, f" {' '.join(words)} ", plain, words, tuple(start for _, start in found))


def _unlinked(text: str) -> str:
    """Without images, links' targets, footnote marks and tags: what a reader of the page sees."""
    text = _LINK.sub(r"\1", re.sub(r"\[\^[^\]\s]{1,40}\]", " ", text))
    return re.sub(r"</?[A-Za-z][^<>]{0,200}>", " ", text)


def _fold(word: str) -> str:
    return word.casefold() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def _words(text: str, most: int = _MOST_WORDS) -> tuple[str, ...]:
    return tuple(_fold(word) for word in _WORD.findall(text)[:most])


def _sentences(context: str) -> Iterator[str]:
    """Lines of tables and lists, and sentences of paragraphs, as they stand."""
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*+|#>]|\d{1,3}[.)])\s?)", context):
        yield from split(block)
