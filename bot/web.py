"""The bot's HTTP side: one webhook, two probes, nothing else.

A delivery is measured, its signature checked over the raw bytes, kept as one row, and answered with 202.
Everything else happens later: GitHub hangs up after 10 seconds and never tries again by itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from bot import audit, signature

LARGEST_DELIVERY = 25 * 1024 * 1024
"""Bytes; GitHub caps payloads at 25 MB (webhook events and payloads)."""
_DELIVERY = re.compile(r"[A-Za-z0-9-]{1,64}")
_EVENT = re.compile(r"[a-z_]{1,64}")


class Inbox(Protocol):
    def accept(self, delivery: str, body_digest: str, event: str, body: bytes) -> bool: ...


class Behind(Protocol):
    """What stands behind the web: started and stopped with it."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def wake(self) -> None: ...
    def troubles(self) -> list[str]: ...


async def _read(request: Request, limit: int) -> bytes | None:
    """The whole body, or None as soon as it is larger than `limit`."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        return None
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
    return b"".join(parts)


def application(inbox: Inbox, secrets: Sequence[bytes], behind: Callable[[], Behind]) -> FastAPI:
    """The ASGI app. `behind()` is called once, when the server starts."""
    running: list[Behind] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        back = behind()
        await run_in_threadpool(back.start)
        running.append(back)
        try:
            yield
        finally:
            running.clear()
            await run_in_threadpool(back.stop)

    app = FastAPI(title="Treewright bot", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.post("/webhook")
    async def webhook(request: Request) -> JSONResponse:
        body = await _read(request, LARGEST_DELIVERY)
        if body is None:
            return _answer(413, "the payload is larger than 25 MB")
        if not signature.verify(secrets, body, request.headers.get(signature.HEADER)):
            audit.trouble("delivery with a wrong signature", size=len(body))
            return _answer(401, "the signature does not match")
        delivery = request.headers.get("x-github-delivery", "")
        event = request.headers.get("x-github-event", "")
        if not _DELIVERY.fullmatch(delivery) or not _EVENT.fullmatch(event):
            return _answer(400, "the delivery's id or event is missing")
        digest = "sha256:" + hashlib.sha256(event.encode() + b"\n" + body).hexdigest()
        fresh = await run_in_threadpool(inbox.accept, delivery, digest, event, body)
        if fresh:
            for back in running:
                back.wake()
        return _answer(202, "accepted" if fresh else "seen before")

    @app.get("/healthz")
    async def alive() -> JSONResponse:
        return _answer(200, "alive")

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        if not running:
            return _answer(503, "starting or stopping")
        troubles = await run_in_threadpool(running[0].troubles)
        return _answer(503, "; ".join(troubles)) if troubles else _answer(200, "ready")

    return app


def _answer(status: int, message: str) -> JSONResponse:
    return JSONResponse({"message": message}, status_code=status)
