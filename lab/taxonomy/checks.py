"""The checks of one `qna.yaml`: its shape against the schema, then what a schema cannot say.

`check` reports everything about the file at once, each finding at the very value it is about. The rules'
reasons are in `lab/taxonomy/rules.py`; the schemas are `schemas/knowledge_v3.json` and
`schemas/skill_v{1,2,3}.json`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from lab.config import RepositoryConfig
from lab.taxonomy.collect import MOST, Findings
from lab.taxonomy.findings import Finding
from lab.taxonomy.shape import Misfit, misfits, shape
from lab.untrusted import Refused, YamlDocument, YamlNode, clone_url, commit_id, glob_pattern, printable

READABLE = (".md", ".markdown", ".txt")
_MEANT = {"bool": "a boolean", "int": "a number", "float": "a number", "timestamp": "a date", "str": "text"}
_WANTED = {"string": "text", "array": "a list", "object": "a mapping (`key: value`)", "integer": "a number"}
_HUMAN = {"seed_examples": "seed examples", "questions_and_answers": "questions", "patterns": "patterns"}
# What each field is for, when it is missing.
_HINTS = {
    "version": "Add `version: 3` at the top.",
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
_MIGRATE = (
    "Version 3 has `document_outline` instead of `task_description`, and each of at least five "
    "seed examples has a "
    "`context` with three `questions_and_answers`."
)


def check(
    file: str, document: YamlDocument, config: RepositoryConfig, knowledge: bool, strict: bool
) -> list[Finding]:
    """Every finding of the file. `strict` holds it to the rules for new and changed leaves."""
    found = Findings(file, config.lint, document.text)
    for problem in document.problems:
        found.add(
            problem.rule, (problem.line, problem.column), problem.message, problem.help, problem.suggestion
        )
    _lines(found, document.text)
    root = document.root
    if root is None:
        return found.all()
    if root.type == "null" and root.kind == "scalar":
        found.add("empty-file", (1, 1), "The file is empty.", severity="error" if strict else "warning")
        return found.all()
    if root.kind != "mapping":
        found.add(
            "wrong-type",
            root,
            f"The file's top level is {_named(root)}, not a mapping (`key: value`).",
            "Begin with `version: 3` and `created_by: your-github-name` at the left margin.",
        )
        return found.all()
    version = _version(found, root, knowledge, strict)
    if version is not None:
        _shape(found, root, shape(f"{'knowledge' if knowledge else 'skill'}_v{version}"))
        _content(found, root, config, knowledge)
    return found.all()


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


def _version(found: Findings, root: YamlNode, knowledge: bool, strict: bool) -> int | None:
    """The version whose schema applies; None when no schema does, and that is a finding already."""
    node = root.get("version")
    if node is None:
        if knowledge:
            found.add("missing-field", root, "`version` is missing.", f"{_HINTS['version']} {_MIGRATE}")
            return 3
        message = "`version` is missing, so the file is read as version 1."
        found.add("version", root, message, _HINTS["version"], severity="error" if strict else "warning")
        return 3 if strict else 1
    value = node.plain()
    if node.type != "int" or value not in (1, 2, 3):
        shown = printable(node.text, 40) if node.kind == "scalar" else _named(node)
        quoted = node.kind == "scalar" and node.text in ("1", "2", "3")
        message = f"`version` is {'the text ' if quoted else ''}`{shown}`; known versions are 1, 2 and 3."
        mended = re.sub(r"(version:\s*)['\"](\d)['\"]", r"\1\2", found.line(node.line)) if quoted else None
        found.add("version", node, message, "Write `version: 3`, without quotes.", mended)
        return 3
    if knowledge and value < 3:
        found.add(
            "version", node, f"Knowledge of version {value} is no longer accepted; version 3 is.", _MIGRATE
        )
        return None
    if not knowledge and value < 2:
        message = "Skills of version 1 are kept as they are, but a new or changed one needs version 2 or 3."
        help_ = "Write `version: 3`, and give at least five seed examples."
        found.add("version", node, message, help_, severity="error" if strict else "warning")
        return 3 if strict else 1
    return int(value)


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
    near = difflib.get_close_matches(misfit.key[:60], known, n=1)
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


# ---- content
# ---------------------------------------------------------------------------------------------------


def _content(found: Findings, root: YamlNode, config: RepositoryConfig, knowledge: bool) -> None:
    limits = config.lint.limits
    creator = root.get("created_by")
    if (
        creator is not None
        and creator.type == "str"
        and creator.text.strip()
        and not re.fullmatch(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}", creator.text.strip())
    ):
        found.add("created-by", creator, f"`{printable(creator.text, 60)}` is not a GitHub account's name.")
    for name in ("created_by", "task_description", "domain", "document_outline"):
        _blank(found, root.get(name), name)
    seeds = _mappings(root.get("seed_examples"))
    if knowledge:
        outline = root.get("document_outline")
        if outline is not None and len(outline.text.strip()) > limits.outline_characters:
            size = len(outline.text.strip())
            message = f"The outline has {size} characters; {limits.outline_characters} are enough."
            found.add("outline-length", outline, message)
        _knowledge_seeds(found, seeds, config)
        document = root.get("document")
        if document is not None and document.kind == "mapping":
            _document(found, document, config)
    else:
        _skill_seeds(found, root, seeds, config)


def _blank(found: Findings, node: YamlNode | None, name: str) -> None:
    if node is not None and node.type == "str" and node.text and not node.text.strip():
        found.add("empty-value", node, f"`{name}` has nothing but spaces in it.")


def _mappings(node: YamlNode | None) -> list[YamlNode]:
    return [item for item in node.items if item.kind == "mapping"] if node is not None else []


def _same(text: str) -> str:
    """Texts that a reader takes for the same: case, spaces and a final mark apart."""
    return re.sub(r"\s+", " ", text).strip().rstrip("?.! ").casefold()


def _words(*nodes: YamlNode | None) -> int:
    return sum(len(node.text.split()) for node in nodes if node is not None and node.kind == "scalar")


def _pair(found: Findings, pair: YamlNode, config: RepositoryConfig) -> None:
    question, answer = pair.get("question"), pair.get("answer")
    _blank(found, question, "question")
    _blank(found, answer, "answer")
    words, most = _words(question, answer), config.lint.limits.pair_words
    if words > most:
        found.add(
            "pair-length",
            question or pair,
            f"Question and answer have {words} words; at most {most} are advised.",
        )


def _knowledge_seeds(found: Findings, seeds: list[YamlNode], config: RepositoryConfig) -> None:
    contexts: dict[str, YamlNode] = {}
    asked: dict[str, tuple[YamlNode, YamlNode]] = {}
    for seed in seeds:
        context = seed.get("context")
        _blank(found, context, "context")
        if context is not None and context.text.strip():
            first = contexts.setdefault(_same(context.text), context)
            if first is not context:
                found.add("duplicate-context", context, f"This context stands already on line {first.line}.")
            words, most = _words(context), config.lint.limits.context_words
            if words > most:
                found.add(
                    "context-length", context, f"The context has {words} words; at most {most} are advised."
                )
        for pair in _mappings(seed.get("questions_and_answers")):
            _pair(found, pair, config)
            question = pair.get("question")
            if question is None or not question.text.strip():
                continue
            before = asked.setdefault(_same(question.text), (question, seed))
            if before[0] is not question:
                message = (
                    f"The question `{printable(question.text.strip(), 80)}` stands already "
                    f"on line {before[0].line}."
                )
                within = before[1] is seed
                found.add("duplicate-question", question, message, severity="error" if within else "warning")


def _skill_seeds(found: Findings, root: YamlNode, seeds: list[YamlNode], config: RepositoryConfig) -> None:
    grounded = [seed for seed in seeds if seed.get("context") is not None]
    if grounded and len(grounded) < len(seeds):
        number, odd = next(
            (n, seed) for n, seed in enumerate(seeds, 1) if (seed in grounded) != (seeds[0] in grounded)
        )
        has, others = ("a", "have none") if odd in grounded else ("no", "have one")
        found.add("mixed-seeds", odd, f"Seed example {number} has {has} context; those before it {others}.")
    asked: dict[tuple[str, str], YamlNode] = {}
    answered: dict[tuple[str, str, str], YamlNode] = {}
    for seed in seeds:
        _pair(found, seed, config)
        context, question, answer = seed.get("context"), seed.get("question"), seed.get("answer")
        _blank(found, context, "context")
        words, most = _words(context), config.lint.limits.context_words
        if context is not None and words > most:
            found.add(
                "context-length", context, f"The context has {words} words; at most {most} are advised."
            )
        if question is None or not question.text.strip():
            continue
        key = (_same(context.text) if context is not None else "", _same(question.text))
        whole = (*key, _same(answer.text) if answer is not None else "")
        first = asked.setdefault(key, question)
        exact = answered.setdefault(whole, question)
        if first is not question and exact is question:
            shown = printable(question.text.strip(), 80)
            message = f"The question `{shown}` stands already on line {first.line}, with another answer."
            found.add("duplicate-question", question, message)
        elif first is not question:
            found.add(
                "duplicate-question",
                question,
                f"This question and answer stand already on line {exact.line}.",
            )
    total = sum(_words(seed.get("context"), seed.get("question"), seed.get("answer")) for seed in seeds)
    most = config.lint.limits.leaf_words
    if total > most:
        place = root.key("seed_examples") or root
        found.add("leaf-length", place, f"The seed examples have {total} words; at most {most} are advised.")


def _document(found: Findings, document: YamlNode, config: RepositoryConfig) -> None:
    repo, commit, patterns = document.get("repo"), document.get("commit"), document.get("patterns")
    if repo is not None and repo.type == "str" and repo.text:
        try:
            clone_url(repo.text, config.documents.hosts)
        except Refused as refused:
            mended = _over_https(found.line(repo.line), repo, config.documents.hosts)
            found.add("document-url", repo, refused.reason, refused.hint, mended)
    # An id of digits only is a number to YAML; the type finding says so already.
    if commit is not None and commit.type == "str" and commit.text:
        try:
            commit_id(commit.text)
        except Refused as refused:
            found.add("document-commit", commit, refused.reason, refused.hint)
    for pattern in patterns.items if patterns is not None else ():
        if pattern.type != "str" or not pattern.text:
            continue
        try:
            glob_pattern(pattern.text)
        except Refused as refused:
            found.add("document-pattern", pattern, refused.reason, refused.hint)
            continue
        end = re.search(r"\.[A-Za-z0-9]{1,8}$", pattern.text)
        if end and not pattern.text.lower().endswith(READABLE):
            kind = end.group().lower()
            why = "needs the operator's PDF extra" if kind == ".pdf" else "is never read as a document"
            found.add("document-type", pattern, f"`{printable(pattern.text, 80)}`: {kind} {why}.")


def _over_https(line: str, repo: YamlNode, hosts: Iterable[str]) -> str | None:
    """The line with the same repository's https address, where its own only has another beginning or end."""
    match = re.match(r"(?:https?://|git://|ssh://git@|git@)?([A-Za-z0-9.-]+)[/:](.+)", repo.text)
    if match is None or line.count(repo.text) != 1:
        return None
    url = f"https://{match.group(1)}/{match.group(2).rstrip('/')}"
    try:
        return line.replace(repo.text, clone_url(url, tuple(hosts)))
    except Refused:
        return None
