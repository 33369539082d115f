"""What is in `deploy/` fits the bot: its settings exist, its unit is accepted by systemd, its health check
tells.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from bot_world import ROOT

from bot.settings import Settings

DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())
OTHERS = {"TREEWRIGHT_BOT_SETTINGS"}  # read by the command, not by the bot


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"\bTREEWRIGHT_BOT_[A-Z_]+[A-Z]", path.read_text()))
    known = {f"TREEWRIGHT_BOT_{name.upper()}" for name in Settings.model_fields}
    assert named <= known | OTHERS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_accepts_the_unit_and_finds_it_closed() -> None:
    unit = str(DEPLOY / "treewright-bot.service")
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    looked = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True
    )
    level = re.search(r"exposure level for \S+: ([\d.]+)", looked.stdout)
    assert level is not None, looked.stdout + looked.stderr
    assert float(level[1]) < 2.0


def test_the_containers_give_nothing_away() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    user = [index for index, line in enumerate(lines) if line.startswith("USER ")]
    entry = [index for index, line in enumerate(lines) if line.startswith("ENTRYPOINT")]
    assert lines[user[-1]] != "USER root"
    assert user[-1] < entry[0]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    bot = compose["services"]["bot"]
    assert bot["read_only"] is True
    assert bot["cap_drop"] == ["ALL"]
    assert "ports" not in bot, "only the proxy is reached from outside"
    assert "/metrics" not in (DEPLOY / "Caddyfile").read_text().split("@open")[1]


def test_the_proxy_answers_nobody_before_it_has_passed_the_webhook_on() -> None:
    # Caddy sorts the bare directives of a site: `respond` comes before `reverse_proxy` (httpcaddyfile,
    # defaultDirectiveOrder). Of several `handle` blocks exactly one runs, the one with a matcher first.
    lines = [line for line in (DEPLOY / "Caddyfile").read_text().splitlines() if not line.startswith("#")]
    bare = [line.split()[0] for line in lines if re.match(r"\t[a-z]", line)]
    assert bare == ["handle", "handle"]
    inside = " ".join(" ".join(lines).split())
    assert "handle @open { reverse_proxy bot:8080 } handle { respond 404 }" in inside


@pytest.fixture
def door() -> Iterator[tuple[str, list[int]]]:
    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/readyz", status
    server.shutdown()
    server.server_close()


def test_the_health_check_tells_ready_from_not(door: tuple[str, list[int]]) -> None:
    url, status = door

    def look(address: str) -> int:
        check = [sys.executable, str(DEPLOY / "healthcheck.py"), address]
        return subprocess.run(check, capture_output=True).returncode

    assert look(url) == 0
    status[0] = 503
    assert look(url) == 1
    assert look("http://127.0.0.1:9/readyz") == 1
