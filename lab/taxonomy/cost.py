"""What a change costs before anybody runs it: requests, teacher tokens, rows; minutes from recorded rates.

`cost(diff, head, config)` counts with the very flows and units that the generate stage runs, so the number of
requests is exact up to answers that have to be asked for again (upwards) and rows that fail a check before
they are judged (downwards). Prompt tokens are words times `TOKENS_A_WORD`; completion tokens are the flows'
limits, so both are bounds. With the teacher's tokenizer
(`tokenizer.py`) prompt tokens are counted. Passages of documents stand in by the leaf's own contexts: how
many rows are tried does not depend on the documents.

Minutes need rates. They are recorded by every run: `read_rates(work)` takes them from the manifests of the
generate and tune stages (`treewright diff --cost --rates work`), or from a JSON file of the same fields.
Without rates there are counts, and no minutes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config import RepositoryConfig
from lab.taxonomy.chunks import Chunk
from lab.taxonomy.diff import LeafChange, TreeDiff
from lab.taxonomy.diff_text import count
from lab.taxonomy.leaf import QNA, LeafError, load_leaf
from lab.taxonomy.model import Leaf
from lab.taxonomy.sizes import ESTIMATE, Tokens
from lab.taxonomy.tree import Tree
from lab.untrusted import Refused, printable

if TYPE_CHECKING:
    from lab.synthesis.flow import Cell, Flow, Prompt
    from lab.synthesis.items import Task

TOKENS_A_WORD = 1.4
"""English prose in a byte-pair vocabulary of about 50,000 has 1.3 tokens a word (OpenAI's rule: 0.75 words
a token); chat marks and names add some."""


@dataclass(frozen=True)
class LeafCost:
    """`rows` wanted of the leaf, `tries` made for them; requests and tokens of all tries."""

    leaf: str
    rows: int
    tries: int
    teacher_requests: int
    judge_requests: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Rates:
    """Measured speed of earlier runs. `device` is the tune stage's (`cuda` or `cpu`)."""

    generate_seconds_a_try: float | None = None
    tune_seconds_a_row: float | None = None
    device: str = ""
    source: str = ""


@dataclass(frozen=True)
class Cost:
    """Sums over the leaves that are generated anew. `unread` leaves could not be read; lint says why."""

    leaves: tuple[LeafCost, ...]
    unread: tuple[str, ...]
    rates: Rates
    counted: bool = False

    def total(self, name: str) -> int:
        return sum(int(getattr(leaf, name)) for leaf in self.leaves)

    @property
    def generate_minutes(self) -> float | None:
        return _minutes(self.rates.generate_seconds_a_try, self.total("tries"))

    @property
    def tune_minutes(self) -> float | None:
        return _minutes(self.rates.tune_seconds_a_row, self.total("rows"))

    def to_json(self) -> dict[str, Any]:
        names = (
            "rows",
            "tries",
            "teacher_requests",
            "judge_requests",
            "prompt_tokens",
            "completion_tokens",
        )
        return {
            "leaves": [asdict(leaf) for leaf in self.leaves],
            "unread": list(self.unread),
            "total": {name: self.total(name) for name in names},
            "minutes": {"generate": self.generate_minutes, "tune": self.tune_minutes},
            "rates": asdict(self.rates),
            "tokens": "counted" if self.counted else "estimated",
        }


def _minutes(seconds: float | None, number: int) -> float | None:
    return None if seconds is None else round(seconds * number / 60, 2)


def cost(
    found: TreeDiff,
    head: Tree,
    config: RepositoryConfig,
    rates: Rates = Rates(),
    tokens: Tokens = ESTIMATE,
    settings: Tree | None = None,
) -> Cost:
    """What generating the changed leaves anew costs. What every release costs anyhow (unchanged leaves,
    replay, benchmark) is not part of a change. `settings` is where the repository's own flows are read from
    (the default branch), `head` unless given. Raises `FlowError`.
    """
    from lab.synthesis.flow_files import flows_of

    flows = flows_of(config, settings or head) if config.synthesis.flows else {}
    leaves: list[LeafCost] = []
    unread: list[str] = []
    for change in found.leaves:
        rows = _rows(change, config)
        if rows == 0:
            continue
        try:
            leaf = load_leaf(head, change.path)
            leaves.append(leaf_cost(leaf, rows, config, tokens, flows.get(leaf.kind)))
        except (LeafError, Refused):
            unread.append(f"{change.path}/{QNA}")
    return Cost(tuple(leaves), tuple(unread), rates, tokens.counted)


