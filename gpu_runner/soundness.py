"""Signs that a run measured nothing that can be trusted. Each check gives sentences; one sentence is enough.

The gate asks these first: everything that was planned was measured, once and alike for both models; no
benchmark is all zeros (it would show no loss for ever); answers could be read; the judge knows right from
wrong; and the questions were not in the training rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gpu_runner.contamination import Hit, contaminated
from lab.config import BenchmarkSettings, GatePolicy, RepositoryConfig

Row = Mapping[str, Any]

METRICS = {
    "choice": "picking the answer",
    "short_answer": "writing the answer",
    "judged": "the judge's mark",
    "accuracy": "accuracy",
    "mt_bench": "rating in tenths",
    "choice_with_retrieval": "picking the answer with passages",
    "short_answer_with_retrieval": "writing the answer with passages",
}


def settings_of(plan: Mapping[str, Any]) -> BenchmarkSettings:
    return RepositoryConfig.from_json(plan["config"]).benchmark


def public_sets(settings: BenchmarkSettings) -> list[str]:
    """The general benchmarks that the configuration asks for, besides the repository's own items."""
    names = [name.partition("@")[0] for name in settings.standard]
    return [*names, *(["mt_bench"] if settings.mt_bench.enabled else [])]


def missing(
    settings: BenchmarkSettings,
    held_out: Sequence[Row],
    general: Sequence[Row],
    chunks: Mapping[str, int],
    rows: Sequence[Row],
) -> list[str]:
    """Items that the plan asked for and the benchmark did not answer, or the other way round, or twice.
    `chunks` counts each changed leaf's passages. Items of public benchmarks are known by their set only."""
    wanted = {(row["id"], "choice") for row in general}
    for row in held_out:
        metrics = ["choice", "short_answer", *(["judged"] if settings.judge else [])]
        if settings.retrieval and chunks[row["leaf"]]:
            metrics += ["choice_with_retrieval", "short_answer_with_retrieval"]
        wanted |= {(row["id"], metric) for metric in metrics}
    public = public_sets(settings)
    listed = [row for row in rows if row["set"] not in public]
    answered = {(row["id"], row["metric"]) for row in listed}
    problems = []
    for text, found in (
        ("items of the plan were not measured", wanted - answered),
        ("measured items are not in the plan", answered - wanted),
    ):
        if found:
            problems.append(
                f"{len(found)} {text}; {sorted(found)[0][0]} is the first. Run the benchmark again."
            )
    problems += [
        f"{name} was asked for and not measured. Run the benchmark again."
        for name in public
        if not any(row["set"] == name for row in rows)
    ]
    keys = [(row["set"], row["id"], row["metric"]) for row in rows]
    if len(keys) != len(set(keys)):
        problems.append("An item was counted twice. Run the benchmark again.")
    return problems


def broken(rows: Sequence[Row], report: Mapping[str, Any], policy: GatePolicy) -> list[str]:
    """Signs that a number is not a score: everything at zero, nothing to read, other prompts, other sums."""
    problems = [
        f"Both models got every item of {name} wrong: that is a broken run, not a score."
        for name in dict.fromkeys(row["set"] for row in rows if row["leaf"] is None)
        if not any(row["base"] or row["candidate"] for row in rows if row["set"] == name)
    ]
    judge = report.get("judge")
    if judge and judge["right"] < judge["asked"]:
        problems.append(
            f"The judge marked {judge['asked'] - judge['right']} of {judge['asked']} answers wrongly whose "
            "mark is beyond doubt: take another judge, or set `benchmark.judge: false`."
        )
    for entry in report["sets"]:
        for who in ("base", "candidate"):
            failures = entry["parse_failures"][who]
            if failures > policy.parse_failure_limit * entry["items"]:
                problems.append(
                    f"{entry['name']}, {METRICS[entry['metric']]}: {failures} of {entry['items']} answers "
                    f"of the {who} could not be scored; the limit is {policy.parse_failure_limit:.0%}."
                )
        if entry["kind"] == "pooled":
            chosen = [r for r in rows if r["leaf"] is not None and r["metric"] == entry["metric"]]
        else:
            chosen = [r for r in rows if r["set"] == entry["name"] and r["metric"] == entry["metric"]]
        for who in ("base", "candidate"):
            if (
                len(chosen) != entry["items"]
                or abs(sum(r[who] for r in chosen) / len(chosen) - entry[who]) > 1e-5
            ):
                problems.append(
                    f"{entry['name']}: benchmark.json and items.jsonl disagree. Run the benchmark again."
                )
                break
    problems += [
        f"{name}: base and candidate were asked with different prompts; the tuned model's chat template or "
        "tokenizer differs from the base's."
        for name, digests in sorted(report["environment"]["prompts"].items())
        if digests["base"] != digests["candidate"]
    ]
    return problems


def found_in_training(
    rows: Sequence[Row], held_out: Sequence[Row], samples: Callable[[], Iterable[Row]]
) -> list[Hit]:
    """Benchmark questions that are in the training rows. Grounded skills ask the same of every context, so
    there the context is what must not have been seen."""
    texts = {row["id"]: row["question"] for row in rows if row["leaf"] is None}
    texts |= {row["id"]: row["context"] or row["question"] for row in held_out}
    return contaminated(list(texts.items()), samples())


def contamination(rows: Sequence[Row], seen: Sequence[Hit], policy: GatePolicy) -> list[str]:
    """The sets of which more than the limit was seen, or all; else `decide` leaves those items out."""
    hits = {hit.item: hit for hit in seen}
    members: dict[str, set[str]] = {}
    for row in rows:
        name = f"questions of {row['set']}" if row["leaf"] is None else "held-out questions"
        members.setdefault(name, set()).add(row["id"])
    problems = []
    for name, ids in members.items():
        found = sorted(ids & hits.keys())
        if len(found) > policy.contamination_limit * len(ids) or len(found) == len(ids):
            first = hits[found[0]]
            problems.append(
                f"{len(found)} of {len(ids)} {name} are in the training rows ({first.item} in sample "
                f"{first.row}: {first.how}); the limit is {policy.contamination_limit:.1%}. Remove those "
                "rows or those questions, and tune again."
            )
    return problems
