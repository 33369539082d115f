"""The tune stage: mix the samples into phases, train the student on each, save the model.

    treewright tune --work W --student embedded            # one process, CPU or one GPU
    treewright tune --work W --student DIR --ranks 8       # FSDP2 under torchrun on one node

Reads `generate/samples.jsonl` (schema `sample.json`) and the student's folder; writes `model/`,
`phases.json`, `metrics.jsonl`, `training/phase_N.jsonl`, `training/refused.jsonl`, `curves.svg` and, where
checkpoints are chosen among, the rows that decide (`validation.jsonl`). An interrupted run goes on from its
last checkpoint. The phases are the LAB method's (arXiv 2403.01081), see `gpu_runner/tune/phases.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu_runner.embedded import cache_folder
from gpu_runner.stage import SCRATCH, Manifest, execute
from gpu_runner.student import resolve_student
from gpu_runner.tune.choice import Held, hold_back
from gpu_runner.tune.phases import Preset, preset
from lab.contracts import digest, read_json, read_lines, write_json, write_lines
from lab.synthesis.mixing import Limits, mix

DEFAULT_PRESET = "embedded-cpu"
JOB = "job.json"
VALIDATION = "validation.jsonl"
Say = Callable[[str], None]


class TuneError(RuntimeError):
    """The stage cannot run; the message says why and what to do."""


@dataclass(frozen=True)
class TuneSettings:
    """`student`: `embedded` or a folder. `precision`: `bf16` (autocast over fp32 weights) or `fp32`.

    `kernels`: `auto`, `liger` or `torch`. `lora_rank`: 0 trains every weight, else adapters of that rank are
    trained and merged. `launcher`: `torchrun` for ranks on this machine, `ray` for ranks on the nodes of a
    Ray cluster that share the work folder. `tensorboard`: a folder for event files, outside the result.
    """

    student: str
    preset: str = DEFAULT_PRESET
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    precision: str = "bf16"
    ranks: int = 1
    kernels: str = "auto"
    compile: bool = False
    lora_rank: int = 0
    launcher: str = "torchrun"
    tensorboard: str | None = None
    limits: Limits = field(default_factory=Limits)


def settings_from_plan(work: Path, student: str, **given: Any) -> TuneSettings:
    """The plan's `config.tune`, with what was `given` on the command line (not None) before it."""
    path = work / "plan" / "plan.json"
    whole = read_json(path).get("config", {}) if path.is_file() else {}
    config = whole.get("tune", {})
    chosen = {key: value for key, value in given.items() if value is not None}
    overrides = {**(config.get("overrides") or {}), **chosen.pop("overrides", {})}
    name = chosen.pop("preset", None) or config.get("preset") or DEFAULT_PRESET
    return TuneSettings(
        student, preset=name, overrides=overrides, limits=_limits(whole.get("mixing", {})), **chosen
    )


def _limits(config: Mapping[str, Any]) -> Limits:
    """The configuration's `mixing`, where 0 is without limit."""
    return Limits(
        config.get("leaf_rows") or None,
        config.get("leaf_tokens") or None,
        dict(config.get("source_rows", {})),
        dict(config.get("source_tokens", {})),
    )


def run(
    inputs: Path, outputs: Path, settings: TuneSettings, *, cache: Path | None = None, say: Say = print
) -> Manifest:
    """Run the stage in the work folder `inputs`. Raises TuneError, PresetError, StudentError, StageError,
    TrainingStoppedError and LossNotFiniteError."""
    import torch

    samples = inputs / "generate" / "samples.jsonl"
    if not samples.is_file():
        raise TuneError(f"{samples} is not there: run `treewright generate --work {inputs}` first")
    if settings.precision not in ("bf16", "fp32"):
        raise TuneError(f"precision is bf16 or fp32, not {settings.precision!r}")
    if settings.launcher not in ("torchrun", "ray"):
        raise TuneError(f"the launcher is torchrun or ray, not {settings.launcher!r}")
    chosen = preset(settings.preset, settings.overrides, lora=settings.lora_rank > 0)
    student = resolve_student(settings.student, cache or cache_folder())

    def body(partial: Path) -> None:
        training = partial / "training"
        budgets = [phase.budget for phase in chosen.phases]
        held = _held(list(read_lines(samples, "sample")), chosen, settings.seed)
        if held.validation:
            write_lines(partial / VALIDATION, held.validation)
        mixed = mix(held.training, budgets, settings.seed, settings.limits)
        for phase in mixed:
            write_lines(training / f"phase_{phase.number}.jsonl", phase.rows)
        if not any(phase.worth_training for phase in mixed):
            raise TuneError(f"{samples} holds no row that the preset {chosen.name} trains on")
        job = {
            "student": str(student),
            "student_name": settings.student if settings.student == "embedded" else student.name,
            "preset": settings.preset,
            "overrides": dict(settings.overrides),
            "seed": settings.seed,
            "precision": settings.precision,
            "kernels": settings.kernels,
            "compile": settings.compile,
            "lora_rank": settings.lora_rank,
            "tensorboard": settings.tensorboard,
            "validation": {"rows": len(held.validation), "why": held.why},
            "phases": [
                {
                    "counts": dict(phase.counts),
                    "by_leaf": dict(phase.by_leaf),
                    "by_source": dict(phase.by_source),
                    "notes": list(phase.notes),
                    "worth_training": phase.worth_training,
                    "digest": digest(list(phase.rows)),
                }
                for phase in mixed
            ],
        }
        write_json(partial / SCRATCH / JOB, job)
        if settings.launcher == "ray":
            from gpu_runner.tune.ray_launcher import launch

            launch(partial, settings.ranks, say)
        elif settings.ranks == 1:
            from gpu_runner.tune.worker import work

            work(partial, say)
        else:
            _torchrun(partial, settings.ranks)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return execute(
        "tune",
        {"generate": inputs / "generate", "student": student},
        outputs,
        {
            "preset": key_of(chosen),
            "seed": settings.seed,
            "limits": asdict(settings.limits),
            "precision": settings.precision,
            "ranks": settings.ranks,
            "kernels": settings.kernels,
            "compile": settings.compile,
            "lora_rank": settings.lora_rank,
            "device": device,
        },
        body,
        tools=("torch", "transformers"),
    )


def key_of(chosen: Preset) -> dict[str, Any]:
    """What of a preset changes its result. The size of packs does not, beyond rounding, so a run that ended
    for want of memory goes on from its checkpoint with smaller ones; nor does how often it is saved. The
    longest row that still fits is another matter."""
    value = chosen.to_json()
    del value["pack_tokens"], value["checkpoint_steps"], value["sources"]
    for phase in value["phases"]:
        phase["max_tokens"] = min(phase["max_tokens"], chosen.pack_tokens)
    return value


def _held(samples: list[Any], chosen: Preset, seed: int) -> Held:
    if chosen.validation_share and all(phase.epochs == 1 for phase in chosen.phases):
        return Held((), tuple(samples), "there is one candidate, the last phase has one epoch")
    datasets = [name for phase in chosen.phases for name in phase.budget.datasets]
    return hold_back(samples, chosen.validation_share, seed, datasets)


def _torchrun(partial: Path, ranks: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "gpu_runner.tune.worker", str(partial)]
    from gpu_runner.tune.ranks import die_with_parent

    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    result = subprocess.run(command, env=environment, check=False, preexec_fn=die_with_parent)
    if result.returncode != 0:
        raise TuneError(
            f"a training process ended with status {result.returncode}; its message is above. "
            "The same command goes on from the last checkpoint."
        )
