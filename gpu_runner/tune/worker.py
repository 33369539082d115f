"""What one training process does: tokens, phases, checkpoints, and the model at the end.

`work(partial)` runs in the stage's own process, or, with several ranks, in each process that
`torchrun -m gpu_runner.tune.worker PARTIAL` starts. It reads `.scratch/job.json` and `training/`; a run
that was interrupted is found in `.scratch/checkpoints/`.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from gpu_runner.stage import SCRATCH
from gpu_runner.tune.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from gpu_runner.tune.curves import curves
from gpu_runner.tune.loop import (
    LossNotFiniteError,
    Position,
    StepReport,
    TrainingStoppedError,
    batches,
    make_optimizer,
    train_phase,
    warmup_steps,
)
from gpu_runner.tune.phases import Phase, Preset, preset
from gpu_runner.tune.ranks import Ranks, ranks_from_environment
from gpu_runner.tune.targets import RefusedRow, TokenRow, tokenize
from lab.contracts import read_json, read_lines, write_bytes, write_json, write_lines

JOB = "job.json"
Say = Callable[[str], None]


class NothingToTrainError(RuntimeError):
    """No phase has a row that the student can learn from."""


def work(partial: Path, say: Say) -> None:
    """Train everything that `partial` asks for and write the stage's files into it."""
    job = read_json(partial / SCRATCH / JOB)
    chosen = preset(job["preset"], job["overrides"])
    with ranks_from_environment() as ranks, _stop_on_signals() as stop:
        _train(partial, job, chosen, ranks, stop, say if ranks.first else lambda _line: None)


def _train(
    partial: Path, job: dict[str, Any], chosen: Preset, ranks: Ranks, stop: Callable[[], bool], say: Say
) -> None:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    student = Path(job["student"])
    tokenizer = AutoTokenizer.from_pretrained(student, local_files_only=True)
    rows, refused = [], []
    for number, phase in enumerate(chosen.phases, start=1):
        kept, left_out = read_rows(partial / "training" / f"phase_{number}.jsonl", tokenizer, phase, chosen)
        rows.append(kept if job["phases"][number - 1]["worth_training"] else [])
        refused.append(left_out)
    _say_refused(refused, say)
    if not any(rows):
        raise NothingToTrainError("no training row is left: " + _reasons(refused))

    torch.manual_seed(job["seed"])
    model = load_model(student, chosen, ranks)
    checkpoints, metrics = partial / SCRATCH / "checkpoints", Metrics(partial / "metrics.jsonl", ranks.first)
    found = latest_checkpoint(checkpoints)
    start = found[1] if found else Position()
    metrics.forget_after(start)
    precision = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    progress = Progress(rows, chosen, start, say)
    for index, phase in enumerate(chosen.phases):
        if index < start.phase or not rows[index]:
            continue
        optimizer = make_optimizer(model, chosen)
        here = start if index == start.phase else Position(index)
        if found and index == max(start.phase, _first(rows, start.phase)):
            load_checkpoint(found[0], model, optimizer, found[1], ranks)
            say(f"going on from phase {here.phase + 1}, step {here.step + 1}")

        def save(position: Position, optimizer: torch.optim.Optimizer = optimizer) -> None:
            save_checkpoint(checkpoints, model, optimizer, position, ranks)

        def on_step(report: StepReport) -> None:
            metrics.add(report)
            progress.step(report)

        train_phase(
            model,
            optimizer,
            rows[index],
            phase,
            chosen,
            job["seed"],
            here,
            ranks,
            save=save,
            on_step=on_step,
            stop=stop,
            autocast=ranks.autocast(precision),
        )
        save(Position(index + 1))
    if found and not any(rows[start.phase :]):  # killed after training, before the model was saved
        load_checkpoint(found[0], model, make_optimizer(model, chosen), found[1], ranks)

    save_model(model, student, tokenizer, partial / "model", ranks)
    if ranks.first:
        lines = metrics.lines()
        flat = [row.to_json() | {"phase": n + 1} for n, some in enumerate(refused) for row in some]
        write_lines(partial / "training" / "refused.jsonl", flat)
        write_json(
            partial / "phases.json", phases_report(job, chosen, rows, refused, lines, ranks, bool(found))
        )
        write_bytes(partial / "curves.svg", [curves(lines).encode()])
    ranks.barrier()


def read_rows(
    path: Path, tokenizer: Any, phase: Phase, chosen: Preset
) -> tuple[list[TokenRow], list[RefusedRow]]:
    """The phase's rows as tokens, and those that cannot be learned from, each with its reason."""
    kept, refused = [], []
    for row in read_lines(path, "training_row"):
        made = tokenize(row["id"], row["messages"], tokenizer, min(phase.max_tokens, chosen.pack_tokens))
        if isinstance(made, TokenRow):
            kept.append(made)
        else:
            refused.append(made)
    return kept, refused


def load_model(student: Path, chosen: Preset, ranks: Ranks) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32, local_files_only=True)
    if chosen.activation_checkpointing:
        model.gradient_checkpointing_enable()  # type: ignore[no-untyped-call]
    return ranks.place(model)


def save_model(model: nn.Module, student: Path, tokenizer: Any, folder: Path, ranks: Ranks) -> None:
    """Safetensors in the student's own precision, with its tokenizer and chat template."""
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if ranks.first:
        shutil.rmtree(folder, ignore_errors=True)
        tuned = AutoModelForCausalLM.from_pretrained(student, dtype="auto", local_files_only=True)
        tuned.load_state_dict(weights)
        tuned.config.name_or_path = ""  # no path of this machine goes into a release
        tuned.save_pretrained(folder)
        tokenizer.name_or_path = ""
        tokenizer.save_pretrained(folder)
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors writes for its owner alone
    ranks.barrier()


