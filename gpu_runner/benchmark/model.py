"""A local model folder, loaded for scoring and for greedy answers. Imported only where a benchmark runs.

Nothing of a folder is ever executed, and pickled weights are not read: remote code is off and safetensors on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_runner.benchmark.scoring import MAX_NEW_TOKENS


class BenchmarkError(RuntimeError):
    """The benchmark cannot run; the message says what is missing and what to do."""


def go_offline() -> None:
    """Before the first import of datasets or huggingface_hub: benchmarks come from the work folder only."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@dataclass(frozen=True)
class LoadedModel:
    """Weights and tokenizer in memory."""

    weights: Any
    tokenizer: Any
    device: str
    dtype: str

    @property
    def batch(self) -> int:
        return 16 if self.device == "cpu" else 64


def placement() -> tuple[str, str]:
    """Device and dtype of this machine. On a CPU fp32: bf16 is rounded differently by every batch shape, and
    the two models of one comparison must differ by their weights alone."""
    import torch

    return ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")


def load(folder: Path) -> LoadedModel:
    """The model in `folder`; BenchmarkError when it has no chat template to ask it with."""
    go_offline()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library has no types here
    device, dtype = placement()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not getattr(tokenizer, "chat_template", None):
        raise BenchmarkError(
            f"{folder}: the tokenizer has no chat template; add one to the folder before tuning"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    weights: Any = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=getattr(torch, dtype),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation="sdpa",
    )
    return LoadedModel(weights.to(device).eval(), tokenizer, device, dtype)


@dataclass(frozen=True)
class Chat:
    """One conversation to be answered. `temperature` 0 is greedy; above it `seed` decides, alone or in any
    batch."""

    messages: tuple[tuple[str, str], ...]
    max_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    seed: int = 0


def answer_all(model: LoadedModel, prompts: Sequence[str], max_tokens: int = MAX_NEW_TOKENS) -> list[str]:
    """The greedy answer to each user message, at most `max_tokens` tokens, in the order of `prompts`."""
    return answer_chats(model, [Chat((("user", prompt),), max_tokens) for prompt in prompts])


def room(model: LoadedModel, chat: Chat) -> int:
    """Tokens left for the answer in the model's context; 0 or less when the conversation fills it."""
    most = getattr(model.weights.config, "max_position_embeddings", None)
    used = len(model.tokenizer(_rendered(model, chat), add_special_tokens=False)["input_ids"])
    return chat.max_tokens if most is None else min(chat.max_tokens, int(most) - used)


def answer_chats(model: LoadedModel, chats: Sequence[Chat]) -> list[str]:
    """The answer to each conversation, in the order of `chats`."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    tokenizer, weights = model.tokenizer, model.weights
    ends = weights.generation_config.eos_token_id
    texts = [_rendered(model, chat) for chat in chats]
    answers = [""] * len(texts)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # little padding
    for start in range(0, len(order), model.batch):
        chosen = order[start : start + model.batch]
        settings = GenerationConfig(  # type: ignore[no-untyped-call]  # the library has no types here
            do_sample=False,
            max_new_tokens=max(chats[index].max_tokens for index in chosen),
            eos_token_id=tokenizer.eos_token_id if ends is None else ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        batch = tokenizer(
            [texts[index] for index in chosen],
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        ).to(model.device)
        noise = [_Noise([chats[index] for index in chosen])]
        with torch.inference_mode():
            made = weights.generate(
                **batch, generation_config=settings, logits_processor=LogitsProcessorList(noise)
            )
        for index, row in zip(chosen, made[:, batch["input_ids"].shape[1] :], strict=True):
            kept = row[: chats[index].max_tokens]
            answers[index] = tokenizer.decode(kept, skip_special_tokens=True).strip()
    return answers


def _rendered(model: LoadedModel, chat: Chat) -> str:
    messages = [{"role": role, "content": content} for role, content in chat.messages]
    return str(model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


class _Noise:
    """Sampling as an argmax over logits with Gumbel noise (Gumbel 1954; Maddison et al. 2014, arXiv
    1411.0030), each row with a generator of its own: rows of different temperatures share a batch, and none
    depends on its neighbours."""

    def __init__(self, chats: Sequence[Chat]) -> None:
        import torch

        self._rows = [
            (row, chat.temperature, torch.Generator().manual_seed(chat.seed))
            for row, chat in enumerate(chats)
            if chat.temperature > 0
        ]

    def __call__(self, _: Any, scores: Any) -> Any:
        import torch

        for row, temperature, generator in self._rows:
            even = torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64)
            gumbel = -torch.log(-torch.log(even.clamp_(1e-300, 1 - 1e-16)))
            scores[row] = scores[row].float() / temperature + gumbel.to(scores.device, torch.float32)
        return scores
