"""What a schema cannot say about one `qna.yaml`: blank and repeated texts, lengths, names, addresses.

Called by `lab/taxonomy/checks.py` once the file's shape is told; every finding is at the very value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lab.config import RepositoryConfig
from lab.taxonomy.collect import Findings
from lab.taxonomy.sizes import words as count_words
from lab.untrusted import Refused, YamlNode, clone_url, commit_id, glob_pattern, printable

# As what a document is read, by its ending (`lab/taxonomy/convert.py`; a test holds the two together).
TYPES = {
    ".md": "Markdown or plain text",
    ".markdown": "Markdown or plain text",
    ".txt": "Markdown or plain text",
    ".html": "HTML",
    ".htm": "HTML",
    ".pdf": "PDF",
}


def check_content(found: Findings, root: YamlNode, config: RepositoryConfig, knowledge: bool) -> None:
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


def _texts(*nodes: YamlNode | None) -> str:
    return "\n".join(node.text for node in nodes if node is not None and node.kind == "scalar")


def _length(
    found: Findings, rule: str, place: YamlNode, what: str, text: str, most: int, tokens: int
) -> None:
    """Words first, as people count; then tokens, for what has few spaces."""
    words = count_words(text)
    if words > most:
        found.add(rule, place, f"{what} {words} words; at most {most} are advised.")
    elif many := found.tokens.over(text, tokens):
        found.add(rule, place, f"{what} {found.tokens.say(many)}; at most {tokens} are advised.")


def _pair(found: Findings, pair: YamlNode, config: RepositoryConfig) -> None:
    question, answer = pair.get("question"), pair.get("answer")
    _blank(found, question, "question")
    _blank(found, answer, "answer")
    limits, text = config.lint.limits, _texts(question, answer)
    place = question or pair
    _length(
        found, "pair-length", place, "Question and answer have", text, limits.pair_words, limits.pair_tokens
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
            _context_length(found, context, config)
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
        if context is not None:
            _context_length(found, context, config)
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
    every = "\n".join(_texts(seed.get("context"), seed.get("question"), seed.get("answer")) for seed in seeds)
    limits, place = config.lint.limits, root.key("seed_examples") or root
    what = "The seed examples have"
    _length(found, "leaf-length", place, what, every, limits.leaf_words, limits.leaf_tokens)


def _context_length(found: Findings, context: YamlNode, config: RepositoryConfig) -> None:
    limits, text = config.lint.limits, _texts(context)
    words, tokens = limits.context_words, limits.context_tokens
    _length(found, "context-length", context, "The context has", text, words, tokens)


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
    first: str | None = None
    for pattern in patterns.items if patterns is not None else ():
        if pattern.type != "str" or not pattern.text:
            continue
        try:
            glob_pattern(pattern.text)
        except Refused as refused:
            found.add("document-pattern", pattern, refused.reason, refused.hint)
            continue
        end = re.search(r"\.[A-Za-z0-9]{1,8}$", pattern.text)
        told = TYPES.get(end.group().lower()) if end else None
        if end and told is None:
            message = f"`{printable(pattern.text, 80)}`: {end.group().lower()} is never read as a document."
            found.add("document-type", pattern, message)
        if told and first and told != first:
            message = f"`{printable(pattern.text, 80)}` takes {told}, the patterns above take {first}."
            found.add("document-mixed", pattern, message)
        first = first or told


def _over_https(line: str, repo: YamlNode, hosts: Iterable[str]) -> str | None:
    """The line with the same repository's https address, where its own only has another beginning or end."""
    # A colon ends the host in `git@host:path` only; in an address with a scheme a port follows it.
    match = re.match(
        r"(?:(?:(?:https?|git)://|ssh://git@)([A-Za-z0-9.-]+)(?::\d*)?/|git@([A-Za-z0-9.-]+):|([A-Za-z0-9.-]+)/)(.+)",
        repo.text,
    )
    if match is None or line.count(repo.text) != 1:
        return None
    host = match.group(1) or match.group(2) or match.group(3)
    url = f"https://{host}/{match.group(4).rstrip('/')}"
    try:
        return line.replace(repo.text, clone_url(url, tuple(hosts)))
    except Refused:
        return None
