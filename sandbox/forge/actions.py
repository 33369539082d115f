"""GitHub Actions of the forge: a queue of runs, one at a time, each by `act` (see `act.py`) in a fresh
checkout.

`Runner.dispatch` makes a run; a thread of the runner takes the oldest queued one. `workflow_run` events
tell the Apps. Each run has a folder DIR/runs/ID with its checkout, act's cache and `log.jsonl`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.forge import act, events, git, views, views_work, workflows
from sandbox.forge.records import Json, Repo, Run
from sandbox.forge.state import Forge, InvalidError

if TYPE_CHECKING:
    from sandbox.forge.oidc import Issuer

log = logging.getLogger("sandbox.forge")
TOKEN_SECONDS = 24 * 3600  # a GITHUB_TOKEN lives as long as its job, at most a day
BOT = "github-actions[bot]"


@dataclass(frozen=True)
class RunnerSettings:
    """`local_actions` maps `owner/name@ref` to a folder that stands for that repository; `env` is what the
    operator's runner machine has (model endpoints, caches), and what `secrets` of a repository never are.
    """

    local_actions: Mapping[str, Path] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = act.LABELS
    act: Path | None = None
    keep_checkouts: bool = False


class Runner:
    def __init__(self, forge: Forge, issuer: Issuer, settings: RunnerSettings) -> None:
        self.forge = forge
        self.issuer = issuer
        self.settings = settings
        self.wake = threading.Condition(forge.lock)
        self.thread: threading.Thread | None = None
        self.process: act.Process | None = None
        self.current: int | None = None
        self.stopped = False  # the current run was cancelled before its process was there
        self.closed = False
        self.request_tokens: dict[str, int] = {}
        self.specs: dict[int, list[workflows.JobSpec]] = {}

    def start(self) -> None:
        with self.forge.lock:
            for run in self.forge.runs:
                if run.status == "in_progress":
                    repo = self.forge.repos.get(run.repo)
                    run.note = "The forge was stopped while this run was in progress."
                    if repo is not None:
                        self._completed(repo, run, "failure")
        self.thread = threading.Thread(target=self._loop, name="actions", daemon=True)
        self.thread.start()

    def close(self) -> None:
        with self.forge.lock:
            self.closed = True
            process = self.process
            self.wake.notify_all()
        if process is not None:
            process.cancel()
        if self.thread is not None:
            self.thread.join(timeout=20)

    # -- asked by the API

    def workflow_files(self, repo: Repo, revision: str | None = None) -> list[tuple[str, Json]]:
        bare = self.forge.git(repo)
        sha = bare.resolve(revision or repo.default_branch)
        found = []
        for entry in bare.entries(sha, ".github/workflows") if sha else []:
            if (
                entry.kind == "blob"
                and entry.path.endswith((".yml", ".yaml"))
                and entry.size <= workflows.MAX_BYTES
            ):
                with contextlib.suppress(InvalidError):
                    found.append((entry.path, workflows.parse(bare.blob(entry.sha), entry.path)))
        return found

    def find(self, repo: Repo, name: str) -> tuple[str, Json] | None:
        for path, body in self.workflow_files(repo):
            if name in (path, path.rpartition("/")[2], str(views_work.workflow_key(path))):
                return path, body
        return None

    def dispatch(self, repo: Repo, path: str, ref: str, inputs: Mapping[str, Any], login: str) -> Run:
        """Queues a run. Raises `InvalidError` for what GitHub answers with 422."""
        forge = self.forge
        with forge.lock:
            bare = forge.git(repo)
            name = ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
            full = next((f for f in (f"refs/heads/{name}", f"refs/tags/{name}") if f in bare.refs(f)), None)
            sha = bare.resolve(full) if full and git.is_name(name) else None
            if full is None or sha is None:
                raise InvalidError(f"No ref found for: {ref}", "Workflow", "ref")
            entry = bare.entry(sha, path)
            if entry is None:
                raise InvalidError(f"{path} is not in {ref}.", "Workflow", "ref")
            body = workflows.parse(bare.blob(entry.sha), path)
            values = workflows.dispatch_inputs(body, path, inputs)
            title = workflows.run_name(body, path, values, login, name)
            rule = workflows.concurrency(body, path, values, login, name)
            repo.last_run += 1
            forge.repos.put(repo)
            run = Run(
                forge.next_id(), repo.id, repo.last_run, path, str(body.get("name") or path), title,
                "workflow_dispatch", full, sha, login, values, created_at=forge.now(), updated_at=forge.now(),
                group=rule.group,
            )  # fmt: skip
            before = [r for r in forge.runs if rule.group and (r.repo, r.group) == (repo.id, rule.group)]
            forge.runs.put(run)
            self._say(repo, run, "requested")
            self._make_way(repo, [r for r in before if r.status != "completed"], rule)
            self.wake.notify_all()
            return run

    def _make_way(self, repo: Repo, group: list[Run], rule: workflows.Concurrency) -> None:
        """What a new run does to its group's unfinished ones, of which the first has the group."""
        for index, run in enumerate(group):
            if rule.cancel or (index > 0 and not rule.keep):
                run.note = f"Canceling since a higher priority waiting request for {rule.group!r} exists."
                self.cancel(repo, run)

    def cancel(self, repo: Repo, run: Run) -> bool:
        with self.forge.lock:
            if run.status == "queued":
                self._completed(repo, run, "cancelled")
                return True
            if self.current != run.id:
                return False
            process = self.process
            self.stopped = True
        if process is None:  # still on its way: `_execute` looks before it lets the process go on
            return True
        # In a thread: killing takes seconds, and GitHub answers 202 at once.
        threading.Thread(target=process.cancel, daemon=True).start()
        return True

    def log_lines(self, run: Run, job: int | None = None) -> list[Json]:
        path = self.folder(run) / "log.jsonl"
        if not path.exists():
            return []
        lines = []
        for text in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a last line that was cut off, or is still being written
                lines.append(json.loads(text))
        return [line for line in lines if job in (None, line["job"])]

    def folder(self, run: Run) -> Path:
        return self.forge.data / "runs" / str(run.id)

    def run_of_request_token(self, token: str) -> Run | None:
        return self.forge.runs.get(self.request_tokens.get(token))

    def job_with_identity(self, run: Run) -> workflows.JobSpec | None:
        """The running job that may have an identity; None when there is none."""
        running = {job["key"] for job in run.jobs if job["status"] == "in_progress"}
        for spec in self.specs.get(run.id, []):
            if spec.key in running and spec.permissions.get("id_token") == "write":
                return spec
        return None

    # -- the work

    def _loop(self) -> None:
        while True:
            with self.forge.lock:
                waiting = next((run for run in self.forge.runs if run.status == "queued"), None)
                while waiting is None and not self.closed:
                    self.wake.wait()
                    waiting = next((run for run in self.forge.runs if run.status == "queued"), None)
                if self.closed or waiting is None:
                    return
                repo = self.forge.repos.get(waiting.repo)
                if repo is None:
                    waiting.status, waiting.conclusion = "completed", "failure"
                    self.forge.runs.put(waiting)
                    continue
                waiting.status, waiting.started_at = "in_progress", self.forge.now()
                self.forge.runs.put(waiting)
                self.current, self.stopped = waiting.id, False
                self._say(repo, waiting, "in_progress")
            conclusion = "failure"
            try:
                conclusion = self._execute(repo, waiting)
            except Exception as error:  # one run's trouble must not end the thread that all runs wait for
                if not isinstance(error, act.ActMissingError | InvalidError | git.GitError | OSError):
                    log.exception("run %s", waiting.id)
                waiting.note = str(error) or type(error).__name__
            with self.forge.lock:
                self.current = self.process = None
                if not self.closed:
                    self._completed(repo, waiting, conclusion)

    def _execute(self, repo: Repo, run: Run) -> str:
        forge, folder = self.forge, self.folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        checkout = folder / "checkout"
        self._check_out(repo, run, checkout)
        with forge.lock:
            body = workflows.parse((checkout / run.workflow).read_bytes(), run.workflow)
            own = f"{repo.full_name}/{run.workflow}@{run.ref}"
            specs = self.specs[run.id] = workflows.job_specs(
                body, own,
                lambda uses: self._called(repo, run, checkout, uses),
            )  # fmt: skip
            forge.ensure_account(BOT, "Bot", "GitHub Actions")
            token = forge.issue_token(
                "workflow", BOT, prefix="ghs_", repositories=[repo.id], run=run.id,
                permissions=workflows.token_permissions(specs), seconds=TOKEN_SECONDS,
            )  # fmt: skip
            request_token = secrets.token_hex(24)
            self.request_tokens[request_token] = run.id
        spec = self._spec(repo, run, checkout, token, request_token)
        log_path = folder / "log.jsonl"
        try:
            with log_path.open("w", buffering=1) as log:

                def keep(job: Json, step: int, text: str) -> None:
                    log.write(json.dumps({"job": job["id"], "step": step, "text": text}) + "\n")

                def changed(progress: act.Progress) -> None:
                    with forge.lock:
                        run.jobs, run.updated_at = progress.jobs, forge.now()
                        if not self.closed:
                            forge.runs.put(run)

                hidden = (token, request_token, *repo.secrets.values())
                called = {one.workflow_name for one in specs if one.workflow_ref != own}
                reader = act.Reader(run.name, hidden, keep, forge.next_id, called)
                process = act.Process(spec)
                with forge.lock:
                    self.process = process
                    stopped = self.closed or self.stopped
                if stopped:
                    process.cancel()
                done = process.follow(reader, changed)
        finally:
            with forge.lock:
                self.request_tokens.pop(request_token, None)
                if not self.closed:
                    forge.tokens.remove(_digest(token))
            if not self.settings.keep_checkouts:
                shutil.rmtree(spec.scratch, ignore_errors=True)
                shutil.rmtree(checkout, ignore_errors=True)
        run.jobs, run.note = done.jobs, done.note
        return done.conclusion or "failure"

    def _check_out(self, repo: Repo, run: Run, checkout: Path) -> None:
        """A whole clone, since a workflow may look at the tree before; at the run's commit."""
        shutil.rmtree(checkout, ignore_errors=True)
        url = views.page(self.forge, f"/{repo.full_name}.git")
        bare = str(self.forge.git(repo).path.resolve())
        for args in (
            ["clone", "-q", "--no-checkout", bare, str(checkout)],
            ["-C", str(checkout), "remote", "set-url", "origin", url],
            ["-C", str(checkout), "checkout", "-q", "-B", run.branch, run.sha],
        ):
            done = subprocess.run(["git", *args], env=git.environment(), capture_output=True, check=False)
            if done.returncode != 0:
                raise git.GitError(done.stderr.decode(errors="replace").strip())

    def _called(self, repo: Repo, run: Run, checkout: Path, uses: str) -> tuple[Json, str] | None:
        """A reusable workflow: `./path`, or `owner/name/path@ref` when that repository is at hand."""
        if uses.startswith("./"):
            file, ref = uses[2:], f"{repo.full_name}/{uses[2:]}@{run.ref}"
            folder = checkout
        else:
            where, _, revision = uses.partition("@")
            owner, name, file = [*where.split("/", 2), "", ""][:3]
            found = self.settings.local_actions.get(f"{owner}/{name}@{revision}")
            if found is None:
                return None
            folder, ref = found, uses
        path = (folder / file).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return None
        return workflows.parse(path.read_bytes(), file), ref

    def _spec(self, repo: Repo, run: Run, checkout: Path, token: str, request_token: str) -> act.Spec:
        forge = self.forge
        env = {
            **self.settings.env, "GITHUB_SERVER_URL": forge.base_url,
            "GITHUB_API_URL": f"{forge.base_url}/api/v3",
            "GITHUB_GRAPHQL_URL": f"{forge.base_url}/api/graphql",
            "GITHUB_REPOSITORY": repo.full_name, "GITHUB_REPOSITORY_OWNER": repo.owner,
            "GITHUB_REPOSITORY_ID": str(repo.id), "GITHUB_RUN_ID": str(run.id),
            "GITHUB_RUN_NUMBER": str(run.number), "GITHUB_RUN_ATTEMPT": "1", "GITHUB_REF": run.ref,
            "GITHUB_REF_NAME": run.branch, "SHA_REF": run.sha, "GITHUB_SHA": run.sha,
            "GITHUB_WORKFLOW_REF": f"{repo.full_name}/{run.workflow}@{run.ref}",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.issuer.url}/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": request_token,
        }  # fmt: skip
        event = {
            "inputs": run.inputs, "ref": run.ref, "workflow": run.workflow,
            "repository": views.repository(forge, repo), "sender": views.simple_user(forge, run.login),
        }  # fmt: skip
        return act.Spec(
            folder=checkout, workflow=run.workflow, scratch=self.folder(run) / "act", event=event,
            inputs=run.inputs, env=env, secrets={**repo.secrets, "GITHUB_TOKEN": token},
            variables=repo.variables, actor=run.login, labels=self.settings.labels,
            local_actions=self.settings.local_actions, act=self.settings.act,
        )  # fmt: skip

    def _completed(self, repo: Repo, run: Run, conclusion: str) -> None:
        run.status, run.conclusion, run.updated_at = "completed", conclusion, self.forge.now()
        self.forge.runs.put(run)
        self._say(repo, run, "completed")

    def _say(self, repo: Repo, run: Run, action: str) -> None:
        forge = self.forge
        about = views_work.workflow(
            forge, repo, run.workflow, run.name, views_work.workflow_key(run.workflow)
        )
        body = {"workflow_run": views_work.workflow_run(forge, repo, run), "workflow": about}
        events.emit(forge, repo, "workflow_run", action, body, run.login)


def _digest(token: str) -> str:
    from sandbox.forge.state import digest_of_token

    return digest_of_token(token)
