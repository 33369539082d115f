"""The gate: may this model be released? Decided by the policy that was in the repository before the run.

    treewright gate --work W            writes gate/verdict.json; exit 0 for pass, 1 otherwise

Two questions, each a one-sided test on paired items (Schuirmann 1987 for the two one-sided tests):

- *No regression*: on every general benchmark, the lower bound of candidate minus base lies above the margin.
- *Real gain*: over all changed leaves together, the lower bound lies above the wanted gain, in picking the
  answer, in writing it, or (with a judge) in its mark. Single leaves have too few items to decide anything;
  they are shown, and so is what both models answer with passages of the documents before them.

Items that occur in the training rows are left out of the tests, and more of them than the policy allows break
the run.

Holm's correction is over all tests, once for what is claimed (nothing lost, something gained) and once for
what is refuted, so that asking more questions never makes either verdict cheaper.

    pass          every general benchmark is proven not to have lost, and a gain is proven
    fail          a loss beyond the margin is proven, or on every metric that there is no gain as wanted
    inconclusive  neither: more items are needed. Never rounded up to a pass.
    error         the run measured nothing that can be trusted; no score is drawn from it
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from gpu_runner.soundness import (
    METRICS,
    broken,
    contamination,
    found_in_training,
    missing,
    public_sets,
    settings_of,
)
from gpu_runner.stage import Manifest, execute
from gpu_runner.statistics import DRAWS, SEED, Evidence, holm, paired, wilson
from lab.config import GatePolicy
from lab.contracts import ContractError, read_json, read_lines, require, write_json

Outcome = Literal["pass", "fail", "inconclusive", "error"]
Row = Mapping[str, Any]
POOLED = "changed leaves"

_GAINS = ("choice", "short_answer", "judged")
"""Metrics of the changed leaves that can show a gain; those with retrieval are for people."""


def policy_of(plan: Mapping[str, Any]) -> GatePolicy:
    """The policy that the plan froze before the run; ContractError when it is none, or when it has a margin
    for a benchmark that is not asked."""
    gate = dict(plan["config"].get("gate", {}))
    require("gate_policy", gate, "the plan's gate policy")
    policy = GatePolicy(**gate)
    idle = sorted(policy.margins.keys() - set(public_sets(settings_of(plan))) - {"general"})
    if idle:
        told = f"margins names {idle[0]}, which `benchmark` does not ask: add it there, or take it out"
        raise ContractError("gate_policy", [told], "the plan's gate policy")
    return policy


@dataclass(frozen=True)
class Test:
    """One test with the numbers that decided it; `low` and `high` are one-sided bounds at Holm's levels."""

    name: str
    kind: Literal["no_regression", "gain"]
    metric: str
    items: int
    clusters: int
    base: float
    candidate: float
    difference: float
    low: float
    high: float
    threshold: float
    p: float
    p_holm: float
    result: Literal["proven", "refuted", "open"]
    sentence: str


