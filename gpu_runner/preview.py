"""A preview of a plain checkout, for the contributor's own machine: `treewright preview`.

The working tree is read as it is, with uncommitted changes; the configuration and the validator are the
bot's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpu_runner.embedded import cache_folder
from gpu_runner.plan import (
    PlanError,
    check_lint,
    config_of,
    documents_of,
    mirrors_from_environment,
    tokens_from_environment,
)
from lab.synthesis.endpoints import endpoints_from_environment
from lab.synthesis.engine import Engine
from lab.synthesis.flow import FlowError
from lab.synthesis.flow_files import benchmark_of, flows_of
from lab.synthesis.preview import Preview, preview
from lab.taxonomy.chunks import cut
from lab.taxonomy.diff import diff
from lab.taxonomy.leaf import load_leaves
from lab.taxonomy.model import Leaf
from lab.taxonomy.tree import FolderTree, GitTree
from lab.untrusted import Refused


async def preview_checkout(path: Path, base: str | None, leaf: str | None, env: Mapping[str, str]) -> Preview:
    """Preview the leaves that differ from `base` (all of them without one), or the one `leaf`.

    Raises `PlanError` (lint errors, documents), `EndpointError`.
    """
    tree = FolderTree(path)
    config = config_of(tree)
    models = {
        "teacher": config.models.teacher,
        "judge": config.models.judge,
        "student": config.models.student,
    }
    endpoints = endpoints_from_environment(models, env)
    try:
        flows, benchmark = flows_of(config, tree), benchmark_of(config, tree)
    except FlowError as error:
        raise PlanError(str(error)) from None
    leaves = _wanted(path, tree, base, leaf)
    tokens = tokens_from_environment(env)
    check_lint(tree, config, [f"{one.path}/qna.yaml" for one in leaves], tokens)
    cache = cache_folder()
    mirrors = mirrors_from_environment(env)
    documents = {
        one.path: [piece for text in documents_of(one, config, cache, mirrors) for piece in cut(text, tokens)]
        for one in leaves
    }
    async with Engine(cache / "answers.sqlite") as engine:
        return await preview(leaves, documents, config, engine, endpoints, flows=flows, benchmark=benchmark)


def _wanted(path: Path, tree: FolderTree, base: str | None, leaf: str | None) -> list[Leaf]:
    leaves = load_leaves(tree)
    if leaf is not None:
        name = leaf.strip("/").removesuffix("/qna.yaml")
        chosen = [one for one in leaves if one.path == name]
        if not chosen:
            raise PlanError(f"There is no readable leaf in {name}; `treewright lint` says why.")
        return chosen
    changed = {each.removesuffix("/qna.yaml") for each in tree.paths() if each.endswith("/qna.yaml")}
    if base is not None:
        try:
            with GitTree(path, base) as before:
                changed = {change.path for change in diff(before, tree).leaves if change.change != "removed"}
        except Refused as refused:
            raise PlanError(str(refused)) from None
    unreadable = sorted(changed - {one.path for one in leaves})
    if unreadable:
        config = config_of(tree)
        check_lint(tree, config, [f"{one}/qna.yaml" for one in unreadable])
    if base is None and not leaves:
        raise PlanError(f"There is no leaf in {path}; name the root of a taxonomy's checkout.")
    return [one for one in leaves if one.path in changed]
