"""The rules on what seeds say: advice, so notes and warnings. What a rule is: `lab/taxonomy/rules.py`."""

from __future__ import annotations

from lab.taxonomy import examples
from lab.taxonomy.rule import Rule

ADVICE: tuple[Rule, ...] = (
    Rule(
        "near-duplicate",
        "Two seed examples of a leaf say nearly the same",
        "The teacher learns from the differences between seeds; one that repeats another adds nothing.",
        "Ask about something else, or delete one of the two.",
        "skill",
        '  - question: "Say it plainly: Luck is of the essence."\n'
        "    answer: Luck matters most of all, for those who have it and for those who do not.\n"
        '  - question: "Say it plainly: Luck is of the essence!"\n'
        "    answer: Luck matters most of all, for those who have it and for those who do not have it.\n",
        '  - question: "Say it plainly: Luck is of the essence."\n    answer: Luck matters most.\n',
        severity="note",
    ),
    Rule(
        "seed-elsewhere",
        "A seed example stands in another leaf as well",
        (
            "What two leaves teach is taught twice, and a question held back in one leaf would be trained "
            "on in the other. A pull request is held against its own leaves and those near them in the "
            "tree; a run over the whole tree finds the others."
        ),
        "Keep it in the leaf where it belongs.",
        "second",
        '  - question: "Say it plainly: Luck is of the essence."\n    answer: Luck matters most.\n',
        '  - question: "Say it in one word: Luck is what the two of them need."\n    answer: Luck.\n',
        severity="warning",
    ),
    Rule(
        "copied-context",
        "An answer is the whole context again",
        (
            "It teaches to repeat a text, not to answer the question. A single sentence of the context may "
            "well be the answer."
        ),
        "Answer the question in a sentence, and leave out what it does not ask for.",
        "knowledge",
        "context: Vik has 6 lights. The oldest is on the quay.\n"
        "    questions_and_answers:\n"
        "      - question: How many lights has Vik?\n"
        "        answer: Vik has 6 lights, the oldest is on the quay.",
        "context: Vik has 6 lights; the oldest is on the quay.\n"
        "    questions_and_answers:\n"
        "      - question: How many lights has Vik?\n"
        "        answer: Vik has 6 lights.",
        severity="note",
    ),
    Rule(
        "unsupported-number",
        "An answer has a number that its context does not have",
        "The context must answer the question; a number from elsewhere is a slip, or cannot be checked.",
        "Correct the number, or choose a context that has it.",
        "knowledge",
        "answer: Vik has 7 lights.",
        "answer: Vik has 6 lights.",
        severity="warning",
    ),
    Rule(
        "unsupported-name",
        "An answer has a name that its context does not have",
        "The context must answer the question; a name from elsewhere cannot be checked by a reviewer.",
        "Leave the name out, or choose a context that has it.",
        "knowledge",
        "answer: Vik has the lights of Hogan.",
        "answer: Vik has lights.",
        severity="note",
    ),
    Rule(
        "question-points",
        "A question points at a text that nobody will see",
        (
            "The model is asked without the context, and so is the benchmark; a question has to stand by "
            "itself."
        ),
        "Name the subject instead: `What does Vik have?`.",
        "knowledge",
        "question: According to the passage above, what is there?\n        answer: Vik has lights.",
        "question: What does Vik have?\n        answer: Vik has lights.",
        severity="note",
    ),
    Rule(
        "context-not-excerpt",
        "A context is no passage of the pinned documents",
        (
            "Generation reads the documents, not the context; a context that says something else teaches the "
            "teacher to leave its source. Seen when the documents are at hand."
        ),
        "Copy the passage as it stands in the document, or pin the commit that has it.",
        "document",
        "context: Vik has 9 lights; the oldest is on the quay.",
        "context: Vik has 6 lights; the oldest is on the quay.",
        severity="warning",
    ),
    Rule(
        "benchmark-overlap",
        "A seed example stands in the benchmark",
        (
            "The benchmark measures what a release did not learn from. Thirteen words in a row, or a whole "
            "short question, are too many."
        ),
        "Ask something that the benchmark does not ask.",
        "skill",
        "question: Which of the five lights of the isles can be seen from the mainland in winter?",
        'question: "Say it plainly: Luck is of the essence."',
        severity="warning",
    ),
    Rule(
        "secret",
        "A key, a token or a password",
        (
            "Everything in a leaf is published and trained on. A secret that was pushed once is known, even "
            "when it is deleted."
        ),
        "Revoke it where it was issued, then replace it by words such as `YOUR-TOKEN`.",
        "skill",
        "answer: Log in at https://octocat:correct-horse-battery@lights.acme.dev first.",
        "answer: Luck matters most.",
        severity="warning",
    ),
    Rule(
        "personal-data",
        "An address, a number or an account of a person",
        "A model repeats what it learned to anybody who asks, and cannot be made to forget.",
        "Use made-up data: `name@example.org`, `+1 555 0100`.",
        "skill",
        "answer: Write to luck.keeper@lights.acme.dev about it.",
        "answer: Luck matters most.",
        severity="warning",
    ),
    Rule(
        "language",
        "The leaf is in a language that the repository does not take",
        (
            "Teacher, judge and reviewers read the languages that `lint.languages` names (English unless it "
            "says otherwise). The guess needs about 25 words of running text and says nothing when in doubt."
        ),
        "Write the seeds in one of these languages, or ask a maintainer to add it to `lint.languages`.",
        "skill",
        examples.GERMAN,
        "*",
        severity="note",
    ),
)
