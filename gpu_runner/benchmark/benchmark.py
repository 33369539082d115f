"""The benchmark stage: base and candidate over the same items, in one job, with the same settings.

    treewright benchmark --work W --student embedded|DIR [--data DIR]

Reads `plan/` (general and held-out items) and `tune/model`; writes `benchmark.json`, one row a set, and
`items.jsonl`, one row an item and metric, from which everything else follows; with MT-Bench also
`mt_bench.jsonl`, every answer with its ratings, for people to read.

What is asked comes in parts (`parts.py`), and each part's answers are kept under a digest of model, items,
code, versions and settings: the base model's in `<cache>/benchmarks/`, so that the next release asks it only
what is new, the candidate's in the stage's scratch folder, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_runner.benchmark import mt_bench, mt_bench_prompts, parts, standard
from gpu_runner.benchmark.judging import Judge
from gpu_runner.benchmark.model import BenchmarkError, placement
from gpu_runner.benchmark.parts import MT_BENCH, Part, Session, Sources, read_sources, wanted_parts
from gpu_runner.benchmark.results import Answers, item_rows, sets
from gpu_runner.benchmark.scoring import MAX_NEW_TOKENS
from gpu_runner.stage import (
    MANIFEST,
    SCRATCH,
    Manifest,
    execute,
    input_digest,
    read_manifest,
    tool_versions,
)
from lab.config import BenchmarkSettings, RepositoryConfig
from lab.contracts import digest, file_digest, read_json, write_json, write_lines
from lab.synthesis.endpoints import Endpoint, EndpointError, endpoint_from_environment

TOOLS = ("torch", "transformers", "lm_eval", "tokenizers")
ANSWERS = "judge-answers.sqlite"

Progress = Callable[[str], None]


def run(
    work: Path,
    student: Path,
    cache: Path,
    progress: Progress = lambda _: None,
    env: Mapping[str, str] = os.environ,
    data: Path | None = None,
) -> Manifest:
    """Run the stage over the work folder. `student` is the base model's folder, `cache` the machine's cache,
    `data` the folder of staged benchmarks.

    Raises BenchmarkError, EndpointError or StageError with what is missing."""
    plan = read_json(work / "plan" / "plan.json", "plan")
    config = RepositoryConfig.from_json(plan["config"])
    candidate = work / "tune" / "model"
    if not (candidate / "config.json").is_file():
        raise BenchmarkError(f"{candidate} holds no model: run `treewright tune --work {work}` first")
    sources = read_sources(work / "plan", plan, config.benchmark, data)
    endpoint = judge_endpoint(config, env)
    settings = _settings(student, sources, endpoint, config.benchmark)
    _require_its_base(work / "tune", student, settings["base"])

    def body(partial: Path) -> None:
        judge = Judge(endpoint, cache / "benchmarks" / ANSWERS) if endpoint else None
        runs = _Runs(sources, judge, settings, cache / "benchmarks", partial / SCRATCH, progress)
        probes = judge.probe(sources.judged_rubrics) if judge and sources.judged_rubrics else None
        if probes and probes.right < probes.asked:
            progress(f"the judge marks {probes.right} of {probes.asked} answers as they are: see the gate")
        asked = wanted_parts(sources, judge)
        progress(f"base: {sources.describe()}")
        before = runs.measure(student, settings["base"], runs.kept, asked)
        progress(f"candidate: {sources.describe()}")
        tuned = input_digest(candidate)
        after = runs.measure(candidate, tuned, runs.scratch, asked)
        report = _report(runs, (before, after), {**settings, "candidate": tuned}, partial)
        write_json(partial / "benchmark.json", report | ({"judge": vars(probes)} if probes else {}))

    inputs = [work / "plan", work / "tune"]
    return execute("benchmark", inputs, work / "benchmark", settings, body, tools=TOOLS)


def _require_its_base(tuned: Path, student: Path, base: str) -> None:
    """A candidate beside another model than the one it was made from shows neither loss nor gain."""
    if (tuned / MANIFEST).is_file() and read_manifest(tuned).inputs.get("student", base) != base:
        raise BenchmarkError(
            f"{student} is not the model that {tuned} was tuned from: name the same --student as for "
            "`treewright tune`, or tune again"
        )


def judge_endpoint(config: RepositoryConfig, env: Mapping[str, str]) -> Endpoint | None:
    """The judge, where the configuration asks for one; BenchmarkError when it is not there."""
    asked = [name for name, on in _judged(config.benchmark).items() if on]
    if not asked:
        return None
    try:
        return endpoint_from_environment("judge", config.models.judge, env)
    except EndpointError as error:
        raise BenchmarkError(f"{' and '.join(asked)}: {error}") from error


def _judged(settings: BenchmarkSettings) -> dict[str, bool]:
    return {"benchmark.judge": settings.judge, "benchmark.mt_bench": settings.mt_bench.enabled}


def _settings(
    student: Path, sources: Sources, judge: Endpoint | None, config: BenchmarkSettings
) -> dict[str, Any]:
    """Everything beside the stage's inputs that can change a score."""
    device, dtype = placement()
    found: dict[str, Any] = {
        "base": input_digest(student),
        "code": code_digest(),
        "device": device,
        "dtype": dtype,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    if sources.staged:
        found["standard"] = {
            one.source.name: standard.describe(one, config.limit, tool_versions(("lm_eval",))["lm_eval"])
            for one in sources.staged
        }
    if judge:
        found["judge"] = {"id": judge.model, "revision": judge.revision}
    if sources.mt_bench:
        found["mt_bench"] = sources.mt_bench.digest
    return found


@dataclass(frozen=True)
class _Runs:
    """Where answers are kept, and what their names are made of."""

    sources: Sources
    judge: Judge | None
    settings: Mapping[str, Any]
    kept: Path
    scratch: Path
    progress: Progress

    def measure(self, folder: Path, model: str, store: Path, wanted: Sequence[Part]) -> dict[str, Answers]:
        """Each part's answers by one model, in order; the model is loaded only if some part is missing."""
        found: dict[str, Answers] = {}
        with (
            Session.over(folder, self.key(model)) as session,
            tempfile.TemporaryDirectory(prefix="treewright-benchmark-") as scratch,
        ):
            for part in wanted:
                key = self.key(model, part.name, part.identity)
                work = Path(scratch) / part.name
                work.mkdir()
                answers = kept(store, key)
                self.progress(f"  {part.title}{': kept from an earlier run' if answers else ''}")
                found[part.name] = answers or self._ask(part, session, work, store, key)
        return found

    @staticmethod
    def _ask(part: Part, session: Session, work: Path, store: Path, key: str) -> Answers:
        made = part.ask(session, work)
        # A mark that nobody could read may be a fault of the judge's endpoint: kept, it would count against
        # the base in every release to come.
        if part.judged and not all(one.readable for rows in made.scores.values() for one in rows.values()):
            return made
        return keep(store, key, made)

    def key(self, *identity: Any) -> str:
        used = {name: self.settings[name] for name in ("code", "device", "dtype")}
        return digest([*identity, used, tool_versions(TOOLS)])


def kept(store: Path, key: str) -> Answers | None:
    """The answers under `key`; None when there are none, or only a damaged or foreign file."""
    try:
        stored = read_json(_place(store, key))
        if stored["key"] == key and stored["digest"] == digest(stored["answers"]):
            return Answers.from_json(stored["answers"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def keep(store: Path, key: str, answers: Answers) -> Answers:
    value = answers.to_json()
    write_json(_place(store, key), {"key": key, "digest": digest(value), "answers": value})
    return answers


def _place(store: Path, key: str) -> Path:
    return store / f"{key.removeprefix('sha256:')}.json"


def _report(
    runs: _Runs,
    both: tuple[Mapping[str, Answers], Mapping[str, Answers]],
    settings: Mapping[str, Any],
    partial: Path,
) -> dict[str, Any]:
    """Writes the files of single answers, and gives what stands above them."""
    before, after = both
    rows = [row for name in before for row in item_rows(before[name], after[name])]
    write_lines(partial / "items.jsonl", rows)
    report: dict[str, Any] = {
        "sets": sets(rows),
        "environment": {
            "harness": f"lm-eval {tool_versions(('lm_eval',))['lm_eval']}",
            "tools": tool_versions(TOOLS),
            **settings,
            "prompts": {
                name: {"base": before[name].prompts, "candidate": after[name].prompts}
                for name in sorted(before)
            },
        },
    }
    if runs.sources.mt_bench and runs.judge:
        details, report["mt_bench"] = _mt_bench(
            runs.sources.mt_bench, runs, runs.judge, before[MT_BENCH], after[MT_BENCH]
        )
        write_lines(partial / "mt_bench.jsonl", details)
    return report


def _mt_bench(
    data: mt_bench.Set, runs: _Runs, judge: Judge, before: Answers, after: Answers
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every rating and comparison for people, and the numbers for the report."""
    settings = runs.sources.settings.mt_bench
    report: dict[str, Any] = {
        "questions": len(data.questions),
        "repeats": settings.repeats,
        "prompts": "own" if data.prompts is mt_bench_prompts.PROMPTS else "staged",
    }
    details = []
    for who, found in (("base", before), ("candidate", after)):
        ratings, talks = parts.ratings_of(found), parts.talks_of(found)
        report[who] = mt_bench.summary(ratings)
        for one in ratings:
            said = talks[one.question][one.repeat]
            details.append({"model": who, **vars(one), "answer": said[one.turn - 1] if said else None})
    if settings.pairwise:
        runs.progress("MT-Bench, side by side")
        compared = mt_bench.compare(judge, data, parts.talks_of(before), parts.talks_of(after))
        report["pairwise"] = mt_bench.tally(compared)
        details += [{"model": "both", **vars(one), "judgements": list(one.judgements)} for one in compared]
    return details, report


def code_digest() -> str:
    """Of this package's own files: another way of asking or matching makes other scores."""
    return digest([[path.name, file_digest(path)] for path in sorted(Path(__file__).parent.glob("*.py"))])
