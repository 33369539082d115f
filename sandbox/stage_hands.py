"""What the demo plays on: a forge, a hub, a model endpoint and the bot, started, watched and stopped again.

The forge and the hub run in this process; the endpoint and the bot are processes of their own, as on a real
machine, and so is every release run, which the forge starts with `act`. Everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml
from starlette.types import ASGIApp

from sandbox.forge.actions import RunnerSettings
from sandbox.forge.git import Signature
from sandbox.forge.serve import ForgeSettings, RunningForge
from sandbox.forge.serve import running as running_forge
from sandbox.hub.background import RunningHub
from sandbox.hub.background import running as running_hub

ROOT = Path(__file__).parent.parent
MODEL, DATASET = "acme/acme-lm", "acme/acme-taxonomy-data"
DOCUMENTS_URL = "https://github.com/acme/documents"

# What the App asks for and hears; `treewright doctor` compares an installation with the same lists.
PERMISSIONS = {
    "actions": "write",
    "checks": "write",
    "contents": "write",
    "issues": "write",
    "members": "read",
    "metadata": "read",
    "pull_requests": "write",
}
EVENTS = ("check_run", "installation", "issue_comment", "pull_request", "repository", "workflow_run")

# The tests play the same story with fewer rows and items. The facts keep most of theirs: with too few
# wordings the gate rightly doubts that they were learned. Fewer rows and a third of the general questions
# still leave it undecided at times, so it asks for less, too; how it decides is tested apart.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "preview": {"seeds": 2, "samples": 4},
    "generate": {"rows_changed": 150, "rows_unchanged": 2, "replay_rows": 16},
    "gate": {"general_margin": 0.2, "confidence": 0.8},
}


ACT_MARKS = ("⭐", "✅", "❌", "🏁", "exit status")
"""How act's own lines begin, about steps that start and end."""


class StoryError(RuntimeError):
    """The demo cannot go on; the text says why and where to look."""


@dataclass(frozen=True)
class Options:
    """Where the demo plays and at what size."""

    data: Path
    scale: str = "full"
    release_seconds: float = 3600
    examples: Path = ROOT / "examples"

    @property
    def cache(self) -> Path:
        """Beside the demo's folder: what the stages may reuse, so that a second demo has less to do."""
        return self.data.parent / "cache"

    @property
    def contributions(self) -> Path:
        return self.examples / "contributions"