@dataclass(frozen=True)
class Shown:
    """One set as information: scores with their own Wilson intervals, and the paired difference,
    uncorrected."""

    name: str
    kind: str
    leaf: str | None
    metric: str
    items: int
    base: float
    candidate: float
    low: float
    high: float
    base_interval: tuple[float, float]
    candidate_interval: tuple[float, float]
    gains: int
    losses: int
    seen: int = 0
    clean_base: float | None = None
    clean_candidate: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome, why in one sentence, and everything that it rests on (schema `verdict.json`)."""

    outcome: Outcome
    reason: str
    policy: GatePolicy
    tests: tuple[Test, ...] = ()
    shown: tuple[Shown, ...] = ()
    errors: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "policy": asdict(self.policy),
            "tests": [_rounded(asdict(test)) for test in self.tests],
            "sets": [_rounded(asdict(entry)) for entry in self.shown],
            "errors": list(self.errors),
            "method": {"bootstrap_draws": DRAWS, "bootstrap_seed": SEED, "correction": "holm"},
        }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 6)
        return [plain(part) for part in value] if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in values.items()}


def run(work: Path) -> tuple[Manifest, Verdict]:
    """Run the stage over the work folder; StageError or ContractError when an earlier stage's folder is
    missing."""
    plan = read_json(work / "plan" / "plan.json", "plan")
    policy = policy_of(plan)

    def body(partial: Path) -> None:
        verdict = judge(work, plan, policy)
        require("verdict", verdict.to_json(), "verdict")
        write_json(partial / "verdict.json", verdict.to_json())

    inputs = [work / name for name in ("plan", "generate", "benchmark")]
    settings = {**asdict(policy), "draws": DRAWS, "seed": SEED}
    manifest = execute("gate", inputs, work / "gate", settings, body, tools=("numpy",))
    return manifest, read_verdict(work / "gate" / "verdict.json")


def judge(work: Path, plan: Mapping[str, Any], policy: GatePolicy) -> Verdict:
    """The verdict over the folders of `work`."""
    report = read_json(work / "benchmark" / "benchmark.json", "benchmark")
    rows = list(read_lines(work / "benchmark" / "items.jsonl"))
    leaves = {leaf["path"]: leaf["chunks"] for leaf in plan["leaves"] if leaf["changed"]}
    held_out = [r for r in read_lines(work / "plan" / "heldout.jsonl", "heldout") if r["leaf"] in leaves]
    path = work / "plan" / "general.jsonl"
    general = list(read_lines(path)) if path.is_file() else []
    seen = found_in_training(rows, held_out, lambda: read_lines(work / "generate" / "samples.jsonl"))
    errors = [
        *missing(settings_of(plan), held_out, general, leaves, rows),
        *broken(rows, report, policy),
        *contamination(rows, seen, policy),
    ]
    return decide(rows, policy, errors, {hit.item for hit in seen})


def decide(
    rows: Sequence[Row],
    policy: GatePolicy,
    errors: Sequence[str] = (),
    seen: Collection[str] = frozenset(),
) -> Verdict:
    """The verdict over the rows of `items.jsonl`; pure. Items in `seen` decide nothing."""
    shown = tuple(_shown(rows, policy, seen))
    if errors:
        return Verdict("error", errors[0], policy, (), shown, tuple(errors))
    rows = [row for row in rows if row["id"] not in seen]
    alpha = 1 - policy.confidence
    groups = _required(rows)
    evidence = [_evidence(group) for _, _, _, group in groups]
    thresholds = [
        -policy.margin(name) if kind == "no_regression" else policy.leaf_gain for kind, name, *_ in groups
    ]
    claims = [e.p_greater(t) for e, t in zip(evidence, thresholds, strict=True)]
    doubts = [e.p_less(t) for e, t in zip(evidence, thresholds, strict=True)]
    tests = []
    for (kind, name, metric, _), found, threshold, p, claim, doubt in zip(
        groups,
        evidence,
        thresholds,
        claims,
        holm(claims, alpha),
        holm(doubts, alpha),
        strict=True,
    ):
        low, high = found.low(claim[1]), found.high(doubt[1])
        result: Literal["proven", "refuted", "open"] = "open"
        if low > threshold:
            result = "proven"
        elif high < threshold:
            result = "refuted"
        tests.append(
            Test(
                name=name,
                kind=kind,
                metric=metric,
                items=found.items,
                clusters=found.clusters,
                base=found.base,
                candidate=found.candidate,
                difference=found.difference,
                low=low,
                high=high,
                threshold=threshold,
                p=p,
                p_holm=claim[0],
                result=result,
                sentence=_sentence(kind, name, metric, found, low, high, threshold, result),
            )
        )
    outcome, reason = conclude(tests)
    return Verdict(outcome, reason, policy, tuple(tests), shown)


def conclude(tests: Sequence[Test]) -> tuple[Outcome, str]:
    """Outcome and reason from the tests' results."""
    kept = [test for test in tests if test.kind == "no_regression"]
    gains = [test for test in tests if test.kind == "gain"]
    lost = [test for test in kept if test.result == "refuted"]
    if lost:
        return "fail", lost[0].sentence
    if gains and all(test.result == "refuted" for test in gains):
        return "fail", gains[0].sentence
    if not kept:
        return "inconclusive", (
            "There is no general benchmark, so nothing shows that old abilities were kept; "
            "set `benchmark.general` in .github/treewright.yml."
        )
    if not gains:
        return "inconclusive", (
            "The changed leaves have no held-out questions, so nothing shows that they were learned; "
            "add seed examples."
        )
    open_ = [test for test in kept if test.result == "open"]
    if open_:
        return "inconclusive", open_[0].sentence
    proven = [test for test in gains if test.result == "proven"]
    if not proven:
        return "inconclusive", gains[0].sentence
    return "pass", f"{proven[0].sentence} No general benchmark lost more than the margin."


