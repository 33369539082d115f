"""Git LFS for the hub (batch API, basic transfer) and `git clone` over smart HTTP, reading only.

Uploads go to a signed address, because the client sends no token there, as with the Hub's object storage. The
batch API is specified at https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md.
"""

from __future__ import annotations

import hmac
import os
import subprocess
import time
import zlib
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from sandbox.hub.api import _json, rows_of
from sandbox.hub.app import Hub, error, resource_of
from sandbox.hub.identity import Denied
from sandbox.hub.store import OID, Repository, StoreError

MEDIA = "application/vnd.git-lfs+json"
SIGNED_FOR = 3600  # seconds that an upload address is good for
FETCH_LIMIT = 8 * 1024 * 1024


def register(app: FastAPI, hub: Hub) -> None:
    for prefix, kind in (("", "model"), ("/datasets", "dataset")):
        _register(app, hub, prefix, kind)


def _signed(hub: Hub, request: Request, action: str, resource: str, oid: str) -> int:
    """The announced size, when this very action on this very object was signed by us and is not over."""
    size, expires, given = (request.query_params.get(key, "") for key in ("size", "expires", "signature"))
    good = hmac.compare_digest(given.encode(), hub.sign(action, resource, oid, size, expires).encode())
    if not good or not expires.isdigit() or int(expires) < time.time():
        raise Denied(403, "this address was not signed by the hub, or is over: ask for a new batch")
    return int(size)


def _register(app: FastAPI, hub: Hub, prefix: str, kind: str) -> None:
    @app.post(f"{prefix}/{{ns}}/{{name}}.git/info/lfs/objects/batch")
    async def batch(request: Request, ns: str, name: str) -> Response:
        body = await _json(request)
        operation = body.get("operation")
        if operation not in ("upload", "download"):
            return error(422, "operation must be upload or download")
        repository = hub.open(request, kind, f"{ns}/{name}", write=operation == "upload")
        resource = resource_of(kind, f"{ns}/{name}")
        address = f"{hub.url(request)}/{resource}.git/info/lfs"
        rows = [_checked(row) for row in rows_of(body, "objects", {"oid": str, "size": int})]
        objects = [
            _object(hub, resource, address, str(operation), oid, size, repository.lfs.size(oid))
            for oid, size in rows
        ]
        answer = {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}
        return JSONResponse(answer, media_type=MEDIA)

    @app.post(f"{prefix}/{{ns}}/{{name}}.git/info/lfs/verify")
    async def verify(request: Request, ns: str, name: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}", write=True)
        body = await _json(request)
        if repository.lfs.size(str(body.get("oid"))) != body.get("size"):
            return error(404, "the object is not here with that size")
        return JSONResponse({}, media_type=MEDIA)

    @app.put(f"{prefix}/{{ns}}/{{name}}.git/info/lfs/objects/{{oid}}")
    async def upload(request: Request, ns: str, name: str, oid: str) -> Response:
        size = _signed(hub, request, "upload", resource_of(kind, f"{ns}/{name}"), oid)
        await Repository(hub.folder(kind, f"{ns}/{name}")).lfs.receive(oid, size, request.stream())
        return Response(status_code=200, headers={"ETag": f'"{oid}"'})

    @app.get(f"{prefix}/{{ns}}/{{name}}.git/info/lfs/objects/{{oid}}")
    def download(request: Request, ns: str, name: str, oid: str) -> Response:
        _signed(hub, request, "download", resource_of(kind, f"{ns}/{name}"), oid)
        stored = Repository(hub.folder(kind, f"{ns}/{name}")).lfs.path(oid)
        return FileResponse(stored, media_type="application/octet-stream")

    # With and without `.git`, as the Hub's own clone addresses.
    @app.get(f"{prefix}/{{ns}}/{{name}}.git/info/refs")
    @app.get(f"{prefix}/{{ns}}/{{name}}/info/refs")
    def advertise(request: Request, ns: str, name: str) -> Response:
        if request.query_params.get("service") != "git-upload-pack":
            return error(403, "push over Git is not offered: commit through the API")
        repository = hub.open(request, kind, f"{ns}/{name}")
        command = ["git", "upload-pack", "--stateless-rpc", "--advertise-refs", str(repository.path)]
        env = _protocol(request)
        refs = subprocess.run(command, capture_output=True, check=True, env=env).stdout
        media = "application/x-git-upload-pack-advertisement"
        return Response(b"001e# service=git-upload-pack\n0000" + refs, media_type=media)

    @app.post(f"{prefix}/{{ns}}/{{name}}.git/git-upload-pack")
    @app.post(f"{prefix}/{{ns}}/{{name}}/git-upload-pack")
    async def fetch(request: Request, ns: str, name: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}")
        wants = await _body(request)
        command = ["git", "upload-pack", "--stateless-rpc", str(repository.path)]
        env = _protocol(request)

        def start() -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
            assert process.stdin is not None  # noqa: S101  (a pipe was asked for)
            process.stdin.write(wants)
            process.stdin.close()
            return process

        process = await run_in_threadpool(start)
        return StreamingResponse(_output(process), media_type="application/x-git-upload-pack-result")


def _checked(row: dict[str, Any]) -> tuple[str, int]:
    oid, size = row["oid"], row["size"]
    if not OID.fullmatch(oid) or size < 0:
        raise StoreError(422, "each object needs oid (SHA-256 in hex) and size")
    return oid, size


def _object(
    hub: Hub, resource: str, address: str, operation: str, oid: str, size: int, stored: int | None
) -> dict[str, Any]:
    """One object of a batch answer; without actions it is here already."""
    answer: dict[str, Any] = {"oid": oid, "size": size}
    if operation == "download" and stored is None:
        return answer | {"error": {"code": 404, "message": "Object does not exist"}}
    if operation == "upload" and stored == size:
        return answer
    expires = int(time.time()) + SIGNED_FOR
    signature = hub.sign(operation, resource, oid, size, expires)
    href = f"{address}/objects/{oid}?size={size}&expires={expires}&signature={signature}"
    actions: dict[str, Any] = {operation: {"href": href, "expires_in": SIGNED_FOR}}
    if operation == "upload":
        actions["verify"] = {"href": f"{address}/verify"}
    return answer | {"actions": actions}


def _protocol(request: Request) -> dict[str, str]:
    version = request.headers.get("git-protocol", "")
    env = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": "/nonexistent",
    }
    return env | ({"GIT_PROTOCOL": version} if version in ("version=1", "version=2") else {})


async def _body(request: Request) -> bytes:
    unzip = zlib.decompressobj(31) if request.headers.get("content-encoding") == "gzip" else None
    wants = b""
    async for block in request.stream():
        wants += unzip.decompress(block, FETCH_LIMIT) if unzip else block
        if len(wants) >= FETCH_LIMIT:
            raise StoreError(413, "more wants than a clone can have")
    return wants


def _output(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    assert process.stdout is not None  # noqa: S101  (a pipe was asked for)
    try:
        while block := process.stdout.read(65536):
            yield block
    finally:
        process.stdout.close()
        process.kill()
        process.wait()
