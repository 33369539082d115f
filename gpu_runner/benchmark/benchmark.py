"""The benchmark stage: base and candidate over the same items, in one job, with the same settings.

    treewright benchmark --work W --student embedded|DIR

Reads `plan/` (general and held-out items) and `tune/model`; writes `benchmark.json`, one row a set, and
`items.jsonl`, one row an item and metric, from which everything else follows. The base model's answers are
kept in `<cache>/benchmarks/` under a digest of model, items, code, versions and settings: a second release
asks it nothing. The candidate's are kept in the stage's scratch folder, so that a killed run goes on where
it stopped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu_runner.benchmark import contributed, general
from gpu_runner.benchmark.model import BenchmarkError, load, placement
from gpu_runner.benchmark.scoring import MAX_NEW_TOKENS, Scored
from gpu_runner.stage import SCRATCH, Manifest, execute, input_digest, tool_versions
from lab.contracts import digest, file_digest, read_json, read_lines, write_json, write_lines

GENERAL, POOLED = "general", "changed leaves"
CHOICE, SHORT_ANSWER = "choice", "short_answer"
TOOLS = ("torch", "transformers", "lm_eval", "tokenizers")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Item:
    """One question of one set, however it is asked."""

    id: str
    set: str
    leaf: str | None
    question: str
    expected: str
    cluster: str


@dataclass(frozen=True)
class Measured:
    """What one model did: `metric -> item id -> score`, and the digests of the prompts it saw."""

    scores: Mapping[str, Mapping[str, Scored]]
    prompts: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        scores = {
            name: {key: asdict(score) for key, score in rows.items()} for name, rows in self.scores.items()
        }
        return {"scores": scores, "prompts": dict(self.prompts)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Measured:
        scores = {
            name: {key: Scored(**score) for key, score in rows.items()}
            for name, rows in value["scores"].items()
        }
        return Measured(scores, value["prompts"])


def run(work: Path, student: Path, cache: Path, progress: Progress = lambda _: None) -> Manifest:
    """Run the stage over the work folder. `student` is the base model's folder, `cache` the machine's cache.

    Raises BenchmarkError or StageError with what is missing.
    """
    plan = read_json(work / "plan" / "plan.json", "plan")
    candidate = work / "tune" / "model"
    if not (candidate / "config.json").is_file():
        raise BenchmarkError(f"{candidate} holds no model: run `treewright tune --work {work}` first")
    device, dtype = placement()
    settings = {
        "base": input_digest(student),
        "code": code_digest(),
        "device": device,
        "dtype": dtype,
        "max_new_tokens": MAX_NEW_TOKENS,
    }

    def body(partial: Path) -> None:
        items = _Items.read(work / "plan", plan)
        key = digest({"items": items.digest(), "tools": tool_versions(TOOLS), **settings})
        name = f"{key.removeprefix('sha256:')}.json"
        scratch = partial / SCRATCH
        progress(f"base: {items.describe()}")
        before = _once(cache / "benchmarks" / name, key, lambda: measure(student, items, progress), progress)
        tuned = digest([key, input_digest(candidate)])
        progress(f"candidate: {items.describe()}")
        after = _once(
            scratch / "candidate.json", tuned, lambda: measure(candidate, items, progress), progress
        )
        rows = item_rows(items, before, after)
        write_lines(partial / "items.jsonl", rows)
        environment = {
            "harness": f"lm-eval {tool_versions(('lm_eval',))['lm_eval']}",
            "tools": tool_versions(TOOLS),
            **settings,
            "candidate": input_digest(candidate),
            "prompts": {
                name: {"base": before.prompts[name], "candidate": after.prompts[name]}
                for name in sorted(before.prompts)
            },
        }
        report = {"sets": sets(rows), "environment": environment}
        write_json(partial / "benchmark.json", report)

    inputs = [work / "plan", work / "tune"]
    return execute("benchmark", inputs, work / "benchmark", settings, body, tools=TOOLS)


@dataclass(frozen=True)
class _Items:
    general: tuple[general.ChoiceItem, ...]
    questions: Mapping[str, str]
    held_out: tuple[contributed.HeldOut, ...]

    @staticmethod
    def read(folder: Path, plan: Mapping[str, Any]) -> _Items:
        path = folder / "general.jsonl"
        rows = list(read_lines(path)) if path.is_file() else []
        changed = {leaf["path"] for leaf in plan["leaves"] if leaf["changed"]}
        held_out = contributed.held_out(list(read_lines(folder / "heldout.jsonl", "heldout")), changed)
        if not rows and not held_out:
            raise BenchmarkError(
                f"{folder}: neither general nor held-out items; add `benchmark.general` to the configuration"
            )
        questions = {row["id"]: row["question"] for row in rows}
        return _Items(tuple(general.general_items(rows)), questions, tuple(held_out))

    def digest(self) -> str:
        return digest([[asdict(item) for item in self.general], [asdict(item) for item in self.held_out]])

    def describe(self) -> str:
        return f"{len(self.general)} general and {len(self.held_out)} held-out items"

    def listed(self) -> list[tuple[str, Item]]:
        """Each metric with each item that it can be measured on, in the order of the files."""
        rows = [
            (CHOICE, Item(i.id, GENERAL, None, self.questions[i.id], i.choices[i.key], i.id))
            for i in self.general
        ]
        for item in self.held_out:
            row = Item(item.id, item.leaf, item.leaf, item.question, item.answer, item.cluster)
            rows += [(CHOICE, row), (SHORT_ANSWER, row)]
        return rows


def measure(folder: Path, items: _Items, progress: Progress) -> Measured:
    """Load one model, ask it everything, let it go."""
    model = load(folder)
    with tempfile.TemporaryDirectory(prefix="treewright-benchmark-") as name:
        progress("  general questions, by likelihood")
        broad, broad_prompts = general.choose(model, items.general, GENERAL, chat=False, folder=Path(name))
        progress("  held-out questions, by likelihood")
        picked, picked_prompts = contributed.choose_held_out(model, items.held_out, Path(name))
    progress("  held-out questions, written answers")
    written = contributed.answer_held_out(model, items.held_out)
    return Measured(
        {GENERAL: broad, CHOICE: picked, SHORT_ANSWER: written},
        {GENERAL: broad_prompts, "contributed": picked_prompts},
    )


def _once(path: Path, key: str, make: Callable[[], Measured], progress: Progress) -> Measured:
    """The stored result under `key`, or a new one; a damaged or foreign file is made again."""
    try:
        stored = read_json(path)
        if stored["key"] == key and stored["digest"] == digest(stored["measured"]):
            progress("  kept from an earlier run")
            return Measured.from_json(stored["measured"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    measured = make()
    value = measured.to_json()
    write_json(path, {"key": key, "digest": digest(value), "measured": value})
    return measured


def item_rows(items: _Items, base: Measured, candidate: Measured) -> list[dict[str, Any]]:
    """One row an item and metric, with both models' scores and answers."""
    rows = []
    for metric, item in items.listed():
        where = GENERAL if item.set == GENERAL else metric
        before, after = base.scores[where][item.id], candidate.scores[where][item.id]
        rows.append(
            {
                "id": item.id,
                "set": item.set,
                "leaf": item.leaf,
                "metric": metric,
                "cluster": item.cluster,
                "question": item.question,
                "expected": item.expected,
                "base": int(before.right),
                "candidate": int(after.right),
                "base_text": before.text,
                "candidate_text": after.text,
                "base_readable": before.readable,
                "candidate_readable": after.readable,
            }
        )
    return rows


