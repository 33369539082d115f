"""Stage `generate`: the training rows of a planned release.

    treewright generate --work W

Reads `work/plan`, asks the endpoints that the environment names (see `lab/synthesis/endpoints.py`), and
writes `samples.jsonl`, `rejections.jsonl` and `yield.json`. Every answer is stored in
`work/.answers.sqlite` before it is used, so that a run after `kill -9` asks only what was never answered,
and an equal run asks nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_runner.plan import flows_in, tasks_of
from gpu_runner.stage import Manifest, execute
from lab.config import RepositoryConfig
from lab.contracts import digest, read_json, read_lines, require, write_json, write_lines
from lab.synthesis.endpoints import Endpoint, endpoints_from_environment
from lab.synthesis.engine import Engine, EngineSettings, RequestError
from lab.synthesis.items import Rejection, Task
from lab.synthesis.leaf import LeafResult, synthesize
from lab.synthesis.run import count_rows
from lab.synthesis.samples import Sample, replay_sample
from lab.synthesis.text import harmless

STORE = ".answers.sqlite"
REPLAY_TOKENS = 48
"""Tokens of a replay answer: enough to hold the base model's manner; a longer one costs a CPU run minutes."""

REPLAY = "replay"


class GenerateError(RuntimeError):
    """The stage cannot give usable rows; says why and what to do."""


@dataclass(frozen=True)
class GenerateSettings:
    """How hard the endpoints are driven. None of it changes the rows, so none of it is part of the stage's
    key.
    """

    in_flight: int = 8
    rows_in_progress: int = 32
    engine: EngineSettings = field(default_factory=EngineSettings)


@dataclass
class Progress:
    """What has happened so far, for whoever shows it. `total` counts tries and replay prompts."""

    total: int
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def tick(self, leaf: str, what: str) -> None:
        self.done += 1
        if what in {"made", REPLAY}:
            self.kept += 1
        else:
            self.reasons[what] += 1

    def line(self) -> str:
        """Rate, yield and time left in one line."""
        seconds = max(time.monotonic() - self.started, 1e-6)
        rate = self.done / seconds
        share = self.kept / self.done if self.done else 0.0
        left = (self.total - self.done) / rate if self.done else 0.0
        return f"{self.done}/{self.total} rows, {rate:.1f}/s, {share:.0%} kept, {left:.0f} s left"


Show = Callable[[Progress], None]


def run(
    work: Path,
    env: Mapping[str, str],
    settings: GenerateSettings = GenerateSettings(),
    show: Show = lambda progress: None,
) -> Manifest:
    """Generate into `work/generate`. Raises `EndpointError`, `GenerateError`, `StageError`."""
    plan = read_plan(work)
    config = RepositoryConfig.from_json(plan["config"])
    models = {
        "teacher": config.models.teacher,
        "judge": config.models.judge,
        "student": config.models.student,
    }
    endpoints = endpoints_from_environment(models, env)
    identity = {
        "flows": {kind: flow.digest for kind, flow in flows_in(work / "plan").items()},
        "models": {role: {"id": one.model, "revision": one.revision} for role, one in endpoints.items()},
        "replay_tokens": REPLAY_TOKENS,
    }

    def body(partial: Path) -> None:
        asyncio.run(_generate(work, partial, plan, config, endpoints, settings, show))

    return execute("generate", [work / "plan"], work / "generate", identity, body)


def read_plan(work: Path) -> dict[str, Any]:
    """`work/plan/plan.json`. Raises `GenerateError` that names the missing step."""
    path = work / "plan" / "plan.json"
    if not path.is_file():
        raise GenerateError(f"{path} is not there: run `treewright plan` first.")
    plan: dict[str, Any] = read_json(path, "plan")
    return plan