def _required(rows: Sequence[Row]) -> list[tuple[Literal["no_regression", "gain"], str, str, list[Row]]]:
    """The tests of the policy: each general benchmark, and the changed leaves together by metric."""
    groups: list[tuple[Literal["no_regression", "gain"], str, str, list[Row]]] = []
    for name, metric in dict.fromkeys((r["set"], r["metric"]) for r in rows if r["leaf"] is None):
        chosen = [r for r in rows if r["leaf"] is None and (r["set"], r["metric"]) == (name, metric)]
        groups.append(("no_regression", name, metric, chosen))
    for metric in _GAINS:
        chosen = [r for r in rows if r["leaf"] is not None and r["metric"] == metric]
        if chosen:
            groups.append(("gain", POOLED, metric, chosen))
    return groups


def _evidence(rows: Sequence[Row]) -> Evidence:
    return paired([r["base"] for r in rows], [r["candidate"] for r in rows], [r["cluster"] for r in rows])


def _shown(rows: Sequence[Row], policy: GatePolicy, seen: Collection[str]) -> Iterable[Shown]:
    groups: list[tuple[str, str, str | None, str, list[Row]]] = []
    for name, leaf, metric in dict.fromkeys((r["set"], r["leaf"], r["metric"]) for r in rows):
        chosen = [r for r in rows if (r["set"], r["metric"]) == (name, metric)]
        groups.append((name, "general" if leaf is None else "leaf", leaf, metric, chosen))
    for metric in METRICS:
        chosen = [r for r in rows if r["leaf"] is not None and r["metric"] == metric]
        if chosen:
            groups.append((POOLED, "pooled", None, metric, chosen))
    for name, kind, leaf, metric, chosen in groups:
        found = _evidence(chosen)
        clean = [r for r in chosen if r["id"] not in seen]
        yield Shown(
            name=name,
            kind=kind,
            leaf=leaf,
            metric=metric,
            items=found.items,
            base=found.base,
            candidate=found.candidate,
            low=found.low(1 - policy.confidence),
            high=found.high(1 - policy.confidence),
            base_interval=wilson(sum(r["base"] for r in chosen), found.items, policy.confidence),
            candidate_interval=wilson(sum(r["candidate"] for r in chosen), found.items, policy.confidence),
            gains=found.gains,
            losses=found.losses,
            seen=len(chosen) - len(clean),
            clean_base=fmean(r["base"] for r in clean) if clean else None,
            clean_candidate=fmean(r["candidate"] for r in clean) if clean else None,
        )


def _sentence(
    kind: str,
    name: str,
    metric: str,
    found: Evidence,
    low: float,
    high: float,
    threshold: float,
    result: str,
) -> str:
    scores = (
        f"{name}, {METRICS[metric]}: {found.base:.1%} before, {found.candidate:.1%} after over "
        f"{found.items} items (difference {found.difference:+.1%}, at least {low:+.1%}, at most {high:+.1%})."
    )
    meaning = {
        ("no_regression", "proven"): f"A loss beyond {-threshold:.1%} is ruled out.",
        ("no_regression", "refuted"): f"The loss is larger than the margin of {-threshold:.1%}.",
        ("no_regression", "open"): f"A loss beyond {-threshold:.1%} is not ruled out; more items are needed.",
        ("gain", "proven"): f"A gain above {threshold:.1%} is shown.",
        ("gain", "refuted"): f"There is no gain above {threshold:.1%}.",
        ("gain", "open"): f"A gain above {threshold:.1%} is not shown; more held-out items are needed.",
    }
    return f"{scores} {meaning[kind, result]}"


def read_verdict(path: Path) -> Verdict:
    """A verdict as `treewright gate` wrote it."""
    value = read_json(path, "verdict")
    pairs = ("base_interval", "candidate_interval")
    return Verdict(
        outcome=value["outcome"],
        reason=value["reason"],
        policy=GatePolicy(**value["policy"]),
        tests=tuple(Test(**test) for test in value["tests"]),
        shown=tuple(
            Shown(**{**entry, **{name: tuple(entry[name]) for name in pairs}}) for entry in value["sets"]
        ),
        errors=tuple(value["errors"]),
    )
