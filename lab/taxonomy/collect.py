"""Gathers findings of one file: levels from the repository's configuration, a cap, places inside the file."""

from __future__ import annotations

from lab.config import LintPolicy
from lab.taxonomy.findings import Finding, Severity
from lab.taxonomy.rules import RULES
from lab.taxonomy.sizes import ESTIMATE, Tokens
from lab.untrusted import YamlNode

MOST = 100  # findings of one file; GitHub shows 50 annotations a request and ten in a summary


class Findings:
    """`text` is the file's content, so that a suggestion can show the whole mended line; `tokens` is how
    the teacher's tokens are counted.
    """

    def __init__(self, file: str, policy: LintPolicy, text: str = "", tokens: Tokens = ESTIMATE) -> None:
        self.file = file
        self.policy = policy
        self.tokens = tokens
        self.lines = text.split("\n")
        self._found: list[Finding] = []

    def add(
        self,
        rule: str,
        place: YamlNode | tuple[int, int],
        message: str,
        help_: str = "",
        suggestion: str | None = None,
        severity: Severity | None = None,
    ) -> None:
        level = severity or RULES[rule].severity
        wanted = None if RULES[rule].fixed_level else self.policy.rules.get(rule)
        if wanted == "off":
            return
        line, column = (place.line, place.column) if isinstance(place, YamlNode) else place
        self._found.append(
            Finding(
                self.file, line, column, rule, wanted or level, message, help_ or RULES[rule].fix, suggestion
            )
        )

    def line(self, number: int) -> str:
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def every(self) -> list[Finding]:
        """What was found so far, unsorted and uncut."""
        return self._found

    def all(self) -> list[Finding]:
        """Sorted by place. Of more than `MOST`, errors are kept first, and a note says how many are left
        out.
        """
        found = sorted(set(self._found))
        if len(found) <= MOST:
            return found
        ranked = sorted(found, key=lambda finding: finding.severity != "error")
        kept = sorted(ranked[:MOST])
        last = kept[-1]
        more = f"{len(found) - MOST} more findings in this file are not shown."
        return [
            *kept,
            Finding(self.file, last.line, last.column, "too-many", "note", more, RULES["too-many"].fix),
        ]