def sets(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The scores of every set: general, each leaf, and all changed leaves together, by metric."""
    names = list(dict.fromkeys((row["set"], row["leaf"], row["metric"]) for row in rows))
    found = []
    for name, leaf, metric in names:
        kind = "general" if leaf is None else "leaf"
        chosen = [row for row in rows if row["set"] == name and row["metric"] == metric]
        found.append(_set(name, kind, leaf, metric, chosen))
    for metric in (CHOICE, SHORT_ANSWER):
        pooled = [row for row in rows if row["leaf"] is not None and row["metric"] == metric]
        if pooled:
            found.append(_set(POOLED, "pooled", None, metric, pooled))
    return found


def _set(
    name: str, kind: str, leaf: str | None, metric: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    def share(values: Iterable[int]) -> float:
        return round(sum(values) / len(rows), 6)

    return {
        "name": name,
        "kind": kind,
        "leaf": leaf,
        "metric": metric,
        "items": len(rows),
        "base": share(row["base"] for row in rows),
        "candidate": share(row["candidate"] for row in rows),
        "parse_failures": {
            "base": sum(not row["base_readable"] for row in rows),
            "candidate": sum(not row["candidate_readable"] for row in rows),
        },
    }


def code_digest() -> str:
    """Of this package's own files: another way of asking or matching makes other scores."""
    return digest([[path.name, file_digest(path)] for path in sorted(Path(__file__).parent.glob("*.py"))])
