"""Advice on what a leaf's seeds say. Notes and warnings only, unless a repository's config raises them.

`advise` looks at one leaf; what it returns is held against other leaves by `lab/taxonomy/lint.py`. Each
question has a module of its own: `secrets`, `similar`, `support`, `language`, `benchmarks`; documents are
asked in `excerpts`, where they are at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.config import LintPolicy
from lab.taxonomy.benchmarks import Items
from lab.taxonomy.collect import Findings
from lab.taxonomy.language import NAMES, foreign
from lab.taxonomy.passages import LeafText, Passage, words
from lab.taxonomy.secrets import leaks
from lab.taxonomy.similar import Entry, Index, entry
from lab.taxonomy.support import Given, context_of, copies, points, unsupported_names, unsupported_numbers
from lab.untrusted import printable

_MOST_TEXT = 4000  # words of a leaf that its language is told from


@dataclass(frozen=True)
class Advisor:
    """What stays the same for every leaf of a run."""

    policy: LintPolicy
    items: Items | None = None

    def wants(self, *rules: str) -> bool:
        return any(self.policy.rules.get(rule) != "off" for rule in rules)

    def advise(self, found: Findings, leaf: LeafText) -> list[tuple[str, Entry]]:
        """The sketches of the leaf's texts, each with what it is (`context` or `seed example`)."""
        self.leaks(found)
        outline = tuple(words(leaf.outline))
        about, given = Given(leaf.outline, outline), Given("", ())
        for passage in leaf.passages:
            given = context_of(passage) if passage.first else given
            self._passage(found, passage, leaf.knowledge, given, about)
        self._language(found, leaf, outline)
        return self._alike(found, leaf)

    def leaks(self, found: Findings, personal: bool = True) -> None:
        for leak in leaks(found.lines, personal) if self.wants("secret", "personal-data") else ():
            found.add(leak.rule, (leak.line, leak.column), f"This looks like {leak.what}.")

    def _passage(
        self, found: Findings, passage: Passage, knowledge: bool, given: Given, about: Given
    ) -> None:
        if copies(passage, given, knowledge):
            found.add("copied-context", passage.answer, "The answer is the whole context again.")
        elif knowledge:
            numbers = unsupported_numbers(passage, given)
            if numbers:
                message = f"The context does not have {_listed(numbers)}."
                found.add("unsupported-number", passage.answer, message)
            pointing = points(" ".join(passage.question.text.split()))
            if pointing is not None:
                message = f"The question points at its source: `{printable(pointing, 60)}`."
                found.add("question-points", passage.question, message)
            names = unsupported_names(passage, given, about)
            if names:
                message = f"The context does not mention {_listed(names)}."
                found.add("unsupported-name", passage.answer, message)
        if self.items is not None:
            texts = [passage.asked, passage.answered, *([passage.told] if passage.first else [])]
            item = self.items.hit(passage.asked, texts)
            if item is not None:
                message = f"The benchmark's item `{printable(item, 60)}` has the same words."
                found.add("benchmark-overlap", passage.question, message)

    def _language(self, found: Findings, leaf: LeafText, outline: tuple[str, ...]) -> None:
        if not leaf.passages or not self.policy.languages or not self.wants("language"):
            return
        text = list(outline)
        for passage in leaf.passages:
            text += [*passage.asked, *passage.answered, *(passage.told if passage.first else ())]
            if len(text) > _MOST_TEXT:
                break
        told = foreign(text, self.policy.languages)
        if told is not None:
            message = f"The leaf seems to be in {NAMES[told]}."
            taken = ", ".join(NAMES.get(each, printable(each, 20)) for each in self.policy.languages)
            found.add("language", leaf.passages[0].question, message, f"This repository takes: {taken}.")

    def sketches(self, file: str, leaf: LeafText) -> list[tuple[str, Entry]]:
        """The texts of a leaf that nothing is to be said about."""
        return self._alike(Findings(file, self.policy), leaf)

    def _alike(self, found: Findings, leaf: LeafText) -> list[tuple[str, Entry]]:
        if not self.wants("near-duplicate", "seed-elsewhere"):
            return []
        kept: list[tuple[str, Entry]] = []
        seeds, contexts = Index(), Index()
        for passage in leaf.passages:
            asked = (*(() if leaf.knowledge else passage.told), *passage.asked)
            texts = [("seed example", passage.question, (*asked, *passage.answered), asked, seeds)]
            if leaf.knowledge and passage.first and passage.context is not None:
                texts.append(("context", passage.context, passage.told, (), contexts))
            for what, node, text, question, index in texts:
                each = entry(found.file, node.line, node.column, text, question)
                if each is None:
                    continue
                near = index.nearest(each)
                if near is None:
                    kept.append((what, each))
                    index.add(each)
                elif near[1] < 1:  # the very same is an error of its own
                    share = int(near[1] * 100)
                    message = f"This {what} is {share} % the same as the one on line {near[0].line}."
                    found.add("near-duplicate", node, message)
        return kept


def _listed(texts: list[str]) -> str:
    return ", ".join(f"`{printable(text, 40)}`" for text in texts)