def _rows(change: LeafChange, config: RepositoryConfig) -> int:
    """As the plan stage decides it: what a model would learn gets the rows of a changed leaf, and a new
    attribution none.
    """
    return config.generate.rows_changed if change.teaches else 0


def leaf_cost(
    leaf: Leaf, rows: int, config: RepositoryConfig, tokens: Tokens = ESTIMATE, flow: Flow | None = None
) -> LeafCost:
    """The requests of one leaf's flow for `rows` rows; the shipped flow unless one is given."""
    from lab.synthesis.flow import load_flow
    from lab.synthesis.flow_files import preset_of
    from lab.synthesis.heldout import split
    from lab.synthesis.leaf import make_task
    from lab.synthesis.units import known_pairs, units

    flow = flow or load_flow(leaf.kind, preset_of(config))
    parted = split(leaf, config.generate.heldout_share, config.generate.seed)
    task = make_task(leaf, parted, _passages(leaf), rows)
    counted = flow.counts()
    tries = requests = judged = prompt = completion = 0
    for unit in units(flow, task):
        ways: Sequence[Mapping[str, Any]] = unit.values["ways"]
        tries += len(ways)
        # A view of a chunk (its summary, its facts) is at most about as long as the chunk.
        view = {"name": "passage", "text": unit.values.get("passage", "")}
        values = {**_stand_ins(task), "view": view, **unit.values, "way": ways[0], "task": task}
        for cell, times, each_try in counted:
            number = times * (len(ways) if each_try else 1)
            if cell.do == "judge":
                judged += number
            elif cell.do == "model":
                requests += number
                prompt += number * _tokens(flow.prompts[cell.options["prompt"]], values, tokens)
                completion += number * _longest(cell)
    if tries == 0:  # no sentence of the contexts can be asked about; the documents' will be
        tries = math.ceil(rows * flow.asks_per_row)
        judged = sum(tries * times for cell, times, _ in counted if cell.do == "judge")
        requests = sum(tries * times for cell, times, _ in counted if cell.do == "model")
        completion = sum(tries * times * _longest(cell) for cell, times, _ in counted if cell.do == "model")
    calibration = sum(len(part) for part in known_pairs(task.examples))
    calibrated = sum(cell.do == "judge" and bool(cell.options.get("calibrate")) for cell in flow.cells)
    return LeafCost(
        leaf=leaf.path,
        rows=rows,
        tries=tries,
        teacher_requests=requests,
        judge_requests=judged + calibrated * calibration,
        prompt_tokens=prompt,
        completion_tokens=completion,
    )


def _longest(cell: Cell) -> int:
    """Tokens of the cell's answers at most, all samples together."""
    limit = int(cell.options.get("params", {}).get("max_tokens", 0))
    return limit * int(cell.options.get("n", 1))


def _passages(leaf: Leaf) -> list[Chunk]:
    return [
        Chunk(f"context-{index}", leaf.path, "", seed.context, index)
        for index, seed in enumerate(leaf.seeds)
        if seed.context
    ]


def _stand_ins(task: Task) -> dict[str, Any]:
    """What later prompts hold is not known yet; a seed's texts are as long as what will stand there."""
    example = task.examples[0] if task.examples else None
    return {
        "question": example.question if example else "",
        "answer": example.answer if example else "",
        "context": (example.context or "") if example else "",
    }


def _tokens(prompt: Prompt, values: Mapping[str, Any], tokens: Tokens) -> int:
    try:
        texts = [message["content"] for message in prompt.messages(values)]
    except KeyError:
        texts = [prompt.system, *(text for example in prompt.examples for text in example), prompt.user]
    if tokens.counted:
        return sum(tokens.count(text) for text in texts)
    return math.ceil(sum(len(text.split()) for text in texts) * TOKENS_A_WORD)


