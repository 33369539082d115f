"""The peer's side of the tuning bench: one epoch of TRL's SFTTrainer, packed; prints one JSON line.

Its own best settings on a CPU: bf16 arithmetic over fp32 weights, fused AdamW, packs of the same size, one
pack a forward pass (a longer one is slower on a CPU, since attention is quadratic), loss on the completion.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.cpu, self.wall = _cpu(), time.monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.cpu, self.wall = _cpu() - self.cpu, time.monotonic() - self.wall

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    job: dict[str, Any] = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(job["student"], local_files_only=True)
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["question"]}],
                "completion": [{"role": "assistant", "content": row["answer"]}],
            }
            for row in job["rows"]
        ]
    )
    model = AutoModelForCausalLM.from_pretrained(job["student"], dtype=torch.float32, local_files_only=True)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=True,
            packing=True,
            packing_strategy="bfd",
            max_length=job["pack_tokens"],
            per_device_train_batch_size=1,
            gradient_accumulation_steps=job["packs_a_step"],
            num_train_epochs=1,
            learning_rate=job["learning_rate"],
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            adam_beta2=0.95,
            weight_decay=0.0,
            max_grad_norm=1.0,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        )
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock]
        )
        packs = trainer.train_dataset
        tokens = sum(len(pack["input_ids"]) for pack in packs)
        trainer.train()
        steps = trainer.state.global_step
    print(
        json.dumps(
            {
                "tokens": tokens,
                "targets": None,
                "steps": steps,
                "loss": clock.losses[0],
                "cpu": clock.cpu,
                "wall": clock.wall,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
