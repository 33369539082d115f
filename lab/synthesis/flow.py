"""A flow: which cells a row runs through. Flows are data: a YAML file with its prompts in `prompts/` beside
it.

Two sets ship with Treewright (`flows/lab`, the LAB method for teachers that can write, and `flows/compact`,
made for a very small one); a taxonomy may bring its own (`flow_files`). The digest of a flow covers its
prompts, so every sample says exactly how it was asked for. Everything here is pure but `shipped`, which reads
the package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from lab.contracts import digest, require
from lab.synthesis import template
from lab.synthesis.checks import CHECKS
from lab.synthesis.grading import GRADERS
from lab.synthesis.parsing import PARSERS
from lab.taxonomy.model import Kind

KINDS: tuple[Kind, ...] = ("knowledge", "freeform_skill", "grounded_skill")
PRESETS = ("lab", "compact")
MOST_BRANCHES = 256
"""Rows of one try at most: fan-outs multiply, and a flow may come from a repository."""

UNIT_VALUES: Mapping[str, frozenset[str]] = {
    "sentence": frozenset({"fact", "neighbour", "passage", "heading", "siblings", "shots", "ways"}),
    "passage": frozenset({"passage", "heading", "siblings", "ways"}),
    "seed": frozenset({"description", "shots", "example", "persona", "siblings", "ways"}),
}
"""What a row holds from the start, by the flow's unit. Each way has `seed` and `index` besides its own; a
passage's way has `shots`."""
SHOTS = 5
"""Entries of `shots` at most."""
CALIBRATED = frozenset({"question", "answer", "context", "fact", "task"})
"""What a pair has that a judge is calibrated on."""


