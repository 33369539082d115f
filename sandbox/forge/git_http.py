"""Git over HTTP: `git http-backend` behind the forge's own authentication. A push is inspected after it is
done.

No hook script is ever run: the refs before and after a push say what moved.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import IO

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from sandbox.forge import git, pulls
from sandbox.forge.auth import Actor, ApiError, actor_of, require
from sandbox.forge.records import Repo
from sandbox.forge.state import Forge

CHUNK = 65536
MAX_PUSH = 512 * 1024 * 1024


def router(forge: Forge) -> APIRouter:
    api = APIRouter()
    pushes: dict[int, threading.Lock] = defaultdict(threading.Lock)

    @api.api_route("/{owner}/{name}.git/{service:path}", methods=["GET", "POST"])
    async def smart(request: Request, owner: str, name: str, service: str) -> Response:
        if service not in ("info/refs", "git-upload-pack", "git-receive-pack"):
            return Response("Not Found", 404)
        wanted = request.query_params.get("service", "") if service == "info/refs" else service
        if wanted not in ("git-upload-pack", "git-receive-pack"):
            return Response("Only Git's smart HTTP protocol is spoken here.", 403)
        writing = wanted == "git-receive-pack"
        try:
            repo, who = await run_in_threadpool(_enter, forge, request, owner, name, writing)
        except ApiError as error:
            if error.status == 401:
                return Response(error.message, 401, {"WWW-Authenticate": 'Basic realm="GitHub"'})
            return Response(error.message, error.status)
        with tempfile.SpooledTemporaryFile(max_size=8 * CHUNK) as body:
            size = 0
            async for piece in request.stream():  # a long push comes in chunks, without a length
                size += len(piece)
                if size > MAX_PUSH:
                    return Response("The push is too large.", 413)
                body.write(piece)
            body.seek(0)
            env = _cgi(forge, request, repo, service, size, who)
            if writing and service != "info/refs":
                return await run_in_threadpool(_receive, forge, repo, who, env, body, pushes[repo.id])
            return await run_in_threadpool(_serve, env, body)

    return api


def _enter(forge: Forge, request: Request, owner: str, name: str, writing: bool) -> tuple[Repo, Actor]:
    with forge.lock:
        who = actor_of(forge, request.headers.get("authorization"))
        if writing and who.kind == "anonymous":
            raise ApiError(401, "Requires authentication")
        try:
            level, role = ("write", "write") if writing else ("read", "read")
            repo = require(forge, who, forge.repo(owner, name), "contents", level, role)
        except ApiError as error:
            if error.status == 404 and who.kind == "anonymous":  # Git asks for a password on 401 only
                raise ApiError(401, "Repository not found.") from error
            raise
        return repo, who


def _cgi(forge: Forge, request: Request, repo: Repo, service: str, size: int, who: Actor) -> dict[str, str]:
    env = git.environment() | {
        "GIT_PROJECT_ROOT": str((forge.data / "repos").resolve()), "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{repo.id}.git/{service}", "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.url.query, "CONTENT_TYPE": request.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(size), "REMOTE_USER": who.login or "anonymous", "REMOTE_ADDR": "127.0.0.1",
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.hooksPath", "GIT_CONFIG_VALUE_0": "/dev/null",
    }  # fmt: skip
    for header, name in (("content-encoding", "HTTP_CONTENT_ENCODING"), ("git-protocol", "GIT_PROTOCOL")):
        if request.headers.get(header):
            env[name] = request.headers[header]
    return env


def _spawn(env: dict[str, str], body: IO[bytes]) -> subprocess.Popen[bytes]:
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed below, once git has it
    while piece := body.read(CHUNK):
        spool.write(piece)
    spool.seek(0)
    try:
        return subprocess.Popen(["git", "http-backend"], stdin=spool, stdout=subprocess.PIPE, env=env)
    finally:
        spool.close()


def _head(stream: IO[bytes]) -> tuple[int, dict[str, str]]:
    status, headers = 200, {}
    for raw in iter(stream.readline, b""):
        line = raw.decode("latin-1").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        if name.lower() == "status":
            status = int(value.split()[0])
        else:
            headers[name] = value.strip()
    return status, headers


def _serve(env: dict[str, str], body: IO[bytes]) -> Response:
    process = _spawn(env, body)
    stream = process.stdout
    assert stream is not None  # noqa: S101 - asked for a pipe
    status, headers = _head(stream)

    def pieces() -> Iterator[bytes]:
        with process:
            while piece := stream.read(CHUNK):
                yield piece

    return StreamingResponse(pieces(), status, headers)


def _receive(
    forge: Forge, repo: Repo, who: Actor, env: dict[str, str], body: IO[bytes], turn: threading.Lock
) -> Response:
    with turn:
        bare = forge.git(repo)
        before = bare.refs()
        with _spawn(env, body) as process:
            stream = process.stdout
            assert stream is not None  # noqa: S101 - asked for a pipe
            status, headers = _head(stream)
            answer = stream.read()
        after = bare.refs()
        moved = {
            ref: (before.get(ref, git.ZERO), after.get(ref, git.ZERO))
            for ref in sorted({*before, *after})
            if before.get(ref) != after.get(ref)
        }
        if moved:
            pulls.after_push(forge, repo, moved, who.login)
    return Response(answer, status, headers)
