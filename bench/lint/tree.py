"""Makes a taxonomy of N leaves for benchmarks: seeded, mixed kinds and versions, no two leaves alike.

    python bench/lint/tree.py FOLDER --leaves 1000

One leaf in three is knowledge (five contexts with three pairs, version 3), one a freeform and one a grounded
skill (five to nine seeds, version 2 or 3). Texts are sentences of made-up words, so that no rule finds
anything in them; sizes are those of real contributions (1 to 5 kB). Leaves lie 20 to a folder, 20 folders to
the next.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

_BRANCHES = ("knowledge", "compositional_skills", "foundational_skills")
_SYLLABLES = [start + end for start in (*"bcdfghjklmnprstvwxyz", "br", "cl", "dr", "fl") for end in "aeiou"]
_FOLDER = 20
ATTRIBUTION = (
    "Title of work: Notes of {owner}\nLink to work: https://example.org/{owner}\nRevision: 1\n"
    "License of the work: CC-BY-SA-4.0\nCreator names: {owner}\n"
)


def leaves(count: int, seed: int = 0) -> Iterator[tuple[str, str, str]]:
    """(folder, qna.yaml, attribution.txt) of each leaf; the same arguments give the same bytes."""
    for number in range(count):
        words = random.Random(f"{seed} {number}")
        branch = _BRANCHES[number % 3]
        grounded = number % 3 == 1
        area = f"area_{number // _FOLDER**2}/field_{number // _FOLDER % _FOLDER}"
        folder = f"{branch}/{'grounded/' if grounded else ''}{area}/leaf_{number}"
        owner = _word(words)
        text = _knowledge(words, owner) if branch == "knowledge" else _skill(words, owner, grounded)
        yield folder, text, ATTRIBUTION.format(owner=owner)


def write(root: Path, count: int, seed: int = 0) -> None:
    """Writes the tree below `root`."""
    for folder, text, attribution in leaves(count, seed):
        place = root / folder
        place.mkdir(parents=True)
        (place / "qna.yaml").write_text(text, "utf-8")
        (place / "attribution.txt").write_text(attribution, "utf-8")


def _word(words: random.Random) -> str:
    return "".join(words.choices(_SYLLABLES, k=words.randint(2, 4)))


def _sentence(words: random.Random, low: int, high: int) -> str:
    made = [_word(words) for _ in range(words.randint(low, high))]
    return f"{made[0].capitalize()} {' '.join(made[1:])}."


def _question(words: random.Random) -> str:
    return f"What is the {' '.join(_word(words) for _ in range(words.randint(4, 9)))}?"


def _block(words: random.Random, sentences: int, margin: str) -> str:
    return "".join(f"{margin}{_sentence(words, 8, 16)}\n" for _ in range(sentences))


def _knowledge(words: random.Random, owner: str) -> str:
    lines = [
        f"version: 3\ncreated_by: {owner}\ndomain: {_word(words)}\n",
        f"document_outline: The {_word(words)} of {_word(words)}.\nseed_examples:\n",
    ]
    for _ in range(5):
        lines.append(f"  - context: |\n{_block(words, words.randint(3, 6), ' ' * 6)}")
        lines.append("    questions_and_answers:\n")
        for _ in range(3):
            lines.append(f"      - question: {_question(words)}\n        answer: |\n")
            lines.append(_block(words, words.randint(1, 2), " " * 10))
    commit = "".join(words.choices("0123456789abcdef", k=39)) + "a"
    lines.append(f"document:\n  repo: https://github.com/{owner}/documents.git\n  commit: {commit}\n")
    return "".join([*lines, "  patterns:\n    - notes/*.md\n"])


def _skill(words: random.Random, owner: str, grounded: bool) -> str:
    lines = [
        f"version: {words.choice((2, 3))}\ncreated_by: {owner}\n",
        f"task_description: {_sentence(words, 5, 12)}\nseed_examples:\n",
    ]
    for _ in range(words.randint(5, 9)):
        lines.append(f"  - question: {_question(words)}\n")
        if grounded:
            lines.append(f"    context: |\n{_block(words, words.randint(2, 5), ' ' * 6)}")
        lines.append(f"    answer: |\n{_block(words, words.randint(1, 3), ' ' * 6)}")
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--leaves", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.folder, given.leaves, given.seed)


if __name__ == "__main__":
    main()
