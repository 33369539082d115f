"""The forge as a process, or in a thread of this one.

    treewright sandbox forge --data DIR --port 0

prints the address and where the admin token is; both are also in DIR (`address`, `admin.token`, for the
owner only). In process, for tests and the demo:

    with running(ForgeSettings(Path("data"))) as forge:
        forge.url, forge.api, forge.admin_token, forge.forge.create_user("ada")
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from sandbox.forge.actions import Runner, RunnerSettings
from sandbox.forge.app import create_app
from sandbox.forge.state import Forge
from sandbox.forge.webhooks import Dispatcher


@dataclass(frozen=True)
class ForgeSettings:
    data: Path
    port: int = 0
    admin_token: str | None = None  # None: made once and kept in DIR/admin.token
    runner: RunnerSettings = field(default_factory=RunnerSettings)


def admin_token_of(settings: ForgeSettings) -> str:
    path = settings.data / "admin.token"
    settings.data.mkdir(parents=True, exist_ok=True)
    if settings.admin_token:
        return settings.admin_token
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(24))
    return path.read_text().strip()


@dataclass(frozen=True)
class RunningForge:
    """A forge that runs in a thread of this process."""

    forge: Forge
    hooks: Dispatcher
    actions: Runner
    url: str
    admin_token: str

    @property
    def api(self) -> str:
        return f"{self.url}/api/v3"


def listen(port: int) -> socket.socket:
    """Loopback only: the forge runs workflows as the person who started it."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


@contextmanager
def running(
    settings: ForgeSettings,
    clock: Callable[[], float] | None = None,
    rate_limit: int = 5000,
    wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> Iterator[RunningForge]:
    """A forge for tests and for the demo's own process; ends with the block. `wrap` listens at the wire."""
    listener = listen(settings.port)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    token = admin_token_of(settings)
    options: dict[str, Callable[[], float]] = {} if clock is None else {"clock": clock}
    forge = Forge(settings.data, url, rate_limit=rate_limit, **options)
    app = create_app(forge, token, settings.runner)
    server = uvicorn.Server(
        uvicorn.Config(wrap(app), log_level="warning", lifespan="on", timeout_graceful_shutdown=3)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("The forge did not start; the reason is in its log above.")
            thread.join(0.01)
        yield RunningForge(forge, app.state.hooks, app.state.actions, url, token)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        forge.close()


def serve(settings: ForgeSettings, said: Callable[[str], None] = print) -> None:
    """Runs until it is told to end. DIR/address is for those who started it with port 0."""
    listener = listen(settings.port)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    token = admin_token_of(settings)
    forge = Forge(settings.data, url)
    (settings.data / "address").write_text(url + "\n")
    token_file = str((settings.data / "admin.token").resolve())
    said(json.dumps({"url": url, "api": f"{url}/api/v3", "admin_token_file": token_file}))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(forge, token, settings.runner), log_level="warning", timeout_graceful_shutdown=3
        )
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        forge.close()


__all__ = ["ForgeSettings", "RunningForge", "create_app", "running", "serve"]
