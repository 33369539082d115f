"""The doctor: every line says what was found and what to do; a broken check never hides the others."""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpu_runner import doctor
from gpu_runner.doctor import Context, Result, endpoint, examine, healthy
from treewright.cli import app


class _Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/v1/models" and self.headers.get("Authorization") == "Bearer open"
        self.send_response(200 if known else 401)
        self.end_headers()
        if known:
            self.wfile.write(json.dumps({"data": [{"id": "little-teacher"}]}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Models)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def context(tmp_path: Path, **environment: str) -> Context:
    return Context("bot", environment, tmp_path / "cache")


def test_an_endpoint_that_answers_is_well(tmp_path: Path, served: str) -> None:
    found = context(tmp_path, TREEWRIGHT_TEACHER_URL=served, TREEWRIGHT_TEACHER_KEY="open")
    result = endpoint("teacher", needed=True)(found)
    assert (result.state, result.found) == ("ok", f"{served} serves little-teacher")


def test_an_endpoint_that_wants_a_key_says_which_variable_to_set(tmp_path: Path, served: str) -> None:
    result = endpoint("judge", needed=True)(context(tmp_path, TREEWRIGHT_JUDGE_URL=served))
    assert (result.state, result.found, result.help) == (
        "failed",
        f"{served} answers 401",
        "Set TREEWRIGHT_JUDGE_KEY.",
    )


def test_an_endpoint_that_serves_another_model_is_failed(tmp_path: Path, served: str) -> None:
    found = context(
        tmp_path,
        TREEWRIGHT_TEACHER_URL=served,
        TREEWRIGHT_TEACHER_KEY="open",
        TREEWRIGHT_TEACHER_MODEL="big-teacher",
    )
    result = endpoint("teacher", needed=True)(found)
    assert result.state == "failed"
    assert result.found == f"{served} serves little-teacher, not big-teacher"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "not set"),
        ("file:///etc/passwd", "not an http address"),
        ("http://127.0.0.1:9/v1", "refused"),
        ("http://127.0.0.1:99999/v1", "not an http address"),
        ("http://[::1/v1", "not an http address"),
        ("http://127.0.0.1 9/v1", "InvalidURL"),
    ],
)
def test_an_endpoint_that_cannot_be_reached_says_why(tmp_path: Path, url: str, words: str) -> None:
    result = endpoint("student", needed=True)(context(tmp_path, TREEWRIGHT_STUDENT_URL=url))
    assert result.state == "failed"
    assert words in result.found
    assert "TREEWRIGHT_STUDENT_URL" in result.help


def test_a_port_on_which_something_else_listens_is_told_as_that(tmp_path: Path) -> None:
    class Shell(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Shell) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        result = endpoint("teacher", needed=True)(context(tmp_path, TREEWRIGHT_TEACHER_URL=url))
    assert (result.state, result.found) == ("failed", f"{url}: BadStatusLine")
    assert result.help == "Nothing there speaks HTTP: mend TREEWRIGHT_TEACHER_URL."


def test_a_key_in_an_address_is_never_shown(tmp_path: Path) -> None:
    found = context(tmp_path, TREEWRIGHT_TEACHER_URL="http://user:sesame@127.0.0.1:9/v1?token=sesame")
    assert "sesame" not in repr(endpoint("teacher", needed=True)(found))


def test_a_cache_that_cannot_be_made_is_failed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = doctor.cache_writable(Context("contributor", {}, tmp_path / "file" / "cache"))
    assert (result.state, result.help) == ("failed", "Set TREEWRIGHT_CACHE to a writable folder.")


def test_git_that_is_not_there_is_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = doctor.git(context(tmp_path))
    assert (result.state, result.found) == ("failed", "not on PATH")


def test_a_check_that_breaks_is_one_failed_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def night_light(_: Context) -> Result:
        raise RuntimeError("the bulb is out")

    monkeypatch.setitem(doctor.ROLES, "bot", (night_light, doctor.python))
    monkeypatch.setitem(doctor.ROOMS, "bot", ())
    results = examine(context(tmp_path))
    assert [(r.name, r.state) for r in results] == [("night light", "failed"), ("Python", "ok")]
    assert results[0].found == "RuntimeError: the bulb is out"
    assert not healthy(results)


def test_a_room_adds_its_checks_when_its_role_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_room_with_checks.py").write_text(
        "from gpu_runner.doctor import Result\n"
        "def door(_):\n    return Result('door', 'ok', 'open')\n"
        "def doctor_checks():\n    return {'bot': [door]}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(doctor.ROLES, "bot", ())
    monkeypatch.setitem(doctor.ROOMS, "bot", ("a_room_with_checks", "no_such_room.doctor"))
    assert "a_room_with_checks" not in sys.modules
    assert [result.name for result in examine(context(tmp_path))] == ["door"]


def test_the_command_speaks_json_and_exits_2_when_something_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREEWRIGHT_CACHE", str(tmp_path))
    for role in ("TEACHER", "JUDGE", "STUDENT"):
        monkeypatch.delenv(f"TREEWRIGHT_{role}_URL", raising=False)
    result = CliRunner().invoke(app, ["doctor", "--role", "bot", "--format", "json"])
    report = json.loads(result.output)
    assert (result.exit_code, report["ok"], report["role"]) == (2, False, "bot")
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states["teacher endpoint"] == "failed"
    assert states["cache"] == "ok"
    assert all(check["help"] for check in report["checks"] if check["state"] == "failed")


def test_a_contributors_laptop_needs_no_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREEWRIGHT_CACHE", str(tmp_path))
    for role in ("TEACHER", "JUDGE"):
        monkeypatch.delenv(f"TREEWRIGHT_{role}_URL", raising=False)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "teacher endpoint" in result.output
