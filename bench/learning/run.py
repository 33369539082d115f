"""Learning, measured: 20 new facts, before and after tuning, with replay and without, over several seeds.

    .venv/bin/python bench/learning/run.py                 # 3 seeds x 4 variants, about an hour on 2 cores
    .venv/bin/python bench/learning/run.py --quick         # one short cell, some minutes: does it all run?
    .venv/bin/python bench/learning/run.py --table         # print the tables of results.json again

The student is the embedded model; the tuning is the stage's own (`gpu_runner.tune.run`: the phases of a
preset, seeded mixing, the loop), the questions are asked by the benchmark stage's own functions, and the
general set is held to the gate's own test (paired by item, margin and confidence of the example's policy).
What is measured is the tuning and not a teacher: the rows are written phrasings from `facts.json`.

A cell is one variant and seed. A finished cell is in `results.json` under a key of its data and settings and
is not run again; a killed one goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(HERE))

import material  # noqa: E402 - the path is set first

from gpu_runner import statistics as paired_statistics  # noqa: E402 - the path is set first
from gpu_runner.benchmark import general  # noqa: E402 - the path is set first
from gpu_runner.benchmark.model import answer_all, load  # noqa: E402 - the path is set first
from gpu_runner.benchmark.scoring import is_right, words  # noqa: E402 - the path is set first
from gpu_runner.embedded import cache_folder  # noqa: E402 - the path is set first
from gpu_runner.stage import tool_versions  # noqa: E402 - the path is set first
from gpu_runner.student import resolve_student  # noqa: E402 - the path is set first
from gpu_runner.tune import phases  # noqa: E402 - the path is set first
from gpu_runner.tune import tune as tuning  # noqa: E402 - the path is set first
from lab.config import load_config  # noqa: E402 - the path is set first
from lab.contracts import digest, read_json, read_lines, write_json, write_lines  # noqa: E402 - the path is set first

# Whether anything is replayed, and how much the later phase teaches: the long one as hard as the facts were.
LONG = {"skill_rows": 160, "skill_rate": 1.5e-4}
VARIANTS: dict[str, tuple[bool, dict[str, Any]]] = {
    "with replay": (True, {}),
    "without replay": (False, {}),
    "long later phase, with replay": (True, LONG),
    "long later phase, without replay": (False, LONG),
}
RESULTS = HERE / "results.json"
EXAMPLE = ROOT / "examples" / "taxonomy"
GENERAL = 120
"""General questions: the example's first, which were all when the table was measured."""


@dataclass(frozen=True)
class Size:
    """What a cell trains on and how; everything here is part of the cell's key."""

    preset: str = "embedded-cpu"
    rows_a_fact: int = 18
    facts_epochs: int = 1
    facts_rate: float = 1.5e-4
    skill_rows: int = 60
    skill_rate: float = 5e-5
    replay_share: float = 0.25
    buffer_rows: int = 24
    buffer_in_first: int = 40


@dataclass(frozen=True)
class Questions:
    held_out: tuple[Mapping[str, Any], ...]
    general: tuple[general.ChoiceItem, ...]
    skill: tuple[tuple[str, str], ...]

    @staticmethod
    def read(limit: int | None = None) -> Questions:
        items = material.held_out_items(material.facts())
        rows = list(read_lines(EXAMPLE / ".treewright" / "general.jsonl"))[:GENERAL]
        return Questions(
            tuple(items[:limit]),
            tuple(general.general_items(rows[:limit])),
            tuple(material.requests()[1][:limit]),
        )

    def digest(self) -> str:
        skill = [list(pair) for pair in self.skill]
        return digest([list(self.held_out), [asdict(item) for item in self.general], skill])


def main() -> None:
    given = _arguments()
    results = read_json(given.out) if given.out.is_file() else {"base": {}, "cells": {}}
    if not given.table:
        measure_all(given, results)
    print(table(results))


def measure_all(given: argparse.Namespace, results: dict[str, Any]) -> None:
    student = resolve_student("embedded", given.cache)
    questions = Questions.read(8 if given.quick else None)
    kept = given.work / ("replay-quick.jsonl" if given.quick else "replay.jsonl")
    replay = base_answers(student, kept, 8 if given.quick else None)
    before = base_scores(student, questions, results["base"], given.out, results)
    size = replace(Size(), **json.loads(given.settings))
    if given.quick:
        size = replace(size, rows_a_fact=2, facts_epochs=1, skill_rows=8, buffer_rows=8)
    for variant in given.variants:
        replays, other = VARIANTS[variant]
        for seed in range(given.seeds):
            sized = replace(size, **({} if given.quick else other))
            key = digest([asdict(sized), replays, seed, questions.digest(), replay, facts_digest()])
            name = f"{variant}, seed {seed}"
            if results["cells"].get(name, {}).get("key") == key:
                print(f"{name}: finished before", flush=True)
                continue
            print(f"{name}: starts {datetime.now(UTC):%H:%M:%S}", flush=True)
            made = cell(sized, replays, seed, student, questions, replay, before, given.work / key[7:15])
            results["cells"][name] = {"key": key, "variant": variant, "seed": seed, **made}
            write_json(given.out, results)
            print(f"{name}: {summary(made)}", flush=True)