class Metrics:
    """`metrics.jsonl`: one line per optimizer step, on the first rank only."""

    def __init__(self, path: Path, writes: bool) -> None:
        self._path, self._writes = path, writes

    def add(self, report: StepReport) -> None:
        if self._writes:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(report.to_json(), sort_keys=True) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        return list(read_lines(self._path)) if self._path.exists() else []

    def forget_after(self, position: Position) -> None:
        """Drop what a killed run did beyond its last checkpoint: it will be done again. A torn last line
        goes too.
        """
        if not self._writes or not self._path.exists():
            return
        kept = []
        for text in self._path.read_text("utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break
            if (line["phase"], line["step"]) <= (position.phase + 1, position.step):
                kept.append(line)
        write_lines(self._path, kept)


class Progress:
    """One line at the first and last step of a phase and every few seconds: loss, speed, time left."""

    def __init__(
        self,
        rows: Sequence[Sequence[TokenRow]],
        chosen: Preset,
        start: Position,
        say: Say,
        every: float = 5.0,
    ) -> None:
        self._say, self._every, self._last = say, every, 0.0
        self._tokens = self._seconds = 0.0
        self._left = 0
        for index, phase in enumerate(chosen.phases):
            if index >= start.phase:
                plan = batches(len(rows[index]), phase, index, 0)
                share = 1 - start.step / len(plan) if index == start.phase and plan else 1
                self._left += int(sum(len(row.tokens) for row in rows[index]) * phase.epochs * share)

    def step(self, report: StepReport) -> None:
        self._tokens += report.tokens
        self._seconds += report.seconds
        self._left = max(0, self._left - report.tokens)
        now = time.monotonic()
        if report.step not in (1, report.steps) and now - self._last < self._every:
            return
        self._last = now
        speed = self._tokens / max(self._seconds, 1e-9)
        left = self._left / speed
        self._say(
            f"phase {report.phase} epoch {report.epoch} step {report.step}/{report.steps}: "
            f"loss {report.loss:.4f}, {speed:.0f} tokens/s, {int(left // 60)}:{int(left % 60):02d} left"
        )


def phases_report(
    job: dict[str, Any],
    chosen: Preset,
    rows: Sequence[Sequence[TokenRow]],
    refused: Sequence[Sequence[RefusedRow]],
    lines: Sequence[dict[str, Any]],
    ranks: Ranks,
    resumed: bool,
) -> dict[str, Any]:
    """`phases.json` (schema `phases.json`): what each phase was given, how it was set and what came of it."""
    done = []
    for index, phase in enumerate(chosen.phases):
        mine = [line for line in lines if line["phase"] == index + 1]
        seconds = sum(line["seconds"] for line in mine)
        tokens = sum(line["tokens"] for line in mine)
        skipped = None
        if not rows[index]:
            offered = job["phases"][index]["worth_training"]
            skipped = "every row was refused" if offered else "no new rows for this phase"
        done.append(
            {
                "number": index + 1,
                "name": phase.name,
                "title": phase.title,
                "skipped": skipped,
                "rows": len(rows[index]),
                "counts": job["phases"][index]["counts"],
                "by_leaf": job["phases"][index]["by_leaf"],
                "notes": job["phases"][index]["notes"],
                "refused": [row.to_json() for row in refused[index]],
                "data_digest": job["phases"][index]["digest"],
                "epochs": phase.epochs,
                "learning_rate": phase.learning_rate,
                "schedule": phase.schedule,
                "effective_batch": phase.effective_batch,
                "max_tokens": phase.max_tokens,
                "warmup_steps": warmup_steps(phase, len(mine)),
                "steps": len(mine),
                "tokens": tokens,
                "targets": sum(line["targets"] for line in mine),
                "first_loss": mine[0]["loss"] if mine else None,
                "last_loss": mine[-1]["loss"] if mine else None,
                "seconds": round(seconds, 3),
                "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
                "sources": dict(phase.sources),
            }
        )
    gpu = ranks.device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated()
        if gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "preset": chosen.name,
        "overrides": job["overrides"],
        "student": job["student_name"],
        "seed": job["seed"],
        "precision": job["precision"],
        "device": ranks.device.type,
        "ranks": ranks.size,
        "resumed": resumed,
        "peak_memory_bytes": peak,
        "seconds": round(sum(phase["seconds"] for phase in done), 3),
        "sources": dict(chosen.sources),
        "phases": done,
    }


def _first(rows: Sequence[Sequence[TokenRow]], start: int) -> int:
    """The first phase from `start` on that has rows."""
    return next((index for index in range(start, len(rows)) if rows[index]), start)


def _reasons(refused: Sequence[Sequence[RefusedRow]]) -> str:
    every = [row for some in refused for row in some]
    if not every:
        return "the samples hold none for these phases"
    return "; ".join(f"{row.id}: {row.reason} ({row.detail})" for row in every[:3])


def _say_refused(refused: Sequence[Sequence[RefusedRow]], say: Say) -> None:
    for number, some in enumerate(refused, start=1):
        if some:
            say(f"phase {number}: {len(some)} rows refused, {_reasons([some])}")


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT ask the loop to save and stop; a second one ends the process as usual."""
    asked = False
    before: dict[int, Any] = {}

    def ask(number: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread: whoever runs us handles signals
        before.clear()
    try:
        yield lambda: asked
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


def main() -> int:
    try:
        work(Path(sys.argv[1]), lambda line: print(line, flush=True))
    except (TrainingStoppedError, LossNotFiniteError, NothingToTrainError) as error:
        print(f"tune: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