# ---- recorded rates ---------------------------------------------------------------------------------------


class RatesError(ValueError):
    """The rates cannot be read; says where and what is expected."""


def read_rates(place: Path) -> Rates:
    """From a work folder of an earlier run, or from a JSON file. What is not there, or came from a run that
    was interrupted and went on, stays unknown. Raises `RatesError`.
    """
    if place.is_dir():
        return _recorded(place)
    value = _json(place)
    wanted = ("generate_seconds_a_try", "tune_seconds_a_row")
    if not isinstance(value, dict) or not any(name in value for name in wanted):
        raise RatesError(f"{place} has none of {', '.join(wanted)}; give a work folder, or such a file.")
    numbers = [value.get(name) for name in wanted]
    if any(number is not None and not _is_time(number) for number in numbers):
        raise RatesError(f"{place}: {' and '.join(wanted)} are seconds, numbers of at least 0.")
    return Rates(numbers[0], numbers[1], str(value.get("device", "")), str(place))


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _recorded(work: Path) -> Rates:
    generate = tune = None
    device = ""
    run, made = _stage(work / "generate", "yield.json")
    if run is not None and made is not None:
        tries = sum(int(leaf["asked"]) for leaf in made["leaves"])
        tries += int(made["replay"]["rows"]) + int(made["replay"]["failed"])
        generate = float(run["seconds"]) / tries if tries else None
    run, made = _stage(work / "tune", "phases.json")
    if run is not None and made is not None:
        rows = sum(int(phase["rows"]) for phase in made["phases"] if not phase["skipped"])
        tune = float(run["seconds"]) / rows if rows else None
        device = str(made["device"])
    if generate is None and tune is None:
        raise RatesError(
            f"{work} holds no finished, uninterrupted generate or tune stage; run one, or name a JSON file."
        )
    return Rates(generate, tune, device, str(work))


def _stage(folder: Path, report: str) -> tuple[Any, Any]:
    """(manifest, report) of a finished stage that ran in one go; (None, None) otherwise."""
    if not (folder / "manifest.json").is_file() or not (folder / report).is_file():
        return None, None
    manifest = _json(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("resumed") or not _is_time(manifest.get("seconds")):
        return None, None
    return manifest, _json(folder / report)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RatesError(f"{path} cannot be read: {error}") from None


def text(found: Cost) -> str:
    """The cost for a terminal."""
    lines = [
        f"    {printable(leaf.leaf)}: {count(leaf.rows, 'row')} by "
        f"{count(leaf.teacher_requests, 'teacher request')} and {count(leaf.judge_requests, 'judge request')}"
        for leaf in found.leaves
    ]
    tokens = f"at most {found.total('completion_tokens'):,} teacher tokens written, "
    read = f"{found.total('prompt_tokens'):,} read"
    tokens += f"{read} (counted with its tokenizer)" if found.counted else f"about {read} (estimated)"
    requests = found.total("teacher_requests") + found.total("judge_requests")
    head = f"Cost: {count(found.total('rows'), 'row')}, {count(requests, 'request')}, {tokens}."
    return "\n".join([head, *lines, *(_unread(found)), _time(found)])


def _unread(found: Cost) -> list[str]:
    return [f"    {printable(file)} cannot be read, so it is not counted." for file in found.unread]


def _time(found: Cost) -> str:
    if found.generate_minutes is None and found.tune_minutes is None:
        return "Minutes are not known: no rates are recorded here (--rates WORK, or a JSON file)."
    parts = []
    if found.generate_minutes is not None:
        parts.append(f"{found.generate_minutes:,.1f} minutes to generate")
    if found.tune_minutes is not None:
        unit = "GPU minutes" if found.rates.device.startswith("cuda") else "minutes"
        on = f" (on {found.rates.device})" if found.rates.device and unit == "minutes" else ""
        parts.append(f"{found.tune_minutes:,.1f} {unit} to tune{on}")
    return f"{' and '.join(parts)}, at the rates of {found.rates.source}."
