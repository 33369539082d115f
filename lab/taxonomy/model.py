"""What a taxonomy is made of: leaves, their seed examples, and the documents they pin.

The predecessor decides a leaf's kind per seed and never writes it down; here it is a property of the leaf,
and a leaf that mixes kinds is a lint error. All values are frozen: a leaf is read once and never edited in
place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["knowledge", "freeform_skill", "grounded_skill"]


@dataclass(frozen=True)
class Pair:
    """One question and its answer; `line` is the question's line in `qna.yaml`, from 1."""

    question: str
    answer: str
    line: int


@dataclass(frozen=True)
class Seed:
    """One entry of `seed_examples`: a context with its pairs (knowledge), or a single pair (skills)."""

    context: str | None
    pairs: tuple[Pair, ...]
    line: int


@dataclass(frozen=True)
class DocumentRef:
    """Source documents pinned by full commit; `patterns` are globs relative to the repository's root."""

    repo: str
    commit: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Leaf:
    """A folder with a `qna.yaml`. `path` is its place in the tree, such as
    `knowledge/geography/farne_mora`.
    """

    path: str
    kind: Kind
    version: int
    created_by: str
    task_description: str
    domain: str
    document_outline: str
    seeds: tuple[Seed, ...]
    document: DocumentRef | None
    digest: str

    @property
    def slug(self) -> str:
        """A file-name form of the path. `--` is refused inside folder names, so two leaves never collide."""
        return self.path.replace("/", "--")
