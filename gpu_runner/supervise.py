"""The model servers of a stage: started when the environment names a model instead of an address.

    TREEWRIGHT_TEACHER_PATH=/models/teacher  TREEWRIGHT_JUDGE_PATH=/models/judge  treewright generate --work W

`TREEWRIGHT_<ROLE>_PATH` is a model folder (served by vLLM) or `embedded`. Roles that name the same model
share a server. `TREEWRIGHT_<ROLE>_VLLM_ARGS` and `TREEWRIGHT_<ROLE>_DEVICES` (the GPUs to use) belong to the
server that the role starts; two servers on one GPU need `--gpu-memory-utilization` in both. An address
(`TREEWRIGHT_<ROLE>_URL`) always wins.

Servers listen on 127.0.0.1, want a key that is made for this run, write a log that stays, are asked for their
health while they are used, and end with the stage.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpu_runner.embedded import EMBEDDED_NAME
from gpu_runner.serving import EMBEDDED, Served, ServeSettings, ServingError, in_words, serve

CHECK_SECONDS = 10.0
UNHEALTHY_CHECKS = 6
"""A minute without an answer to /health: a busy server answers within seconds, a hung one never does."""


@dataclass
class Servers:
    """`env` is the environment with the addresses of what runs."""

    env: Mapping[str, str]
    running: dict[str, Served] = field(default_factory=dict)
    hung: set[str] = field(default_factory=set)

    def trouble(self) -> str | None:
        """What became of a server that is no longer there, with the end of its log."""
        for name, served in self.running.items():
            if name in self.hung:
                return f"the model server of the {name} did not answer /health and was stopped; its log \
{served.log} ends with:\n{served.last_words()}"
            if not served.running():
                return f"the model server of the {name} {served.last_words()}\n(log: {served.log})"
        return None


def _wanted(env: Mapping[str, str], roles: tuple[str, ...]) -> dict[str, list[str]]:
    """Paths of models to serve, with the roles that want each."""
    wanted: dict[str, list[str]] = {}
    for role in roles:
        path = env.get(f"TREEWRIGHT_{role.upper()}_PATH", "").strip()
        if path and not env.get(f"TREEWRIGHT_{role.upper()}_URL", "").strip():
            wanted.setdefault(path, []).append(role)
    return wanted


def named(env: Mapping[str, str], roles: tuple[str, ...]) -> dict[str, str]:
    """The environment as `served_roles` would give it, with no server started: names are known beforehand,
    the address is a place holder. For telling whether there is anything to do at all.
    """
    found = dict(env)
    for path, users in _wanted(env, roles).items():
        name = EMBEDDED_NAME if path == EMBEDDED else Path(path).resolve().name
        for role in users:
            found[f"TREEWRIGHT_{role.upper()}_URL"] = "http://127.0.0.1:0/v1"
            found[f"TREEWRIGHT_{role.upper()}_MODEL"] = name
    return found


@contextlib.contextmanager
def served_roles(
    env: Mapping[str, str],
    roles: tuple[str, ...],
    logs: Path,
    parallel: int,
    check_seconds: float = CHECK_SECONDS,
    patience_seconds: float = 5.0,
) -> Iterator[Servers]:
    """Start what `roles` need and have no address for. Raises `ServingError`."""
    wanted = _wanted(env, roles)
    found = Servers(dict(env))
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        for path, users in wanted.items():
            prefix = f"TREEWRIGHT_{users[0].upper()}"
            settings = ServeSettings(
                parallel=parallel,
                key=secrets.token_urlsafe(24),
                log=logs / f"{'-'.join(users)}.log",
                arguments=tuple(in_words(env, f"{prefix}_VLLM_ARGS")),
                devices=env.get(f"{prefix}_DEVICES"),
            )
            try:
                served = stack.enter_context(serve(path, settings))
            except ServingError as error:
                raise ServingError(f"{prefix}_PATH={path}: {error}\n(log: {settings.log})") from error
            found.env = {**found.env, **served.environment(*users)}
            found.running[" and ".join(users)] = served
        if found.running:
            watch = threading.Thread(
                target=_watch, args=(found, stop, check_seconds, patience_seconds), daemon=True
            )
            watch.start()
        try:
            yield found
        finally:
            stop.set()


def _watch(found: Servers, stop: threading.Event, seconds: float, patience: float) -> None:
    """A hung server would keep every row waiting for the whole service time: stop it, and the rows know."""
    missed = dict.fromkeys(found.running, 0)
    while not stop.wait(seconds):
        for name, served in found.running.items():
            if not served.running() or served.healthy(patience):
                missed[name] = 0
                continue
            missed[name] += 1
            if missed[name] >= UNHEALTHY_CHECKS and not stop.is_set():
                found.hung.add(name)
                served.stop()
