"""Every lint rule: what it is called, why it is there, how to mend a finding, and an example of each.

`treewright explain RULE` prints one, `docs/rules.md` holds all of them, and a test runs every example:
`good` is a fragment of a valid leaf (`lab/taxonomy/examples.py`), and putting `bad` in its place must give
a finding of the rule. A repository sets another level, or `off`, in `.github/treewright.yml` under
`lint.rules`. Here are the rules on a leaf's format; those on places are in `rules_places.py`, and the
advice on content in `rules_advice.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from lab.taxonomy.rule import Rule
from lab.taxonomy.rules_advice import ADVICE
from lab.taxonomy.rules_places import PLACES

__all__ = ["RULES", "STRUCTURAL", "Rule"]

_FORMAT = (
    Rule(
        "yaml-syntax",
        "The file is not YAML",
        (
            "Nothing can be read beyond the place where YAML breaks. Most often a colon, a quote or "
            "the indentation is amiss."
        ),
        "Mend the line that is shown; put texts with colons or quotes into a block (`|`).",
        "skill",
        "task_description: Say it plainly: no jargon.",
        "task_description: Say a sentence in plain words.",
        structural=True,
        fixed_level=True,
    ),
    Rule(
        "yaml-limits",
        "The file is too large or too deep",
        (
            "A leaf is written and reviewed by people. Budgets on bytes, values and nesting keep "
            "hostile files from costing anything."
        ),
        "Split the leaf; put long texts into the document repository.",
        "skill",
        "task_description: [[[[[[[[[[[[[[[[[[[[[[[[deep]]]]]]]]]]]]]]]]]]]]]]]]",
        "task_description: Say a sentence in plain words.",
        structural=True,
        fixed_level=True,
    ),
    Rule(
        "yaml-alias",
        "Anchors and aliases are not allowed",
        "An alias repeats a part of the file; a few lines of them grow to gigabytes when they are expanded.",
        "Write the text out. A value that starts with `*` or `&` goes into quotes.",
        "skill",
        "created_by: &me octocat",
        "created_by: octocat",
        structural=True,
        fixed_level=True,
    ),
    Rule(
        "yaml-tag",
        "YAML tags are not allowed",
        "A tag (`!!`) asks the reader to make an object of the value. A leaf has texts and numbers only.",
        "Remove the tag, or put a value that starts with `!` into quotes.",
        "skill",
        "created_by: !!str octocat",
        "created_by: octocat",
        structural=True,
        fixed_level=True,
    ),
    Rule(
        "yaml-encoding",
        "The file is not plain UTF-8",
        "Other encodings, a byte order mark and invisible characters end up in the training data, and what "
        "hides or reorders text there is not what a reviewer sees.",
        "Save the file as UTF-8 without BOM, and delete the invisible character.",
        "skill",
        "created_by: octo\x07cat",
        "created_by: octocat",
        structural=True,
        fixed_level=True,
    ),
    Rule(
        "duplicate-key",
        "A key stands twice in one mapping",
        "YAML keeps one of the two and drops the other without a word.",
        "Delete one, or start a new list entry with `- `.",
        "skill",
        "created_by: octocat\ncreated_by: hubot",
        "created_by: octocat",
        structural=True,
        fixed_level=True,
    ),
    Rule(
        "line-ending",
        "The file has Windows line ends",
        "Carriage returns are invisible in a review and would become part of the texts.",
        "Save the file with Unix line ends (LF).",
        "skill",
        "created_by: octocat\r",
        "created_by: octocat",
    ),
    Rule(
        "trailing-space",
        "Spaces at the end of a line",
        (
            "In a text block they are part of the text that the model learns; elsewhere they only "
            "make diffs noisy."
        ),
        "Delete them; most editors can do it on saving.",
        "skill",
        "created_by: octocat  ",
        "created_by: octocat",
    ),
    Rule(
        "final-newline",
        "The last line does not end",
        "Tools that append to a file join its last line with what follows.",
        "End the file with a newline.",
        "skill",
        "answer: Luck matters most.",
        "answer: Luck matters most.\n",
        severity="warning",
    ),
    Rule(
        "empty-file",
        "The file is empty",
        "A leaf without content teaches nothing.",
        "Fill in the leaf, or delete its folder.",
        "skill",
        "",
        "*",
        structural=True,
    ),
    Rule(
        "version",
        "The format's version is missing or old",
        (
            "New and changed knowledge uses version 3, skills use version 2 or 3. Older files are "
            "kept readable where that is possible."
        ),
        "Write `version: 3` and move the fields to that format.",
        "knowledge",
        "version: 2",
        "version: 3",
        structural=True,
    ),
    Rule(
        "missing-field",
        "A field is missing",
        "Generation, review and attribution each need it.",
        "Add the field; the message says what belongs into it.",
        "skill",
        "seed_examples:",
        "task_description: Say a sentence in plain words.\nseed_examples:",
        structural=True,
    ),
    Rule(
        "unknown-field",
        "A field that is not part of the format",
        "Nothing reads it, so what stands there would be lost; mostly it is a misspelling.",
        "Correct the name, or delete the line.",
        "skill",
        "createdby: octocat",
        "created_by: octocat",
        structural=True,
    ),
    Rule(
        "wrong-type",
        "A value of another type than the field has",
        "YAML reads a bare `Yes`, `1990` or `2024-05-01` as a boolean, a number or a date, not as text.",
        "Put the text into quotes; make a list with `- `.",
        "skill",
        "answer: Yes",
        "answer: Time matters most.",
        structural=True,
    ),
    Rule(
        "empty-value",
        "A field without content",
        "An empty question or answer cannot teach anything.",
        "Write the value, or delete the entry.",
        "skill",
        'answer: ""',
        "answer: Time matters most.",
        structural=True,
    ),
    Rule(
        "seed-count",
        "Too few seed examples",
        (
            "The teacher learns the leaf's manner from its seeds; with fewer than five it repeats "
            "itself (LAB method)."
        ),
        "Write at least five seed examples that differ from each other.",
        "skill",
        "",
        '  - question: "Say it plainly: Luck is of the essence."\n    answer: Luck matters most.\n',
        structural=True,
    ),
    Rule(
        "pair-count",
        "Too few questions for a context",
        "Each context is shown to the teacher with three questions and answers.",
        "Write at least three questions that the context answers.",
        "knowledge",
        "",
        "      - question: What does Vik have?\n        answer: Vik has lights.\n",
        structural=True,
    ),
    Rule(
        "mixed-seeds",
        "Some seed examples have a context and some have none",
        (
            "A grounded skill (with context) and a freeform skill are generated by different flows; "
            "a leaf is one of the two."
        ),
        "Give every seed example a context, or none; make two leaves if both are wanted.",
        "grounded",
        "",
        "    context: Luck is of the essence.\n",
        structural=True,
    ),
    Rule(
        "duplicate-seed",
        "A seed example stands twice",
        "It does not count a second time and makes the teacher repeat it.",
        "Delete one of the two.",
        "skill",
        '  - question: "Say it plainly: Rest is of the essence."\n    answer: Rest matters most.\n',
        '  - question: "Say it plainly: Luck is of the essence."\n    answer: Luck matters most.\n',
    ),
    Rule(
        "duplicate-question",
        "A question stands twice",
        (
            "The same question with another answer teaches a contradiction, and a held-out question "
            "must not be trained on."
        ),
        "Ask something else, or delete one of the two.",
        "knowledge",
        "question: How many lights has Vik?\n        answer: On the quay.",
        "question: Where is the oldest light of Vik?\n        answer: On the quay.",
    ),
    Rule(
        "duplicate-context",
        "A context stands twice",
        "Five contexts are asked for so that the questions cover the document.",
        "Take another passage of the document, or put the questions together.",
        "knowledge",
        "context: Holm has 5 lights; the oldest is on the strand.",
        "context: Vik has 6 lights; the oldest is on the quay.",
    ),
    Rule(
        "context-length",
        "A context is long",
        "Contexts up to about 500 words fit into the teacher's prompt beside three questions and a passage.",
        "Shorten the context to what its questions need.",
        "knowledge",
        "context: Vik has 6 lights; the oldest is on the quay, it is said, and nobody ever doubted it.",
        "context: Vik has 6 lights; the oldest is on the quay.",
        severity="warning",
        limits=(("context_words", 12),),
    ),
    Rule(
        "pair-length",
        "A question with its answer is long",
        "Pairs up to about 250 words are examples; longer ones are documents.",
        "Shorten the answer, or split the question.",
        "skill",
        "answer: Luck matters most, it is said, and nobody ever doubted it, least of all the lucky ones.",
        "answer: Luck matters most.",
        severity="warning",
        limits=(("pair_words", 15),),
    ),
    Rule(
        "leaf-length",
        "The seed examples of a skill are long altogether",
        "All seeds of a skill must fit into one prompt: about 2300 words.",
        "Shorten the examples, or make two leaves.",
        "skill",
        "answer: Luck matters most, it is said, and nobody ever doubted it.",
        "answer: Luck matters most.",
        severity="warning",
        limits=(("leaf_words", 55),),
    ),
    Rule(
        "outline-length",
        "The document outline is long",
        "The outline goes in front of every passage; it names the subject, it does not retell it.",
        "Say in one sentence what the documents cover.",
        "knowledge",
        (
            "document_outline: The isles and their lights, and everything else that anybody ever "
            "told about them."
        ),
        "document_outline: The isles and their lights.",
        severity="warning",
        limits=(("outline_characters", 40),),
    ),
    Rule(
        "document-url",
        "The document repository's address is not acceptable",
        (
            "Documents are cloned by machines of the project: over https, from hosts that the "
            "maintainers named, without passwords."
        ),
        "Write `https://github.com/owner/repository.git`, or ask a maintainer to allow the host.",
        "knowledge",
        "repo: file:///srv/documents.git",
        "repo: https://github.com/acme/documents.git",
    ),
    Rule(
        "document-commit",
        "The documents are not pinned by a full commit id",
        "A branch, a tag or a short id can come to mean another text after the review.",
        "Write all 40 hex digits: `git rev-parse HEAD` prints them.",
        "knowledge",
        "commit: main",
        "commit: 0123456789abcdef0123456789abcdef01234567",
        structural=True,
    ),
    Rule(
        "document-pattern",
        "A pattern for documents is not acceptable",
        (
            "Patterns choose files inside the document repository; one that leaves it could read "
            "other files of the machine."
        ),
        "Write a path relative to the repository's root, such as `guides/*.md`.",
        "knowledge",
        "- ../secrets/*.md",
        "- guides/*.md",
        structural=True,
    ),
    Rule(
        "document-type",
        "A pattern asks for documents that cannot be read",
        "Markdown, plain text, HTML and PDF are read; other files are never used, and none may be left.",
        "Convert the document to Markdown.",
        "knowledge",
        "- guides/*.docx",
        "- guides/*.md",
    ),
    Rule(
        "document-mixed",
        "One leaf takes documents of several types",
        (
            "A leaf's passages should be cut alike; converted files (PDF, HTML) have other headings than "
            "Markdown written by hand."
        ),
        "Convert the documents to one type, Markdown at best, or make two leaves.",
        "knowledge",
        "- guides/*.md\n    - guides/*.html",
        "- guides/*.md",
    ),
    Rule(
        "document-match",
        "A pattern takes no document",
        "Without documents nothing is generated for the leaf. Seen when the documents are at hand.",
        "Correct the pattern or the commit; `git ls-tree -r --name-only COMMIT` lists the files.",
        "document",
        "- guides/*.txt",
        "- guides/*.md",
    ),
    Rule(
        "created-by",
        "The contributor's name is no account name",
        "Releases credit each leaf to the account in `created_by`.",
        "Write the GitHub account: letters, digits and single hyphens, at most 39.",
        "skill",
        "created_by: Octo Cat <octo@example.org>",
        "created_by: octocat",
        severity="warning",
    ),
    Rule(
        "config",
        "The repository's configuration does not fit",
        "An option that does nothing is a trap; until the file is mended the defaults hold.",
        "Correct the key or the value; `schemas/repository_config.json` describes all of them.",
        "config",
        "previews_per_user_per_day: many",
        "previews_per_user_per_day: 20",
        fixed_level=True,
    ),
    Rule(
        "too-many",
        "A file has more findings than are shown",
        "The first findings usually explain the rest.",
        "Mend those above, and lint again.",
        "skill",
        "created_by: octocat" + " \n" * 120,
        "created_by: octocat",
        severity="note",
        fixed_level=True,
    ),
)

_ALL = (*_FORMAT, *PLACES, *ADVICE)
RULES: Mapping[str, Rule] = {rule.id: rule for rule in _ALL}
STRUCTURAL = frozenset(rule.id for rule in _ALL if rule.structural)
