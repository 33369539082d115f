"""Lint: every finding of every file of a taxonomy, from one validator that the bot, the Actions, the
command and the generator share. It never stops at a broken file, and nothing of the tree is executed.

Reach it by `lint(tree, config)` or `treewright lint`; `LintReport.to_json` is a stable contract
(`schemas/lint_report.json`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lab.config import CONFIG_PATH, RepositoryConfig, load_config
from lab.taxonomy.attribution import LIMIT, check_attribution
from lab.taxonomy.checks import check
from lab.taxonomy.collect import Findings
from lab.taxonomy.findings import Finding
from lab.taxonomy.leaf import ATTRIBUTION, QNA, in_branches, is_knowledge, read_document
from lab.taxonomy.tree import BRANCHES, Tree
from lab.untrusted import Refused, printable

# Names that some file system cannot hold, and names that tools take for something else.
_RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"com{n}" for n in range(1, 10)),
    *(f"lpt{n}" for n in range(1, 10)),
}


@dataclass(frozen=True)
class LintReport:
    """Sorted findings, and how many files were looked at. Only errors make a report not `ok`."""

    findings: tuple[Finding, ...]
    files: int

    @property
    def ok(self) -> bool:
        return all(finding.severity != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "files": self.files,
            "findings": [finding.to_json() for finding in self.findings],
        }


def lint(
    tree: Tree, config: RepositoryConfig, only: Collection[str] | None = None, strict: bool | None = None
) -> LintReport:
    """Lints the whole tree, or the leaves that have a file among `only` (changed paths; removed ones are
    passed over).

    `strict` holds files to the rules for new and changed leaves; it follows `only`
    unless given: a tree that nobody touched is held to each file's own version.
    """
    strict = only is not None if strict is None else strict
    paths = list(tree.paths())
    present = set(paths)
    wanted = None if only is None else {path.rpartition("/")[0] for path in only}
    findings: list[Finding] = []
    files = 0
    for path in paths:
        folder, _, name = path.rpartition("/")
        if path == CONFIG_PATH:
            if only is None or path in only:
                files += 1
                findings += _config(tree, path)
            continue
        if only is not None and path not in only and not (folder in wanted if wanted else False):
            continue
        if not in_branches(path):
            if name.casefold() in ("qna.yaml", "qna.yml") and not path.startswith("."):
                findings += _outside(path, config)
            continue
        if name == QNA:
            files += 1
            document = read_document(tree, path, config.lint.limits.file_kb * 1024)
            leaf = check(path, document, config, is_knowledge(path), strict)
            findings += (
                leaf + _folders(path, config) + _attribution(tree, path, present, config, leaf, strict)
            )
            files += f"{folder}/{ATTRIBUTION}" in present
        elif name.casefold().endswith((".yaml", ".yml")):
            files += 1
            findings += _misnamed(path, present, config) + _folders(path, config)
        elif name == ATTRIBUTION and f"{folder}/{QNA}" not in present:
            files += 1
            findings += _read_attribution(tree, path, config)
    findings += _links(tree, config, only)
    return LintReport(tuple(sorted(set(findings))), files)


def _config(tree: Tree, path: str) -> list[Finding]:
    try:
        return load_config(tree.read(path, 1 << 18))[1]
    except Refused as refused:
        return [Finding(path, 1, 1, "config", "error", refused.reason, refused.hint)]


def _outside(path: str, config: RepositoryConfig) -> list[Finding]:
    found = Findings(path, config.lint)
    top = printable(path.split("/")[0], 60) if "/" in path else "the top"
    found.add(
        "outside-branches", (1, 1), f"`{top}` is not one of {', '.join(BRANCHES)}; this leaf is ignored."
    )
    return found.all()


def _misnamed(path: str, present: set[str], config: RepositoryConfig) -> list[Finding]:
    folder, _, name = path.rpartition("/")
    found = Findings(path, config.lint)
    if f"{folder}/{QNA}" in present:
        help_ = "A folder holds one leaf: merge the file into `qna.yaml`, or give it a folder of its own."
    else:
        help_ = f"Rename it: `git mv {printable(path)} {printable(folder)}/qna.yaml`."
    message = f"`{printable(name, 80)}` is never read; a leaf's file is named `qna.yaml`."
    found.add("file-name", (1, 1), message, help_)
    return found.all()


def _folders(path: str, config: RepositoryConfig) -> list[Finding]:
    """The names of the folders that the leaf lies in, told at its first line."""
    found = Findings(path, config.lint)
    parts = path.split("/")[1:-1]
    if not parts:
        found.add(
            "path-name",
            (1, 1),
            f"The leaf lies directly in `{path.split('/')[0]}`; it needs a folder of its own.",
        )
    for part in parts:
        shown = f"The folder name `{printable(part, 80)}`"
        plain = re.sub(r"[^a-z0-9]+", "_", part.casefold()).strip("_")
        help_ = f"Name it `{plain}`." if plain else ""
        if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,80}", part) or "--" in part:
            found.add(
                "path-name", (1, 1), f"{shown} has characters that it cannot have, or is too long.", help_
            )
        elif part[0] in ".-" or part[-1] == "." or part.casefold().split(".")[0] in _RESERVED:
            found.add("path-name", (1, 1), f"{shown} cannot be used on every system.", help_)
        elif not re.fullmatch(r"[a-z0-9_]+", part):
            found.add("path-style", (1, 1), f"{shown} is not lower case with underscores.", help_)
    return found.all()


def _attribution(
    tree: Tree, path: str, present: set[str], config: RepositoryConfig, leaf: list[Finding], strict: bool
) -> list[Finding]:
    file = f"{path.rpartition('/')[0]}/{ATTRIBUTION}"
    if file in present:
        return _read_attribution(tree, file, config)
    found = Findings(path, config.lint)
    near = next((p for p in present if p.casefold().startswith(file.casefold()[:-4])), None)
    help_ = f"Rename `{printable(near)}` to `attribution.txt`." if near else ""
    # A leaf of version 1, or one that is empty, is from before attributions; it needs one when somebody
    # changes it.
    old = any(finding.rule in ("version", "empty-file") and finding.severity == "warning" for finding in leaf)
    if not old or strict:
        found.add("attribution-missing", (1, 1), "`attribution.txt` is missing in this leaf's folder.", help_)
    return found.all()


def _read_attribution(tree: Tree, file: str, config: RepositoryConfig) -> list[Finding]:
    try:
        return check_attribution(file, tree.read(file, LIMIT), config.lint)
    except Refused as refused:
        found = Findings(file, config.lint)
        found.add("attribution-field", (1, 1), refused.reason, refused.hint)
        return found.all()


def _links(tree: Tree, config: RepositoryConfig, only: Collection[str] | None) -> list[Finding]:
    """Links and submodules inside the branches. A tree that cannot name them has none."""
    names = getattr(tree, "links", None)
    findings: list[Finding] = []
    for path in names() if names is not None else ():
        if in_branches(path) and (only is None or path in only):
            found = Findings(path, config.lint)
            found.add("file-kind", (1, 1), f"`{printable(path)}` is a link or special file; it is not read.")
            findings += found.all()
    return findings
