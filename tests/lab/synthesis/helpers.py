"""An endpoint double that answers by rule over real HTTP: for what a flow does with answers, not for their
quality.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from lab.synthesis.endpoints import Endpoint

Rule = Callable[[dict[str, Any]], str | int | list[str]]
"""One text, several samples of one request, or an HTTP status."""


@dataclass
class Model:
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    _wanted: int = 0
    _enough: asyncio.Event | None = None

    def endpoints(self) -> dict[str, Endpoint]:
        return {role: Endpoint(role, self.url, "rule", "r1") for role in ("teacher", "judge", "student")}

    async def reached(self, count: int) -> None:
        """Wait until `count` requests have come."""
        self._wanted, self._enough = count, asyncio.Event()
        self.noticed()
        await self._enough.wait()

    def noticed(self) -> None:
        if self._enough is not None and len(self.asked) >= self._wanted:
            self._enough.set()

    def environment(self) -> dict[str, str]:
        return {f"TREEWRIGHT_{role.upper()}_URL": self.url for role in ("teacher", "judge", "student")}


class Cut(str):
    """An answer that reached its limit of tokens."""


@contextlib.asynccontextmanager
async def model(rule: Rule, delay: float = 0.0) -> AsyncIterator[Model]:
    found = Model()

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        found.asked.append(body)
        found.noticed()
        if delay:
            await asyncio.sleep(delay)
        said = rule(body)
        if isinstance(said, int):
            return web.Response(status=said)
        texts = [said] if isinstance(said, str) else said
        choices = [
            {
                "message": {"content": text},
                "finish_reason": "length" if isinstance(text, Cut) else "stop",
            }
            for text in texts
        ]
        return web.json_response({"choices": choices})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield found
    finally:
        await runner.cleanup()


def asked(body: dict[str, Any]) -> str:
    """The row's own question: the last message, or the one before what could not be read."""
    said: list[str] = [message["content"] for message in body["messages"] if message["role"] == "user"]
    return said[-2] if said[-1].startswith("That could not be read.") else said[-1]


def asker(body: dict[str, Any]) -> str | int:
    """A teacher that turns a fact into a question, and a judge that copies the sentence with the most
    shared words.
    """
    system, last = body["messages"][0]["content"], asked(body)
    if last.startswith("Fact: "):
        subject = " ".join(last.removeprefix("Fact: ").split()[:6])
        opening = body["response_format"]["json_schema"]["schema"]["properties"]["question"]["pattern"]
        return json.dumps({"question": f"{opening[1:].split(' [')[0]} there to say of {subject}?"})
    if "Text: " in system:
        words = set(last.lower().strip("?").split())
        lines = system.split("Text: ")[1].split(". ")
        return max(lines, key=lambda line: len(words & set(line.lower().split())))
    return "I do not know."
