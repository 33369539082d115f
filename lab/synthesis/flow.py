"""A flow: which cells a row runs through. Flows are data (`flows/*.yaml` with their prompts beside them).

The digest of a flow covers its prompts, so every sample says exactly how it was asked for. Flows ship with
Treewright and are not read from a taxonomy: a contribution cannot change what is asked or how it is judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import jinja2.sandbox
import yaml

from lab.contracts import digest, require
from lab.synthesis.checks import CHECKS
from lab.synthesis.grading import GRADERS
from lab.synthesis.parsing import PARSERS
from lab.synthesis.text import harmless
from lab.taxonomy.model import Kind


class FlowError(ValueError):
    """A flow or prompt file is not usable; says which and why."""


def _environment() -> jinja2.Environment:
    made = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
    # jinja2's own `tojson` escapes for HTML; a model that is shown such escapes writes them.
    made.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    made.finalize = lambda value: harmless(value) if isinstance(value, str) else value
    return made


_JINJA = _environment()


@dataclass(frozen=True)
class Prompt:
    """Chat messages as templates: constant text first (system, fixed examples, the leaf's examples), the
    row's own text last, so that servers reuse their work on the common prefix.

    `examples` are fixed turns of this file; `shots` names a list in the row's values that becomes turns too.
    """

    name: str
    system: str
    examples: tuple[tuple[str, str], ...]
    shots: str | None
    shot_user: str
    shot_assistant: str
    user: str
    schema: Mapping[str, Any] | None

    def messages(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        made = [{"role": "system", "content": _render(self.system, values)}]
        for asked, answered in self.examples:
            made += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        for shot in values[self.shots] if self.shots else ():
            one = {**values, "shot": shot}
            made.append({"role": "user", "content": _render(self.shot_user, one)})
            made.append({"role": "assistant", "content": _render(self.shot_assistant, one)})
        made.append({"role": "user", "content": _render(self.user, values)})
        return made

    def response_format(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """The JSON Schema that the server has to keep to, where the prompt asks for one."""
        if self.schema is None:
            return None
        filled = json.loads(json.dumps(self.schema), object_hook=lambda part: _fill(part, values))
        return {"type": "json_schema", "json_schema": {"name": self.name, "schema": filled}}


def _fill(part: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _render(value, values) if isinstance(value, str) and "{{" in value else value
        for name, value in part.items()
    }


@cache
def _template(text: str) -> jinja2.Template:
    return _JINJA.from_string(text)


def _render(text: str, values: Mapping[str, Any]) -> str:
    return _template(text).render(values).strip()


@dataclass(frozen=True)
class Cell:
    """One step. `needs` names the cells that must be done before; `options` are those of its kind."""

    id: str
    do: str
    needs: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Flow:
    """`ways` are the wordings that a row of one unit (a sentence, a seed) takes in turn."""

    name: str
    kind: Kind
    unit: str
    asks_per_row: float
    ways: tuple[Mapping[str, Any], ...]
    cells: tuple[Cell, ...]
    prompts: Mapping[str, Prompt]
    near_duplicate: float
    phrasings: tuple[str, ...]
    digest: str

    @property
    def judged(self) -> bool:
        return any(cell.do == "judge" for cell in self.cells)


def load_flow(name: str) -> Flow:
    """The flow `flows/<name>.yaml` with its prompts. Raises `FlowError`, `ContractError`."""
    folder = resources.files("lab.synthesis") / "flows"
    value = yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8"))
    require("flow", value, f"flows/{name}.yaml")
    raw = {
        cell["prompt"]: yaml.safe_load((folder / "prompts" / cell["prompt"]).read_text("utf-8"))
        for cell in value["cells"]
        if "prompt" in cell
    }
    return build_flow(value, raw)


def build_flow(value: Mapping[str, Any], raw_prompts: Mapping[str, Mapping[str, Any]]) -> Flow:
    """A flow from its parsed files; refuses names that nothing answers to and cells that never come to
    their turn.
    """
    cells = _cells(value["name"], value["cells"])
    for cell in cells:
        for option, known in (("parser", PARSERS), ("grader", GRADERS)):
            if option in cell.options and cell.options[option] not in known:
                raise FlowError(f"{value['name']}.{cell.id}: no {option} {cell.options[option]!r}")
        for check in cell.options.get("checks", ()):
            if check not in CHECKS:
                raise FlowError(f"{value['name']}.{cell.id}: no check {check!r}")
    return Flow(
        name=value["name"],
        kind=value["kind"],
        unit=value["unit"],
        asks_per_row=value["asks_per_row"],
        ways=tuple(value["ways"]),
        cells=cells,
        prompts={name: _prompt(name, raw) for name, raw in raw_prompts.items()},
        near_duplicate=value["keep"]["near_duplicate"],
        phrasings=tuple(value["keep"].get("phrasings", ())),
        digest=digest(
            {"flow": dict(value), "prompts": {name: dict(raw) for name, raw in raw_prompts.items()}}
        ),
    )


def _cells(flow: str, values: Sequence[Mapping[str, Any]]) -> tuple[Cell, ...]:
    made: list[Cell] = []
    for value in values:
        before = [cell.id for cell in made]
        needs = tuple(value.get("needs", before[-1:]))
        unknown = sorted({*needs, *([value["from"]] if "from" in value else [])} - set(before))
        if unknown or value["id"] in before:
            raise FlowError(
                f"{flow}.{value['id']}: needs {', '.join(unknown)}, which no earlier cell makes"
                if unknown
                else f"{flow}.{value['id']}: two cells share this name"
            )
        options = {name: value[name] for name in value if name not in {"id", "do", "needs"}}
        made.append(Cell(value["id"], value["do"], needs, options))
    return tuple(made)


def _prompt(name: str, raw: Mapping[str, Any]) -> Prompt:
    try:
        return Prompt(
            name=name.removesuffix(".yaml"),
            system=raw["system"],
            examples=tuple((turn["user"], turn["assistant"]) for turn in raw.get("examples", ())),
            shots=raw.get("shots"),
            shot_user=raw.get("shot_user", ""),
            shot_assistant=raw.get("shot_assistant", ""),
            user=raw["user"],
            schema=raw.get("schema"),
        )
    except (KeyError, TypeError) as error:
        raise FlowError(f"prompt {name}: {error!r} is missing or has the wrong shape") from error
