"""Which format a file has, and how exactly an older one moves to the one in use.

New and changed knowledge has version 3, skills have version 2 or 3; older skills are read as they are.
`treewright migrate` writes what can be written without loss; here a person is told each step with its line.
"""

from __future__ import annotations

from lab.taxonomy.collect import Findings
from lab.taxonomy.findings import Severity
from lab.untrusted import YamlNode, printable

ADD_VERSION = "Add `version: 3` at the top."
_LEAST_SEEDS, _LEAST_PAIRS = 5, 3


def check_version(found: Findings, root: YamlNode, knowledge: bool, strict: bool, named: str) -> int | None:
    """The version whose schema applies; None when no schema does, and that is a finding already. `named`
    says what kind of value a collection is.
    """
    node = root.get("version")
    if node is None:
        if knowledge:
            steps = migration(root, knowledge)
            found.add("missing-field", root, "`version` is missing.", f"{ADD_VERSION} {steps}")
            return 3
        message = "`version` is missing, so the file is read as version 1."
        severity: Severity = "error" if strict else "warning"
        line = found.line(root.line)
        mended = f"version: 3\n{line}" if root.style != "{" and line.strip() else None
        found.add("version", root, message, migration(root, knowledge), mended, severity)
        return 3 if strict else 1
    value = node.plain()
    if node.type != "int" or value not in (1, 2, 3):
        _unknown(found, node, named)
        return 3
    if knowledge and value < 3:
        message = f"Knowledge of version {value} is no longer accepted; version 3 is."
        found.add("version", node, message, migration(root, knowledge))
        return None
    if not knowledge and value < 2:
        message = "Skills of version 1 are kept as they are, but a new or changed one needs version 2 or 3."
        mended = _with_version(found, node, "1")
        severity = "error" if strict else "warning"
        found.add("version", node, message, migration(root, knowledge), mended, severity)
        return 3 if strict else 1
    return int(value)


def _unknown(found: Findings, node: YamlNode, named: str) -> None:
    shown = printable(node.text, 40) if node.kind == "scalar" else named
    quoted = node.kind == "scalar" and node.text in ("1", "2", "3")
    message = f"`version` is {'the text ' if quoted else ''}`{shown}`; known versions are 1, 2 and 3."
    mended = None
    if quoted and node.style:
        mended = _with_version(found, node, f"{node.style}{node.text}{node.style}", node.text)
    found.add("version", node, message, "Write `version: 3`, without quotes.", mended)


def _with_version(found: Findings, node: YamlNode, old: str, new: str = "3") -> str | None:
    line, at = found.line(node.line), node.column - 1
    return line[:at] + new + line[at + len(old) :] if line[at:].startswith(old) else None


def migration(root: YamlNode, knowledge: bool) -> str:
    """The steps from this very file to version 3, in the order of its lines."""
    version = root.get("version")
    steps: list[tuple[int, str]] = []
    if version is not None:
        steps.append((0, f"line {version.line}: `version: 3`"))
    elif not knowledge:
        steps.append((0, "write `version: 3` as the first line"))
    seeds = root.get("seed_examples")
    key = root.key("seed_examples")
    at = key.line if key is not None else root.line
    flat: list[YamlNode] = []
    if knowledge:
        task, outline = root.key("task_description"), root.get("document_outline")
        if task is not None:
            change = "remove `task_description`"
            if outline is None:
                new = "`document_outline`, one sentence on what the documents cover"
                change = f"rename `task_description` to {new}"
            steps.append((task.line, f"line {task.line}: {change}"))
        elif outline is None:
            steps.append((root.line, "add `document_outline`, one sentence on what the documents cover"))
        if root.get("domain") is None:
            steps.append((root.line, "add `domain`, the field of knowledge"))
        flat = [seed for seed in seeds.items if seed.get("question") is not None] if seeds is not None else []
        if flat:
            step = (
                f"from line {flat[0].line}: put the {len(flat)} questions and answers under "
                f"`questions_and_answers:` of seed examples with the `context` that answers them: "
                f"at least {_LEAST_SEEDS} contexts with {_LEAST_PAIRS} each"
            )
            steps.append((flat[0].line, step))
        if root.get("document") is None:
            steps.append((1 << 30, "add `document` with `repo`, `commit` and `patterns`"))
    have = len(seeds.items) if seeds is not None else 0
    if have < _LEAST_SEEDS and not (knowledge and (flat or not have)):
        what = "contexts" if knowledge else "seed examples"
        steps.append((at, f"line {at}: write {_LEAST_SEEDS - have} more {what}; {_LEAST_SEEDS} are needed"))
    if knowledge and not have:
        each = f"`context` and {_LEAST_PAIRS} `questions_and_answers`"
        steps.append((at, f"write {_LEAST_SEEDS} seed examples, each with a {each}"))
    told = "; ".join(f"({number}) {step}" for number, (_, step) in enumerate(sorted(steps), start=1))
    return f"To version 3: {told}. `treewright migrate` does what can be done without loss."
