"""The gate: may this model be released? Decided by the policy that was in the repository before the run.

    treewright gate --work W            writes gate/verdict.json; exit 0 for pass, 1 otherwise

Two questions, each a one-sided test on paired items (Schuirmann 1987 for the two one-sided tests):

- *No regression*: on every general benchmark, the lower bound of candidate minus base lies above the margin.
- *Real gain*: over all changed leaves together, the lower bound lies above the wanted gain, in picking the
  answer or in writing it. Single leaves have too few items to decide anything; they are shown.

Holm's correction is over all tests, once for what is claimed (nothing lost, something gained) and once for
what is refuted, so that asking more questions never makes either verdict cheaper.

    pass          every general benchmark is proven not to have lost, and a gain is proven
    fail          a loss beyond the margin is proven, or on every metric that there is no gain as wanted
    inconclusive  neither: more items are needed. Never rounded up to a pass.
    error         the run measured nothing that can be trusted; no score is drawn from it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gpu_runner.contamination import contaminated
from gpu_runner.stage import Manifest, execute
from gpu_runner.statistics import DRAWS, SEED, Evidence, holm, paired, wilson
from lab.config import GatePolicy
from lab.contracts import read_json, read_lines, require, write_json

Outcome = Literal["pass", "fail", "inconclusive", "error"]
Row = Mapping[str, Any]

_METRICS = {"choice": "picking the answer", "short_answer": "writing the answer"}


def policy_of(plan: Mapping[str, Any]) -> GatePolicy:
    """The policy that the plan froze before the run; ContractError when it is none."""
    gate = dict(plan["config"].get("gate", {}))
    require("gate_policy", gate, "the plan's gate policy")
    return GatePolicy(**gate)


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
    changed = {leaf["path"] for leaf in plan["leaves"] if leaf["changed"]}
    held_out = [r for r in read_lines(work / "plan" / "heldout.jsonl", "heldout") if r["leaf"] in changed]
    path = work / "plan" / "general.jsonl"
    general = list(read_lines(path)) if path.is_file() else []
    errors = [
        *missing(held_out, general, rows),
        *broken(rows, report, policy),
        *seen(held_out, general, lambda: read_lines(work / "generate" / "samples.jsonl")),
    ]
    return decide(rows, policy, errors)


def missing(held_out: Sequence[Row], general: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Items that the plan asked for and the benchmark did not answer, or the other way round, or twice."""
    wanted = {(row["id"], "choice") for row in general}
    wanted |= {(row["id"], metric) for row in held_out for metric in _METRICS}
    answered = [(row["id"], row["metric"]) for row in rows]
    problems = []
    for text, found in (
        ("items of the plan were not measured", wanted - set(answered)),
        ("measured items are not in the plan", set(answered) - wanted),
    ):
        if found:
            problems.append(
                f"{len(found)} {text}; {sorted(found)[0][0]} is the first. Run the benchmark again."
            )
    if len(answered) != len(set(answered)):
        problems.append("An item was counted twice. Run the benchmark again.")
    return problems


def broken(rows: Sequence[Row], report: Mapping[str, Any], policy: GatePolicy) -> list[str]:
    """Signs that a number is not a score: everything at zero, nothing to read, other prompts, other sums."""
    problems = []
    general = [row for row in rows if row["leaf"] is None]
    if general and not any(row["base"] or row["candidate"] for row in general):
        problems.append("Both models got every general item wrong: that is a broken run, not a score.")
    for entry in report["sets"]:
        for who in ("base", "candidate"):
            failures = entry["parse_failures"][who]
            if failures > policy.parse_failure_limit * entry["items"]:
                problems.append(
                    f"{entry['name']}, {_METRICS[entry['metric']]}: {failures} of {entry['items']} answers "
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


def seen(held_out: Sequence[Row], general: Sequence[Row], samples: Callable[[], Iterable[Row]]) -> list[str]:
    """Benchmark questions that are in the training rows. Grounded skills ask the same of every context, so
    there the context is what must not have been seen."""
    problems = []
    for what, items in (
        ("held-out", [(r["id"], r["context"] or r["question"]) for r in held_out]),
        ("general benchmark", [(r["id"], r["question"]) for r in general]),
    ):
        hits = contaminated(items, samples())
        if hits:
            first = hits[0]
            problems.append(
                f"{len(hits)} {what} questions are in the training rows ({first.item} in sample {first.row}: "
                f"{first.how}). Remove those rows or those questions, and tune again."
            )
    return problems


def decide(rows: Sequence[Row], policy: GatePolicy, errors: Sequence[str] = ()) -> Verdict:
    """The verdict over the rows of `items.jsonl`; pure."""
    shown = tuple(_shown(rows, policy))
    if errors:
        return Verdict("error", errors[0], policy, (), shown, tuple(errors))
    alpha = 1 - policy.confidence
    groups = _required(rows)
    evidence = [_evidence(group) for _, _, _, group in groups]
    thresholds = [
        -policy.general_margin if kind == "no_regression" else policy.leaf_gain for kind, *_ in groups
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
    for metric in _METRICS:
        chosen = [r for r in rows if r["leaf"] is not None and r["metric"] == metric]
        if chosen:
            groups.append(("gain", "changed leaves", metric, chosen))
    return groups


def _evidence(rows: Sequence[Row]) -> Evidence:
    return paired([r["base"] for r in rows], [r["candidate"] for r in rows], [r["cluster"] for r in rows])


def _shown(rows: Sequence[Row], policy: GatePolicy) -> Iterable[Shown]:
    groups: list[tuple[str, str, str | None, str, list[Row]]] = []
    for name, leaf, metric in dict.fromkeys((r["set"], r["leaf"], r["metric"]) for r in rows):
        chosen = [r for r in rows if (r["set"], r["metric"]) == (name, metric)]
        groups.append((name, "general" if leaf is None else "leaf", leaf, metric, chosen))
    groups += [
        (name, "pooled", None, metric, chosen)
        for kind, name, metric, chosen in _required(rows)
        if kind == "gain"
    ]
    for name, kind, leaf, metric, chosen in groups:
        found = _evidence(chosen)
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
        f"{name}, {_METRICS[metric]}: {found.base:.1%} before, {found.candidate:.1%} after over "
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
