"""The rules on where files lie and whose work they are. What a rule is: `lab/taxonomy/rules.py`."""

from __future__ import annotations

from lab.taxonomy import examples
from lab.taxonomy.rule import Rule

PLACES = (
    Rule(
        "file-name",
        "A YAML file with another name than qna.yaml",
        "Only `qna.yaml` is read in these folders, so the content would be lost.",
        "Rename the file to `qna.yaml`, or move it out of the taxonomy's folders.",
        "path",
        "compositional_skills/writing/plain/qna.yml",
        "compositional_skills/writing/plain/qna.yaml",
    ),
    Rule(
        "path-name",
        "A folder's name is not acceptable",
        (
            "Folder names are labels and parts of file names on every system: short, without spaces, "
            "without `--`."
        ),
        "Use lower-case letters, digits and underscores, such as `plain_words`.",
        "path",
        "compositional_skills/writing/plain words/qna.yaml",
        "compositional_skills/writing/plain_words/qna.yaml",
    ),
    Rule(
        "path-style",
        "A folder's name is unusual",
        (
            "Labels read alike when they are lower case with underscores, and some file systems do "
            "not tell cases apart."
        ),
        "Use lower-case letters, digits and underscores.",
        "path",
        "compositional_skills/writing/Plain-Words/qna.yaml",
        "compositional_skills/writing/plain_words/qna.yaml",
        severity="warning",
    ),
    Rule(
        "file-kind",
        "A link or another special file",
        "Links are never followed: they could point out of the tree.",
        "Put the file itself there.",
        "link",
        "compositional_skills/writing/plain/qna.yaml -> ../other/qna.yaml",
        "compositional_skills/writing/plain/qna.yaml",
    ),
    Rule(
        "outside-branches",
        "A leaf outside the taxonomy's folders",
        (
            "Only `knowledge`, `compositional_skills` and `foundational_skills` hold leaves; this "
            "one would be ignored."
        ),
        "Move its folder into one of the three.",
        "path",
        "knowlege/geography/mora/qna.yaml",
        "compositional_skills/writing/plain/qna.yaml",
        severity="warning",
    ),
    Rule(
        "misplaced-leaf",
        "A leaf lies in the wrong branch",
        (
            "The branch decides how a leaf is generated: knowledge from its documents, skills from their "
            "seed examples."
        ),
        "Move the folder into the branch that fits what the file holds.",
        "knowledge",
        examples.SKILL,
        "*",
        structural=True,
    ),
    Rule(
        "nested-leaf",
        "A leaf lies inside another leaf's folder",
        "A folder is either a leaf or a branch of the tree; tools that walk the tree stop at a leaf.",
        "Give the upper leaf a folder of its own beside the other one.",
        "path",
        "compositional_skills/writing/qna.yaml\ncompositional_skills/writing/plain/qna.yaml",
        "compositional_skills/writing/plain/qna.yaml",
        severity="warning",
    ),
    Rule(
        "path-case",
        "Two folders differ only by case",
        "On the file systems of Windows and macOS they are one folder, and one leaf overwrites the other.",
        "Use one spelling, in lower case.",
        "path",
        "compositional_skills/Writing/brief/qna.yaml\ncompositional_skills/writing/plain/qna.yaml",
        "compositional_skills/writing/plain/qna.yaml",
    ),
    Rule(
        "grounded-folder",
        "A skill with contexts lies outside the folder for grounded skills, or one without inside it",
        "`compositional_skills/grounded/` holds the skills that work on a given text, and only those.",
        "Move the leaf, so that its place says what kind of skill it is.",
        "path",
        "compositional_skills/grounded/plain/qna.yaml",
        "compositional_skills/writing/plain/qna.yaml",
        severity="note",
    ),
    Rule(
        "attribution-missing",
        "There is no attribution.txt beside the leaf",
        "A release may only contain works whose source and licence are known.",
        "Add `attribution.txt` with title, link, licence and creators; own work has `-` as its link.",
        "attribution",
        "",
        "*",
    ),
    Rule(
        "attribution-field",
        "attribution.txt lacks a line or has an unknown one",
        "Title, link, licence and creators are shown with every release.",
        "Write one `Label: value` for each line; several works are separated by an empty line.",
        "attribution",
        "",
        "Creator names: The Isles Society\n",
    ),
    Rule(
        "licence",
        "The work's licence is not on the list",
        (
            "The released data and model carry the licence's terms; a non-commercial or unclear one "
            "would bind everybody."
        ),
        "Use a work under an allowed licence, written as its SPDX id.",
        "attribution",
        "License of the work: CC BY-NC-SA 4.0",
        "License of the work: CC-BY-SA-4.0",
    ),
)
