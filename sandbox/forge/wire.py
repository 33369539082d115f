"""HTTP as GitHub speaks it: JSON answers with ETag and Link, errors, rate-limit headers, faults on demand."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request, Response

from sandbox.forge.auth import DOCS, ApiError, actor_of
from sandbox.forge.records import Json
from sandbox.forge.state import Forge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY = 25 * 1024 * 1024
JSON_TYPE = "application/json; charset=utf-8"


async def _payload(request: Request) -> Any:
    data = await request.body()
    if len(data) > MAX_BODY:
        raise ApiError(413, "Payload Too Large")
    if not data:
        return {}
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "Problems parsing JSON") from error


Body = Annotated[Any, Depends(_payload)]


def fields(body: Any) -> Json:
    if not isinstance(body, dict):
        raise ApiError(400, "Body should be a JSON object")
    return body


def text_field(body: Any, name: str, resource: str, default: str | None = None) -> str:
    value = fields(body).get(name, default)
    if not isinstance(value, str):
        raise invalid(resource, name, "missing_field" if value is None else "invalid")
    return value


def invalid(resource: str, name: str, code: str = "invalid", message: str = "") -> ApiError:
    error: dict[str, object] = {"resource": resource, "field": name, "code": code}
    if message:
        error["message"] = message
    return ApiError(422, "Validation Failed", [error])


def reply(
    request: Request, body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", errors="replace")
    out = dict(headers or {})
    if request.method == "GET" and status == 200:
        tag = f'W/"{hashlib.sha256(data).hexdigest()}"'
        out["ETag"] = tag
        out["Cache-Control"] = "private, max-age=60, s-maxage=60"
        asked = {
            part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")
        }
        if tag.removeprefix("W/") in asked:
            return Response(status_code=304, headers=out)
    return Response(data, status, out, media_type=JSON_TYPE)


def number_of(request: Request, name: str, default: int, most: int) -> int:
    try:
        value = int(request.query_params.get(name, default))
    except ValueError:
        return default
    return min(max(value, 1), most)


def paginate(
    request: Request,
    forge: Forge,
    items: Sequence[Any],
    show: Callable[[Any], Json],
    key: str | None = None,
) -> Response:
    """One page of a list, only this page rendered; with `key` as `{"total_count", key: [...]}`."""
    size, page = number_of(request, "per_page", 30, 100), number_of(request, "page", 1, 10**6)
    last = max(1, -(-len(items) // size))
    rows = [show(item) for item in items[(page - 1) * size : page * size]]
    links = []
    wanted: Iterable[tuple[str, int]] = []
    if page < last:
        wanted = [("next", page + 1), ("last", last)]
    if page > 1:
        wanted = [("prev", min(page - 1, last)), *wanted, ("first", 1)]
    for name, target in wanted:
        query = urlencode(
            [*((k, v) for k, v in request.query_params.items() if k != "page"), ("page", target)]
        )
        links.append(f'<{forge.base_url}{request.url.path}?{query}>; rel="{name}"')
    headers = {"Link": ", ".join(links)} if links else {}
    return reply(request, {"total_count": len(items), key: rows} if key else rows, headers=headers)


def error_response(error: ApiError) -> Response:
    body: Json = {"message": error.message, "documentation_url": DOCS, "status": str(error.status)}
    if error.errors is not None:
        body["errors"] = error.errors
    return Response(json.dumps(body), error.status, error.headers, media_type=JSON_TYPE)


class LockedRouter(APIRouter):
    """Every route runs with the forge's lock: one request sees one state."""

    def __init__(self, lock: threading.RLock, prefix: str = "") -> None:
        super().__init__(prefix=prefix)
        self.lock: Any = lock

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if inspect.iscoroutinefunction(endpoint):
            raise TypeError(f"{endpoint.__name__} must be a plain function: it takes the forge's lock")
        lock = self.lock

        @functools.wraps(endpoint)
        def locked(*args: Any, **named: Any) -> Any:
            with lock:
                return endpoint(*args, **named)

        options["response_model"] = None
        super().add_api_route(path, locked, **options)


