"""A finding: what is wrong, at which line and column, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, order=True)
class Finding:
    """Lines and columns count from 1; `file` is relative to the tree's root. Findings sort by place."""

    file: str
    line: int
    column: int
    rule: str
    severity: Severity
    message: str
    help: str
    suggestion: str | None = None

    def to_json(self) -> dict[str, str | int]:
        """The stable shape of `treewright lint --format json`."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "rule": self.rule,
            "severity": self.severity,
            "message": self.message,
            "help": self.help,
        }
