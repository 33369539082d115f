"""Lint: every finding of every file of a taxonomy, from one validator that the bot, the Actions, the
command and the generator share. It never stops at a broken file, and nothing of the tree is executed.

Reach it by `lint(tree, config)` or `treewright lint`; `LintReport.to_json` is a stable contract
(`schemas/lint_report.json`). With `only`, the work is that of the changed leaves, and of `NEIGHBOURS`
others that their seeds are compared with.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.config import CONFIG_PATH, RepositoryConfig, load_config
from lab.taxonomy import places
from lab.taxonomy.advice import Advisor
from lab.taxonomy.attribution import LIMIT, check_attribution
from lab.taxonomy.benchmarks import LIMIT as ITEMS_LIMIT
from lab.taxonomy.benchmarks import Items
from lab.taxonomy.checks import check_into
from lab.taxonomy.collect import Findings
from lab.taxonomy.findings import Finding
from lab.taxonomy.leaf import ATTRIBUTION, QNA, in_branches, is_knowledge, read_document
from lab.taxonomy.passages import leaf_text
from lab.taxonomy.similar import Entry, Index
from lab.taxonomy.sizes import ESTIMATE, Tokens
from lab.taxonomy.tree import Tree
from lab.untrusted import Refused, printable

NEIGHBOURS = 48  # unchanged leaves, nearest by path, that the seeds of a change are compared with


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
    tree: Tree,
    config: RepositoryConfig,
    only: Collection[str] | None = None,
    strict: bool | None = None,
    tokens: Tokens = ESTIMATE,
) -> LintReport:
    """Lints the whole tree, or the leaves that have a file among `only` (changed paths; removed ones are
    passed over).

    `strict` holds files to the rules for new and changed leaves; it follows `only`
    unless given: a tree that nobody touched is held to each file's own version. `tokens` counts the
    teacher's tokens for the size limits.
    """
    strict = only is not None if strict is None else strict
    return _Run(tree, config, only, strict, tokens).report()


class _Run:
    """One run over a tree: what all of its files share."""

    def __init__(
        self,
        tree: Tree,
        config: RepositoryConfig,
        only: Collection[str] | None,
        strict: bool,
        tokens: Tokens,
    ) -> None:
        self.tokens = tokens
        self.tree, self.config, self.only, self.strict = tree, config, only, strict
        self.paths = list(tree.paths())
        self.present = set(self.paths)
        self.spellings = places.spellings([path for path in self.paths if in_branches(path)])
        self.findings: list[Finding] = []
        self.files = 0
        self.sketches: dict[str, list[tuple[str, Entry]]] = {}
        self._advisor: Advisor | None = None

    def report(self) -> LintReport:
        leaves: list[str] = []
        for path in self._selected():
            name = path.rpartition("/")[2]
            if path == CONFIG_PATH:
                if self.only is None or path in self.only:
                    self.files += 1
                    self.findings += self._config(path)
            elif not in_branches(path):
                if name.casefold() in ("qna.yaml", "qna.yml") and not path.startswith("."):
                    found = self._found(path)
                    places.outside(found)
                    self.findings += found.all()
            elif name == QNA:
                leaves.append(path)
                self._leaf(path)
            elif name.casefold().endswith((".yaml", ".yml")) or name.casefold().split(".")[0] == "qna":
                self.files += 1
                found = self._found(path)
                places.misnamed(found, f"{path.rpartition('/')[0]}/{QNA}" in self.present)
                places.folders(found)
                self.findings += found.all()
            elif name == ATTRIBUTION and f"{path.rpartition('/')[0]}/{QNA}" not in self.present:
                self.files += 1
                self.findings += self._attribution_file(path)
        self.findings += self._flows()
        self._links()
        self._elsewhere(leaves)
        return LintReport(tuple(sorted(set(self.findings))), self.files)

    def _selected(self) -> Iterable[str]:
        """All files; or the changed ones, and what lies beside them. The whole tree is never walked for a
        few files.
        """
        if self.only is None:
            return self.paths
        wanted = set(self.only) & self.present
        for path in self.only:
            folder = path.rpartition("/")[0]
            if in_branches(path):
                start = bisect.bisect_left(self.paths, f"{folder}/")
                for beside in self.paths[start:]:
                    if not beside.startswith(f"{folder}/"):
                        break
                    if "/" not in beside[len(folder) + 1 :]:
                        wanted.add(beside)
        return sorted(wanted)

    def _found(self, path: str, text: str = "") -> Findings:
        return Findings(path, self.config.lint, text, self.tokens)

    def _config(self, path: str) -> list[Finding]:
        try:
            return load_config(self.tree.read(path, 1 << 18))[1]
        except Refused as refused:
            return [Finding(path, 1, 1, "config", "error", refused.reason, refused.hint)]

    def _flows(self) -> list[Finding]:
        """The repository's own flows, as the configuration beside them names them: a flow that does not hold
        together would stop the next release."""
        homes = (".github/", ".treewright/")
        if self.only is not None and not any(path.startswith(homes) for path in self.only):
            return []
        if CONFIG_PATH not in self.present:
            return []
        try:
            config, _ = load_config(self.tree.read(CONFIG_PATH, 1 << 18))
        except Refused:
            return []  # told by `_config`
        if not config.synthesis.flows:
            return []
        from lab.synthesis.flow_files import flow_findings  # only a repository with flows pays for it

        return flow_findings(config, self.tree)

    @property
    def advisor(self) -> Advisor:
        """Made at the first leaf, so that a change without leaves reads no benchmark."""
        if self._advisor is None:
            self._advisor = Advisor(self.config.lint, self._items())
        return self._advisor

    def _items(self) -> Items | None:
        path = self.config.benchmark.general
        if path not in self.present or self.config.lint.rules.get("benchmark-overlap") == "off":
            return None
        try:
            return Items(self.tree.read(path, ITEMS_LIMIT))
        except Refused as refused:
            found = self._found(path)
            message = f"The benchmark's items are not compared: {refused.reason}"
            found.add("benchmark-overlap", (1, 1), message, refused.hint)
            self.findings += found.all()
            return None

    def _leaf(self, path: str) -> None:
        self.files += 1
        document = read_document(self.tree, path, self.config.lint.limits.file_kb * 1024)
        found = self._found(path, document.text)
        knowledge = check_into(found, document, self.config, is_knowledge(path), self.strict)
        if knowledge is not None and document.root is not None:
            leaf = leaf_text(document.root, knowledge)
            self.sketches[path] = self.advisor.advise(found, leaf)
            if leaf.passages and not knowledge:
                places.grounded(found, any(each.context is not None for each in leaf.passages))
        else:
            self.advisor.leaks(found)
        places.folders(found)
        places.nested(found, self.present)
        if self.spellings:
            places.spelled(found, self.spellings, self.only is not None)
        self._attribution(found)
        self.findings += found.all()

    def _attribution(self, found: Findings) -> None:
        file = f"{found.file.rpartition('/')[0]}/{ATTRIBUTION}"
        if file in self.present:
            self.files += 1
            self.findings += self._attribution_file(file)
            return
        start = bisect.bisect_left(self.paths, f"{file.rpartition('/')[0]}/")
        beside = self.paths[start : start + 100]
        near = next((p for p in beside if p.casefold().startswith(file.casefold()[:-4])), None)
        help_ = f"Rename `{printable(near)}` to `attribution.txt`." if near else ""
        # A leaf of version 1, or one that is empty, is from before attributions; it needs one when somebody
        # changes it.
        old = any(
            each.rule in ("version", "empty-file") and each.severity == "warning" for each in found.every()
        )
        if not old or self.strict:
            found.add(
                "attribution-missing", (1, 1), "`attribution.txt` is missing in this leaf's folder.", help_
            )

    def _attribution_file(self, file: str) -> list[Finding]:
        found = self._found(file)
        try:
            data = self.tree.read(file, LIMIT)
        except Refused as refused:
            found.add("attribution-field", (1, 1), refused.reason, refused.hint)
            return found.all()
        told = check_attribution(file, data, self.config.lint)
        found.lines = data.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
        Advisor(self.config.lint).leaks(found, personal=False)
        return told + found.all()

    def _links(self) -> None:
        """Links and submodules in place of a branch, of something in one, or of the configuration. A tree
        that cannot name them has none.
        """
        names = getattr(self.tree, "links", None)
        for path in names() if names is not None else ():
            ours = in_branches(f"{path}/") or path == CONFIG_PATH
            if ours and (self.only is None or path in self.only):
                found = self._found(path)
                message = f"`{printable(path)}` is a link or special file; it is not read."
                found.add("file-kind", (1, 1), message)
                self.findings += found.all()

    def _elsewhere(self, leaves: Sequence[str]) -> None:
        """Seeds that another leaf has as well: found in one pass, linear in the seeds."""
        if not self.advisor.wants("seed-elsewhere") or not any(self.sketches.values()):
            return
        indexes = {"seed example": Index(), "context": Index()}
        for path in self._neighbours(leaves):
            for what, sketch in self._sketched(path):
                indexes[what].add(sketch)
        for path in leaves:
            found = self._found(path)
            kept = self.sketches.pop(path, [])
            for what, sketch in kept:
                near = indexes[what].nearest(sketch)
                if near is not None:
                    share = int(near[1] * 100)
                    place = f"{printable(near[0].file, 160)}, line {near[0].line}"
                    message = f"This {what} is {share} % the same as one in {place}."
                    found.add("seed-elsewhere", (sketch.line, sketch.column), message)
            for what, sketch in kept:
                indexes[what].add(sketch)
            self.findings += found.all()

    def _neighbours(self, leaves: Sequence[str]) -> list[str]:
        """Unchanged leaves, nearest by path. A whole tree has none."""
        if self.only is None:
            return []
        others = [path for path in self.paths if path.endswith(f"/{QNA}") and in_branches(path)]
        changed, near = set(leaves), dict[str, None]()
        places_ = [bisect.bisect_left(others, path) for path in leaves]
        for away in range(1, NEIGHBOURS + 1):
            for place in places_:
                for at in (place - away, place + away):
                    if 0 <= at < len(others) and others[at] not in changed:
                        near.setdefault(others[at])
                        if len(near) >= NEIGHBOURS:
                            return sorted(near)
        return sorted(near)

    def _sketched(self, path: str) -> list[tuple[str, Entry]]:
        root = read_document(self.tree, path, self.config.lint.limits.file_kb * 1024).root
        if root is None or root.kind != "mapping":
            return []
        return self.advisor.sketches(path, leaf_text(root, is_knowledge(path)))
