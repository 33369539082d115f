"""An OpenAI-compatible test server as cheap as Python allows: a raw asyncio protocol, on uvloop where it is
installed, in a process of its own.

    python bench/synthesis/server.py --latency 0.2 --faults 0.01 --capacity 256

Prints its address as one line of JSON. `GET /stats` tells what it saw; `POST /reset` forgets it. Every answer
is the same text of 60 words, or what `--echo` makes of the question. A fault is HTTP 500, always
for the same questions (chosen by a digest of the request), so that repeating does not help and exactly those
rows are lost. `--capacity` is how many requests are served at once; more wait, as in a real server.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import hashlib
import json
from typing import Any

WORDS = " ".join(f"word{number}" for number in range(60))


class State:
    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.reset()
        self.free = given.capacity
        self.queue: collections.deque[Server] = collections.deque()
        self.echo = given.echo
        self.answer = self.wrap(WORDS)

    def reset(self) -> None:
        self.requests = self.faults = self.in_flight = self.peak = self.finished = 0
        self.seen: dict[bytes, int] = {}
        self.done: dict[bytes, int] = {}

    def wrap(self, text: str) -> bytes:
        value = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "bench",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                    "logprobs": None,
                }
            ],
            "usage": {"prompt_tokens": 200, "completion_tokens": 60, "total_tokens": 260},
        }
        raw = json.dumps(value).encode()
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(raw)
            + raw
        )

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "finished": self.finished,
            "faults": self.faults,
            "peak": self.peak,
            "distinct": len(self.seen),
            "repeated": sum(count - 1 for count in self.seen.values()),
            "answered_twice": sum(count > 1 for count in self.done.values()),
        }


FAULT = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n"
FAULT += b'{"error": "broken"'[:17] + b"}"


class Server(asyncio.Protocol):
    def __init__(self, state: State) -> None:
        self.state = state
        self.buffer = b""
        self.transport: Any = None
        self.key = b""
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            total = end + 4 + length
            if len(self.buffer) < total:
                return
            body, first = self.buffer[end + 4 : total], head.split(b"\r\n", 1)[0]
            self.buffer = self.buffer[total:]
            self.request(first, body)

    def request(self, first: bytes, body: bytes) -> None:
        state = self.state
        if b"/v1/completions" in first:
            state.requests += 1
            asyncio.get_running_loop().call_later(state.given.latency, self.send, completions(body))
            return
        if b"/chat/completions" not in first:
            if b"/reset" in first:
                state.reset()
            raw = json.dumps({"data": [{"id": "bench"}], **state.stats()}).encode()
            self.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(raw)
                + raw
            )
            return
        self.key, self.body = hashlib.blake2b(body, digest_size=8).digest(), body
        state.requests += 1
        state.seen[self.key] = state.seen.get(self.key, 0) + 1
        state.in_flight += 1
        state.peak = max(state.peak, state.in_flight)
        if state.free > 0:
            state.free -= 1
            self.start()
        else:
            state.queue.append(self)

    def start(self) -> None:
        if self.state.given.latency:
            asyncio.get_running_loop().call_later(self.state.given.latency, self.finish)
        else:
            self.finish()

    def finish(self) -> None:
        state = self.state
        state.in_flight -= 1
        if state.given.faults and int.from_bytes(self.key[:4], "big") < state.given.faults * 2**32:
            state.faults += 1
            self.send(FAULT)
        else:
            state.finished += 1
            state.done[self.key] = state.done.get(self.key, 0) + 1
            self.send(state.wrap(answer(self.body)) if state.echo else state.answer)
        if state.queue:
            state.queue.popleft().start()
        else:
            state.free += 1

    def send(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


def answer(body: bytes) -> str:
    """By rule, for whole flows: a teacher that turns its fact into a question, and a judge that copies the
    sentence which shares most words with the question.
    """
    value = json.loads(body)
    system, last = value["messages"][0]["content"], value["messages"][-1]["content"]
    if last.startswith("Fact: "):
        opening = value["response_format"]["json_schema"]["schema"]["properties"]["question"]["pattern"]
        told = last.removeprefix("Fact: ").rstrip(".").split()
        subject = " ".join(told[: max(len(told) // 2, 4)])
        return json.dumps({"question": f"{opening[1:].split(' [')[0]} there to say of {subject}?"})
    if "Text: " in system:
        words = set(last.lower().strip("?").split())
        lines = system.split("Text: ")[1].split(". ")
        return str(max(lines, key=lambda line: len(words & set(line.lower().split()))))
    return "Yes"


def completions(body: bytes) -> bytes:
    """The older endpoint, with a list of prompts in one request, which instructlab-sdg uses."""
    value = json.loads(body)
    count = (len(value["prompt"]) if isinstance(value["prompt"], list) else 1) * value.get("n", 1)
    choices = [{"index": number, "text": WORDS, "finish_reason": "stop"} for number in range(count)]
    made = {"id": "x", "object": "text_completion", "created": 1, "model": "bench", "choices": choices}
    raw = json.dumps(made).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw


async def main() -> None:
    given = _arguments()
    state = State(given)
    server = await asyncio.get_running_loop().create_server(
        lambda: Server(state), "127.0.0.1", 0, backlog=2048
    )
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"}), flush=True)
    await asyncio.Event().wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds from request to answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of questions that get HTTP 500")
    parser.add_argument("--capacity", type=int, default=1_000_000, help="requests served at once")
    parser.add_argument("--echo", action="store_true", help="answer by a rule, for whole flows")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
