"""What one training process does: tokens, phases, checkpoints, and the model at the end.

`work(partial)` runs in the stage's own process, or, with several ranks, in each process that
`torchrun -m gpu_runner.tune.worker PARTIAL` starts. It reads `.scratch/job.json` and `training/`; a run
that was interrupted is found in `.scratch/checkpoints/`.
"""

from __future__ import annotations

import resource
import shutil
import signal
import sys
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
from gpu_runner.tune.candidates import Candidates, measure, read_validation
from gpu_runner.tune.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from gpu_runner.tune.curves import curves
from gpu_runner.tune.guard import DiskFullError, DivergedError, LossWatch, explained, require_space
from gpu_runner.tune.loop import (
    LossNotFiniteError,
    OutOfMemoryError,
    Position,
    StepReport,
    TrainingStoppedError,
    make_optimizer,
    train_phase,
    warmup_steps,
)
from gpu_runner.tune.lora import AdapterError, merge
from gpu_runner.tune.phases import Phase, Preset, preset
from gpu_runner.tune.progress import Board, BoardError, Metrics, Progress, peak_flops, shape_of
from gpu_runner.tune.ranks import Ranks, die_with_parent, ranks_from_environment
from gpu_runner.tune.student_model import ModelOptions, StudentModel, StudentModelError, load_student
from gpu_runner.tune.targets import RefusedRow, TokenRow, tokenize
from lab.contracts import read_json, read_lines, write_bytes, write_json, write_lines

JOB = "job.json"
Say = Callable[[str], None]


class NothingToTrainError(RuntimeError):
    """No phase has a row that the student can learn from."""


ENDINGS = (
    TrainingStoppedError,
    LossNotFiniteError,
    DivergedError,
    OutOfMemoryError,
    DiskFullError,
    StudentModelError,
    BoardError,
    AdapterError,
    NothingToTrainError,
)
"""Ends of a run that are told in one line; the checkpoint before them is kept."""


def work(partial: Path, say: Say) -> None:
    """Train everything that `partial` asks for and write the stage's files into it."""
    job = read_json(partial / SCRATCH / JOB)
    chosen = preset(job["preset"], job["overrides"], lora=job.get("lora_rank", 0) > 0)
    with ranks_from_environment() as ranks, _stop_on_signals() as stop:
        _train(partial, job, chosen, ranks, stop, say if ranks.first else lambda _line: None)


def _train(
    partial: Path, job: dict[str, Any], chosen: Preset, ranks: Ranks, stop: Callable[[], bool], say: Say
) -> None:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library has no types here
    student = Path(job["student"])
    tokenizer = load_tokenizer(student)
    rows, refused = [], []
    for number, phase in enumerate(chosen.phases, start=1):
        kept, left_out = read_rows(partial / "training" / f"phase_{number}.jsonl", tokenizer, phase, chosen)
        rows.append(kept if job["phases"][number - 1]["worth_training"] else [])
        refused.append(left_out)
    _say_refused(refused, say)
    if not any(rows):
        raise NothingToTrainError("no training row is left: " + _reasons(refused))

    torch.manual_seed(job["seed"])
    precision = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    loaded = load_student(student, ranks, precision, options_of(job, chosen))
    model = loaded.model
    say(f"{loaded.way}; kernels {loaded.kernels}")
    checkpoints, metrics = partial / SCRATCH / "checkpoints", Metrics(partial / "metrics.jsonl", ranks.first)
    require_space(partial, weight_bytes(student), "the tuned model")
    found = latest_checkpoint(checkpoints, chosen.pack_tokens)
    start = found[1] if found else Position()
    metrics.forget_after(start)
    last = max(index for index, some in enumerate(rows) if some)
    validation = read_validation(partial, job, tokenizer, chosen)
    candidates = Candidates(partial / SCRATCH / "candidates", validation, chosen.phases[last].epochs, ranks)
    candidates.forget_after(start)
    ranks.barrier()
    watch = LossWatch()
    for line in metrics.lines():
        watch.add(line["phase"], line["step"], line["loss"], line["learning_rate"])
    tell = Tell(metrics, Progress(rows, chosen, start, say), Board(job.get("tensorboard"), ranks.first))
    speed = Speed(loaded, ranks)
    adapters = options_of(job, chosen).lora_rank

    def weigh(some: Sequence[TokenRow]) -> list[float]:
        return measure(loaded, some, ranks, ranks.autocast(precision))

    def keep(folder: Path) -> None:
        save_model(model, student, tokenizer, folder, ranks, adapters)

    for index, phase in enumerate(chosen.phases):
        if index < start.phase or not rows[index]:
            continue
        optimizer = make_optimizer(model, chosen)
        here = start if index == start.phase else Position(index)
        if found and index == max(start.phase, _first(rows, start.phase)):
            load_checkpoint(found[0], model, optimizer, found[1], ranks)
            say(f"going on from phase {here.phase + 1}, step {here.step + 1}")

        def save(position: Position, optimizer: torch.optim.Optimizer = optimizer) -> None:
            save_checkpoint(checkpoints, model, optimizer, position, ranks, chosen.pack_tokens)

        an_epoch = -(-len(rows[index]) // phase.effective_batch) if index == last else 0

        def on_step(
            report: StepReport,
            rows: Sequence[TokenRow] = rows[index],
            save: Callable[[Position], None] = save,
            an_epoch: int = an_epoch,
        ) -> None:
            tell(report, speed.mfu(report, rows))
            watch.add(report.phase, report.step, report.loss, report.learning_rate)
            if an_epoch and report.step % an_epoch == 0:
                candidates.add(report, weigh, keep, save)

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
            losses=loaded.losses,
        )
        save(Position(index + 1))
    if found and not any(rows[start.phase :]):  # killed after training, before the model was saved
        load_checkpoint(found[0], model, make_optimizer(model, chosen), found[1], ranks)

    tell.close()
    if candidates.put(partial / "model"):
        say(f"the model is that of an earlier epoch: {candidates.choice().why}")
    else:
        keep(partial / "model")
    if ranks.first:
        lines = metrics.lines()
        flat = [row.to_json() | {"phase": n + 1} for n, some in enumerate(refused) for row in some]
        write_lines(partial / "training" / "refused.jsonl", flat)
        write_json(
            partial / "phases.json",
            phases_report(job, chosen, rows, refused, lines, ranks, bool(found), loaded)
            | {"choice": candidates.to_json(chosen.validation_share)},
        )
        picture = curves(lines).encode()
        write_bytes(partial / "curves.svg", [picture])
        write_bytes(partial / "model" / "curves.svg", [picture])  # the card of the release shows it
    ranks.barrier()


