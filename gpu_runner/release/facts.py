"""What the earlier stages' folders say, read once for the cards, the report and the lock.

`collect(work)` refuses a chain that does not hold together: a verdict on another benchmark than the one here,
or a model from other data, never reaches a card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_runner.stage import Manifest, StageError, read_manifest
from gpu_runner.tune.summary import checkpoint_line
from lab.contracts import read_json, read_lines
from lab.report.cards import Example, LeafFacts, ModelName, ReleaseFacts, Score, Source

STAGES = ("plan", "generate", "tune", "benchmark", "gate")
EXAMPLES_PER_LEAF = 3
EXAMPLES = 24
TEXT_LIMIT = 600


class RefusedError(Exception):
    """The release may not be made; the message says why and what would help."""


@dataclass(frozen=True)
class Collected:
    """The stages' results. `rows` and `rejected` count by leaf."""

    plan: Mapping[str, Any]
    manifests: Mapping[str, Manifest]
    verdict: Mapping[str, Any]
    sets: tuple[Mapping[str, Any], ...]
    rows: Mapping[str, int]
    rejected: Mapping[str, int]
    datasets: Mapping[str, int]
    reasons: Mapping[str, int]
    yields: Mapping[str, Mapping[str, Any]]
    flows: tuple[tuple[str, str], ...]
    examples: tuple[Example, ...]
    sources: tuple[Source, ...]
    phases: tuple[str, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.plan["config"]
        return found


def collect(work: Path) -> Collected:
    """Read every stage of `work`; StageError when one is missing or was made from something else."""
    manifests = {stage: read_manifest(work / stage) for stage in STAGES}
    check_chain(manifests)
    plan = read_json(work / "plan" / "plan.json", "plan")
    benchmark = read_json(work / "benchmark" / "benchmark.json", "benchmark")
    rows: Counter[str] = Counter()
    datasets: Counter[str] = Counter()
    flows: set[tuple[str, str]] = set()
    for sample in read_lines(work / "generate" / "samples.jsonl"):
        rows[sample["lineage"]["leaf"]] += 1
        datasets[sample["dataset"]] += 1
        flows.add((sample["lineage"]["flow"], sample["lineage"]["flow_digest"]))
    rejected: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in read_lines(work / "generate" / "rejections.jsonl"):
        rejected[row["leaf"]] += 1
        reasons[row["reason"]] += 1
    return Collected(
        plan=plan,
        manifests=manifests,
        verdict=read_json(work / "gate" / "verdict.json", "verdict"),
        sets=tuple(benchmark["sets"]),
        rows=dict(rows),
        rejected=dict(rejected),
        datasets=dict(datasets),
        reasons=dict(reasons),
        yields={row["leaf"]: row for row in read_json(work / "generate" / "yield.json", "yield")["leaves"]},
        flows=tuple(sorted(flows)),
        examples=_examples(work, plan),
        sources=_sources(work, plan),
        phases=_phases(work),
    )


def check_chain(manifests: Mapping[str, Manifest]) -> None:
    for stage, manifest in manifests.items():
        for name, digest in manifest.inputs.items():
            if name in manifests and manifests[name].digest != digest:
                raise StageError(
                    f"{stage} was run on another {name} than the one here: run `treewright {stage}` again"
                )


def require_pass(verdict: Mapping[str, Any]) -> None:
    """Fail closed: anything but `pass` is a refusal with the gate's own sentences."""
    outcome = verdict.get("outcome")
    if outcome == "pass":
        return
    sentences = str(verdict.get("reason") or "; ".join(sentences_of(verdict)))
    hint = "more items or more data may settle it" if outcome == "inconclusive" else "nothing is published"
    raise RefusedError(
        f"the gate's verdict is {outcome!r}, so there is no release ({hint}). {sentences}".strip()
    )


def sentences_of(verdict: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(test["sentence"]) for test in verdict.get("tests", []) if test.get("sentence"))


def scores(collected: Collected) -> tuple[Score, ...]:
    """Every benchmark set, with the paired interval that the gate computed for it."""
    intervals = {(row["name"], row["metric"]): row for row in collected.verdict.get("sets", [])}
    found = []
    for row in collected.sets:
        interval: Mapping[str, Any] = intervals.get((row["name"], row["metric"]), {})
        found.append(
            Score(
                name=row["name"],
                kind=row["kind"],
                leaf=row["leaf"],
                metric=row["metric"],
                items=row["items"],
                base=row["base"],
                candidate=row["candidate"],
                low=interval.get("low"),
                high=interval.get("high"),
            )
        )
    return tuple(found)


def leaf_score(found: tuple[Score, ...], leaf: str) -> Score | None:
    """A leaf's own set; four-way choice before short answers, for it has no grader of its own."""
    own = [score for score in found if score.kind == "leaf" and score.leaf == leaf]
    return min(own, key=lambda score: score.metric != "choice", default=None)


def release_facts(collected: Collected, tag: str, repository: str, server: str) -> ReleaseFacts:
    """Everything that the cards and notes say, as plain values."""
    plan, config = collected.plan, collected.config
    found = scores(collected)
    leaves = []
    for leaf in plan["leaves"]:
        score = leaf_score(found, leaf["path"])
        made = collected.yields.get(leaf["path"], {})
        leaves.append(
            LeafFacts(
                path=leaf["path"],
                kind=leaf["kind"],
                created_by=leaf["created_by"],
                changed=leaf["changed"],
                pull_requests=tuple(leaf["pull_requests"]),
                rows=collected.rows.get(leaf["path"], 0),
                rejected=collected.rejected.get(leaf["path"], 0),
                heldout=leaf["heldout"],
                base=score.base if score else None,
                candidate=score.candidate if score else None,
                wanted=made.get("wanted", 0),
                delivered=made.get("delivered", 0),
                rejected_by_reason=made.get("rejected", {}),
                why=made.get("why") or "",
            )
        )
    versions: dict[str, str] = {}
    for manifest in collected.manifests.values():
        versions.update(manifest.tools)
    return ReleaseFacts(
        tag=tag,
        model=plan["release"]["model"],
        dataset=plan["release"]["dataset"],
        repository=repository,
        server=server.rstrip("/"),
        head=plan["taxonomy"]["head"],
        licence=licence(config),
        student=model_name(config, "student"),
        teacher=model_name(config, "teacher"),
        judge=model_name(config, "judge"),
        verdict=str(collected.verdict["outcome"]),
        sentences=sentences_of(collected.verdict),
        confidence=float(config.get("gate", {}).get("confidence", 0.95)),
        scores=found,
        leaves=tuple(leaves),
        examples=collected.examples,
        sources=collected.sources,
        rows_by_dataset=collected.datasets,
        rejected_by_reason=collected.reasons,
        phases=collected.phases,
        versions=versions,
    )


def model_name(config: Mapping[str, Any], role: str) -> ModelName:
    found = config["models"][role]
    return ModelName(str(found["id"]), str(found["revision"]))


def licence(config: Mapping[str, Any]) -> str:
    return str(config.get("release", {}).get("licence", "apache-2.0"))


def _examples(work: Path, plan: Mapping[str, Any]) -> tuple[Example, ...]:
    """The first held-out items of each changed leaf by item id, whatever came out: not chosen by outcome."""
    changed = {leaf["path"] for leaf in plan["leaves"] if leaf["changed"]}
    answers: dict[str, Mapping[str, Any]] = {}
    for item in read_lines(work / "benchmark" / "items.jsonl"):
        # An item may be scored twice; what a model wrote by itself tells more than a chosen letter.
        if item["leaf"] in changed and (item["id"] not in answers or item["metric"] == "short_answer"):
            answers[item["id"]] = item
    taken: Counter[str] = Counter()
    examples: list[Example] = []
    for _key, item in sorted(answers.items()):
        if taken[item["leaf"]] < EXAMPLES_PER_LEAF and len(examples) < EXAMPLES:
            taken[item["leaf"]] += 1
            texts = (item["question"], item["expected"], item["base_text"], item["candidate_text"])
            examples.append(Example(item["leaf"], *(str(text or "")[:TEXT_LIMIT] for text in texts)))
    return tuple(sorted(examples, key=lambda example: example.leaf))


def _sources(work: Path, plan: Mapping[str, Any]) -> tuple[Source, ...]:
    """Each leaf's documents and attribution, as far as the plan carries them."""
    path = work / "plan" / "leaves.jsonl"
    read = {leaf["path"]: tuple(row["path"] for row in leaf["documents"]) for leaf in plan["leaves"]}
    found = []
    for leaf in read_lines(path) if path.is_file() else ():
        document: Mapping[str, Any] = leaf.get("document") or {}
        attribution = str(leaf.get("attribution") or "")
        if document or attribution:
            found.append(
                Source(
                    leaf=str(leaf["path"]),
                    repository=str(document.get("repo", "")),
                    commit=str(document.get("commit", "")),
                    paths=read.get(leaf["path"]) or tuple(map(str, document.get("patterns", ()))),
                    attribution=attribution,
                )
            )
    return tuple(found)


def _phases(work: Path) -> tuple[str, ...]:
    """One sentence a phase, from whichever of its numbers `phases.json` gives."""
    path = work / "tune" / "phases.json"
    if not path.is_file():
        return ()
    value = read_json(path)
    phases = value.get("phases", []) if isinstance(value, dict) else value
    sentences = []
    for number, phase in enumerate(phases, start=1):
        named = str(phase.get("title") or phase.get("name") or number)
        known: tuple[str, ...] = ("rows", "epochs", "learning_rate", "effective_batch", "steps")
        told = [
            f"{field.replace('_', ' ')} {phase[field]}" for field in known if phase.get(field) is not None
        ]
        sentences.append(
            f"Phase {number}, {named}: {', '.join(told)}" if told else f"Phase {number}, {named}"
        )
    if isinstance(value, dict) and "choice" in value:
        sentences.append(checkpoint_line(value["choice"]))
    return tuple(sentences)
