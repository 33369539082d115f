"""Moves a leaf of an old format to version 3: `treewright migrate`.

The text is edited at the places of its nodes, never written out again from data, so comments, order, quoting
and line ends stay. Skills of version 2 have version 3's shape already; a skill of version 1 moves when it
fulfils version 3. Knowledge of version 1 and 2 gets `document_outline` for `task_description`, and each flat
seed becomes the only entry of its own `questions_and_answers`: nothing is lost and nothing is made up, so
what no machine can know (the context of each seed, more questions) is left, and `Migration.left` says it
line by line.

Every rewritten file is read again: its data must be exactly the old data in the new shape, or it stays as it
is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lab.config import RepositoryConfig
from lab.taxonomy.checks import check
from lab.taxonomy.findings import Finding
from lab.taxonomy.leaf import is_knowledge
from lab.untrusted import YamlBudgets, YamlDocument, YamlNode, read_yaml

LATEST = 3
_MARK = "\ufeff"
_HARMLESS = ("line-ending", "yaml-encoding")  # a byte order mark or carriage returns do not move a node
_FLAT = {"question", "answer"}


@dataclass(frozen=True)
class Migration:
    """`data` is the file's new content (`rewritten`) or the old one (`blocked`). `left` are the errors that a
    person has to mend, at their lines in `data` when it was rewritten, in the moved form when it was not.
    """

    file: str
    version: int  # the old one; 1 when the file names none
    outcome: Literal["rewritten", "blocked"]
    data: bytes
    left: tuple[Finding, ...]
    reason: str = ""


def migrate(file: str, data: bytes, config: RepositoryConfig) -> Migration | None:
    """The leaf's file in version 3; None when it is of version 3 already (or of none that is known)."""
    knowledge = is_knowledge(file)
    document = _read(data)
    root = document.root
    if root is not None and (root.kind != "mapping" or not root.entries):
        return None
    problems = [problem for problem in document.problems if problem.rule not in _HARMLESS]
    if root is None or problems:
        if b"version: 3" in data:
            return None
        return _blocked(file, 1, data, _errors(file, document, config, True), "It is not read as YAML.")
    version = _version(root)
    if version is None or version >= LATEST:
        return None
    if root.style:
        return _blocked(file, version, data, (), "It is written in braces; write one key a line first.")
    lines = data.decode("utf-8").removeprefix(_MARK).split("\n")
    expected = _moved(root, knowledge)
    _edit(lines, root, knowledge)
    made = ((_MARK if data.startswith(_MARK.encode()) else "") + "\n".join(lines)).encode()
    again = _read(made)
    if again.root is None or again.root.plain() != expected:
        reason = "Its layout cannot be rewritten safely; change it by hand."
        return _blocked(file, version, data, _errors(file, document, config, True), reason)
    left = _errors(file, again, config, True)
    if not knowledge and len(left) > len(_errors(file, document, config, False)):
        # Where nobody touches it, a skill of version 1 is accepted as it is; in version 3 it would not be.
        return _blocked(file, version, data, left, "It does not fulfil version 3 yet.")
    return Migration(file, version, "rewritten", made, left)


def _blocked(file: str, version: int, data: bytes, left: tuple[Finding, ...], reason: str) -> Migration:
    return Migration(file, version, "blocked", data, left, reason)


def _read(data: bytes) -> YamlDocument:
    return read_yaml(data, YamlBudgets(bytes=max(len(data), 1)))


def _errors(file: str, document: YamlDocument, config: RepositoryConfig, strict: bool) -> tuple[Finding, ...]:
    found = check(file, document, config, is_knowledge(file), strict)
    return tuple(finding for finding in found if finding.severity == "error")


def _version(root: YamlNode) -> int | None:
    node = root.get("version")
    if node is None:
        return 1
    if node.kind == "scalar" and node.text in ("1", "2", "3"):
        return int(node.text)
    return None


# ---- the data in its new shape ----------------------------------------------------------------------------


def _moved(root: YamlNode, knowledge: bool) -> dict[str, Any]:
    """What the rewritten file must hold, computed from the data alone."""
    renames = _renames(root, knowledge)
    moved: dict[str, Any] = {"version": LATEST}
    for key, value in root.entries:
        if key.text == "version":
            continue
        plain = value.plain()
        if knowledge and key.text == "seed_examples" and value.kind == "sequence":
            plain = [
                {"questions_and_answers": [data]} if _is_flat(item) else data
                for item, data in zip(value.items, plain, strict=True)
            ]
        moved[renames.get(key.text, key.text)] = plain
    return moved


def _renames(root: YamlNode, knowledge: bool) -> dict[str, str]:
    both = root.get("document_outline") is not None
    return {} if not knowledge or both else {"task_description": "document_outline"}


def _is_flat(item: YamlNode) -> bool:
    """A seed of a question and an answer only, one key a line."""
    return item.kind == "mapping" and not item.style and {key.text for key, _ in item.entries} == _FLAT


# ---- the text ---------------------------------------------------------------------------------------------


def _edit(lines: list[str], root: YamlNode, knowledge: bool) -> None:
    """Edits from the last line to the first, so that places stay true."""
    seeds = root.get("seed_examples")
    edits: list[tuple[int, int, YamlNode, str]] = []  # line, column, node, what to do
    if knowledge and seeds is not None and seeds.kind == "sequence" and not seeds.style:
        edits += [(item.line, item.column, item, "nest") for item in seeds.items if _is_flat(item)]
    for old, new in _renames(root, knowledge).items():
        key = root.key(old)
        if key is not None:
            edits.append((key.line, key.column, key, new))
    version = root.get("version")
    if version is not None:
        edits.append((version.line, version.column, version, str(LATEST)))
    for line, column, node, what in sorted(edits, key=lambda edit: (-edit[0], -edit[1])):
        if what == "nest":
            _nest(lines, node)
        else:
            start = column - 1
            width = len(node.text) + 2 * (node.style in ("'", '"'))
            lines[line - 1] = lines[line - 1][:start] + what + lines[line - 1][start + width :]
    if version is None:
        first = root.line - 1
        end = "\r" if lines[first].endswith("\r") else ""
        lines.insert(first, " " * (root.column - 1) + f"version: {LATEST}{end}")


def _nest(lines: list[str], item: YamlNode) -> None:
    """The item's lines four columns deeper, below a key `questions_and_answers` in its old place."""
    margin = item.column - 1
    last = max(value.end_line for _, value in item.entries)
    while last > item.line and _is_outside(lines[last - 1], margin):
        last -= 1
    for number in range(item.line + 1, last + 1):
        if lines[number - 1].strip():
            lines[number - 1] = "    " + lines[number - 1]
    head = lines[item.line - 1]
    end = "\r" if head.endswith("\r") else ""
    lines[item.line - 1] = " " * (margin + 2) + "- " + head[margin:]
    lines.insert(item.line - 1, f"{head[:margin]}questions_and_answers:{end}")


def _is_outside(line: str, margin: int) -> bool:
    """A blank line, or a comment to the left of the item's keys, at the end of a text block."""
    bare = line.lstrip(" ")
    return not bare.strip() or (bare.startswith("#") and len(line) - len(bare) < margin)
