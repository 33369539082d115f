"""Run the hub until interrupted: `treewright sandbox hub --data DIR`, loopback only."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from sandbox.hub.app import create_app


def serve(
    data: Path,
    port: int = 0,
    forge_issuer: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Port 0 takes a free one. The first line said is JSON: the address, and where the admin token is."""
    listener = socket.create_server(("127.0.0.1", port))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = create_app(data, forge_issuer, public_url=url)
    say(json.dumps({"url": url, "admin_token_file": str(data.resolve() / "admin-token")}))
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])
