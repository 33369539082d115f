"""Run by `test_ranks.py` in two gloo processes: gradients of one effective batch, whole, to a file.

python -m torch.distributed.run --standalone --nproc-per-node=2 two_ranks.py OUTPUT
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from gpu_runner.tune.loop import Position, train_phase
from gpu_runner.tune.phases import EMBEDDED_CPU
from gpu_runner.tune.ranks import Ranks, ranks_from_environment
from gpu_runner.tune.student_model import ModelOptions, prepare
from gpu_runner.tune.targets import TokenRow


def rows(count: int) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(count):
        length = int(torch.randint(8, 60, (1,), generator=generator))
        learned = int(torch.randint(1, length - 1, (1,), generator=generator))
        tokens = torch.randint(0, 250, (length,), generator=generator).tolist()
        made.append(
            TokenRow(f"row-{index}", tuple(tokens), tuple(i >= length - learned for i in range(length)))
        )
    return made


def tiny_model() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=258,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )


class Recorder(torch.optim.SGD):
    """A real optimizer that keeps what it was given and changes nothing."""

    seen: list[Any]

    def step(self, closure: Any = None) -> None:
        self.seen = [value.grad.clone() for group in self.param_groups for value in group["params"]]


def gradients(ranks: Ranks, count: int = 13) -> dict[str, torch.Tensor]:
    """Of one step over all rows, in packs of 96 tokens, by name."""
    student = prepare(tiny_model(), ranks, torch.float32, ModelOptions())
    optimizer = Recorder(student.model.parameters(), lr=0.0)
    preset = replace(EMBEDDED_CPU, pack_tokens=96, clip_norm=1e9)
    phase = replace(EMBEDDED_CPU.phases[0], epochs=1, effective_batch=count, warmup_steps=0)
    train_phase(
        student.model, optimizer, rows(count), phase, preset, 0, Position(), ranks,
        save=lambda position: None, on_step=lambda report: None, stop=lambda: False,
        autocast=nullcontext, losses=student.losses,
    )  # fmt: skip
    names = [name for name, _ in student.model.named_parameters()]
    return {name: ranks.whole(value) for name, value in zip(names, optimizer.seen, strict=True)}


if __name__ == "__main__":
    with ranks_from_environment() as everybody:
        found = gradients(everybody)
        if everybody.first:
            torch.save(found, sys.argv[1])
