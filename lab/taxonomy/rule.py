"""What a lint rule is. The rules themselves are in `lab/taxonomy/rules.py` and `rules_advice.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lab.taxonomy.findings import Severity

Place = Literal[
    "knowledge", "skill", "grounded", "second", "attribution", "config", "path", "link", "document"
]


@dataclass(frozen=True)
class Rule:
    """`structural` rules decide whether a leaf can be read at all. `limits` shrinks a limit for the short
    example.
    """

    id: str
    title: str
    why: str
    fix: str
    place: Place
    bad: str
    good: str
    severity: Severity = "error"
    structural: bool = False
    limits: tuple[tuple[str, int], ...] = ()
    fixed_level: bool = False  # reading stops here, so no level can turn it off
