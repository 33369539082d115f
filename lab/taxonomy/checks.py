"""The checks of one `qna.yaml`: its shape against the schema, then what a schema cannot say.

`check` reports everything about the file at once, each finding at the very value it is about. The rules'
reasons are in `lab/taxonomy/rules.py`; the schemas are `schemas/knowledge_v3.json` and
`schemas/skill_v{1,2,3}.json`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from lab.config import RepositoryConfig
from lab.taxonomy.collect import MOST, Findings
from lab.taxonomy.content import check_content
from lab.taxonomy.findings import Finding
from lab.taxonomy.shape import Misfit, misfits, shape
from lab.taxonomy.versions import ADD_VERSION, check_version
from lab.untrusted import YamlDocument, YamlNode, printable

_MEANT = {"bool": "a boolean", "int": "a number", "float": "a number", "timestamp": "a date", "str": "text"}
_WANTED = {"string": "text", "array": "a list", "object": "a mapping (`key: value`)", "integer": "a number"}
_HUMAN = {"seed_examples": "seed examples", "questions_and_answers": "questions", "patterns": "patterns"}
# What each field is for, when it is missing.
_HINTS = {
    "version": ADD_VERSION,
    "created_by": "Add `created_by: your-github-name`.",
    "task_description": "Add `task_description:` with one sentence on what the skill is.",
    "domain": "Add `domain:` with the field of knowledge, such as `Botany`.",
    "document_outline": "Add `document_outline:` with one sentence on what the documents cover.",
    "seed_examples": "Add `seed_examples:` with at least five entries.",
    "document": "Add `document:` with `repo`, `commit` and `patterns` of the source documents.",
    "repo": "Add `repo:` with the https URL of the document repository.",
    "commit": "Add `commit:` with the full id of the documents' commit.",
    "patterns": "Add `patterns:` with a list of globs such as `guides/*.md`.",
    "context": "Add `context:` with the passage of the document that the questions are about.",
    "questions_and_answers": (
        "Put the questions under `questions_and_answers:`, at least three for each context."
    ),
    "question": "Add `question:` to this entry.",
    "answer": "Add `answer:` to this entry.",
}
# What people call a field elsewhere, and what it is called here.
_ALIASES = {
    "author": "created_by",
    "user": "created_by",
    "username": "created_by",
    "description": "task_description",
    "task": "task_description",
    "outline": "document_outline",
    "summary": "document_outline",
    "subject": "domain",
    "examples": "seed_examples",
    "seeds": "seed_examples",
    "documents": "document",
    "source": "document",
    "url": "repo",
    "repository": "repo",
    "sha": "commit",
    "revision": "commit",
    "branch": "commit",
    "files": "patterns",
    "glob": "patterns",
    "q": "question",
    "prompt": "question",
    "instruction": "question",
    "a": "answer",
    "response": "answer",
    "output": "answer",
    "completion": "answer",
    "passage": "context",
    "text": "context",
    "input": "context",
    "qna": "questions_and_answers",
    "questions": "questions_and_answers",
    "pairs": "questions_and_answers",
}


def check(
    file: str, document: YamlDocument, config: RepositoryConfig, knowledge: bool, strict: bool
) -> list[Finding]:
    """Every finding of the file. `strict` holds it to the rules for new and changed leaves."""
    found = Findings(file, config.lint, document.text)
    check_into(found, document, config, knowledge, strict)
    return found.all()


def check_into(
    found: Findings, document: YamlDocument, config: RepositoryConfig, knowledge: bool, strict: bool
) -> bool | None:
    """Adds every finding of the file, and says whether it is knowledge by what it holds; None when nothing
    of it can be read.
    """
    for problem in document.problems:
        found.add(
            problem.rule, (problem.line, problem.column), problem.message, problem.help, problem.suggestion
        )
    _lines(found, document.text)
    root = document.root
    if root is None:
        return None
    if root.type == "null" and root.kind == "scalar":
        found.add("empty-file", (1, 1), "The file is empty.", severity="error" if strict else "warning")
        return None
    if root.kind != "mapping":
        found.add(
            "wrong-type",
            root,
            f"The file's top level is {_named(root)}, not a mapping (`key: value`).",
            "Begin with `version: 3` and `created_by: your-github-name` at the left margin.",
        )
        return None
    knowledge = _kind(found, root, found.file, knowledge)
    version = check_version(found, root, knowledge, strict, _named(root.get("version") or root))
    if version is not None:
        _shape(found, root, shape(f"{'knowledge' if knowledge else 'skill'}_v{version}"))
        check_content(found, root, config, knowledge)
    return knowledge


def _lines(found: Findings, text: str) -> None:
    told = 0
    for number, line in enumerate(found.lines, start=1):
        bare = line.rstrip(" \t")
        if bare != line and told <= MOST:  # a megabyte of such lines must not cost seconds
            told += 1
            count = len(line) - len(bare)
            many = "space" if count == 1 else f"{count} spaces"
            found.add("trailing-space", (number, len(bare) + 1), f"The line ends in {many}.", suggestion=bare)
    if text and not text.endswith("\n"):
        last = found.lines[-1]
        found.add("final-newline", (len(found.lines), len(last) or 1), "The last line has no line end.")


def _kind(found: Findings, root: YamlNode, file: str, knowledge: bool) -> bool:
    """Whether the file is knowledge by what it holds. A leaf in the wrong branch is told once, and then
    held to what it is, so that its other findings make sense.
    """
    seeds = root.get("seed_examples")
    nested = any(s.get("questions_and_answers") is not None for s in seeds.items) if seeds else False
    if not knowledge and (root.get("document") is not None or nested):
        sign = "`document`" if root.get("document") is not None else "`questions_and_answers`"
        branch, right = file.split("/", 1)[0], "knowledge"
    elif knowledge and not nested and root.get("task_description") is not None:
        if any(root.get(name) is not None for name in ("document", "document_outline", "domain")):
            return True
        sign, branch, right = "`task_description` and no `document`", "knowledge", "compositional_skills"
    else:
        return knowledge
    what = "knowledge" if right == "knowledge" else "a skill"
    message = f"This leaf is {what} (it has {sign}), but it lies under `{printable(branch, 40)}`."
    found.add("misplaced-leaf", root, message, f"Move its folder to `{right}/`.")
    return not knowledge


# ---- shape
# -----------------------------------------------------------------------------------------------------


def _shape(found: Findings, root: YamlNode, schema: dict[str, object]) -> None:
    for misfit in misfits(root, schema):
        node, name = misfit.node, misfit.field
        if misfit.path == ("version",):  # told by `_version` already
            continue
        match misfit.kind:
            case "required" if misfit.key != "version":
                where = _where(misfit)
                found.add(
                    "missing-field", node, f"`{misfit.key}` is missing{where}.", _HINTS.get(misfit.key, "")
                )
            case "unknown":
                _unknown(found, misfit)
            case "type":
                _type(found, misfit)
            case "empty":
                found.add("empty-value", node, f"`{name}` is empty{_where(misfit)}.")
            case "few":
                rule = {"seed_examples": "seed-count", "questions_and_answers": "pair-count"}.get(
                    name, "empty-value"
                )
                wanted, have = misfit.schema["minItems"], len(node.items)
                what = _HUMAN.get(name, name)
                key = _key(root, misfit.path) or node
                found.add(
                    rule,
                    key,
                    f"{have} {what} here; at least {wanted} are needed.",
                    f"Add {wanted - have} more.",
                )
            case "repeated" if misfit.first is not None:
                rule = "document-pattern" if "patterns" in misfit.path else "duplicate-seed"
                what = "pattern" if "patterns" in misfit.path else "entry"
                found.add(
                    rule,
                    node,
                    f"This {what} stands already on line {misfit.first.line}.",
                    "Delete one of the two.",
                )
            case _:
                continue


def _unknown(found: Findings, misfit: Misfit) -> None:
    node, key = misfit.node, printable(misfit.key, 60)
    known = [str(name) for name in misfit.schema["properties"]]
    other = _ALIASES.get(misfit.key.strip().casefold().replace("-", "_").replace(" ", "_"))
    near = [other] if other in known else difflib.get_close_matches(misfit.key[:60], known, n=1)
    line = found.line(node.line)
    mended = None
    if near:
        help_ = f"Did you mean `{near[0]}`?"
        at = node.column - 1
        if line[at : at + len(misfit.key)] == misfit.key:
            mended = line[:at] + near[0] + line[at + len(misfit.key) :]
    else:
        help_ = "Fields here: " + ", ".join(f"`{name}`" for name in known) + "."
    found.add("unknown-field", node, f"`{key}` is not a field{_where(misfit)}.", help_, mended)


def _type(found: Findings, misfit: Misfit) -> None:
    node, name = misfit.node, misfit.field
    wanted = _WANTED.get(str(misfit.schema.get("type")), "something else")
    what = f"`{name}`" if not misfit.path or isinstance(misfit.path[-1], str) else f"An entry of `{name}`"
    if node.type == "null":
        found.add("empty-value", node, f"{what} has no value{_where(misfit)}.")
        return
    if name == "commit" and node.kind == "scalar" and len(node.text) < 40:
        hint = "Use the full id of 40 hex digits: `git rev-parse HEAD` in the document repository prints it."
        found.add("document-commit", node, f"`{printable(node.text, 60)}` is not a full commit id.", hint)
        return
    if node.kind == "scalar" and wanted == "text":
        shown = printable(node.text, 60)
        line, at = found.line(node.line), node.column - 1
        mended = None
        if line[at:].rstrip() == node.text:
            mended = f"{line[:at]}'{node.text}'"
        message = f"{what}: YAML reads the bare `{shown}` as {_MEANT.get(node.type, node.type)}, not as text."
        found.add("wrong-type", node, message, f"Put it in quotes: `'{shown}'`.", mended)
        return
    found.add("wrong-type", node, f"{what} is {_named(node)}; it must be {wanted}.")


def _named(node: YamlNode) -> str:
    if node.kind == "mapping":
        return "a mapping (`key: value`)"
    return "a list" if node.kind == "sequence" else _MEANT.get(node.type, node.type)


def _where(misfit: Misfit) -> str:
    numbers = [
        (misfit.path[at - 1], part + 1) for at, part in enumerate(misfit.path) if isinstance(part, int)
    ]
    words = {"seed_examples": "seed example", "questions_and_answers": "question", "patterns": "pattern"}
    parts = [f"{words.get(str(name), str(name))} {number}" for name, number in numbers]
    if "document" in misfit.path[:1] and misfit.kind in ("required", "unknown"):
        parts.append("`document`")
    return f" in {', '.join(parts)}" if parts else ""


def _key(root: YamlNode, path: Iterable[str | int]) -> YamlNode | None:
    """The key node of the field that the path ends in."""
    node, key = root, None
    for part in path:
        if isinstance(part, int):
            node = node.items[part]
        else:
            key, inner = node.key(part), node.get(part)
            if inner is None:
                return key
            node = inner
    return key
