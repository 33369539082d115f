"""Stage `generate`: the training rows of a planned release.

    treewright generate --work W

Reads `work/plan`, asks the endpoints that the environment names (see `lab/synthesis/endpoints.py`), and
writes `samples.jsonl`, `rejections.jsonl` and `yield.json`. Every answer is kept in
`work/.answers.sqlite`, so that a run after `kill -9` asks only what was never answered, and an equal run asks
nothing. Finished leaves are written one by one and joined at the end, so memory does not grow with the plan.
What was measured on the way is in `work/.telemetry/generate/` (see `lab/synthesis/telemetry.py`).

A role whose model is a folder (`TREEWRIGHT_TEACHER_PATH`) is served while the stage runs (`supervise.py`).

`--executor ray --shards N` spreads the leaves over the nodes of a Ray cluster (`gpu_runner/ray_executor.py`).
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpu_runner.plan import flows_in, tasks_of
from gpu_runner.serving import ServingError
from gpu_runner.stage import Manifest, execute, input_digest
from gpu_runner.supervise import named, served_roles
from lab.config import RepositoryConfig
from lab.contracts import (
    canonical,
    digest,
    read_json,
    read_lines,
    require,
    write_bytes,
    write_json,
    write_lines,
)
from lab.synthesis import telemetry
from lab.synthesis.endpoints import Endpoint, EndpointError, endpoints_from_environment
from lab.synthesis.engine import Engine, EngineSettings, Request, RequestError, StoreError
from lab.synthesis.executor import Drive, Executor, InProcess, Job, LeafRows
from lab.synthesis.items import Rejection, Task
from lab.synthesis.leaf import LeafResult
from lab.synthesis.run import count_rows, first_error
from lab.synthesis.samples import Sample, replay_sample
from lab.synthesis.text import harmless, whole
from lab.taxonomy.benchmarks import Items as Benchmark
from lab.taxonomy.passages import words

STORE = ".answers.sqlite"
REPLAY = "replay"


class GenerateError(RuntimeError):
    """The stage cannot give usable rows; says why and what to do."""


@dataclass(frozen=True)
class GenerateSettings:
    """How hard the endpoints are driven, and where from. None of it changes the rows, so none of it is part
    of the stage's key. `shards` 0: two for each processor of the cluster.
    """

    in_flight: int = 8
    rows_in_progress: int = 32
    engine: EngineSettings = field(default_factory=EngineSettings)
    executor: Literal["local", "ray"] = "local"
    shards: int = 0


@dataclass
class Progress:
    """What has happened so far, for whoever shows it. `total` counts tries and replay prompts."""

    total: int
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    kept: int = 0
    tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def tick(self, leaf: str, what: str) -> None:
        self.done += 1
        if what in {"made", REPLAY}:
            self.kept += 1
        else:
            self.reasons[what] += 1

    def line(self) -> str:
        """Rate, yield, tokens and time left in one line. Rounds that make up for a low yield come on top of
        the rows known at the start.
        """
        seconds = max(time.monotonic() - self.started, 1e-6)
        rate = self.done / seconds
        share = self.kept / self.done if self.done else 0.0
        total = max(self.total, self.done)
        left = (total - self.done) / rate if self.done else 0.0
        tokens = f"{self.tokens:,} tokens ({self.tokens / seconds:.0f}/s), " if self.tokens else ""
        return f"{self.done}/{total} rows, {rate:.1f}/s, {share:.0%} kept, {tokens}{left:.0f} s left"


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
    roles = tuple(models)
    endpoints = endpoints_from_environment(models, named(env, roles))
    identity = {
        "flows": {kind: flow.digest for kind, flow in flows_in(work / "plan").items()},
        "models": {role: {"id": one.model, "revision": one.revision} for role, one in endpoints.items()},
    }

    def body(partial: Path) -> None:
        # Model servers are started for what is really generated, and not to find that nothing is left to do.
        logs = work / ".telemetry" / "generate"
        try:
            with served_roles(env, roles, logs, settings.in_flight) as servers:
                places = endpoints_from_environment(models, servers.env)
                try:
                    asyncio.run(_generate(work, partial, plan, config, places, settings, show))
                except EndpointError as error:
                    trouble = servers.trouble()
                    if trouble is None:
                        raise
                    raise GenerateError(trouble) from error
        except (ServingError, StoreError) as error:
            raise GenerateError(str(error)) from error

    return execute("generate", [work / "plan"], work / "generate", identity, body)


def read_plan(work: Path) -> dict[str, Any]:
    """`work/plan/plan.json`. Raises `GenerateError` that names the missing step, `StageError` when the folder
    was changed since.
    """
    path = work / "plan" / "plan.json"
    if not path.is_file():
        raise GenerateError(f"{path} is not there: run `treewright plan` first.")
    input_digest(path.parent)  # before anything in it is trusted
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
    source = config.generate.replay_prompts
    prompts = list(read_lines(work / "plan" / "replay_prompts.jsonl"))[: config.generate.replay_rows]
    tokens = config.generate.replay_tokens
    jobs = [
        Job(index, task, flows[task.kind], count_rows(flows[task.kind], task))
        for index, task in enumerate(tasks)
    ]
    progress = Progress(sum(job.size for job in jobs) + len(prompts))
    leaves = outputs / LEAVES
    unfinished = [job for job in jobs if not _is_finished(_file(leaves, job.index))]
    progress.total -= sum(job.size for job in jobs) - sum(job.size for job in unfinished)

    async with Engine(work / STORE, settings.in_flight, settings.engine) as engine:

        def tick(leaf: str, what: str) -> None:
            progress.tokens = engine.counters.tokens
            progress.tick(leaf, what)
            show(progress)

        def take(index: int, rows: LeafRows) -> None:
            value = {"samples": rows.samples, "rejections": rows.rejections, "numbers": rows.numbers}
            write_bytes(_file(leaves, index), [canonical(value)])

        drive = Drive(settings.in_flight, settings.rows_in_progress, settings.engine)
        try:
            async with asyncio.TaskGroup() as group:  # an endpoint that is down ends both at once
                replay = group.create_task(
                    _replay(
                        prompts, tokens, engine, endpoints["student"], plan, source, tasks[0].benchmark, tick
                    )
                )
                executor = _executor(work, settings)
                group.create_task(executor.run(unfinished, engine, endpoints, drive, take, tick))
            replayed, failed = replay.result()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            telemetry.write(work / ".telemetry" / "generate", engine.counters, engine.telemetry.to_json())
    _write(outputs, tasks, replayed, failed)
    shutil.rmtree(leaves, ignore_errors=True)


LEAVES = "leaves"


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.json"


def _is_finished(path: Path) -> bool:
    """Whether a run that was killed had this leaf behind it (the folder's name binds it to this plan). Rows
    that the endpoint failed are tried again.
    """
    return path.is_file() and "request-failed" not in read_json(path)["numbers"]["rejected"]


def _executor(work: Path, settings: GenerateSettings) -> Executor:
    if settings.executor == "local":
        return InProcess(leaf_rows)
    from gpu_runner.ray_executor import RayExecutor, RayMissingError

    try:
        return RayExecutor(leaf_rows, work / STORE, settings.shards)
    except RayMissingError as error:
        raise GenerateError(str(error)) from error


_VALID: set[object] = set()
"""Shapes of rows that the schema was held against: half of the time of a run went into rows of one shape."""


def _shape(value: object, name: str = "") -> object:
    """All that the schema asks about: names, types, empty or not, and the words that stand for a choice.
    Digests and numbers are our own.
    """
    if isinstance(value, dict):
        return tuple((key, _shape(part, key)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return (type(value) is list, frozenset(_shape(part) for part in value), len(value) > 1)
    if isinstance(value, str):
        return value if name in {"dataset", "kind", "role"} else bool(value)
    return type(value)


def leaf_rows(result: LeafResult) -> LeafRows:
    """A leaf as it is written. Raises `ContractError` for a row that no later stage could read."""
    for number, sample in enumerate(result.samples):
        shape = _shape(sample)
        if shape not in _VALID:
            require("sample", sample, f"{result.task.leaf}, row {number + 1}")
            _VALID.add(shape)
    return LeafRows(list(result.samples), [one.to_json() for one in result.rejected], yield_of(result))


async def _replay(
    prompts: Sequence[Any],
    tokens: int,
    engine: Engine,
    student: Endpoint,
    plan: Mapping[str, Any],
    source: str,
    benchmark: Benchmark | None,
    tick: Callable[[str, str], None],
) -> tuple[list[Sample], list[Rejection]]:
    """The base model's own answers at temperature 0, in the order of the file: to each prompt once, and to
    none that the release is measured by. An answer that reached the limit of `tokens` ends with its last
    whole sentence: a row that breaks off would teach the student to.
    """
    origin = {"path": source, "digest": digest(prompts)}

    given = [row.get("prompt") if isinstance(row, dict) else None for row in prompts]
    texts = [harmless(text) if isinstance(text, str) else "" for text in given]
    params = {"max_tokens": tokens, "temperature": 0, "seed": 1}
    made: dict[int, Sample] = {}
    lost: dict[int, tuple[str, tuple[str, ...]]] = {}
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        said = words(text)
        if not text:
            lost[number] = ("empty-prompt", ())
        elif first.setdefault(text, number) != number:
            lost[number] = ("duplicate-prompt", ())
        elif benchmark is not None and benchmark.hit(said, [said]):
            lost[number] = ("benchmark", ())
    asked = [number for number in range(len(texts)) if number not in lost]
    requests = (Request(student, [{"role": "user", "content": texts[number]}], params) for number in asked)
    async for at, answer in engine.stream(requests):
        number = asked[at]
        if isinstance(answer, RequestError):
            lost[number] = ("request-failed", ())
        elif text := harmless(whole(answer.text) if answer.finish == "length" else answer.text):
            head = plan["taxonomy"]["head"]
            made[number] = replay_sample(texts[number], text, answer.key, student, head, origin)
            tick(source, REPLAY)
        else:
            lost[number] = ("cut-off" if answer.text.strip() else "empty-answer", (answer.key,))
    for reason, _ in lost.values():
        tick(source, reason)
    return (
        [made[number] for number in sorted(made)],
        [
            Rejection(source, None, None, REPLAY, reason, None, texts[number][:2000], keys)
            for number, (reason, keys) in sorted(lost.items())
        ],
    )


def _write(
    outputs: Path, tasks: Sequence[Task], replayed: Sequence[Sample], failed: Sequence[Rejection]
) -> None:
    """The leaves' files as one, in the order of the plan; one leaf in memory at a time."""
    for number, sample in enumerate(replayed):
        require("sample", sample, f"replay, row {number + 1}")
    counts = Counter(sample["dataset"] for sample in replayed)
    numbers: list[dict[str, Any]] = []
    barren: list[str] = []

    def leaves() -> Iterator[dict[str, Any]]:
        for index in range(len(tasks)):
            yield read_json(_file(outputs / LEAVES, index))

    def samples() -> Iterator[Any]:
        for task, leaf in zip(tasks, leaves(), strict=True):
            numbers.append(leaf["numbers"])
            counts.update(sample["dataset"] for sample in leaf["samples"])
            if _failed(leaf["numbers"]):
                barren.append(task.leaf)
            yield from leaf["samples"]
        yield from replayed

    def rejections() -> Iterator[Any]:
        for leaf in leaves():
            yield from leaf["rejections"]
        yield from (one.to_json() for one in failed)

    write_lines(outputs / "samples.jsonl", samples())
    write_lines(outputs / "rejections.jsonl", rejections())
    write_json(
        outputs / "yield.json",
        {
            "leaves": numbers,
            "replay": {"rows": len(replayed), "failed": len(failed)},
            "samples": dict(sorted(counts.items())),
        },
    )
    if failed and not replayed and all(one.reason == "request-failed" for one in failed):
        barren.append("replay")
    if barren:
        raise GenerateError(
            f"The endpoints failed what was asked for {', '.join(barren)} (see "
            f"{outputs / 'rejections.jsonl'}). Run again when they work: what was answered is kept."
        )


def _failed(numbers: Mapping[str, Any]) -> bool:
    """Whether a leaf has no row because of its endpoints, and not because of what they said."""
    failures: int = numbers["rejected"].get("request-failed", 0)
    return not numbers["kept"] and 2 * failures >= max(numbers["asked"], 1)


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
