"""Servers on this machine: started, awaited, stopped; and what is said when they cannot be."""

from __future__ import annotations

import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gpu_runner.serving import ServeSettings, ServingError, healthy, serve

# Stands where `vllm` would: takes the same arguments, needs a moment to become healthy, starts a worker.
SERVER = """#!{python}
import http.server, sys, time, subprocess
arguments = sys.argv[1:]
assert arguments[0] == "serve", arguments
port = int(arguments[arguments.index("--port") + 1])
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(arguments[1] + "/seen", "w").write(repr((arguments, worker.pid)))
ready = time.monotonic() + 0.5
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() > ready else 503)
        self.end_headers()
    def log_message(self, *rest):
        pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def folder(tmp_path: Path, program: str) -> Path:
    place = tmp_path / "my-model"
    place.mkdir()
    (place / "config.json").write_text("{}", "utf-8")
    script = tmp_path / "vllm"
    script.write_text(program, "utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return place


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text("utf-8")


def test_a_model_folder_is_served_by_the_operators_vllm_and_stopped_with_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder(tmp_path, SERVER.format(python=sys.executable))
    monkeypatch.setenv("TREEWRIGHT_VLLM", str(tmp_path / "vllm"))
    with serve(str(place), ServeSettings(parallel=3, ready_seconds=20)) as served:
        address = served.url.removesuffix("/v1")
        assert healthy(address)
        assert served.model == "my-model"
        assert served.running()
        seen = (place / "seen").read_text("utf-8")
        assert "'--max-num-seqs', '3'" in seen
        assert "'--host', '127.0.0.1'" in seen
        worker = int(seen.rstrip(")").rpartition(" ")[2])
        assert alive(worker)
    assert not healthy(address)
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def test_a_server_that_ends_early_shows_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder(tmp_path, f"#!{sys.executable}\nraise SystemExit('no GPU was found')\n")
    monkeypatch.setenv("TREEWRIGHT_VLLM", str(tmp_path / "vllm"))
    with pytest.raises(ServingError, match="no GPU was found"), serve(str(place)):
        raise AssertionError("it never served")


def test_a_server_that_never_becomes_healthy_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder(tmp_path, f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    monkeypatch.setenv("TREEWRIGHT_VLLM", str(tmp_path / "vllm"))
    with (
        pytest.raises(ServingError, match="not ready after 1 s"),
        serve(str(place), ServeSettings(ready_seconds=1)),
    ):
        raise AssertionError("it never served")


def test_what_is_not_a_model_and_a_command_that_is_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServingError, match=r"config\.json"), serve(str(tmp_path)):
        raise AssertionError("it never served")
    place = folder(tmp_path, "")
    monkeypatch.setenv("TREEWRIGHT_VLLM", "/nowhere/vllm")
    with pytest.raises(ServingError, match="/nowhere/vllm"), serve(str(place)):
        raise AssertionError("it never served")


@pytest.mark.model
def test_the_embedded_model_answers_and_the_command_stops_on_sigterm(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "treewright", "serve", "--parallel", "2", "--ready-file", str(ready)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        told = json.loads(ready.read_text("utf-8"))
        body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(told["url"]).port, timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
        answer = json.load(connection.getresponse())
        assert answer["choices"][0]["message"]["content"]
        assert told["url"].startswith("http://127.0.0.1:")
    finally:
        os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f'export TREEWRIGHT_TEACHER_URL="{told["url"]}"' in output
    assert not healthy(told["url"].removesuffix("/v1"))
