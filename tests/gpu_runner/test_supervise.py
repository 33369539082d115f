"""Model servers that a stage starts for itself, and what is said when one of them dies or hangs."""

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

from gpu_runner.serving import ServeSettings, ServingError, serve
from gpu_runner.supervise import named, served_roles

# A child with vLLM's command line. What it does when it is asked is told by the model's config.json.
CHILD = """#!{python}
import http.server, json, os, sys, time
arguments = sys.argv[1:]
place = arguments[1]
does = json.load(open(place + "/config.json"))
with open(place + "/seen", "a") as seen:
    told = ("VLLM_API_KEY", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS")
    seen.write(json.dumps([arguments, {{name: os.environ.get(name) for name in told}}]) + "\\n")
if does.get("has_worker"):
    import subprocess
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    worker.stdout.readline()
    open(place + "/worker", "w").write(str(worker.pid))
if does.get("port_taken") and not os.path.exists(place + "/tried"):
    open(place + "/tried", "w").close()
    sys.exit("OSError: [Errno 98] Address already in use")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if does.get("hangs") and os.path.exists(place + "/hang"):
            time.sleep(60)
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        print("torch.OutOfMemoryError: CUDA out of memory", flush=True)
        os.kill(os.getpid(), 9)
    def log_message(self, *rest):
        pass
port = int(arguments[arguments.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "vllm"
    script.write_text(CHILD.format(python=sys.executable), "utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("TREEWRIGHT_VLLM", str(script))
    return tmp_path


def folder(place: Path, name: str, **does: bool) -> Path:
    made = place / name
    made.mkdir()
    (made / "config.json").write_text(json.dumps(does), "utf-8")
    return made


def seen(place: Path) -> list[tuple[list[str], dict[str, str]]]:
    return [tuple(json.loads(line)) for line in (place / "seen").read_text("utf-8").splitlines()]


def post(url: str, body: bytes, key: str | None = None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection.request("POST", parts.path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def gone(pid: int, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text("utf-8"):
            return True
        time.sleep(0.05)
    return False


def test_roles_of_one_model_share_a_server_and_an_address_always_wins(vllm: Path) -> None:
    teacher = folder(vllm, "big")
    env = {
        "TREEWRIGHT_TEACHER_PATH": str(teacher),
        "TREEWRIGHT_JUDGE_PATH": str(teacher),
        "TREEWRIGHT_STUDENT_PATH": str(vllm / "nowhere"),
        "TREEWRIGHT_STUDENT_URL": "http://127.0.0.1:9/v1",
        "TREEWRIGHT_TEACHER_VLLM_ARGS": "--max-model-len 4096",
        "TREEWRIGHT_TEACHER_DEVICES": "1",
    }
    roles = ("teacher", "judge", "student")
    assert named(env, roles)["TREEWRIGHT_JUDGE_MODEL"] == "big"
    with served_roles(env, roles, vllm / "logs", 4) as servers:
        assert servers.env["TREEWRIGHT_TEACHER_URL"] == servers.env["TREEWRIGHT_JUDGE_URL"]
        assert servers.env["TREEWRIGHT_STUDENT_URL"] == "http://127.0.0.1:9/v1"
        assert servers.env["TREEWRIGHT_TEACHER_MODEL"] == "big"
        key = servers.env["TREEWRIGHT_TEACHER_KEY"]
        assert servers.trouble() is None
        process = next(iter(servers.running.values())).process
    ((arguments, told),) = seen(teacher)
    assert len(key) > 20
    assert told["VLLM_API_KEY"] == key
    assert key not in " ".join(arguments)
    assert told["CUDA_VISIBLE_DEVICES"] == "1"
    assert told["HF_HUB_OFFLINE"] == told["VLLM_NO_USAGE_STATS"] == "1"
    assert arguments[-2:] == ["--max-model-len", "4096"]
    assert gone(process.pid)
    assert (vllm / "logs" / "teacher-judge.log").is_file()


def test_a_server_that_dies_at_work_is_told_with_its_log(vllm: Path) -> None:
    teacher = folder(vllm, "big")
    env = {"TREEWRIGHT_TEACHER_PATH": str(teacher)}
    with served_roles(env, ("teacher",), vllm / "logs", 4) as servers:
        with pytest.raises((OSError, http.client.HTTPException)):
            post(servers.env["TREEWRIGHT_TEACHER_URL"], b"{}")
        assert gone(next(iter(servers.running.values())).process.pid)
        told = servers.trouble() or ""
    assert "CUDA out of memory" in told
    assert "SIGKILL" in told
    assert str(vllm / "logs" / "teacher.log") in told


def test_a_server_that_hangs_is_stopped_and_told(vllm: Path) -> None:
    teacher = folder(vllm, "big", hangs=True)
    env = {"TREEWRIGHT_TEACHER_PATH": str(teacher)}
    with served_roles(
        env, ("teacher",), vllm / "logs", 4, check_seconds=0.05, patience_seconds=0.1
    ) as servers:
        process = next(iter(servers.running.values())).process
        (teacher / "hang").touch()
        assert gone(process.pid, 30)
        told = servers.trouble() or ""
    assert "did not answer /health" in told


def test_a_port_that_was_taken_meanwhile_is_no_end(vllm: Path) -> None:
    teacher = folder(vllm, "big", port_taken=True)
    with serve(str(teacher), ServeSettings(ready_seconds=20)) as served:
        assert served.running()
    assert len(seen(teacher)) == 2


def test_a_model_that_cannot_be_served_names_the_variable(tmp_path: Path) -> None:
    env = {"TREEWRIGHT_JUDGE_PATH": str(tmp_path)}
    with (
        pytest.raises(ServingError, match=r"TREEWRIGHT_JUDGE_PATH=.*config\.json"),
        served_roles(env, ("judge",), tmp_path, 1),
    ):
        raise AssertionError("it never served")


@pytest.mark.parametrize(
    "variable", ["TREEWRIGHT_VLLM_ARGS", "TREEWRIGHT_JUDGE_VLLM_ARGS", "TREEWRIGHT_VLLM"]
)
def test_arguments_that_no_shell_could_read_name_their_variable(
    vllm: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, '--dtype "half')
    env = {"TREEWRIGHT_JUDGE_PATH": str(folder(vllm, "small")), variable: '--dtype "half'}
    with (
        pytest.raises(ServingError, match=f"{variable} cannot be read: No closing quotation"),
        served_roles(env, ("judge",), vllm, 1),
    ):
        raise AssertionError("it never served")


def test_a_killed_runner_leaves_no_server_behind(vllm: Path) -> None:
    teacher = folder(vllm, "big")
    program = (
        "import sys, time\n"
        "from gpu_runner.serving import serve\n"
        "with serve(sys.argv[1]) as served:\n"
        "    print(served.process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(teacher)]
    runner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    guard = int(runner.stdout.readline())
    (child,) = (int(pid) for pid in Path(f"/proc/{guard}/task/{guard}/children").read_text().split())
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert gone(child, 20)
    assert gone(guard, 20)


STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"


def test_a_worker_that_does_not_listen_ends_with_its_server(vllm: Path) -> None:
    place = folder(vllm, "big", has_worker=True)
    with serve(str(place)):
        worker = int((place / "worker").read_text("utf-8"))
        assert not gone(worker, 0.1)
    assert gone(worker, 5)


def test_a_runner_that_is_killed_while_it_waits_for_a_stubborn_server_leaves_none_behind(vllm: Path) -> None:
    guarded = "import sys; from gpu_runner import guard; guard.GRACE_SECONDS = 0.2; "
    guarded += "sys.exit(guard.main(int(sys.argv[1]), sys.argv[2:]))"
    program = (
        "import os, signal, subprocess, sys, time\n"
        f"command = [sys.executable, '-c', {guarded!r}, str(os.getpid()), sys.executable, '-c', "
        f"{STUBBORN!r}]\n"
        "server = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)\n"
        "server.stdout.readline()\n"
        "os.killpg(server.pid, signal.SIGTERM)\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    runner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    guard = int(runner.stdout.readline())
    (child,) = (int(pid) for pid in Path(f"/proc/{guard}/task/{guard}/children").read_text().split())
    assert not gone(child, 0.5)
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert gone(child, 10)
    assert gone(guard, 10)


@pytest.mark.model
def test_the_embedded_model_wants_its_key(tmp_path: Path) -> None:
    env = {"TREEWRIGHT_TEACHER_PATH": "embedded"}
    with served_roles(env, ("teacher",), tmp_path / "logs", 1) as servers:
        address = f"{servers.env['TREEWRIGHT_TEACHER_URL']}/chat/completions"
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}).encode()
        assert post(address, body)[0] == 401
        status, answer = post(address, body, servers.env["TREEWRIGHT_TEACHER_KEY"])
        assert status == 200
        assert json.loads(answer)["choices"][0]["message"]["content"]
