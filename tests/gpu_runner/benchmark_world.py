"""Small data sets of our own writing with the columns of the public ones, as a data set's repository has
them."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lab.contracts import schema, write_json, write_lines
from lab.synthesis.endpoints import Endpoint
from lab.synthesis.items import HeldOut

COMMIT = "0123456789abcdef0123456789abcdef01234567"

_FACTS = (
    ("What do bees make?", "honey", ("bricks", "paper money", "window glass")),
    ("What colour is fresh snow?", "white", ("purple", "green", "orange")),
    ("Which animal barks?", "a dog", ("a fish", "a snail", "a worm")),
    ("What falls from clouds?", "rain", ("apples", "stones", "chairs")),
    ("What is ice made of?", "frozen water", ("burnt wood", "hard sugar", "old iron")),
    ("What do people read?", "books", ("soup", "shoes", "doors")),
)


def _choice(index: int) -> tuple[str, list[str], int]:
    question, right, wrong = _FACTS[index % len(_FACTS)]
    key = index % 4
    choices = list(wrong)
    choices.insert(key, right)
    return f"{question} (number {index})", choices, key


def _mmlu(index: int) -> dict[str, Any]:
    question, choices, key = _choice(index)
    return {"question": question, "subject": "anatomy", "choices": choices, "answer": key}


def _arc(index: int) -> dict[str, Any]:
    question, choices, key = _choice(index)
    return {
        "id": f"our_{index}",
        "question": question,
        "choices": {"text": choices, "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[key],
    }


def _hellaswag(index: int) -> dict[str, Any]:
    _, choices, key = _choice(index)
    return {
        "ind": index,
        "activity_label": "Making tea",
        "ctx_a": f"A person fills kettle {index} with water.",
        "ctx_b": "the person",
        "ctx": f"A person fills kettle {index} with water. the person",
        "endings": [f"then thinks about {choice} [title] and waits." for choice in choices],
        "label": str(key),
    }


def _winogrande(index: int) -> dict[str, Any]:
    return {
        "sentence": f"Case {index}: Anna gave Maria a present because _ had a birthday.",
        "option1": "Anna",
        "option2": "Maria",
        "answer": str(1 + index % 2),
    }


def _gsm8k(index: int) -> dict[str, Any]:
    return {
        "question": f"Tom has {index} apples and buys 2 more. How many apples does he have?",
        "answer": f"He has {index} + 2 = <<{index}+2={index + 2}>>{index + 2} apples.\n#### {index + 2}",
    }


ROWS = {
    "arc_challenge": _arc,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "gsm8k": _gsm8k,
    "mmlu": _mmlu,
}


def files(name: str, folder: Path, rows: int = 30, suffix: str = "-00000-of-00001.parquet") -> Iterator[str]:
    """Write what the repository of `name` holds below `folder`; gives each file's path in it."""
    from datasets import Dataset, disable_progress_bars

    from gpu_runner.benchmark.staging import SOURCES, wanted

    disable_progress_bars()
    made = Dataset.from_list([ROWS[name](index) for index in range(rows)])
    few = Dataset.from_list([ROWS[name](index + 100) for index in range(5)])
    for _, split, pattern in wanted(SOURCES[name]):
        path = folder / pattern.replace("-*.parquet", suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = few if split == "dev" else made
        if suffix.endswith(".parquet"):
            data.to_parquet(path)
        else:
            data.to_json(path)
        yield path.relative_to(folder).as_posix()


Rule = Callable[[str], str]


@contextmanager
def endpoint_of(rule: Rule, asked: list[str] | None = None) -> Iterator[Endpoint]:
    """A judge over real HTTP that answers by a rule on the last message: for what is done with its words."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            if asked is not None:
                asked.append(text)
            data = json.dumps({"choices": [{"message": {"content": rule(text)}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Endpoint("judge", f"http://127.0.0.1:{server.server_port}/v1", "rule", "r1")
        finally:
            server.shutdown()


# ---- a work folder as the earlier stages leave it, with a model of random weights

LEAF = "knowledge/geography/farne_mora"
ZERO = "sha256:" + "0" * 64
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny(folder: Path, seed: int, template: str | None = CHATML) -> Path:
    """A two-layer Llama with random weights and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = {character: n for n, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


GENERAL = [
    {
        "id": "n-1",
        "question": "Which animal says moo?",
        "choices": ["a cow", "a cat"],
        "key": 0,
        "topic": "n",
    },
    {
        "id": "n-2",
        "question": "{{ 1/0 }} {% for %} 7",
        "choices": ["{{x}}", "[1]", "7"],
        "key": 2,
        "topic": "n",
    },
    {"id": "n-3", "question": "12", "choices": ["1", "22", "three"], "key": 1, "topic": "n"},
]


def held_out(index: int, **more: Any) -> dict[str, Any]:
    item = {
        "leaf": LEAF,
        "question": f"What is fact {index}?",
        "answer": "green",
        "choices": ["red", "green", "blue", "grey"],
        "key": 1,
        "context": None,
        "seed": index // 2,
        **more,
    }
    return HeldOut.from_json(item).to_json()


def work_folder(
    root: Path,
    candidate: Path,
    items: list[dict[str, Any]],
    general: list[Any] = GENERAL,
    config: Mapping[str, Any] | None = None,
    chunks: list[dict[str, Any]] | None = None,
) -> Path:
    leaf: Mapping[str, Any] = {
        "path": LEAF,
        "slug": LEAF.replace("/", "--"),
        "kind": "knowledge",
        "changed": True,
        "change": "added",
        "digest": ZERO,
        "created_by": "someone",
        "task_description": "",
        "domain": "Geography",
        "few_shot": [],
        "heldout": len(items),
        "chunks": 0,
        "documents": [],
        "rows": 1,
        "pull_requests": [],
    }
    other = {**leaf, "path": "knowledge/old/leaf", "changed": False, "change": "unchanged"}
    plan = {**schema("plan")["examples"][0], "leaves": [{**leaf, "chunks": len(chunks or [])}, other]}
    write_json(root / "plan" / "plan.json", {**plan, "config": dict(config or {})})
    write_lines(root / "plan" / "chunks.jsonl", chunks or [])
    write_lines(root / "plan" / "heldout.jsonl", items)
    write_lines(root / "plan" / "general.jsonl", general)
    shutil.copytree(candidate, root / "tune" / "model")
    return root
