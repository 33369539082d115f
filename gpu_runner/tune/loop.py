"""The training loop: one phase, read from top to bottom.

What makes it exact: the loss of a step is the sum of its token losses over the target tokens of the whole
effective batch, over accumulation and ranks alike, so splitting a batch differently changes nothing but
rounding. Rows lie one after the other without padding; transformers keeps them apart by their restarting
positions, but only without an attention mask and without a cache (an all-ones mask silently lets rows see
each other). Logits are computed at target positions only. Weights are fp32 and the arithmetic bf16 by
autocast: bf16 weights would round small updates away.

A checkpoint may fall between any two micro-steps, so it holds the gradients too; a resumed run gives the
same losses, bit for bit, on the same machine.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from gpu_runner.tune.packing import pack
from gpu_runner.tune.phases import Phase, Preset
from gpu_runner.tune.ranks import Ranks
from gpu_runner.tune.targets import TokenRow


class TrainingStoppedError(RuntimeError):
    """Somebody asked the run to stop; its state was saved and the same command goes on from there."""


class LossNotFiniteError(RuntimeError):
    """The loss or the gradient is NaN or infinite; the message says where and what to try."""


class OutOfMemoryError(RuntimeError):
    """One forward and backward pass did not fit; the message says how large it was and what to set."""


@dataclass(frozen=True)
class Position:
    """Where a run stands: what comes next is micro-step `micro` of optimizer step `step` of phase `phase`,
    all from 0. `loss_sum` is the sum of token losses of this step's earlier micro-steps on this run's
    ranks.
    """

    phase: int = 0
    step: int = 0
    micro: int = 0
    loss_sum: float = 0.0


@dataclass(frozen=True)
class StepReport:
    """One optimizer step. `loss` is per target token; `gradient_norm` is before clipping; `seconds` is wall
    time.
    """

    phase: int
    epoch: int
    step: int
    steps: int
    loss: float
    rows: int
    tokens: int
    targets: int
    learning_rate: float
    gradient_norm: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 3)}


Save = Callable[[Position], None]
Autocast = Callable[[], AbstractContextManager[Any]]
Losses = Callable[[nn.Module, Sequence[TokenRow], torch.device, Autocast], Tensor]
"""Sum over the rows' target tokens of the cross-entropy, in fp32."""


