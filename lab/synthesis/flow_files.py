"""The flows of one repository: a shipped preset, or its own files named by `synthesis.flows` in its
configuration.

A repository's own flows are read from Git objects of its default branch only (the caller gives that tree), so
a pull request cannot change how it is itself judged. They are data under budgets: YAML by the one reader for
hostile YAML, prompts that are placeholders and nothing more (`template`), files of one folder below
`.github/` or `.treewright/`, no more cells, turns and samples than the schemas allow. A misfit is told with
file, line and field.

    synthesis:
      preset: lab            # or compact; auto takes compact where the teacher is the small embedded model
      flows:
        knowledge: .github/flows/our_knowledge/flow.yml
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from jsonschema import Draft202012Validator

from lab.config import CONFIG_PATH, EMBEDDED_MODEL, RepositoryConfig
from lab.contracts import canonical, schema
from lab.synthesis.flow import KINDS, Flow, FlowError, build_flow, prompt_files, shipped
from lab.taxonomy.benchmarks import LIMIT, Items
from lab.taxonomy.findings import Finding
from lab.taxonomy.model import Kind
from lab.taxonomy.tree import Tree
from lab.untrusted import Refused, YamlBudgets, YamlNode, parse_yaml, relative_path

FILE_LIMIT = 64 * 1024
"""Bytes of one flow or prompt file."""

HOMES = (".github/", ".treewright/")
"""Folders that flows may lie in: those that CODEOWNERS guard, never a leaf's."""

_BUDGETS = YamlBudgets(bytes=FILE_LIMIT)


@dataclass(frozen=True)
class FlowFiles:
    """A flow as it was read: enough to build it again from a plan, and to say where it came from."""

    source: str
    value: Mapping[str, Any]
    prompts: Mapping[str, Mapping[str, Any]]

    def build(self) -> Flow:
        return build_flow(self.value, self.prompts)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "flow": dict(self.value),
            "prompts": {name: dict(raw) for name, raw in self.prompts.items()},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> FlowFiles:
        return FlowFiles(value["source"], value["flow"], value["prompts"])


def preset_of(config: RepositoryConfig) -> str:
    """`auto` takes the flows that the teacher can follow."""
    if config.synthesis.preset != "auto":
        return config.synthesis.preset
    return "compact" if config.models.teacher.id == EMBEDDED_MODEL else "lab"


def flow_files(config: RepositoryConfig, tree: Tree | None) -> dict[Kind, FlowFiles]:
    """The files of every kind's flow. `tree` is the default branch. Raises `FlowError`."""
    preset = preset_of(config)
    found: dict[Kind, FlowFiles] = {}
    for kind in KINDS:
        path = config.synthesis.flows.get(kind)
        if path is None:
            found[kind] = FlowFiles(f"treewright:{preset}/{kind}", *shipped(f"{preset}/{kind}"))
        elif tree is None:
            raise FlowError(
                f"synthesis.flows.{kind} names {path}, and there is no repository to read it from"
            )
        else:
            found[kind] = read_flow(tree, path, kind)
    return found


def flows_of(config: RepositoryConfig, tree: Tree | None) -> dict[Kind, Flow]:
    """Every kind's flow, ready to run. Raises `FlowError`."""
    return {kind: files.build() for kind, files in flow_files(config, tree).items()}


def flow_findings(config: RepositoryConfig, tree: Tree) -> list[Finding]:
    """What is wrong with the repository's own flows, for lint (rule `config`)."""
    found = []
    for kind, path in sorted(config.synthesis.flows.items()):
        try:
            read_flow(tree, path, cast(Kind, kind))
        except FlowError as error:
            for line in str(error).splitlines():
                place = _TOLD.match(line)
                file, row, column = place.group(1, 2, 3) if place else (CONFIG_PATH, "1", "1")
                said = line[place.end() :] if place else line
                help_ = "docs/synthesis.md and schemas/flow.json say what a flow may hold."
                found.append(Finding(file, int(row), int(column), "config", "error", said[:400], help_))
    return found


_TOLD = re.compile(r"(\S+?):(\d+):(\d+): ")


def benchmark_of(config: RepositoryConfig, tree: Tree) -> Items | None:
    """The benchmark items that no row may hold, from the same tree as the flows; None without any."""
    try:
        return Items(tree.read(config.benchmark.general, LIMIT)) if config.benchmark.general else None
    except (Refused, KeyError, FileNotFoundError):
        return None  # lint and plan say so; a preview goes on


def read_flow(tree: Tree, path: str, kind: Kind) -> FlowFiles:
    """A repository's own flow with its prompts. Raises `FlowError` that says file, line, field and why."""
    try:
        relative_path(path)
    except Refused as refused:
        raise FlowError(f"synthesis.flows.{kind}: {refused}") from None
    if not path.startswith(HOMES):
        raise FlowError(f"synthesis.flows.{kind}: {path} is not below {' or '.join(HOMES)}")
    node = _read(tree, path)
    value = _fitting(node, "flow", path)
    if value["kind"] != kind:
        raise FlowError(_place(path, node, ("kind",)) + f"this flow is for {value['kind']}, not for {kind}")
    folder = f"{path.rpartition('/')[0]}/prompts"
    nodes = {name: _read(tree, f"{folder}/{name}") for name in prompt_files(value)}
    prompts = {name: _fitting(one, "prompt", f"{folder}/{name}") for name, one in nodes.items()}
    files = FlowFiles(path, value, prompts)
    try:
        files.build()
    except FlowError as error:
        if error.file is not None:
            told = _place(f"{folder}/{error.file}", nodes[error.file], error.where)
        else:
            told = _place(path, node, error.where)
        raise FlowError(f"{told}{error}") from None
    return files


def _read(tree: Tree, path: str) -> YamlNode:
    try:
        data = tree.read(path, FILE_LIMIT)
    except (Refused, KeyError, FileNotFoundError) as error:
        raise FlowError(f"{path}: {error}") from None
    parsed = parse_yaml(data, _BUDGETS)
    if isinstance(parsed, list):
        first = parsed[0]
        raise FlowError(f"{path}:{first.line}:{first.column}: {first.message} {first.help}".rstrip())
    return parsed


def _fitting(node: YamlNode, name: str, path: str) -> dict[str, Any]:
    """The node as plain data that fits `schemas/<name>.json`; every misfit with its line and field."""
    value = node.plain()
    errors = list(Draft202012Validator(schema(name)).iter_errors(value))
    if errors:
        deep = sorted(errors, key=lambda error: [str(part) for part in error.absolute_path])
        told = [
            _place(path, node, tuple(error.absolute_path))
            + f"{'.'.join(map(str, error.absolute_path)) or 'the file'}: {error.message[:200]}"
            for error in deep[:10]
        ]
        raise FlowError("\n".join(told))
    try:
        canonical(value)
    except ValueError as error:
        raise FlowError(f"{path}: {error}") from None
    found: dict[str, Any] = value
    return found


def _place(path: str, node: YamlNode, where: Sequence[str | int]) -> str:
    """`file:line:column: ` of the field, or of the nearest thing above it."""
    for part in where:
        below = node.get(part) if isinstance(part, str) else None
        if isinstance(part, int) and part < len(node.items):
            below = node.items[part]
        if below is None:
            break
        node = below
    return f"{path}:{node.line}:{node.column}: "
