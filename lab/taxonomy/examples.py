"""One small valid leaf of each kind, for the rules' examples and to see the format at once."""

from __future__ import annotations

SKILL = (
    "version: 3\ncreated_by: octocat\ntask_description: Say a sentence in plain words.\nseed_examples:\n"
    + "".join(
        f'  - question: "Say it plainly: {word} is of the essence."\n    answer: {word} matters most.\n'
        for word in ("Time", "Care", "Tact", "Rest", "Luck")
    )
)

SECOND = (
    "version: 3\ncreated_by: octocat\ntask_description: Find the one word that matters.\nseed_examples:\n"
    + "".join(
        f'  - question: "Say it in one word: {word} is what the two of them need."\n    answer: {word}.\n'
        for word in ("Time", "Care", "Tact", "Rest", "Luck")
    )
)

GERMAN = (
    "version: 3\ncreated_by: octocat\ntask_description: Sag es mit einfachen Worten.\nseed_examples:\n"
    + "".join(
        f'  - question: "Sag es mit einfachen Worten: {word} ist das, was uns in der Not am meisten hilft."\n'
        f"    answer: Was in der Not hilft, ist {word}, und das ist auch gut so.\n"
        for word in ("Zeit", "Sorgfalt", "Takt", "Ruhe", "Glück")
    )
)

GROUNDED = (
    "version: 3\ncreated_by: octocat\ntask_description: Name what a sentence is about.\nseed_examples:\n"
    + "".join(
        "  - question: What is it about?\n"
        f"    context: {word} is of the essence.\n    answer: It is about {word}.\n"
        for word in ("Time", "Care", "Tact", "Rest", "Luck")
    )
)

KNOWLEDGE = (
    "version: 3\ncreated_by: octocat\ndomain: Geography\n"
    "document_outline: The isles and their lights.\nseed_examples:\n"
    + "".join(
        f"  - context: {isle} has {count} lights; the oldest is on the {place}.\n"
        "    questions_and_answers:\n"
        f"      - question: How many lights has {isle}?\n        answer: {isle} has {count} lights.\n"
        f"      - question: Where is the oldest light of {isle}?\n        answer: On the {place}.\n"
        f"      - question: What does {isle} have?\n        answer: {isle} has lights.\n"
        for count, (isle, place) in enumerate(
            (("Mora", "pier"), ("Ess", "skerry"), ("Tarn", "hill"), ("Holm", "strand"), ("Vik", "quay")),
            start=2,
        )
    )
    + "document:\n  repo: https://github.com/acme/documents.git\n"
    "  commit: 0123456789abcdef0123456789abcdef01234567\n  patterns:\n    - guides/*.md\n"
)

ATTRIBUTION = (
    "Title of work: The isles\nLink to work: https://example.org/isles\nRevision: 7\n"
    "License of the work: CC-BY-SA-4.0\nCreator names: The Isles Society\n"
)

CONFIG = "version: 1\nbudgets:\n  previews_per_user_per_day: 20\n"

ITEMS = (
    '{"id": "isles-01", "question": "Which of the five lights of the isles can be seen from the mainland in '
    'winter?", "choices": ["Mora", "Ess", "Tarn", "Vik"], "key": 1}\n'
)

DOCUMENT = "# The lights\n\n" + "".join(
    f"{isle} has {count} lights; the oldest is on the {place}.\n\n"
    for count, (isle, place) in enumerate(
        (("Mora", "pier"), ("Ess", "skerry"), ("Tarn", "hill"), ("Holm", "strand"), ("Vik", "quay")), start=2
    )
)
