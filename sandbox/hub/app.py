"""The hub as one ASGI application: `create_app(data)`; `sandbox.hub.serve` runs it on loopback.

    app = create_app(Path("hub-data"), forge_issuer="http://127.0.0.1:8001/_oidc")

It speaks what huggingface_hub 2.4 sends when HF_ENDPOINT points here (the exchange was recorded from that
version), and keeps everything in `data`: bare Git repositories, LFS objects, one SQLite file, and
`admin-token` for the operator.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from sandbox.hub.identity import Caller, Denied, Identity
from sandbox.hub.store import NAME, REPO_TYPES, Repository, StoreError


@dataclass(frozen=True)
class Hub:
    """What the routes share."""

    data: Path
    identity: Identity
    admin_token: str
    public_url: str | None
    signing_key: bytes

    def url(self, request: Request) -> str:
        return self.public_url or str(request.base_url).rstrip("/")

    def audiences(self, request: Request) -> list[str]:
        """Names an identity token may be meant for: this very socket, never what a `Host` header says."""
        if self.public_url:
            return [self.public_url]
        _host, port = request.scope["server"]
        return [f"http://{name}:{port}" for name in ("127.0.0.1", "localhost")]

    def sign(self, *parts: object) -> str:
        return hmac.new(self.signing_key, "\n".join(map(str, parts)).encode(), sha256).hexdigest()

    def caller(self, request: Request) -> Caller | None:
        return self.identity.caller(request.headers.get("authorization"))

    def folder(self, kind: str, name: str) -> Path:
        return self.data / "repositories" / f"{kind}s" / f"{name}.git"

    def open(self, request: Request, kind: str, name: str, write: bool = False) -> Repository:
        """The repository, when the caller may read (or write) it. A private one looks absent to others."""
        kind = check_type(kind)
        caller = self.caller(request)
        private = self.identity.is_private(kind, name) if valid_name(name) else None
        resource = resource_of(kind, name)
        hidden = private and not (caller and caller.may_read(resource))
        if private is None or hidden:
            status = 404 if caller else 401
            raise StoreError(status, f"Repository Not Found: {resource[:200]}", "RepoNotFound")
        if write and caller is None:
            raise Denied(401, "Invalid username or password.")
        if write and caller is not None and not caller.may_write(resource):
            raise Denied(403, f"{caller.name} has no write access to {resource}")
        return Repository(self.folder(kind, name))


def valid_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(
        NAME.fullmatch(part) and ".." not in part and "--" not in part and not part.endswith(".git")
        for part in parts
    )


def check_type(kind: str) -> str:
    if kind not in REPO_TYPES:
        raise StoreError(400, f"this hub keeps {' and '.join(REPO_TYPES)} repositories, not {kind[:40]!r}")
    return kind


def resource_of(kind: str, name: str) -> str:
    """The name that `HF_OIDC_RESOURCE` gives a repository."""
    return name if kind == "model" else f"{kind}s/{name}"


def error(status: int, message: str, code: str = "") -> JSONResponse:
    """An error as the Hub sends it; the client reads the headers first."""
    headers = {"X-Error-Message": message.encode("ascii", "replace").decode().replace("\n", " ")}
    if code:
        headers["X-Error-Code"] = code
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def create_app(
    data: Path,
    forge_issuer: str | None = None,
    *,
    public_url: str | None = None,
    admin_token: str | None = None,
) -> FastAPI:
    """`admin_token`, or one made at the first start, is in `data/admin-token`, for its owner only."""
    from sandbox.hub import api, lfs, pages

    data = data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    identity = Identity(data / "hub.sqlite3", forge_issuer)
    token = _admin_token(data / "admin-token", admin_token)
    identity.add_token("admin", "admin", token=token)
    key = identity.secret("upload").encode()
    hub = Hub(data, identity, token, public_url, key)

    app = FastAPI(title="Treewright sandbox hub", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.hub = hub

    @app.exception_handler(StoreError)
    def store_error(request: Request, failure: StoreError) -> Response:
        if pages.wants_page(request):
            return pages.failure(failure.status, str(failure))
        return error(failure.status, str(failure), failure.code)

    @app.exception_handler(Denied)
    def denied(request: Request, failure: Denied) -> Response:
        answer = error(failure.status, str(failure))
        if failure.status == 401:
            answer.headers["WWW-Authenticate"] = 'Basic realm="hub"'
        return answer

    registers: tuple[Callable[[FastAPI, Hub], None], ...] = (api.register, lfs.register, pages.register)
    for register in registers:
        register(app, hub)
    return app


def _admin_token(path: Path, given: str | None) -> str:
    if given is None and path.exists():
        return path.read_text("ascii").strip()
    token = given or f"hf_admin_{secrets.token_urlsafe(30)}"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as out:
        out.write(token + "\n")
    return token
