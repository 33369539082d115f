"""A lint report as text for a terminal, as GitHub workflow commands, and as SARIF 2.1.0.

Messages carry contributed text, so each format escapes for its reader: control characters never reach a
terminal, and a file name cannot end a workflow command (GitHub's own rules: `%`, CR, LF, and in properties
`:` and `,`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lab.taxonomy.findings import Finding
from lab.taxonomy.lint import LintReport
from lab.taxonomy.rules import RULES
from lab.untrusted import printable

_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}
_COLOURS = {"error": "31", "warning": "33", "note": "36"}
_WIDTH = 100


def text(report: LintReport, line_of: Callable[[str, int], str], colour: bool = False) -> str:
    """Findings with their source line and a caret. `line_of(file, line)` gives a line, or "" when there is
    none.
    """
    parts = [_block(finding, line_of(finding.file, finding.line), colour) for finding in report.findings]
    counts = {level: sum(f.severity == level for f in report.findings) for level in _COMMANDS}
    told = ", ".join(
        f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items() if count
    )
    files = f"{report.files} file{'' if report.files == 1 else 's'}"
    return "\n".join([*parts, f"{files}: {told or 'no findings'}."])


def _block(finding: Finding, source: str, colour: bool) -> str:
    def paint(code: str, words: str) -> str:
        return f"\x1b[{code}m{words}\x1b[0m" if colour else words

    place = f"{printable(finding.file)}:{finding.line}:{finding.column}"
    level = paint(_COLOURS[finding.severity], finding.severity)
    lines = [f"{paint('1', place)}: {level}: {finding.message} [{finding.rule}]"]
    if source.strip():
        # A caret far to the right is useless: show the part of the line that it points into.
        start = max(0, finding.column - _WIDTH + 20)
        shown = printable(source[start : start + _WIDTH].replace("\t", " "), _WIDTH)
        gutter = f"{finding.line:>5} | "
        lines.append(f"{gutter}{shown}")
        lines.append(f"{' ' * 5} | {' ' * (finding.column - 1 - start)}{paint('32', '^')}")
    if finding.help:
        lines.append(f"      = help: {finding.help}")
    if finding.suggestion is not None:
        lines.append(f"      = write: {printable(finding.suggestion, 2 * _WIDTH)}")
    return "\n".join(lines) + "\n"


def github(report: LintReport) -> str:
    """One workflow command a finding; the log of a GitHub Actions step turns them into annotations."""
    lines = []
    for finding in report.findings:
        properties = ",".join(
            f"{name}={_property(str(value))}"
            for name, value in (
                ("file", finding.file),
                ("line", finding.line),
                ("col", finding.column),
                (
                    "title",
                    f"{finding.rule}: {RULES[finding.rule].title}" if finding.rule in RULES else finding.rule,
                ),
            )
        )
        body = _data(f"{finding.message} {finding.help}".strip())
        lines.append(f"::{_COMMANDS[finding.severity]} {properties}::{body}")
    return "\n".join(lines)


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def sarif(report: LintReport, version: str) -> dict[str, Any]:
    """SARIF 2.1.0 (OASIS), as GitHub's code scanning reads it."""
    used = sorted({finding.rule for finding in report.findings})
    driver = {
        "name": "treewright",
        "version": version,
        "informationUri": "https://github.com/treewright/treewright",
        "rules": [
            {
                "id": rule,
                "shortDescription": {"text": RULES[rule].title},
                "fullDescription": {"text": RULES[rule].why},
                "help": {"text": RULES[rule].fix},
                "defaultConfiguration": {"level": RULES[rule].severity},
            }
            for rule in used
        ],
    }
    results = [
        {
            "ruleId": finding.rule,
            "ruleIndex": used.index(finding.rule),
            "level": finding.severity,
            "message": {"text": f"{finding.message} {finding.help}".strip()},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": _uri(finding.file), "uriBaseId": "%SRCROOT%"},
                        "region": {"startLine": finding.line, "startColumn": finding.column},
                    }
                }
            ],
        }
        for finding in report.findings
    ]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path)


def rules_markdown() -> str:
    """`docs/rules.md`: every rule with its reason, its fix and an example."""
    lines = [
        "# Lint rules",
        "",
        "Written by `treewright explain --all --format markdown`; the source is `lab/taxonomy/rules.py`.",
        "A repository sets another level in `.github/treewright.yml`:",
        "",
        "```yaml",
        "version: 1",
        "lint:",
        "  rules: {context-length: off, created-by: error}",
        "```",
        "",
        "| rule | level | says |",
        "|---|---|---|",
        *(f"| [`{rule.id}`](#{rule.id}) | {rule.severity} | {rule.title} |" for rule in RULES.values()),
    ]
    return "\n".join([*lines, *(f"\n{rule_markdown(name)}" for name in RULES)]) + "\n"


def rule_markdown(name: str) -> str:
    """One rule, as `docs/rules.md` has it."""
    rule = RULES[name]
    lines = [f"## {rule.id}", "", f"**{rule.title}** ({rule.severity}{_fixed(rule.fixed_level)}).", ""]
    lines += [rule.why, "", f"*Fix:* {rule.fix}"]
    for word, example in (("Wrong", rule.bad), ("Right", rule.good)):
        if example.strip() and example != "*":
            shown = example.rstrip("\n").replace("\x07", "\\x07").replace("\r", "\\r")
            lines += ["", f"{word}:", "", *_indented("\n".join(shown.split("\n")[:4]))]
    return "\n".join(lines)


def _fixed(fixed: bool) -> str:
    return "; its level cannot be changed" if fixed else ""


def _indented(shown: str) -> list[str]:
    return ["```text", *(line.rstrip() or "·" for line in shown.split("\n")), "```"]


def rule_text(name: str) -> str:
    """One rule for a terminal."""
    rule = RULES[name]
    lines = [f"{rule.id} ({rule.severity}): {rule.title}", "", rule.why, f"Fix: {rule.fix}"]
    for word, example in (("Wrong", rule.bad), ("Right", rule.good)):
        if example.strip() and example != "*":
            lines += ["", f"{word}:"]
            lines += [f"    {printable(line)}" for line in example.rstrip("\n").split("\n")[:6]]
    return "\n".join(lines)
