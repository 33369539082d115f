"""A loaded model as an OpenAI-compatible endpoint on this machine, for as long as a block lasts.

    with answering(model, name) as endpoint:
        await engine.chat(endpoint, messages, {"max_tokens": 200, "temperature": 0.7, "seed": 1})

MT-Bench speaks to base and candidate through the same request engine as to any other endpoint, so that its
answers are stored, resumed and retried in one place; and a machine that has the weights loaded needs no
second server for them. Requests that are waiting are answered together in one batch. Loopback only.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from gpu_runner.benchmark.model import Chat, LoadedModel, answer_chats, room
from lab.synthesis.endpoints import Endpoint

_ROLES = ("system", "user", "assistant")
_MOST_TOKENS = 8192


class _Waiting:
    """A request and the place where its answer will be."""

    def __init__(self, chat: Chat, loop: asyncio.AbstractEventLoop) -> None:
        self.chat = chat
        self._loop = loop
        self.answer: asyncio.Future[str] = loop.create_future()

    def give(self, text: str | Exception) -> None:
        self._loop.call_soon_threadsafe(self._settle, text)

    def _settle(self, text: str | Exception) -> None:
        if not self.answer.done():  # the client may have gone
            if isinstance(text, Exception):
                self.answer.set_exception(text)
            else:
                self.answer.set_result(text)


@contextmanager
def answering(model: LoadedModel, name: str, revision: str = "local") -> Iterator[Endpoint]:
    """The endpoint of a loaded model. `name` and `revision` are the identity under which answers are kept."""
    waiting: queue.Queue[_Waiting | None] = queue.Queue()
    loop = asyncio.new_event_loop()
    server = threading.Thread(target=loop.run_forever, daemon=True)
    worker = threading.Thread(target=_work, args=(model, waiting), daemon=True)
    server.start()
    worker.start()
    runner = asyncio.run_coroutine_threadsafe(_start(loop, waiting), loop).result(10)
    try:
        port = runner.addresses[0][1]
        yield Endpoint("student", f"http://127.0.0.1:{port}/v1", name, revision)
    finally:
        waiting.put(None)
        worker.join()
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        server.join()
        loop.close()


async def _start(loop: asyncio.AbstractEventLoop, waiting: queue.Queue[_Waiting | None]) -> web.AppRunner:
    async def complete(request: web.Request) -> web.Response:
        try:
            chat = _chat(await request.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return web.json_response({"error": f"not a chat request: {error}"}, status=400)
        one = _Waiting(chat, loop)
        waiting.put(one)
        try:
            text = await one.answer
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        message = {"role": "assistant", "content": text}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    app = web.Application(client_max_size=8 << 20)
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


def _chat(body: Any) -> Chat:
    messages = tuple((str(one["role"]), str(one["content"])) for one in body["messages"])
    if not messages or any(role not in _ROLES for role, _ in messages):
        raise ValueError("messages need roles of system, user and assistant")
    tokens = int(body.get("max_tokens") or 256)
    if not 0 < tokens <= _MOST_TOKENS:
        raise ValueError(f"max_tokens is from 1 to {_MOST_TOKENS}")
    return Chat(messages, tokens, float(body.get("temperature") or 0.0), int(body.get("seed") or 0))


def _work(model: LoadedModel, waiting: queue.Queue[_Waiting | None]) -> None:
    """Answer what waits, as much at once as the model's batch holds, until told to end."""
    ending = False
    while not ending:
        batch = [waiting.get()]
        while batch[-1] is not None and len(batch) < model.batch:
            try:
                batch.append(waiting.get(timeout=0.02))
            except queue.Empty:
                break
        ending = batch[-1] is None
        asked = [one for one in batch if one is not None]
        fitting = []
        for one in asked:
            try:
                left = room(model, one.chat)
            except Exception as error:  # a template that refuses it: whoever asked must hear, and all others
                one.give(ValueError(f"the chat template cannot render it: {error}"))
                continue
            if left <= 0:
                one.give(ValueError("the conversation fills the model's context"))
            else:
                chat = Chat(one.chat.messages, left, one.chat.temperature, one.chat.seed)
                fitting.append((one, chat))
        if not fitting:
            continue
        try:
            answers = answer_chats(model, [chat for _, chat in fitting])
        except Exception as error:  # a batch that fails must answer everybody in it
            for one, _ in fitting:
                one.give(error)
            continue
        for (one, _), text in zip(fitting, answers, strict=True):
            one.give(text)
