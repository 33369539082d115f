"""Keeps every exchange with the forge's API, for a test to hold against GitHub's own description."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.openapi import Checker


@dataclass(frozen=True)
class Exchange:
    method: str
    url: str
    request_headers: dict[str, str]
    request_body: bytes
    status: int
    response_headers: dict[str, str]
    response_body: bytes

    def problems(self, checker: Checker) -> list[str]:
        found = checker.check(
            self.method,
            self.url,
            self.request_headers,
            self.request_body or None,
            self.status,
            self.response_headers,
            self.response_body or None,
        )
        return [f"{self.method} {self.url} -> {self.status}: {problem}" for problem in found]


@dataclass
class Wire:
    """An ASGI tap: `wire.tap(app)` is the app, and `wire.exchanges` what went through it."""

    exchanges: list[Exchange] = field(default_factory=list)

    def tap(self, app: Any) -> Any:
        async def tapped(scope: dict[str, Any], receive: Any, send: Any) -> None:
            # Uploads and downloads of assets are not JSON; the description says nothing about their bytes.
            if (
                scope["type"] != "http"
                or not scope["path"].startswith("/api/v3/")
                or "/assets/" in scope["path"]
            ):
                await app(scope, receive, send)
                return
            asked, answered = bytearray(), bytearray()
            start: dict[str, Any] = {}

            async def receiving() -> Any:
                message = await receive()
                asked.extend(message.get("body", b""))
                return message

            async def sending(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    start.update(message)
                answered.extend(message.get("body", b""))
                await send(message)

            await app(scope, receiving, sending)
            query = scope["query_string"].decode()
            path = scope.get("raw_path", scope["path"].encode()).decode()
            self.exchanges.append(
                Exchange(
                    scope["method"],
                    f"http://forge{path}" + (f"?{query}" if query else ""),
                    _headers(scope["headers"]),
                    bytes(asked),
                    start["status"],
                    _headers(start["headers"]),
                    bytes(answered),
                )
            )

        return tapped


def _headers(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}