def facts_digest() -> str:
    return digest([asdict(fact) for fact in material.facts()])


def base_answers(student: Path, kept: Path, limit: int | None) -> list[tuple[str, str]]:
    """The replay buffer: general prompts of the example with the untuned model's own greedy answers."""
    prompts = [row["prompt"] for row in read_lines(EXAMPLE / ".treewright" / "replay_prompts.jsonl")][:limit]
    stored = [(row["prompt"], row["answer"]) for row in read_lines(kept)] if kept.is_file() else []
    if [prompt for prompt, _ in stored] != prompts:
        stored = list(zip(prompts, answer_all(load(student), prompts), strict=True))
        write_lines(kept, ({"prompt": prompt, "answer": answer} for prompt, answer in stored))
    return [(prompt, answer) for prompt, answer in stored if answer]


def base_scores(
    student: Path, questions: Questions, stored: dict[str, Any], out: Path, results: dict[str, Any]
) -> dict[str, dict[str, bool]]:
    if stored.get("key") != questions.digest():
        print("the untuned model answers", flush=True)
        stored.clear()
        stored.update(key=questions.digest(), **ask(student, questions, out.parent))
        write_json(out, results)
    return {name: stored[name] for name in ("recall", "choice", "general", "skill")}


def ask(folder: Path, questions: Questions, scratch: Path) -> dict[str, Any]:
    """Every question to one model, by the functions that the benchmark stage uses."""
    model = load(folder)
    rows = scratch / f".asking-{os.getpid()}"
    rows.mkdir(parents=True)
    items = questions.held_out
    offered = [general.ChoiceItem(i["id"], i["question"], tuple(i["choices"]), i["key"]) for i in items]
    try:
        broad, _ = general.choose(model, questions.general, "general", chat=False, folder=rows)
        picked, _ = general.choose(model, offered, "held_out", chat=True, folder=rows)
    finally:
        shutil.rmtree(rows)
    written = answer_all(model, [item["question"] for item in items])
    polite = answer_all(model, [question for question, _ in questions.skill])
    return {
        "recall": {
            item["id"]: is_right(item["question"], item["answer"], given)
            for item, given in zip(items, written, strict=True)
        },
        "choice": {name: score.score == 1 for name, score in picked.items()},
        "general": {name: score.score == 1 for name, score in broad.items()},
        "skill": {
            question: words(given) == words(wanted)
            for (question, wanted), given in zip(questions.skill, polite, strict=True)
        },
        "answers": {item["id"]: given for item, given in zip(items, written, strict=True)},
    }


def cell(
    size: Size,
    replays: bool,
    seed: int,
    student: Path,
    questions: Questions,
    replay: Sequence[tuple[str, str]],
    before: Mapping[str, Mapping[str, bool]],
    work: Path,
) -> dict[str, Any]:
    """Tune once and ask everything; the model is thrown away."""
    samples = material.training_samples(material.facts(), replay, seed, size.rows_a_fact)
    write_lines(work / "generate" / "samples.jsonl", samples)
    settings = tuning.TuneSettings(str(student), preset=register(size, replays), seed=seed)
    wall, cpu = time.monotonic(), cpu_seconds()
    tuning.run(work, work / "tune", settings, say=lambda line: print(f"  {line}", flush=True))
    wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu
    after = ask(work / "tune" / "model", questions, work)
    report = read_json(work / "tune" / "phases.json")
    shutil.rmtree(work)
    return {
        **{name: compared(before[name], after[name]) for name in ("recall", "choice", "skill", "general")},
        "kept": kept(before["general"], after["general"]),
        "tuning": {
            "wall_seconds": round(wall, 1),
            "cpu_seconds": round(cpu, 1),
            "steps": sum(phase["steps"] for phase in report["phases"]),
            "tokens": sum(phase["tokens"] for phase in report["phases"]),
            "peak_memory_gib": round(report["peak_memory_bytes"] / 2**30, 2),
            "rows": [phase["counts"] for phase in report["phases"]],
        },
        "settings": asdict(size),
        "versions": tool_versions(("torch", "transformers", "lm_eval")),
        "answers": after["answers"],
    }