def git(*arguments: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise StoryError(f"git {arguments[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


class House:
    """Everything that runs, and the keys of the people in it: ada maintains, newcomer contributes."""

    def __init__(self, options: Options, wrap_forge: Callable[[ASGIApp], ASGIApp] = lambda app: app) -> None:
        if not options.examples.is_dir():
            raise StoryError("the demo needs the examples/ folder: run it in a clone of the repository")
        self.options = options
        self.wrap_forge = wrap_forge
        self.data = options.data
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.tokens: dict[str, str] = {}
        self.runner_environment: dict[str, str] = {}
        self._stack = ExitStack()
        self.forge: RunningForge
        self.hub: RunningHub
        if self.data.exists():
            shutil.rmtree(self.data)  # the demo starts from nothing, so that two runs show the same
        (self.data / "logs").mkdir(parents=True)

    def __enter__(self) -> House:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        self._stack.close()

    # Opening, in the order in which one needs the other.

    def open(self, say: Callable[[str], None]) -> None:
        # The workflow's steps call `treewright` and `python3`: those of this environment.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        endpoint = self.start_endpoint()
        say(f"  model endpoint  {endpoint['url']}  ({endpoint['model']})")
        self.start_forge(endpoint)
        say(f"  forge           {self.forge_url}/acme/taxonomy")
        say(f"  hub             {self.hub.url}")
        self.start_bot(endpoint)
        say("  bot             installed on acme/taxonomy")

    def start_endpoint(self) -> dict[str, str]:
        ready = self.data / "endpoint.json"
        self.start("endpoint", ["serve", "--model", "embedded", "--ready-file", str(ready)], {})
        self.await_(lambda: ready.exists(), "the model endpoint", 120)
        return dict(json.loads(ready.read_text()))

    def start_forge(self, endpoint: Mapping[str, str]) -> None:
        """The forge with its runner, and the hub that trusts the forge's identities."""
        settings = ForgeSettings(self.data / "forge", runner=self.runner())
        self.forge = self._stack.enter_context(running_forge(settings, wrap=self.wrap_forge))
        self.hub = self._stack.enter_context(running_hub(self.data / "hub", f"{self.forge_url}/_oidc"))
        self.runner_environment |= self.models(endpoint) | self.publishing()
        self.open_hub()
        self.open_forge()

    def runner(self) -> RunnerSettings:
        """A runner whose workflows find our actions, and stand-ins for the artifact actions, on this disk."""
        ours = self.data / "treewright-actions"
        shutil.copytree(ROOT / "actions", ours / "actions")
        shutil.copytree(ROOT / ".github" / "workflows", ours / ".github" / "workflows")
        local = {"treewright/treewright@v0": ours}
        text = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
        for name, pin in re.findall(r"actions/((?:up|down)load-artifact)@([0-9a-f]{40})", text):
            local[f"actions/{name}@{pin}"] = ROOT / "sandbox" / "actions" / name
        return RunnerSettings(
            local_actions=local, labels=("self-hosted", "gpu", "ubuntu-latest"), env=self.runner_environment
        )

    def models(self, endpoint: Mapping[str, str]) -> dict[str, str]:
        """What an operator sets on a machine that asks models: the small model is teacher, judge and base."""
        roles = ("TEACHER", "JUDGE", "STUDENT")
        mirror = {DOCUMENTS_URL: f"{self.forge_url}/acme/documents.git"}
        return {
            **{f"TREEWRIGHT_{role}_URL": endpoint["url"] for role in roles},
            **{f"TREEWRIGHT_{role}_MODEL": endpoint["model"] for role in roles},
            "TREEWRIGHT_GIT_MIRRORS": json.dumps(mirror),
            "TREEWRIGHT_CACHE": str(self.options.cache),
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def publishing(self) -> dict[str, str]:
        # HF_HUB_DISABLE_XET: the hub here stores large files by Git LFS.
        artifacts = self.data / "artifacts"  # of the stand-ins in sandbox/actions
        return {"HF_ENDPOINT": self.hub.url, "HF_HUB_DISABLE_XET": "1", "SANDBOX_ARTIFACTS": str(artifacts)}

    def open_hub(self) -> None:
        """Both repositories exist already and trust one workflow in one environment, as on the real Hub."""
        token = self.hub.token("acme-admin", orgs=["acme"])
        for kind, name in (("model", MODEL), ("dataset", DATASET)):
            body: dict[str, object] = {"name": name.split("/")[1], "organization": "acme", "type": kind}
            self.hub.post("/api/repos/create", body, token).raise_for_status()
            resource = name if kind == "model" else f"datasets/{name}"
            self.hub.publisher(resource, "acme/taxonomy", "release.yml", "release")

    def open_forge(self) -> None:
        forge, examples = self.forge.forge, self.options.examples
        forge.create_org("acme", "Acme")
        self.tokens = {person: forge.create_user(person) for person in ("ada", "newcomer")}
        identity = json.loads((examples / "documents.json").read_text("utf-8"))
        author = Signature(identity["name"], identity["email"], identity["date"])
        forge.create_repo(
            "acme", "documents", examples / "documents", committer=author, message=identity["message"] + "\n"
        )
        taxonomy = self.data / "taxonomy"
        shutil.copytree(examples / "taxonomy", taxonomy)
        if self.options.scale == "small":
            shrink(taxonomy)
        repo = forge.create_repo(
            "acme",
            "taxonomy",
            taxonomy,
            message="Start the taxonomy\n",
            description="What the model shall know",
        )
        forge.set_collaborator(repo, "ada", "maintain")
        self.api("newcomer", "POST", "/repos/acme/taxonomy/forks", {})

    def start_bot(self, endpoint: Mapping[str, str]) -> None:
        """Register the App, install it, and start the bot with its keys, as an operator would."""
        port = free_port()
        app = self.forge.forge.create_app(
            "treewright",
            PERMISSIONS,
            EVENTS,
            f"http://127.0.0.1:{port}/webhook",
            owner="acme",
            repositories=["acme/taxonomy"],
        )
        key = self.data / "bot" / "key.pem"
        key.parent.mkdir()
        key.touch(mode=0o600)
        key.write_text(app.private_key)
        environment = {
            **self.models(endpoint),
            "TREEWRIGHT_BOT_APP_ID": str(app.app.id),
            "TREEWRIGHT_BOT_APP_SLUG": "treewright",
            "TREEWRIGHT_BOT_PRIVATE_KEY_FILE": str(key),
            "TREEWRIGHT_BOT_WEBHOOK_SECRET": app.app.webhook_secret,
            "TREEWRIGHT_BOT_API_URL": self.forge.api,
            "TREEWRIGHT_BOT_WEB_URL": self.forge_url,
            "TREEWRIGHT_BOT_DATA": str(self.data / "bot"),
            # The forge is this machine's own: nobody asks for a pause between writes.
            "TREEWRIGHT_BOT_SECONDS_BETWEEN_REQUESTS": "0",
            "TREEWRIGHT_BOT_SECONDS_BETWEEN_WRITES": "0",
            "TREEWRIGHT_BOT_POLLING_SECONDS": "0.1",
        }
        self.start("bot", ["bot", "run", "--port", str(port)], environment)

        def ready() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        self.await_(ready, "the bot", 60)

    # Processes.

    def start(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        with (self.data / "logs" / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "treewright", *arguments],
                env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops them in order
            )

    def check_alive(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = self.data / "logs" / f"{name}.log"
                words = log.read_text("utf-8", "replace").strip().splitlines()[-15:]
                raise StoryError(
                    f"the {name} ended with status {process.returncode}; its last words ({log}):\n"
                    + "\n".join(words)
                )

    def await_(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not ready():
            self.check_alive()
            if time.monotonic() > end:
                raise StoryError(
                    f"{what} was not ready after {seconds:.0f} s; the logs are in {self.data / 'logs'}"
                )
            time.sleep(0.1)

    # Addresses and calls.

    @property
    def forge_url(self) -> str:
        return self.forge.url

    def pull_page(self, number: int) -> str:
        return f"{self.forge_url}/acme/taxonomy/pull/{number}"

    def git_url(self, person: str, repository: str) -> str:
        return (
            f"http://{person}:{self.tokens[person]}@{self.forge_url.removeprefix('http://')}/{repository}.git"
        )

    def api(self, person: str, method: str, path: str, body: object = None) -> Any:
        """One call of GitHub's API as that person. Raises `StoryError` with the forge's own words."""
        answer = httpx.request(
            method,
            self.forge.api + path,
            json=body,
            headers=self.headers(person),
            timeout=60,
            trust_env=False,
        )
        if answer.is_error:
            raise StoryError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json() if answer.content else None

    def printed(self, run_id: int) -> list[str]:
        """What the steps of a run have printed so far, without act's own lines about steps, and why it failed
        where no step could say so.
        """
        run = self.forge.forge.runs.get(run_id)
        lines = self.forge.actions.log_lines(run) if run else []
        texts = [str(line["text"]).strip() for line in lines] + ([run.note] if run else [])
        return [text for text in texts if text and not text.startswith(ACT_MARKS)]

    def redeliver_everything(self) -> None:
        """Ask the forge to deliver every webhook again, as an App's owner can, and wait until it has."""
        hooks = self.forge.hooks
        for delivery in list(self.forge.forge.deliveries):
            hooks.redeliver(delivery)
        hooks.drain(60)

    def download(self, person: str, url: str) -> Any:
        headers = {**self.headers(person), "Accept": "application/octet-stream"}
        answer = httpx.get(url, headers=headers, follow_redirects=True, timeout=60, trust_env=False)
        return answer.raise_for_status().json()

    def headers(self, person: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[person]}", "Accept": "application/vnd.github+json"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def shrink(taxonomy: Path) -> None:
    """Write the values of `SMALL` into the taxonomy's own settings; keep a third of the general benchmark."""
    path = taxonomy / ".github" / "treewright.yml"
    settings = yaml.safe_load(path.read_text("utf-8"))
    for section, values in SMALL.items():
        settings[section].update(values)
    path.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    general = taxonomy / ".treewright" / "general.jsonl"
    lines = general.read_text("utf-8").splitlines(keepends=True)
    general.write_text("".join(lines[::3]), "utf-8")