async def _generate(
    work: Path,
    outputs: Path,
    plan: Mapping[str, Any],
    config: RepositoryConfig,
    endpoints: Mapping[str, Endpoint],
    settings: GenerateSettings,
    show: Show,
) -> None:
    tasks, flows = tasks_of(work / "plan"), flows_in(work / "plan")
    prompts = list(read_lines(work / "plan" / "replay_prompts.jsonl"))[: config.generate.replay_rows]
    progress = Progress(sum(count_rows(flows[task.kind], task) for task in tasks) + len(prompts))

    def tick(leaf: str, what: str) -> None:
        progress.tick(leaf, what)
        show(progress)

    # One gate for all leaves: rows start in the order of the plan, so that rows which share a prompt's
    # beginning
    # are asked together, and a row that has started is finished before many others begin.
    gate = asyncio.Semaphore(settings.rows_in_progress)
    async with Engine(work / STORE, settings.in_flight, settings.engine) as engine:
        replay = asyncio.create_task(
            _replay(prompts, engine, endpoints["student"], plan, config.generate.replay_prompts, tick)
        )
        try:
            results = await asyncio.gather(
                *(synthesize(task, engine, endpoints, tick, gate, flows[task.kind]) for task in tasks)
            )
            replayed, failed = await replay
        finally:
            replay.cancel()
    _write(outputs, results, replayed, failed)


async def _replay(
    prompts: Sequence[Any],
    engine: Engine,
    student: Endpoint,
    plan: Mapping[str, Any],
    source: str,
    tick: Callable[[str, str], None],
) -> tuple[list[Sample], list[Rejection]]:
    """The base model's own answers at temperature 0, in the order of the file."""
    origin = {"path": source, "digest": digest(prompts)}

    async def one(row: Any) -> Sample | Rejection:
        prompt = harmless(str(row.get("prompt", ""))) if isinstance(row, dict) else ""
        reason = "empty-prompt"
        keys: tuple[str, ...] = ()
        if prompt:
            params = {"max_tokens": REPLAY_TOKENS, "temperature": 0, "seed": 1}
            try:
                answer = await engine.chat(student, [{"role": "user", "content": prompt}], params)
                text = harmless(answer.text)
                if text:
                    tick(source, REPLAY)
                    return replay_sample(prompt, text, answer.key, student, plan["taxonomy"]["head"], origin)
                reason, keys = "empty-answer", (answer.key,)
            except RequestError:
                reason = "request-failed"
        tick(source, reason)
        return Rejection(source, None, None, REPLAY, reason, None, prompt[:2000], keys)

    found = await asyncio.gather(*(one(row) for row in prompts))
    return (
        [one for one in found if isinstance(one, dict)],
        [one for one in found if isinstance(one, Rejection)],
    )


def _write(
    outputs: Path,
    results: Sequence[LeafResult],
    replayed: Sequence[Sample],
    failed: Sequence[Rejection],
) -> None:
    samples = [sample for result in results for sample in result.samples] + list(replayed)
    rejections = [one for result in results for one in result.rejected] + list(failed)
    for number, sample in enumerate(samples):
        require("sample", sample, f"samples.jsonl:{number + 1}")
    write_lines(outputs / "samples.jsonl", samples)
    write_lines(outputs / "rejections.jsonl", (one.to_json() for one in rejections))
    write_json(
        outputs / "yield.json",
        {
            "leaves": [yield_of(result) for result in results],
            "replay": {"rows": len(replayed), "failed": len(failed)},
            "samples": dict(sorted(Counter(sample["dataset"] for sample in samples).items())),
        },
    )
    barren = [one.task.leaf for one in results if one.task.rows and one.asked and not one.samples]
    if barren:
        raise GenerateError(
            f"No row at all for {', '.join(barren)}; {outputs / 'yield.json'} has the reasons."
        )


def yield_of(result: LeafResult) -> dict[str, Any]:
    """One leaf's numbers: tries, kept questions, training rows, and rejections by reason."""
    task: Task = result.task
    return {
        "leaf": task.leaf,
        "kind": task.kind,
        "wanted": task.rows,
        "delivered": result.delivered,
        "why": result.why,
        "flow": result.flow.name,
        "rounds": result.rounds,
        "asked": result.asked,
        "kept": len(result.kept),
        "rows": dict(sorted(Counter(sample["dataset"] for sample in result.samples).items())),
        "rejected": dict(sorted(Counter(one.reason for one in result.rejected).items())),
    }
