"""What a run tells while it goes: metrics as JSON lines, progress with time left, MFU, TensorBoard.

MFU (model FLOPs utilisation, Chowdhery et al. 2022, arXiv 2204.02311, appendix B) is counted for what is
really computed: 6 FLOPs a weight and token of the body, 6 a weight of the head and *target* (no logits are
made elsewhere), and attention between tokens of one row only. Recomputed activations do not count.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_runner.tune.loop import Position, StepReport, batches
from gpu_runner.tune.phases import Preset
from gpu_runner.tune.targets import TokenRow
from lab.contracts import read_lines, write_lines

Say = Callable[[str], None]

PEAKS: tuple[tuple[str, float], ...] = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L4", 121e12),
)
"""bf16 FLOP/s without sparsity, by what `torch.cuda.get_device_name` contains, first hit. Source: NVIDIA's
data sheets of each product, whose figures with sparsity are halved; of A10G, AWS's page of its G5 instances.
A name that is not here has no MFU."""


def peak_flops(device_name: str) -> float | None:
    """Whole names only: an L40 is no L4, and an RTX A1000 no A100."""
    return next((peak for name, peak in PEAKS if re.search(rf"\b{name}\b", device_name)), None)


@dataclass(frozen=True)
class Shape:
    """What FLOPs are counted from. `body`: weights of the layers; `head`: weights of the output matrix;
    `attention`: layers x heads x head size."""

    body: int
    head: int
    attention: int

    def flops(self, tokens: int, targets: int, squares: int) -> float:
        """Of one forward and backward pass; `squares` is the sum of squared row lengths. Causal attention is
        half of a full one: two products of 2 x length^2 / 2, three times."""
        return 6.0 * (self.body * tokens + self.head * targets + self.attention * squares)


def shape_of(model: Any) -> Shape:
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    head = model.get_output_embeddings().weight.numel()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    every = sum(value.numel() for value in model.parameters())
    embeddings = model.get_input_embeddings().weight.numel()
    return Shape(
        body=every - embeddings - (0 if tied else head),
        head=head,
        attention=config.num_hidden_layers * config.num_attention_heads * size,
    )


class Metrics:
    """`metrics.jsonl`: one line per optimizer step, on the first rank only."""

    def __init__(self, path: Path, writes: bool) -> None:
        self._path, self._writes = path, writes

    def add(self, line: dict[str, Any]) -> None:
        if self._writes:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, sort_keys=True) + "\n")

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

    def step(self, report: StepReport, mfu: float | None = None) -> None:
        self._tokens += report.tokens
        self._seconds += report.seconds
        self._left = max(0, self._left - report.tokens)
        now = time.monotonic()
        if report.step not in (1, report.steps) and now - self._last < self._every:
            return
        self._last = now
        speed = self._tokens / max(self._seconds, 1e-9)
        left = self._left / speed
        used = "" if mfu is None else f", MFU {100 * mfu:.1f} %"
        self._say(
            f"phase {report.phase} epoch {report.epoch} step {report.step}/{report.steps}: "
            f"loss {report.loss:.4f}, {speed:.0f} tokens/s{used}, {int(left // 60)}:{int(left % 60):02d} left"
        )


class BoardError(RuntimeError):
    """TensorBoard files were asked for and cannot be written; the message says what to install."""


class Board:
    """Event files for TensorBoard, one curve a number; a resumed run writes its steps once more."""

    def __init__(self, folder: str | None, writes: bool) -> None:
        self._writer: Any = None
        self._steps = 0
        if folder and writes:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise BoardError("TensorBoard files need tensorboardX: pip install tensorboardX") from error
            self._writer = SummaryWriter(folder)

    def add(self, line: dict[str, Any], before: int) -> None:
        """`before` is the number of optimizer steps of the run before this line's."""
        if self._writer is None:
            return
        for name in ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "mfu"):
            if line.get(name) is not None:
                self._writer.add_scalar(f"tune/{name}", line[name], before + 1)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