def batches(rows: int, phase: Phase, phase_index: int, seed: int) -> list[tuple[int, list[int]]]:
    """(epoch, row positions) per optimizer step. Every epoch has its own order; its last batch may be
    smaller.
    """
    steps = []
    for epoch in range(phase.epochs):
        order = list(range(rows))
        random.Random(f"{seed}/{phase_index}/{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
        steps += [
            (epoch, order[start : start + phase.effective_batch])
            for start in range(0, rows, phase.effective_batch)
        ]
    return steps


def warmup_steps(phase: Phase, steps: int) -> int:
    """A tenth of the phase at most: a preset's count is meant for its own size of run."""
    return min(phase.warmup_steps, steps // 10)


def learning_rate_at(phase: Phase, step: int, steps: int) -> float:
    warmup = warmup_steps(phase, steps)
    if step < warmup:
        return phase.learning_rate * (step + 1) / (warmup + 1)
    if phase.schedule == "cosine":
        return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    return phase.learning_rate


def make_optimizer(model: nn.Module, preset: Preset) -> torch.optim.Optimizer:
    # The rate is set at each step.
    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=0.0,
        betas=preset.betas,
        eps=preset.epsilon,
        weight_decay=preset.weight_decay,
        fused=True,  # a third of the time of the plain one on 2 CPU cores
    )


def train_phase(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[TokenRow],
    phase: Phase,
    preset: Preset,
    seed: int,
    start: Position,
    ranks: Ranks,
    *,
    save: Save,
    on_step: Callable[[StepReport], None],
    stop: Callable[[], bool],
    autocast: Autocast,
    losses: Losses | None = None,
) -> None:
    """Train from `start` to the phase's end. Gradients of an unfinished step must be in the model when
    `start.micro` > 0. `losses` is the student's own way (`student_model.py`), `token_losses` by default.
    Raises TrainingStoppedError after saving when `stop()` turns true, LossNotFiniteError, and
    OutOfMemoryError."""
    losses = losses or token_losses
    plan = batches(len(rows), phase, start.phase, seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    for step in range(start.step, len(plan)):
        began = time.monotonic()
        epoch, batch = plan[step]
        micro_steps = pack([len(rows[index].tokens) for index in batch], preset.pack_tokens, ranks.size)
        targets = sum(rows[index].target_count for index in batch)
        first = start.micro if step == start.step else 0
        loss_sum = torch.zeros((), dtype=torch.float64, device=ranks.device)
        if first:
            loss_sum += start.loss_sum

        for micro in range(first, len(micro_steps)):
            chosen = [rows[batch[place]] for place in micro_steps[micro][ranks.rank]]
            try:
                loss = losses(model, chosen or [rows[0]], ranks.device, autocast)
                if not chosen:  # fewer rows than ranks: take part in the collectives, add nothing
                    loss = loss * 0.0
                torch.autograd.backward(loss * (ranks.gradient_scale / targets))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise _out_of_memory(phase, step, len(plan), chosen, preset.pack_tokens) from error
            loss_sum += loss.detach()
            last = micro + 1 == len(micro_steps)
            if not last and ranks.size == 1 and stop():
                save(Position(start.phase, step, micro + 1, loss_sum.item()))
                raise TrainingStoppedError(
                    f"stopped in phase {start.phase + 1}, step {step + 1} of {len(plan)}"
                )

        loss_mean = ranks.sum(loss_sum).item() / targets
        norm = ranks.whole(nn.utils.clip_grad_norm_(parameters, preset.clip_norm)).item()
        rate = learning_rate_at(phase, step, len(plan))
        if not math.isfinite(loss_mean) or not math.isfinite(norm):
            raise _not_finite(phase, step, len(plan), loss_mean, norm, rate, [rows[i].id for i in batch])
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        on_step(
            StepReport(
                phase=start.phase + 1,
                epoch=epoch + 1,
                step=step + 1,
                steps=len(plan),
                loss=loss_mean,
                rows=len(batch),
                tokens=sum(len(rows[index].tokens) for index in batch),
                targets=targets,
                learning_rate=rate,
                gradient_norm=norm,
                seconds=time.monotonic() - began,
            )
        )
        here = Position(start.phase, step + 1)
        asked = ranks.any(stop())
        if step + 1 < len(plan) and (asked or (step + 1) % preset.checkpoint_steps == 0):
            save(here)
        if asked and step + 1 < len(plan):
            raise TrainingStoppedError(
                f"stopped in phase {start.phase + 1} after step {step + 1} of {len(plan)}"
            )


def token_losses(
    model: nn.Module,
    rows: Sequence[TokenRow],
    device: torch.device,
    autocast: Autocast,
) -> Tensor:
    """The plain way, which most models of transformers know: all rows in the model's own forward pass."""
    tokens, positions, where, labels = flatten(rows)
    with autocast():
        logits = model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=None,
            use_cache=False,
            logits_to_keep=torch.tensor(where, device=device),
        ).logits[0]
    return F.cross_entropy(logits.float(), torch.tensor(labels, device=device), reduction="sum")


def flatten(rows: Sequence[TokenRow]) -> tuple[list[int], list[int], list[int], list[int]]:
    """(tokens, restarting positions, places whose logits are needed, the token to predict at each)."""
    tokens: list[int] = []
    positions: list[int] = []
    where: list[int] = []
    labels: list[int] = []
    for row in rows:
        offset = len(tokens)
        tokens += row.tokens
        positions += range(len(row.tokens))
        for place in range(1, len(row.tokens)):
            if row.targets[place]:
                where.append(offset + place - 1)
                labels.append(row.tokens[place])
    return tokens, positions, where, labels


def _not_finite(
    phase: Phase, step: int, steps: int, loss: float, norm: float, rate: float, ids: Sequence[str]
) -> LossNotFiniteError:
    shown = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
    return LossNotFiniteError(
        f"{phase.name}, step {step + 1} of {steps}: loss {loss}, gradient norm {norm} at learning rate "
        f"{rate:g}. Nothing was updated with it. Rows of this step: {shown}. Try a lower "
        "tune.overrides.learning_rate; if it is the first step, the student's own weights are broken."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """torch has a class for it on GPUs only; on a CPU it is a RuntimeError that says so."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )


def _out_of_memory(
    phase: Phase, step: int, steps: int, rows: Sequence[TokenRow], pack_tokens: int
) -> OutOfMemoryError:
    tokens, longest = sum(len(row.tokens) for row in rows), max((len(row.tokens) for row in rows), default=0)
    advice = (
        f"Set tune.overrides.pack_tokens below {pack_tokens}, half of it say (the longest row here has "
        f"{longest} tokens): the same command then goes on from the last checkpoint, for packs change "
        "rounding only"
        if len(rows) > 1
        else "That is one single row: leave long rows out with tune.overrides.max_tokens, or take more ranks"
    )
    return OutOfMemoryError(
        f"{phase.name}, step {step + 1} of {steps}: out of memory in a pass of {tokens} tokens, "
        f"{len(rows)} rows. {advice}."
    )