class FlowError(ValueError):
    """A flow or prompt file is not usable. `where` leads to the field that is to blame; `file` is the
    prompt's when it is in a prompt.
    """

    def __init__(self, message: str, where: tuple[str | int, ...] = (), file: str | None = None) -> None:
        super().__init__(message)
        self.where, self.file = where, file


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
        """Raises `template.MissingError`."""
        made = [{"role": "system", "content": template.render(self.system, values)}]
        for asked, answered in self.examples:
            made += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        for shot in template.look_up(values, self.shots) if self.shots else ():
            one = {**values, "shot": shot}
            made.append({"role": "user", "content": template.render(self.shot_user, one)})
            made.append({"role": "assistant", "content": template.render(self.shot_assistant, one)})
        made.append({"role": "user", "content": template.render(self.user, values)})
        return made

    def response_format(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """The JSON Schema that the server has to keep to, where the prompt asks for one."""
        if self.schema is None:
            return None
        filled = json.loads(json.dumps(self.schema), object_hook=lambda part: _fill(part, values))
        return {"type": "json_schema", "json_schema": {"name": self.name, "schema": filled}}


def _fill(part: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: template.render(value, values) if isinstance(value, str) and "{{" in value else value
        for name, value in part.items()
    }


@dataclass(frozen=True)
class Cell:
    """One step. `needs` names the cells that must be done before; `options` are those of its kind."""

    id: str
    do: str
    needs: tuple[str, ...]
    options: Mapping[str, Any]

    @property
    def costs(self) -> str | None:
        """The cell whose value, and no more, is lost when this one fails."""
        found = self.options.get("costs")
        return None if found is None else str(found)


@dataclass(frozen=True)
class Output:
    """A training row that a finished row becomes. `answer` and `context` name values of the row."""

    dataset: str
    answer: tuple[str, ...]
    ask: tuple[str, ...] = ()
    context: str | None = None
    distractors: int = 0
    golden_share: float = 1.0
    after: str | None = None


@dataclass(frozen=True)
class Flow:
    """`ways` are the wordings that a row of one unit (a sentence, a chunk, a seed) takes in turn. `rounds`
    and `give_up_below` say how long a leaf with too few rows is tried again.
    """

    name: str
    kind: Kind
    unit: str
    asks_per_row: float
    ways: tuple[Mapping[str, Any], ...]
    cells: tuple[Cell, ...]
    prompts: Mapping[str, Prompt]
    near_duplicate: float
    among: str
    phrasings: tuple[str, ...]
    outputs: tuple[Output, ...]
    rounds: int
    give_up_below: float
    digest: str

    @property
    def judged(self) -> bool:
        return any(cell.do == "judge" for cell in self.cells)

    @property
    def branches(self) -> int:
        """Rows that one try becomes at most, as far as the flow tells."""
        return max((number for _, number, tried in self.counts() if tried), default=1)

    def counts(self) -> list[tuple[Cell, int, bool]]:
        """For each cell, how often it runs at most, and whether for each try or only once for each unit. For
        progress, previews and estimates, not for any promise: how many pairs a completion holds, only its
        prompt's `maxItems` tells.
        """
        by_id = {cell.id: cell for cell in self.cells}
        found, number, tried = [], 1, False
        for cell in self.cells:
            if cell.do == "fan_out":
                if cell.options["over"] == "ways":
                    tried = True
                else:
                    number *= self._entries(by_id.get(cell.options["over"]), by_id)
            found.append((cell, number, tried))
        return found

    def _entries(self, over: Cell | None, by_id: Mapping[str, Cell]) -> int:
        if over is None:
            return SHOTS
        if over.do == "parse":
            behind = by_id[over.options["from"]]
            behind = by_id[behind.options["over"]] if behind.do == "fan_out" else behind
            parts = (self.prompts[behind.options["prompt"]].schema or {}).get("properties")
            every = parts.values() if isinstance(parts, Mapping) else ()
            lists = [part for part in every if isinstance(part, Mapping)]
            most = [part.get("maxItems", 1) for part in lists]
            return max((number for number in most if isinstance(number, int)), default=1)
        return max(int(over.options.get("n", 1)), len(over.options.get("of", ())), 1)


def shipped(name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The files of `flows/<name>.yaml`: the flow and its prompts by file name."""
    path = resources.files("lab.synthesis") / "flows" / f"{name}.yaml"
    folder = resources.files("lab.synthesis") / "flows" / name.rpartition("/")[0]
    value = yaml.safe_load(path.read_text("utf-8"))
    raw = {
        file: yaml.safe_load((folder / "prompts" / file).read_text("utf-8")) for file in prompt_files(value)
    }
    return value, raw


@cache
def load_flow(kind: str, preset: str = "compact") -> Flow:
    """A flow that ships with Treewright."""
    return build_flow(*shipped(f"{preset}/{kind}"))


def prompt_files(value: Mapping[str, Any]) -> list[str]:
    return sorted({str(cell["prompt"]) for cell in value["cells"] if "prompt" in cell})


def build_flow(value: Mapping[str, Any], raw_prompts: Mapping[str, Mapping[str, Any]]) -> Flow:
    """A flow from its parsed files. Refuses what does not fit the schemas (`ContractError`), names that
    nothing answers to and cells that never come to their turn (`FlowError`).
    """
    require("flow", value, str(value.get("name", "flow")))
    if value["name"] in {"seed", "replay"}:
        raise FlowError(f"{value['name']} is the name of rows that no flow makes; take another", ("name",))
    if all("when" in way for way in value["ways"]):
        raise FlowError(f"{value['name']}: no way suits every sentence: leave one without `when`", ("ways",))
    cells = _cells(value)
    prompts = {name: _prompt(name, raw) for name, raw in raw_prompts.items()}
    names = _names(value, cells)
    outputs = tuple(_outputs(value, cells, names))
    for number, cell in enumerate(cells):
        _params(value, cells, number, names)
        if cell.options.get("answer", "answer") not in names:
            told = f"{value['name']}.{cell.id}: answer names {cell.options['answer']}, which no row has"
            raise FlowError(told, ("cells", number, "answer"))
        if "prompt" in cell.options:
            _filled(value, cells, cell, raw_prompts[cell.options["prompt"]], names)
    made = Flow(
        name=value["name"],
        kind=value["kind"],
        unit=value["unit"],
        asks_per_row=value["asks_per_row"],
        ways=tuple(value["ways"]),
        cells=cells,
        prompts=prompts,
        near_duplicate=value["keep"]["near_duplicate"],
        among=value["keep"].get("among", "leaf" if value["unit"] == "seed" else "source"),
        phrasings=tuple(value["keep"].get("phrasings", ())),
        outputs=outputs,
        rounds=value.get("rounds", 1),
        give_up_below=value.get("give_up_below", 0.05),
        digest=digest(
            {"flow": dict(value), "prompts": {name: dict(raw) for name, raw in raw_prompts.items()}}
        ),
    )
    if made.branches > MOST_BRANCHES:
        told = f"{made.name}: one try becomes {made.branches} rows; {MOST_BRANCHES} are the most"
        raise FlowError(told, ("cells",))
    return made


def _cells(value: Mapping[str, Any]) -> tuple[Cell, ...]:
    made: list[Cell] = []
    flow, given = value["name"], UNIT_VALUES[value["unit"]]
    for number, raw in enumerate(value["cells"]):
        before = [cell.id for cell in made]
        where = ("cells", number)
        place = f"{flow}.{raw['id']}"
        if raw["id"] in before or raw["id"] in given:
            raise FlowError(f"{place}: two cells share this name", (*where, "id"))
        wanted = [(name, "needs") for name in raw.get("needs", ())]
        wanted += [(raw[field], field) for field in ("from", "value") if field in raw]
        for name, field in wanted:
            if name not in before:
                raise FlowError(f"{place}: needs {name}, which no earlier cell makes", (*where, field))
        names = [(name, "of") for name in raw.get("of", ())]
        names += [(raw["over"], "over")] if raw["do"] == "fan_out" else []
        for name, field in names:
            if name not in before and name not in given:
                raise FlowError(
                    f"{place}: {field} names {name}, which no earlier cell makes and no {value['unit']} has",
                    (*where, field),
                )
        _countable(place, where, raw, value["cells"][:number], given)
        if raw["do"] == "parse" and not _written(raw["from"], value["cells"][:number]):
            raise FlowError(f"{place}: from {raw['from']}, which is no model's answer", (*where, "from"))
        _known(place, where, raw)
        implied = [name for name, field in wanted if field != "needs"]
        implied += [name for name, _ in names if name in before]
        needs = tuple(dict.fromkeys([*raw.get("needs", before[-1:]), *implied]))
        options = {name: raw[name] for name in raw if name not in {"id", "do", "needs"}}
        made.append(Cell(raw["id"], raw["do"], needs, options))
    for number, cell in enumerate(made):
        if cell.costs is not None and cell.costs not in {one.id for one in made}:
            raise FlowError(
                f"{flow}.{cell.id}: costs {cell.costs}, which is no cell", ("cells", number, "costs")
            )
    return tuple(made)


def _written(name: str, before: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a model wrote the value: a model cell of one sample, or a fan-out over one of several."""
    found = {cell["id"]: cell for cell in before}
    cell = found[name]
    if cell["do"] == "fan_out":
        over = found.get(cell["over"], {})
        return over.get("do") == "model" and over.get("n", 1) > 1
    return bool(cell["do"] == "model" and cell.get("n", 1) == 1)


def _known(place: str, where: tuple[str | int, ...], raw: Mapping[str, Any]) -> None:
    """Parsers, graders and checks by the names that answer to them."""
    for option, known in (("parser", PARSERS), ("grader", GRADERS)):
        if option in raw and raw[option] not in known:
            raise FlowError(f"{place}: no {option} {raw[option]!r}; there are: {', '.join(known)}", where)
    for check in raw.get("checks", ()):
        if check not in CHECKS:
            raise FlowError(
                f"{place}: no check {check!r}; there are: {', '.join(CHECKS)}", (*where, "checks")
            )
    if raw.get("grader") == "verdict" and "scale" not in raw:
        raise FlowError(f'{place}: a verdict needs its scale, such as ["NO", "YES"]', where)


def _countable(
    place: str,
    where: tuple[str | int, ...],
    raw: Mapping[str, Any],
    before: Sequence[Mapping[str, Any]],
    given: frozenset[str],
) -> None:
    """A fan-out is over a list whose length is bounded, a filter over a judge's number."""
    if raw["do"] == "fan_out" and raw["over"] == "ways":
        if any(cell.get("over") == "ways" for cell in before):
            raise FlowError(f"{place}: over names ways, which are spread out already", (*where, "over"))
    elif raw["do"] == "fan_out" and not _is_list(raw["over"], before, given):
        raise FlowError(
            f"{place}: over names {raw['over']}, which is no list to spread out", (*where, "over")
        )
    found = {cell["id"]: cell for cell in before}
    if raw["do"] == "filter" and found[raw["value"]]["do"] != "judge":
        raise FlowError(f"{place}: value names {raw['value']}, which is no judge", (*where, "value"))


def _is_list(name: str, cells: Sequence[Mapping[str, Any]], given: frozenset[str]) -> bool:
    cell = next((one for one in cells if one["id"] == name), None)
    if cell is None:
        return name == "shots" and name in given
    return bool(cell["do"] == "join" or cell.get("parser") == "pairs" or cell.get("n", 1) > 1)


def _ways(value: Mapping[str, Any], cells: Sequence[Cell]) -> tuple[frozenset[str], frozenset[str]]:
    """What a way is called in a row, and what every way holds."""
    over = [cell for cell in cells if cell.options.get("over") == "ways"]
    held = frozenset.intersection(*(frozenset(way) for way in value["ways"])) - {"when"}
    held |= {"seed", "index"} | ({"shots"} if value["unit"] == "passage" else set())
    return frozenset(str(cell.options.get("as", cell.id)) for cell in over), held


def _names(value: Mapping[str, Any], cells: Sequence[Cell]) -> frozenset[str]:
    """Every name that a row may come to hold."""
    found = {"question", "answer", "context"} | UNIT_VALUES[value["unit"]]
    for cell in cells:
        found |= {cell.id, str(cell.options.get("as", cell.id))}
        if cell.options.get("spread") and cell.options.get("over") == "ways":
            found |= _ways(value, cells)[1]
    return frozenset(found)


def _params(value: Mapping[str, Any], cells: Sequence[Cell], number: int, names: frozenset[str]) -> None:
    """Refuse a parameter that no server takes, or that names what no row has."""
    called, held = _ways(value, cells)
    for name, given in cells[number].options.get("params", {}).items():
        root, _, part = given[1:].partition(".") if isinstance(given, str) else ("", "", "")
        if not isinstance(given, str):
            fits = name != "seed" or isinstance(given, int)
        elif not given.startswith("$"):
            fits = name == "stop"
        elif root in called:
            fits = part in held and (
                name != "seed" or all(isinstance(way.get(part, 0), int) for way in value["ways"])
            )
        else:
            fits = root in names | {"task"} and name != "seed"
        if not fits:
            told = f"{value['name']}.{cells[number].id}: params: {given!r} is no {name} of every row"
            raise FlowError(told, ("cells", number, "params", name))


def _filled(
    value: Mapping[str, Any],
    cells: Sequence[Cell],
    cell: Cell,
    raw: Mapping[str, Any],
    names: frozenset[str],
) -> None:
    """Refuse a prompt that names what no row has: otherwise every row would be lost by it."""
    file = cell.options["prompt"]
    known = CALIBRATED if cell.options.get("calibrate") else names | {"task"}
    texts = [(field, raw.get(field, "")) for field in ("system", "user", "shot_user", "shot_assistant")]
    for field, text in [*texts, *(("schema", one) for one in _texts(raw.get("schema")))]:
        unknown = template.names(text) - known - ({"shot"} if field.startswith("shot") else set())
        if unknown:
            about = f"what {cell.id} is calibrated on" if cell.options.get("calibrate") else value["name"]
            raise FlowError(
                f"prompt {file}: {field}: {about} has no {', '.join(sorted(unknown))}", (field,), file
            )
    called, held = _ways(value, cells)
    lists = {f"{name}.shots" for name in called if "shots" in held} | (names & held & {"shots"})
    shots = raw.get("shots")
    if shots and shots not in lists and not _is_list(shots, value["cells"], UNIT_VALUES[value["unit"]]):
        raise FlowError(f"prompt {file}: shots: {shots} is no list that rows have", ("shots",), file)


def _texts(value: object) -> list[str]:
    """The texts of a schema that are filled from the row: values of its objects."""
    if isinstance(value, Mapping):
        own = [part for part in value.values() if isinstance(part, str)]
        return own + [text for part in value.values() for text in _texts(part)]
    return [text for part in value for text in _texts(part)] if isinstance(value, list) else []


def _outputs(value: Mapping[str, Any], cells: Sequence[Cell], names: frozenset[str]) -> list[Output]:
    """The rows that the flow asks for; a skill's row without being asked."""
    known = {cell.id for cell in cells}
    made = []
    for number, raw in enumerate(value.get("rows") or [_default_row(value)]):
        if raw.get("after", next(iter(known))) not in known:
            raise FlowError(
                f"{value['name']}: rows after {raw['after']}, which is no cell", ("rows", number, "after")
            )
        if raw.get("distractors") and "context" not in raw:
            raise FlowError(f"{value['name']}: distractors stand around a context", ("rows", number))
        for field in ("answer", "context"):
            said = raw.get(field, ())
            for name in [said] if isinstance(said, str) else said:
                if name not in names:
                    told = f"{value['name']}: rows: {field} names {name}, which no row has"
                    raise FlowError(told, ("rows", number, field))
        made.append(Output(**{**raw, "answer": tuple(raw["answer"]), "ask": tuple(raw.get("ask", ()))}))
    return made


def _default_row(value: Mapping[str, Any]) -> dict[str, Any]:
    if value["kind"] == "knowledge":
        return {"dataset": "knowledge_short", "answer": ["answer"]}
    context = {"context": "context"} if value["kind"] == "grounded_skill" else {}
    return {"dataset": "skill", "answer": ["answer"], **context}


def _prompt(name: str, raw: Mapping[str, Any]) -> Prompt:
    """Raises `ContractError`, and `FlowError` for what is no template."""
    require("prompt", raw, f"prompt {name}")
    for field in ("system", "shot_user", "shot_assistant", "user", "reply"):
        try:
            template.check(raw.get(field, ""))
        except template.TemplateError as error:
            raise FlowError(f"prompt {name}: {field}: {error}", (field,), name) from None
    return Prompt(
        name=name.rpartition(".")[0],
        system=raw["system"],
        examples=tuple(_example(name, raw, number) for number in range(len(raw.get("examples", ())))),
        shots=raw.get("shots"),
        shot_user=raw.get("shot_user", ""),
        shot_assistant=raw.get("shot_assistant", ""),
        user=raw["user"],
        schema=raw.get("schema"),
    )


def _example(name: str, raw: Mapping[str, Any], number: int) -> tuple[str, str]:
    """A fixed turn: literal, or written by the very templates of the question and its reply. (The
    predecessor's pair judge was shown an example without an answer.)
    """
    example = raw["examples"][number]
    if set(example) == {"user", "assistant"}:
        return example["user"], example["assistant"]
    try:
        return template.render(raw["user"], example), template.render(raw["reply"], example)
    except KeyError as error:
        raise FlowError(
            f"prompt {name}: example {number + 1} has no value for {error.args[0]!r}",
            ("examples", number),
            name,
        ) from None