def load_tokenizer(student: Path) -> Any:
    """The folder's tokenizer, never by code of the folder; StudentModelError when it cannot serve."""
    try:
        found = AutoTokenizer.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise StudentModelError(f"{student}: the tokenizer cannot be loaded: {error}") from error
    if not found.chat_template:
        raise StudentModelError(f"{student}: the tokenizer has no chat template; add one to the folder")
    return found


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
    """The student's weights in fp32, as the loop's plain way takes them."""
    options = ModelOptions(activation_checkpointing=chosen.activation_checkpointing)
    return load_student(student, ranks, torch.float32, options).model


def options_of(job: dict[str, Any], chosen: Preset) -> ModelOptions:
    return ModelOptions(
        kernels=job.get("kernels", "auto"),
        compile=job.get("compile", False),
        lora_rank=job.get("lora_rank", 0),
        activation_checkpointing=chosen.activation_checkpointing,
    )


def weight_bytes(student: Path) -> int:
    return sum(path.stat().st_size for path in student.glob("*.safetensors"))


def save_model(
    model: nn.Module, student: Path, tokenizer: Any, folder: Path, ranks: Ranks, lora_rank: int = 0
) -> None:
    """Safetensors in the student's own precision, with its tokenizer and chat template."""
    only = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=lora_rank > 0)
    weights = get_model_state_dict(model, options=only)
    if ranks.first:
        shutil.rmtree(folder, ignore_errors=True)
        tuned = AutoModelForCausalLM.from_pretrained(
            student, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        if lora_rank:
            tuned = merge(tuned, lora_rank, weights)
        else:
            tuned.load_state_dict(weights)
        tuned.config.name_or_path = ""  # no path of this machine goes into a release
        needed = weight_bytes(student)
        require_space(folder, needed, "the tuned model")
        with explained(folder, needed, "the tuned model"):
            tuned.save_pretrained(folder)
            tokenizer.name_or_path = ""
            tokenizer.save_pretrained(folder)
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # safetensors writes for its owner alone
    ranks.barrier()


class Speed:
    """MFU of each step where the GPU's peak is known."""

    def __init__(self, student: StudentModel, ranks: Ranks) -> None:
        gpu = ranks.device.type == "cuda"
        self._peak = peak_flops(torch.cuda.get_device_name(ranks.device)) if gpu else None
        self._ranks = ranks.size
        self._shape = shape_of(student.model) if self._peak else None

    def mfu(self, report: StepReport, rows: Sequence[TokenRow]) -> float | None:
        if self._shape is None or self._peak is None or not rows:
            return None
        # The rows of a step are a random part of the phase's: their squares are taken on the average.
        squares = sum(len(row.tokens) ** 2 for row in rows) * report.rows // len(rows)
        done = self._shape.flops(report.tokens, report.targets, squares)
        return done / max(report.seconds, 1e-9) / (self._peak * self._ranks)


class Tell:
    """One step told everywhere: `metrics.jsonl`, the terminal, TensorBoard."""

    def __init__(self, metrics: Metrics, progress: Progress, board: Board) -> None:
        self._metrics, self._progress, self._board = metrics, progress, board
        self._steps = len(metrics.lines())

    def __call__(self, report: StepReport, mfu: float | None) -> None:
        speed = round(report.tokens / max(report.seconds, 1e-9), 1)
        line = report.to_json() | {"tokens_per_second": speed}
        if mfu is not None:
            line["mfu"] = round(mfu, 4)
        self._metrics.add(line)
        self._progress.step(report, mfu)
        self._board.add(line, self._steps)
        self._steps += 1

    def close(self) -> None:
        self._board.close()


def phases_report(
    job: dict[str, Any],
    chosen: Preset,
    rows: Sequence[Sequence[TokenRow]],
    refused: Sequence[Sequence[RefusedRow]],
    lines: Sequence[dict[str, Any]],
    ranks: Ranks,
    resumed: bool,
    loaded: StudentModel,
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
                "by_source": job["phases"][index]["by_source"],
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
    shares = [line["mfu"] for line in lines if line.get("mfu") is not None]
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
        "way": str(loaded.way),
        "kernels": loaded.kernels,
        "compiled": job.get("compile", False),
        "lora_rank": job.get("lora_rank", 0),
        "pack_tokens": chosen.pack_tokens,
        "mfu": round(sum(shares) / len(shares), 4) if shares else None,
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
    die_with_parent()
    try:
        work(Path(sys.argv[1]), lambda line: print(line, flush=True))
    except ENDINGS as error:
        print(f"tune: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
