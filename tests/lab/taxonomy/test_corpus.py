"""Real contributions and the predecessor's verdicts: agreed with, or different on purpose.

`docs/compared.md` has each difference as a row. The corpus lies beside the checkout in CI; without it these
tests are skipped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from lab.config import LintPolicy, RepositoryConfig
from lab.taxonomy.findings import Finding
from lab.taxonomy.lint import lint
from lab.taxonomy.rules_advice import ADVICE
from lab.taxonomy.tree import FolderTree

ROOT = Path(__file__).parents[3]
CORPUS = ROOT.parent / "shared" / "corpus"
pytestmark = pytest.mark.skipif(
    not CORPUS.is_dir(), reason="the corpus of real leaves is not beside this checkout"
)
# Its cases have no attribution.txt: another script of its CI looked for that.
CONFIG = RepositoryConfig(lint=LintPolicy(rules={"attribution-missing": "off"}))

# What the predecessor says, and which of our rules say the same.
SAME: tuple[tuple[str, set[str]], ...] = (
    (r"top-level element is not an object", {"wrong-type"}),
    (r"'(\w+)' is a required property", {"missing-field", "version"}),
    (r"Unevaluated properties|Additional properties", {"unknown-field"}),
    (r"must have at least \d+ items", {"seed-count", "pair-count"}),
    (r"non-unique|has duplicate", {"duplicate-seed", "duplicate-question"}),
    (r"is not of type", {"wrong-type", "empty-value"}),
    (r"must be named", {"file-name"}),
    (r"Version \d is not supported", {"version"}),
    (r"trailing spaces", {"trailing-space"}),
    (r"no new line character", {"final-newline"}),
    (r"syntax error", {"yaml-syntax"}),
    (r"The file is empty", {"empty-file"}),
    (r"too many blank lines|too many spaces|wrong indentation|truthy|document start|line too long", set()),
)


def cases() -> list[dict[str, Any]]:
    if not CORPUS.is_dir():
        return []
    found: list[dict[str, Any]] = json.loads((CORPUS / "lint_cases.json").read_text("utf-8"))["cases"]
    return found


def findings(case: Mapping[str, Any]) -> tuple[Finding, ...]:
    tree = FolderTree(CORPUS / case["root"])
    return lint(tree, CONFIG, [case["path_in_tree"]], strict=case["schema_version"] > 0).findings


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["id"])
def test_every_error_of_the_predecessor_is_one_of_ours(case: Mapping[str, Any]) -> None:
    ours = {each.rule for each in findings(case)}
    for theirs in case["predecessor_findings"]:
        if theirs["level"] != "error":
            continue
        known = [rules for pattern, rules in SAME if re.search(pattern, theirs["text"])]
        assert known, f"no row for: {theirs['text']}"
        assert not known[0] or known[0] & ours, theirs["text"]


def test_the_count_of_every_rule_on_the_corpus() -> None:
    """A changed rule shows here what it does to real leaves. Advice stays silent on all that is valid."""
    counts: Counter[str] = Counter()
    for case in cases():
        counts.update({each.rule for each in findings(case)})
    tree: Counter[str] = Counter(
        each.rule for each in lint(FolderTree(CORPUS / "taxonomy"), RepositoryConfig()).findings
    )
    assert dict(sorted(counts.items())) == snapshot(
        {
            "document-commit": 1,
            "duplicate-context": 1,
            "duplicate-question": 2,
            "empty-file": 1,
            "file-name": 2,
            "final-newline": 2,
            "grounded-folder": 1,
            "leaf-length": 1,
            "missing-field": 4,
            "pair-length": 1,
            "seed-count": 2,
            "trailing-space": 2,
            "unknown-field": 4,
            "version": 12,
            "wrong-type": 3,
            "yaml-syntax": 1,
        }
    )
    assert dict(tree) == snapshot({"licence": 1, "version": 11})
    assert not {rule.id for rule in ADVICE} & {*counts, *tree}


def test_differences_are_in_the_table() -> None:
    page = (ROOT / "docs" / "compared.md").read_text("utf-8")
    differ = [
        case["id"]
        for case in cases()
        if all(each.severity != "error" for each in findings(case)) != case["expected_ok"]
    ]
    assert differ == ["p010"]
    for name in differ:
        assert f"| {name} |" in page