def register(size: Size, with_replay: bool) -> str:
    """Make the cell's preset known to the stage and return its name: the named preset's phases with the
    cell's numbers, and nothing replayed where the variant says so."""
    first, second, *_ = phases.PRESETS[size.preset].phases
    budget = replace(
        second.budget,
        datasets=("skill",),
        max_rows=size.skill_rows,
        replay_share=size.replay_share if with_replay else 0.0,
        buffer_rows=size.buffer_rows if with_replay else 0,
    )
    facts_budget = replace(
        first.budget, max_rows=None, buffer_rows=size.buffer_in_first if with_replay else 0
    )
    made = replace(
        phases.PRESETS[size.preset],
        name="bench-learning" + ("" if with_replay else "-without-replay"),
        phases=(
            replace(first, budget=facts_budget, epochs=size.facts_epochs, learning_rate=size.facts_rate),
            replace(second, budget=budget, learning_rate=size.skill_rate),
        ),
    )
    phases.PRESETS = {**phases.PRESETS, made.name: made}
    return made.name


def compared(before: Mapping[str, bool], after: Mapping[str, bool]) -> dict[str, float | int]:
    return {
        "items": len(before),
        "base": sum(before.values()) / len(before),
        "candidate": sum(after.values()) / len(after),
    }


def kept(before: Mapping[str, bool], after: Mapping[str, bool]) -> dict[str, Any]:
    """The gate's test of no regression, alone: the paired difference's lower bound against the margin."""
    config, findings = load_config((EXAMPLE / ".github" / "treewright.yml").read_bytes())
    assert not findings, findings
    names = list(before)
    evidence = paired_statistics.paired(
        [int(before[n]) for n in names], [int(after[n]) for n in names], names
    )
    low = evidence.low(1 - config.gate.confidence)
    margin = config.gate.general_margin
    return {"difference": evidence.difference, "low": low, "margin": margin, "proven": low > -margin}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def summary(made: Mapping[str, Any]) -> str:
    scores = ", ".join(
        f"{name} {made[name]['base']:.0%} -> {made[name]['candidate']:.0%}"
        for name in ("recall", "choice", "skill", "general")
    )
    kept = made["kept"]
    return (
        f"{scores} (at least {kept['low']:+.1%}, margin {-kept['margin']:.0%}), "
        f"tuned in {made['tuning']['wall_seconds']:.0f} s ({made['tuning']['cpu_seconds']:.0f} CPU-s)"
    )


def table(results: Mapping[str, Any]) -> str:
    """Markdown: mean and range over the seeds for each variant, then every cell."""
    cells = results["cells"]
    if not cells:
        return "no cell is finished"
    names = {
        "recall": "held-out recall",
        "choice": "choice of four",
        "general": "general questions",
        "skill": "later phase's skill",
    }
    one = next(iter(cells.values()))
    lines = ["| | seeds | " + " | ".join(names.values()) + " | lowest bound, margin held |", "|---" * 7 + "|"]
    before = " | ".join(f"{one[name]['base']:.1%} of {one[name]['items']}" for name in names)
    lines.append(f"| before tuning | | {before} | |")
    for variant in VARIANTS:
        mine = [cell for cell in cells.values() if cell["variant"] == variant]
        if mine:
            columns = " | ".join(_spread([cell[name]["candidate"] for cell in mine]) for name in names)
            low, held = min(c["kept"]["low"] for c in mine), sum(c["kept"]["proven"] for c in mine)
            lines.append(f"| {variant} | {len(mine)} | {columns} | {low:+.1%}, {held} of {len(mine)} |")
    lines += [
        "",
        "| cell | recall | choice | general | lower bound | margin held | tuned in |",
        "|---" * 7 + "|",
    ]
    for title, cell in sorted(cells.items()):
        kept, tuned = cell["kept"], cell["tuning"]
        held_text = "yes" if kept["proven"] else "no"
        lines.append(
            f"| {title} | {cell['recall']['candidate']:.1%} | {cell['choice']['candidate']:.1%} "
            f"| {cell['general']['candidate']:.1%} | {kept['low']:+.1%} | {held_text} "
            f"| {tuned['wall_seconds']:.0f} s, {tuned['cpu_seconds']:.0f} CPU-s |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1%}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1%} to {max(values):.1%})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (default 3)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--settings", default="{}", help="JSON over the defaults of `Size`, to try others")
    parser.add_argument("--out", type=Path, help="where the results are kept (default: results.json here)")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench" / "learning")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="where the model lies")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, few rows and questions; proves nothing"
    )
    parser.add_argument("--table", action="store_true", help="only print the tables of the results so far")
    given = parser.parse_args()
    if given.quick:
        given.seeds = 1
    given.out = given.out or (given.work / "quick.json" if given.quick else RESULTS)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    return given


if __name__ == "__main__":
    main()
