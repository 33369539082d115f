"""From a `qna.yaml` to a `Leaf`. The same checks as lint's decide whether it can be read.

Rules about tidiness or policy (a trailing space, a host that is not allowed) do not keep a leaf from
loading; they are lint's, and `documents.fetch_documents` asks the policy again before it goes to the
network.
"""

from __future__ import annotations

from collections.abc import Iterable

from lab.canonical import digest
from lab.config import RepositoryConfig
from lab.taxonomy.checks import check
from lab.taxonomy.findings import Finding
from lab.taxonomy.model import DocumentRef, Kind, Leaf, Pair, Seed
from lab.taxonomy.rules import STRUCTURAL
from lab.taxonomy.tree import BRANCHES, TooLarge, Tree
from lab.untrusted import Refused, YamlBudgets, YamlDocument, YamlNode, YamlProblem, read_yaml, too_large

QNA = "qna.yaml"
ATTRIBUTION = "attribution.txt"


class LeafError(ValueError):
    """The leaf cannot be read; `findings` say why, with lines."""

    def __init__(self, path: str, findings: list[Finding]) -> None:
        self.path = path
        self.findings = findings
        first = findings[0]
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        super().__init__(f"{first.file}:{first.line}:{first.column}: {first.message}{more}")


def in_branches(path: str) -> bool:
    return path.split("/", 1)[0] in BRANCHES and "/" in path


def is_knowledge(path: str) -> bool:
    return path.split("/", 1)[0] == "knowledge"


def leaf_folders(paths: Iterable[str]) -> list[str]:
    """The folders that hold a `qna.yaml` inside the taxonomy's branches, sorted."""
    return sorted(
        path.removesuffix(f"/{QNA}") for path in paths if in_branches(path) and path.endswith(f"/{QNA}")
    )


def read_document(tree: Tree, file: str, limit: int) -> YamlDocument:
    """The file's YAML; what cannot be read at all is a problem on line 1. The size is asked before the
    bytes.
    """
    try:
        return read_yaml(tree.read(file, limit), YamlBudgets(bytes=limit))
    except TooLarge as error:
        return YamlDocument(None, (too_large(error.size, limit),), "")
    except Refused as refused:
        problem = YamlProblem(1, 1, "yaml-limits", refused.reason, refused.hint)
        return YamlDocument(None, (problem,), "")


def load_leaf(tree: Tree, path: str) -> Leaf:
    """The leaf in the folder `path`. Raises `LeafError` when it cannot be read."""
    file = f"{path}/{QNA}"
    config = RepositoryConfig()
    document = read_document(tree, file, config.lint.limits.file_kb * 1024)
    findings = check(file, document, config, is_knowledge(file), strict=False)
    blocking = [each for each in findings if each.severity == "error" and each.rule in STRUCTURAL]
    root = document.root
    if blocking or root is None or root.kind != "mapping":
        raise LeafError(path, blocking or findings)
    return build(path, root)


def load_leaves(tree: Tree) -> list[Leaf]:
    """Every leaf that can be read, sorted by path."""
    leaves = []
    for folder in leaf_folders(tree.paths()):
        try:
            leaves.append(load_leaf(tree, folder))
        except LeafError:  # lint's to report
            continue
    return leaves


def build(path: str, root: YamlNode) -> Leaf:
    """A leaf from a checked tree; from an unchecked one, whatever of it can be read."""
    seeds = tuple(_seed(node) for node in _items(root.get("seed_examples")) if node.kind == "mapping")
    if is_knowledge(path):
        kind: Kind = "knowledge"
    else:
        kind = "grounded_skill" if any(seed.context is not None for seed in seeds) else "freeform_skill"
    version = root.get("version")
    value = version.plain() if version is not None else 1
    document = _document(root.get("document"))
    content = {
        "kind": kind,
        "version": value if isinstance(value, int) else 0,
        "task_description": _text(root, "task_description"),
        "domain": _text(root, "domain"),
        "document_outline": _text(root, "document_outline"),
    }
    lines = [
        [seed.context, [[pair.question, pair.answer] for pair in seed.pairs]] for seed in seeds
    ]  # line numbers are no content
    reference = None if document is None else [document.repo, document.commit, list(document.patterns)]
    return Leaf(
        path=path,
        kind=kind,
        version=int(content["version"]),
        created_by=_text(root, "created_by"),
        task_description=str(content["task_description"]),
        domain=str(content["domain"]),
        document_outline=str(content["document_outline"]),
        seeds=seeds,
        document=document,
        digest=digest({**content, "path": path, "seeds": lines, "document": reference}),
    )


def _items(node: YamlNode | None) -> tuple[YamlNode, ...]:
    return node.items if node is not None else ()


def _text(node: YamlNode, key: str) -> str:
    value = node.get(key)
    return value.text.strip() if value is not None and value.kind == "scalar" else ""


def _seed(node: YamlNode) -> Seed:
    context = node.get("context")
    inner = node.get("questions_and_answers")
    pairs = [each for each in _items(inner) if each.kind == "mapping"] if inner is not None else [node]
    return Seed(
        context.text.strip() if context is not None and context.kind == "scalar" else None,
        tuple(_pair(pair) for pair in pairs),
        node.line,
    )


def _pair(node: YamlNode) -> Pair:
    question = node.get("question")
    return Pair(
        _text(node, "question"), _text(node, "answer"), question.line if question is not None else node.line
    )


def _document(node: YamlNode | None) -> DocumentRef | None:
    if node is None or node.kind != "mapping":
        return None
    patterns = tuple(item.text for item in _items(node.get("patterns")) if item.kind == "scalar")
    return DocumentRef(_text(node, "repo"), _text(node, "commit"), patterns)
