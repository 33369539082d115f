"""Small data sets of our own writing with the columns of the public ones, as a data set's repository has
them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lab.synthesis.endpoints import Endpoint

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