class Edge:
    """The outermost layer of the API: request ids, rate limit, injected faults. Plain ASGI, so that bodies
    stream.
    """

    def __init__(self, app: Any, forge: Forge) -> None:
        self.app = app
        self.forge = forge
        self.used: dict[str, tuple[int, int]] = {}  # caller -> (hour, requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self.app(scope, receive, send)
            return
        moved = self._moved(scope)
        limit, used, reset = self._count(scope)
        extra = [
            (b"x-github-request-id", uuid.uuid4().hex.upper().encode()),
            (b"x-github-media-type", b"github.v3; format=json"),
            (b"x-ratelimit-limit", str(limit).encode()),
            (b"x-ratelimit-remaining", str(max(0, limit - used)).encode()),
            (b"x-ratelimit-used", str(min(used, limit)).encode()),
            (b"x-ratelimit-reset", str(reset).encode()),
            (b"x-ratelimit-resource", b"core"),
        ]

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        if used > limit and scope["path"] != "/api/v3/rate_limit":
            over = error_response(ApiError(403, "API rate limit exceeded"))
            await over(scope, receive, marked)
            return
        if not dict(scope["headers"]).get(b"user-agent"):
            nobody = (
                "Request forbidden by administrative rules. Please make sure your request has a User-Agent."
            )
            await error_response(ApiError(403, nobody))(scope, receive, marked)
            return
        if moved is not None:
            # A write is sent on by 307, so that no client makes a GET of it.
            status = 301 if scope["method"] in ("GET", "HEAD") else 307
            body = error_response(ApiError(status, "Moved Permanently", None, {"Location": moved}))
            await body(scope, receive, marked)
            return
        fault = self._fault(scope)
        if fault is None:
            await self.app(scope, receive, marked)
            return
        if fault.get("when") == "after":  # the work is done and the answer is lost
            await self.app(scope, receive, _swallow)
        headers = {str(k): str(v) for k, v in dict(fault.get("headers") or {}).items()}
        status = int(fault.get("status", 502))
        answer = error_response(ApiError(status, str(fault.get("message", "Injected fault")), None, headers))
        await answer(scope, receive, marked)

    def _moved(self, scope: Scope) -> str | None:
        """Where a repository is that had this name before. `/repositories/ID` is the same as its name
        today.
        """
        parts = scope["path"].split("/", 6)[3:]
        with self.forge.lock:
            if len(parts) >= 2 and parts[0] == "repositories" and parts[1].isdigit():
                repo = self.forge.repos.get(int(parts[1]))
                if repo is not None:
                    scope["path"] = "/".join(["/api/v3/repos", repo.full_name, *parts[2:]])
                    scope["raw_path"] = scope["path"].encode()
            elif len(parts) >= 3 and parts[0] == "repos":
                repo = self.forge.former_repo(f"{parts[1]}/{parts[2]}")
                if repo is not None:
                    rest = scope["path"].split("/", 6)[6:]
                    where = "/".join([f"{self.forge.base_url}/api/v3/repositories/{repo.id}", *rest])
                    query = scope["query_string"].decode("latin-1")
                    return f"{where}?{query}" if query else where
        return None

    def _count(self, scope: Scope) -> tuple[int, int, int]:
        header = dict(scope["headers"]).get(b"authorization")
        try:
            with self.forge.lock:
                key = actor_of(self.forge, header.decode("latin-1") if header else None).key
        except ApiError:
            key = "wrong"
        now = int(self.forge.clock())
        hour = now // 3600
        before = self.used.get(key, (hour, 0))
        used = (before[1] if before[0] == hour else 0) + int(scope["path"] != "/api/v3/rate_limit")
        self.used[key] = (hour, used)
        scope.setdefault("state", {})["rate"] = (self.forge.rate_limit, used, (hour + 1) * 3600)
        return self.forge.rate_limit, used, (hour + 1) * 3600

    def _fault(self, scope: Scope) -> dict[str, Any] | None:
        with self.forge.lock:
            for fault in self.forge.faults.fail_requests:
                left = int(str(fault.get("times", 1)))
                method = str(fault.get("method", "*")).upper()
                prefix = str(fault.get("path_prefix", "/"))
                path = scope["path"].removeprefix("/api/v3")
                hit = path.startswith(prefix) or scope["path"].startswith(prefix)
                if left > 0 and method in ("*", scope["method"]) and hit:
                    fault["times"] = left - 1
                    return fault
        return None


async def _swallow(message: Message) -> None:
    """The answer goes nowhere."""
