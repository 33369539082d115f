"""The hub in a thread of this process, for tests and scripts.

with running(Path("hub-data")) as hub:
    HfApi(endpoint=hub.url, token=hub.token("acme")).create_repo("acme/model")
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from sandbox.hub.app import create_app


@dataclass(frozen=True)
class RunningHub:
    """Where the hub is, and the operator's few calls."""

    url: str
    data: Path
    admin: str

    def post(self, path: str, body: dict[str, object], token: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token or self.admin}"}
        return httpx.post(self.url + path, json=body, headers=headers, trust_env=False)

    def token(self, name: str, role: str = "write", orgs: Sequence[str] = ()) -> str:
        answer = self.post("/_sandbox/tokens", {"name": name, "role": role, "orgs": list(orgs)})
        return str(answer.raise_for_status().json()["token"])

    def publisher(self, resource: str, repository: str, workflow: str, environment: str) -> None:
        """Trust that workflow of that repository, in that environment, to write to `resource`."""
        body: dict[str, object] = {"resource": resource, "repository": repository}
        body |= {"workflow": workflow, "environment": environment}
        self.post("/_sandbox/publishers", body).raise_for_status()


@contextmanager
def listening(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Serve any application on loopback for as long as the block lasts."""
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def running(data: Path, forge_issuer: str | None = None) -> Iterator[RunningHub]:
    with listening(create_app(data, forge_issuer)) as url:
        yield RunningHub(url, data, (data / "admin-token").read_text("ascii").strip())
