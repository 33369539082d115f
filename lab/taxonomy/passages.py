"""The seeds of a leaf's YAML tree as the advice on content reads them: nodes with places, and their words.

One walk of the tree and one split into words a text, so that ten rules cost little more than one. Nothing
here judges; a leaf that is not valid gives whatever can be read of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lab.untrusted import YamlNode

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
MOST = 2000  # seeds of one leaf that advice looks at; real leaves have five to forty


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


@dataclass(frozen=True)
class Passage:
    """One question with its answer; `first` tells the first pair of its seed, which shows the context."""

    seed: YamlNode
    question: YamlNode
    answer: YamlNode
    context: YamlNode | None
    first: bool
    asked: tuple[str, ...]  # the question's words
    answered: tuple[str, ...]
    told: tuple[str, ...]  # the context's words


@dataclass(frozen=True)
class LeafText:
    """`outline` is what a leaf says about itself: its task, domain and outline."""

    knowledge: bool
    outline: str
    passages: tuple[Passage, ...]


def leaf_text(root: YamlNode, knowledge: bool) -> LeafText:
    outline = " ".join(
        node.text
        for node in (root.get(name) for name in ("task_description", "document_outline", "domain"))
        if node is not None and node.kind == "scalar"
    )
    found: list[Passage] = []
    for passage in _passages(root):
        found.append(passage)
        if len(found) >= MOST:
            break
    return LeafText(knowledge, outline, tuple(found))


def _passages(root: YamlNode) -> Iterator[Passage]:
    seeds = root.get("seed_examples")
    for seed in seeds.items if seeds is not None else ():
        context = _scalar(seed, "context")
        told = tuple(words(context.text)) if context is not None else ()
        inner = seed.get("questions_and_answers")
        first = True
        for pair in inner.items if inner is not None else (seed,):
            question, answer = _scalar(pair, "question"), _scalar(pair, "answer")
            if question is None or answer is None:
                continue
            asked, answered = tuple(words(question.text)), tuple(words(answer.text))
            yield Passage(seed, question, answer, context, first, asked, answered, told)
            first = False


def _scalar(node: YamlNode, key: str) -> YamlNode | None:
    value = node.get(key)
    return value if value is not None and value.kind == "scalar" and value.text.strip() else None
