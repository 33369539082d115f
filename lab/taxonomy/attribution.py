"""The checks of `attribution.txt`: one block of `Label: value` lines for each work, blocks apart by an
empty line.

Labels and licences are those of the predecessor's contribution guide, where only the file's existence was
checked and a leaf under a non-commercial licence went in. Own work has `-` as its link.
"""

from __future__ import annotations

import difflib
import re

from lab.config import LintPolicy
from lab.taxonomy.collect import Findings
from lab.taxonomy.findings import Finding
from lab.untrusted import printable

REQUIRED = ("Title of work", "Link to work", "License of the work", "Creator names")
OPTIONAL = ("Revision", "Copyright notice", "Changes")
LIMIT = 64 * 1024
_LINE = re.compile(r"^\s*([A-Za-z][A-Za-z /()-]{1,40}?)\s*:\s*(.*?)\s*$")


def check_attribution(file: str, data: bytes, policy: LintPolicy) -> list[Finding]:
    """Every finding of the file; a place is always inside it."""
    text = data.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    found = Findings(file, policy, text)
    if "\ufffd" in text:
        found.add("attribution-field", (1, 1), "The file is not plain UTF-8 text.", "Save it as UTF-8.")
    blocks = _blocks(found.lines)
    if not blocks:
        found.add("attribution-missing", (1, 1), "attribution.txt is empty.", _example())
    known = [*REQUIRED, *OPTIONAL]
    for block in blocks:
        seen: dict[str, tuple[int, str]] = {}
        for number, line in block:
            match = _LINE.match(line)
            label = _label(match.group(1), known) if match else None
            if match is None or label is None:
                _unknown(found, number, line, match, known)
            elif label in seen:
                message = f"`{label}` stands here a second time; a new work begins after an empty line."
                found.add("attribution-field", (number, 1), message, "Put an empty line between two works.")
            else:
                seen[label] = (number, match.group(2))
        _missing(found, block[0][0], seen)
        if "License of the work" in seen:
            _licence(found, *seen["License of the work"], policy)
    return found.all()


def _blocks(lines: list[str]) -> list[list[tuple[int, str]]]:
    blocks: list[list[tuple[int, str]]] = [[]]
    for number, line in enumerate(lines, start=1):
        if line.strip():
            blocks[-1].append((number, line))
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _label(text: str, known: list[str]) -> str | None:
    plain = text.strip().casefold().replace("licence", "license")
    return next((name for name in known if name.casefold() == plain), None)


def _unknown(found: Findings, number: int, line: str, match: re.Match[str] | None, known: list[str]) -> None:
    place = (number, len(line) - len(line.lstrip()) + 1)
    if match is None:
        message = f"`{printable(line.strip(), 60)}` is no `Label: value` line."
        found.add("attribution-field", place, message, _example(), severity="warning")
        return
    near = difflib.get_close_matches(match.group(1), known, n=1)
    help_ = f"Did you mean `{near[0]}`?" if near else "Known labels: " + ", ".join(known) + "."
    mended = f"{near[0]}: {match.group(2)}" if near else None
    message = f"`{printable(match.group(1), 40)}` is not a label of attribution.txt."
    found.add("attribution-field", place, message, help_, mended, severity="error" if near else "warning")


def _missing(found: Findings, line: int, seen: dict[str, tuple[int, str]]) -> None:
    for label in REQUIRED:
        if label not in seen:
            message = f"`{label}` is missing in the work that begins here."
            found.add(
                "attribution-field", (line, 1), message, f"Add a line `{label}: ...`. {_hint(label)}".strip()
            )
        elif not seen[label][1]:
            found.add("attribution-field", (seen[label][0], 1), f"`{label}` is empty.", _hint(label))
    link = seen.get("Link to work")
    if link is not None and link[1] and link[1] != "-" and not re.match(r"https?://\S+$", link[1]):
        message = f"`{printable(link[1], 80)}` is not a link."
        found.add("attribution-field", (link[0], 1), message, _hint("Link to work"), severity="warning")


def _hint(label: str) -> str:
    return "Write an https address, or `-` for your own work." if label == "Link to work" else ""


def _licence(found: Findings, number: int, value: str, policy: LintPolicy) -> None:
    if not value:
        return
    column = found.line(number).find(value) + 1 or 1
    names = {_spelled(name): name for name in policy.licences}
    if value in policy.licences:
        return
    allowed = "Allowed: " + (", ".join(policy.licences) or "none") + "."
    meant = names.get(_spelled(value))
    if meant is not None:
        line = found.line(number)
        mended = line.replace(value, meant)
        message = f"`{printable(value, 60)}` is not written as its SPDX id."
        found.add("licence", (number, column), message, f"Write `{meant}`.", mended, severity="warning")
    else:
        found.add(
            "licence", (number, column), f"The licence `{printable(value, 60)}` is not allowed here.", allowed
        )


def _spelled(name: str) -> str:
    """Letters of every script stay: a clause in Chinese makes it another licence."""
    return re.sub(r"[^\w.]|_", "", name.casefold().replace("license", "").replace("licence", ""))


def _example() -> str:
    return "Write lines such as `Title of work: ...`; the labels are " + ", ".join(REQUIRED) + "."
