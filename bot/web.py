"""The bot's HTTP side: one webhook, two probes, the metrics, and the operators' page when it is wanted.

A delivery is measured, its signature checked over the raw bytes, kept as one row, and answered with 202.
Everything else happens later: GitHub hangs up after 10 seconds and never tries again by itself.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from bot import audit, metrics, signature

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


def application(
    inbox: Inbox,
    secrets: Sequence[bytes],
    behind: Callable[[], Behind],
    page: Callable[[], bytes] | None = None,
    more: Callable[[Callable[[], list[str]]], APIRouter | None] | None = None,
) -> FastAPI:
    """The ASGI app. `behind()` is called once, when the server starts; `page()` makes the metrics; `more`
    makes further routes, which may ask what keeps the bot from working.
    """
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

    def troubles() -> list[str]:
        return running[0].troubles() if running else ["starting or stopping"]

    @app.post("/webhook")
    async def webhook(request: Request) -> JSONResponse:
        begun = time.monotonic()
        outcome, answer = await _take(request)
        metrics.ACKS.labels(outcome).inc()
        metrics.ACK_SECONDS.observe(time.monotonic() - begun)
        return answer

    async def _take(request: Request) -> tuple[str, JSONResponse]:
        body = await _read(request, LARGEST_DELIVERY)
        if body is None:
            return "too large", _answer(413, "the payload is larger than 25 MB")
        if not signature.verify(secrets, body, request.headers.get(signature.HEADER)):
            audit.trouble("delivery with a wrong signature", size=len(body))
            return "bad signature", _answer(401, "the signature does not match")
        delivery = request.headers.get("x-github-delivery", "")
        event = request.headers.get("x-github-event", "")
        if not _DELIVERY.fullmatch(delivery) or not _EVENT.fullmatch(event):
            return "malformed", _answer(400, "the delivery's id or event is missing")
        digest = "sha256:" + hashlib.sha256(event.encode() + b"\n" + body).hexdigest()
        fresh = await run_in_threadpool(inbox.accept, delivery, digest, event, body)
        if fresh:
            for back in running:
                back.wake()
        outcome = "accepted" if fresh else "seen before"
        return outcome, _answer(202, outcome)

    @app.get("/healthz")
    async def alive() -> JSONResponse:
        return _answer(200, "alive")

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        found = await run_in_threadpool(troubles)
        return _answer(503, "; ".join(found)) if found else _answer(200, "ready")

    if page is not None:

        @app.get("/metrics")
        def measured() -> Response:
            return Response(page(), media_type=metrics.CONTENT_TYPE)

    further = more(troubles) if more is not None else None
    if further is not None:
        app.include_router(further)
    return app


def _answer(status: int, message: str) -> JSONResponse:
    return JSONResponse({"message": message}, status_code=status)
