"""Tokens a second and MFU of 1B- and 8B-class shapes on one GPU, beside TRL's SFTTrainer; prints a table.

    python bench/tuning/h200.py                  # one call on a GPU (an H200 has room for both shapes)
    python bench/tuning/h200.py --tiny --no-peer # the same code on a CPU at a small size

Random weights and random tokens serve: speed does not depend on what they mean. Weights are bf16 here, for
8B in fp32 with Adam's moments would not fit one GPU; the stage itself keeps fp32 weights and shards them over
ranks. Llama-3.2-1B's and Llama-3.1-8B's published shapes. The peer is used where `trl` can be imported.

MFU counts what is computed (see `gpu_runner/tune/progress.py`); "6N" is the usual 6 x parameters x tokens,
for comparison with other reports.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from gpu_runner.tune.loop import Position, StepReport, make_optimizer, train_phase
from gpu_runner.tune.phases import STACKED
from gpu_runner.tune.progress import peak_flops, shape_of
from gpu_runner.tune.ranks import Ranks
from gpu_runner.tune.student_model import ModelOptions, prepare
from gpu_runner.tune.targets import TokenRow

SHAPES: dict[str, dict[str, Any]] = {
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "tie_word_embeddings": True,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a shape of 0.1 million weights, for a CPU")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps; the first two are not counted")
    parser.add_argument("--batch", type=int, default=128, help="rows a step")
    parser.add_argument("--pack", type=int, default=8192, help="tokens a forward pass")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    name = torch.cuda.get_device_name(0) if gpu else "CPU"
    peak = peak_flops(name)
    pack, batch = (512, 8) if given.tiny else (given.pack, given.batch)
    print(f"{name}, torch {torch.__version__}, packs of {pack}, {batch} rows a step, {given.steps} steps")
    print("| shape | side | tokens/s | MFU | MFU as 6N | peak GB | way |\n|---|---|---|---|---|---|---|")
    for shape in ["tiny"] if given.tiny else ["1B", "8B"]:
        rows = make_rows(batch * given.steps, pack, SHAPES[shape]["vocab_size"])
        sides = ["Treewright"] + ([] if given.no_peer else ["TRL"])
        for side in sides:
            try:
                found = (ours if side == "Treewright" else peer)(
                    shape, rows, batch, pack, device, given.compile
                )
            except (ImportError, RuntimeError) as error:
                print(f"| {shape} | {side} | {str(error).splitlines()[0][:80]} | | | | |")
                continue
            seconds, tokens, flops, weights, way = found
            shares = [flops / seconds / peak, 6.0 * weights * tokens / seconds / peak] if peak else []
            cells = [f"{100 * share:.1f} %" for share in shares] or ["", ""]
            memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if gpu else ""
            shown = [shape, side, f"{tokens / seconds:,.0f}", *cells, memory, way]
            print("| " + " | ".join(shown) + " |")


Found = tuple[float, int, float, int, str]
"""(seconds, tokens, FLOPs, weights, how)"""


def make_rows(count: int, most: int, vocabulary: int) -> list[TokenRow]:
    chance = random.Random(0)
    made = []
    for index in range(count):
        length = max(16, min(most, 4096, round(420 * 2.718281828 ** chance.gauss(0, 0.7))))
        tokens = tuple(chance.choices(range(vocabulary), k=length))
        made.append(TokenRow(f"row-{index}", tokens, tuple(place >= length // 3 for place in range(length))))
    return made


def build(shape: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(max_position_embeddings=8192, **SHAPES[shape])
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def ours(
    shape: str, rows: list[TokenRow], batch: int, pack: int, device: torch.device, compiled: bool
) -> Found:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ranks = Ranks(0, 1, device)
    options = ModelOptions(compile=compiled, activation_checkpointing=True)
    student = prepare(build(shape), ranks, torch.bfloat16, options)
    preset = replace(STACKED, pack_tokens=pack, checkpoint_steps=10**9)
    phase = replace(STACKED.phases[0], epochs=1, effective_batch=batch, learning_rate=1e-6)
    reports: list[StepReport] = []
    train_phase(
        student.model,
        make_optimizer(student.model, preset),
        rows,
        phase,
        preset,
        0,
        Position(),
        ranks,
        save=lambda position: None,
        on_step=reports.append,
        stop=lambda: False,
        autocast=ranks.autocast(torch.float32),  # the weights are bf16 already
        losses=student.losses,
    )
    counted = reports[2:]
    tokens = sum(report.tokens for report in counted)
    share = tokens / sum(report.tokens for report in reports)
    squares = round(share * sum(len(row.tokens) ** 2 for row in rows))
    counts = shape_of(student.model)
    flops = counts.flops(tokens, sum(report.targets for report in counted), squares)
    weights = sum(value.numel() for value in student.model.parameters())
    return sum(report.seconds for report in counted), tokens, flops, weights, str(student.way)


def peer(
    shape: str, rows: list[TokenRow], batch: int, pack: int, device: torch.device, compiled: bool
) -> Found:
    import tempfile

    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = build(shape)
    data = Dataset.from_list(
        [
            {
                "input_ids": list(row.tokens),
                "labels": [t if w else -100 for t, w in zip(row.tokens, row.targets, strict=True)],
            }
            for row in rows
        ]
    )
    tokens = sum(len(row.tokens) for row in rows)
    packs_a_step = max(1, round(tokens / pack / (len(rows) / batch)))
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            packing=True,
            max_length=pack,
            bf16=device.type == "cuda",
            use_cpu=device.type == "cpu",
            per_device_train_batch_size=1,
            gradient_accumulation_steps=packs_a_step,
            gradient_checkpointing=True,
            num_train_epochs=1,
            learning_rate=1e-6,
            optim="adamw_torch_fused",
            torch_compile=compiled,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=_tokenizer(shape))
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
    counts = shape_of(model)
    targets = sum(row.target_count for row in rows)
    flops = counts.flops(tokens, targets, sum(len(row.tokens) ** 2 for row in rows))
    return seconds, tokens, flops, sum(value.numel() for value in model.parameters()), "TRL, packed"


def _tokenizer(shape: str) -> Any:
    """TRL wants one; the rows are tokens already, so it only has to know a padding token."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"t{index}": index for index in range(SHAPES[shape]["vocab_size"])}
    core = Tokenizer(models.WordLevel(vocab=words, unk_token="t0"))  # noqa: S106 - no secret, a word
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="t1", pad_token="t1")  # noqa: S106 - no secret, a word


if __name__ == "__main__":
    main()
