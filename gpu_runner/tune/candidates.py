"""Candidates for the released model: measured after each epoch of the last phase, one kept on the disk.

`.scratch/candidates/` holds `measures.jsonl` (one line a candidate) and the model folder of the one that is
kept so far, as it would be released. The one after the last step needs no copy: it is what the trainer has.
Which is kept is decided by `choice.py`. Order matters for a run that is killed: the new candidate's weights,
then a checkpoint at its step, and only then is the one before it removed; on going on, whatever was measured
after the checkpoint is forgotten and measured again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu_runner.tune.choice import MARGIN, Choice, choose, cluster_of, compared, not_enough
from gpu_runner.tune.loop import Position, StepReport
from gpu_runner.tune.phases import Preset
from gpu_runner.tune.ranks import Ranks
from gpu_runner.tune.student_model import Autocast, StudentModel, quiet
from gpu_runner.tune.targets import TokenRow, tokenize
from lab.contracts import read_lines, write_lines

FILE = "validation.jsonl"
_WORST = -100.0  # nats a token; a model that gives no number must not stop the run at its end


@dataclass(frozen=True)
class Validation:
    """Rows never trained on, each with its document or leaf. Without rows, `why` says why."""

    rows: tuple[TokenRow, ...]
    clusters: tuple[str, ...]
    why: str | None = None


def read_validation(partial: Path, job: Mapping[str, Any], tokenizer: Any, chosen: Preset) -> Validation:
    why = job["validation"]["why"]
    if why:
        return Validation((), (), why)
    longest = min(max(phase.max_tokens for phase in chosen.phases), chosen.pack_tokens)
    rows, clusters = [], []
    for sample in read_lines(partial / FILE, "sample"):
        made = tokenize(sample["id"], sample["messages"], tokenizer, longest)
        if isinstance(made, TokenRow):
            rows.append(made)
            clusters.append(cluster_of(sample))
    why = not_enough(len(rows), len(set(clusters)))
    if why:
        return Validation((), (), f"{why}: the others cannot be learned from")
    return Validation(tuple(rows), tuple(clusters))


def measure(loaded: StudentModel, rows: Sequence[TokenRow], ranks: Ranks, autocast: Autocast) -> list[float]:
    """Mean log-likelihood of each row's target tokens, in nats. Call it on every rank; the first is
    believed."""
    with torch.no_grad(), quiet(loaded.model):
        values = [
            -loaded.losses(loaded.model, [row], ranks.device, autocast).item() / row.target_count
            for row in rows
        ]
    found = torch.tensor(values, dtype=torch.float64, device=ranks.device)
    found = found.nan_to_num(nan=_WORST, neginf=_WORST)
    whole: list[float] = ranks.sum(found if ranks.first else torch.zeros_like(found)).tolist()
    return whole


class Candidates:
    """`planned` is the number of epochs of the last phase."""

    def __init__(self, folder: Path, validation: Validation, planned: int, ranks: Ranks) -> None:
        self._folder, self._validation, self._planned, self._ranks = folder, validation, planned, ranks
        file = folder / "measures.jsonl"
        self._lines: list[dict[str, Any]] = list(read_lines(file)) if file.is_file() else []

    def forget_after(self, position: Position) -> None:
        """Call it on every rank, with a barrier after it."""
        reached = (position.phase, position.step)
        self._lines = [line for line in self._lines if (line["phase"] - 1, line["step"]) <= reached]

    def add(
        self,
        report: StepReport,
        measures: Callable[[Sequence[TokenRow]], list[float]],
        save_model: Callable[[Path], None],
        checkpoint: Callable[[Position], None],
    ) -> None:
        """Call it on every rank after the last step of an epoch."""
        if not self._validation.rows:
            return
        line = {"phase": report.phase, "epoch": report.epoch, "step": report.step}
        self._lines.append(line | {"measures": measures(self._validation.rows)})
        if self._ranks.first:
            write_lines(self._folder / "measures.jsonl", self._lines)
        if report.step == report.steps or self.choice().chosen != len(self._lines) - 1:
            return
        kept = self._kept(len(self._lines) - 1)
        unfinished = kept.with_suffix(".unfinished")
        save_model(unfinished)
        if self._ranks.first:
            shutil.rmtree(kept, ignore_errors=True)
            unfinished.rename(kept)
        checkpoint(Position(report.phase - 1, report.step))
        if self._ranks.first:
            for other in self._folder.iterdir():
                if other.is_dir() and other != kept:
                    shutil.rmtree(other)
        self._ranks.barrier()

    def choice(self) -> Choice:
        if not self._lines:
            return Choice(
                -1, f"the last one, without a choice: {self._validation.why or 'none was measured'}"
            )
        measures = [line["measures"] for line in self._lines]
        return choose(measures, self._validation.clusters, planned=self._planned)

    def put(self, model: Path) -> bool:
        """Move the chosen candidate to `model`; False when it is the last one, which the trainer has."""
        chosen = self.choice().chosen
        if chosen == len(self._lines) - 1:
            return False
        kept = self._kept(chosen)
        if self._ranks.first and kept.is_dir():  # else a run that was killed has moved it already
            shutil.rmtree(model, ignore_errors=True)
            kept.rename(model)
        self._ranks.barrier()
        return True

    def to_json(self, share: float) -> dict[str, Any]:
        """`choice` of `phases.json`."""
        choice = self.choice()
        measures = [line["measures"] for line in self._lines]
        told = compared(measures, self._validation.clusters, choice.chosen) if measures else []
        return {
            "validation_share": share,
            "rows": len(self._validation.rows),
            "documents": len(set(self._validation.clusters)),
            "margin": MARGIN,
            "candidates": [
                {name: line[name] for name in ("phase", "epoch", "step")} | one.to_json()
                for line, one in zip(self._lines, told, strict=True)
            ],
            "chosen": choice.chosen + 1 if measures else None,
            "why": choice.why,
        }

    def _kept(self, index: int) -> Path:
        return self._folder / f"step-{self._lines[index]['step']:08d}"
