"""The findings that need a leaf's source documents: whether they are there, and whether contexts come from
them.

`treewright lint --documents` fetches each pinned repository once (cached by commit and patterns) and asks
`lab.taxonomy.excerpts` about every context. Without the flag nothing goes to the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from lab.config import RepositoryConfig
from lab.taxonomy import excerpts
from lab.taxonomy.documents import DocumentError, SourceDocument
from lab.taxonomy.findings import Finding
from lab.taxonomy.leaf import QNA, LeafError, is_knowledge, load_leaf, read_document
from lab.taxonomy.model import DocumentRef
from lab.taxonomy.tree import Tree
from lab.untrusted import Refused

Fetch = Callable[[DocumentRef], Sequence[SourceDocument]]


def document_findings(
    tree: Tree, folders: Iterable[str], config: RepositoryConfig, fetch: Fetch
) -> list[Finding]:
    """Findings of the knowledge leaves in `folders`. A leaf that cannot be read is left to lint."""
    found: list[Finding] = []
    for folder in folders:
        file = f"{folder}/{QNA}"
        if not is_knowledge(file):
            continue
        try:
            leaf = load_leaf(tree, folder)
        except (LeafError, Refused):
            continue
        if leaf.document is None:
            continue
        try:
            documents = fetch(leaf.document)
        except DocumentError as error:
            line, column = _place(tree, file)
            found.append(Finding(file, line, column, "document-match", "error", error.reason, error.hint))
            continue
        text = read_document(tree, file, config.lint.limits.file_kb * 1024).text
        found += excerpts.findings(leaf, file, documents, config.lint, text)
    return [each for each in (_levelled(finding, config) for finding in found) if each is not None]


def _place(tree: Tree, file: str) -> tuple[int, int]:
    root = read_document(tree, file, 1 << 20).root
    document = root.get("document") if root is not None else None
    node = (document.key("patterns") or document) if document is not None else root
    return (node.line, node.column) if node is not None else (1, 1)


def _levelled(finding: Finding, config: RepositoryConfig) -> Finding | None:
    level = config.lint.rules.get(finding.rule, finding.severity)
    return None if level == "off" else replace(finding, severity=level)
