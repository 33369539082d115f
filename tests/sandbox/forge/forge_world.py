"""A real forge on loopback, a receiver of webhooks, and clients whose every exchange is checked against
GitHub's OpenAPI description.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from github import Auth, Github, GithubIntegration

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from sandbox.forge.git import Signature, environment
from sandbox.forge.serve import ForgeSettings, RunningForge, running
from sandbox.forge.state import NewApp
from tests.support.openapi import Checker

DATE = "2026-01-02T03:04:05Z"
PERMISSIONS = {
    "contents": "write", "pull_requests": "write", "issues": "write", "checks": "write", "statuses": "write",
    "actions": "write", "members": "read",
}  # fmt: skip
EVENTS = ["pull_request", "issue_comment", "check_run", "push", "workflow_run"]


@dataclass
class Receiver:
    """An endpoint for webhooks that keeps what came, and answers with `status`."""

    url: str = ""
    status: int = 202
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def events(self) -> list[str]:
        """`pull_request.opened`, `push`, ... in the order of arrival."""
        names = []
        for headers, body in self.got:
            action = json.loads(body).get("action")
            names.append(headers["x-github-event"] + (f".{action}" if action else ""))
        return names

    def payload(self, name: str) -> dict[str, Any]:
        """The newest payload of an event, named as in `events`."""
        index = len(self.got) - 1 - self.events()[::-1].index(name)
        return dict(json.loads(self.got[index][1]))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(kept.status)
            self.end_headers()
            self.wfile.write(b"heard")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_address[1]}/webhook"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield kept
    server.shutdown()
    server.server_close()


@dataclass
class World:
    """One forge with `acme/taxonomy`: ada maintains it, grace contributes from a fork, a bot is installed."""

    running: RunningForge
    receiver: Receiver
    app: NewApp
    ada: str
    grace: str
    folder: Path
    problems: list[str]

    @property
    def forge(self) -> Any:
        return self.running.forge

    def heard(self) -> list[str]:
        assert self.running.hooks.drain()
        return self.receiver.events()

    def github(self, token: str) -> Github:
        return Github(
            auth=Auth.Token(token), base_url=self.running.api, seconds_between_requests=0,
            seconds_between_writes=0, retry=None,
        )  # fmt: skip

    def integration(self) -> GithubIntegration:
        return GithubIntegration(
            auth=Auth.AppAuth(self.app.app.id, self.app.private_key), base_url=self.running.api,
            seconds_between_requests=0, seconds_between_writes=0,
        )  # fmt: skip

    def bot_token(self, permissions: dict[str, str] | None = None) -> str:
        assert self.app.installation is not None
        return self.integration().get_access_token(self.app.installation.id, permissions or PERMISSIONS).token

    def bot(self) -> Github:
        return self.github(self.bot_token())

    def http(self, token: str | None = None) -> httpx.Client:
        """A plain client; its exchanges are checked too."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(
            base_url=self.running.api,
            headers=headers,
            trust_env=False,
            event_hooks={"response": [self._check]},
        )

    def admin(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.running.admin_token}"}
        return httpx.Client(base_url=f"{self.running.url}/_sandbox", headers=headers, trust_env=False)

    def _check(self, answer: httpx.Response) -> None:
        answer.read()
        asked = answer.request
        if "/api/v3/" in str(asked.url):
            self.problems += Checker.load().check(
                asked.method, str(asked.url), dict(asked.headers), asked.content, answer.status_code,
                dict(answer.headers), answer.content,
            )  # fmt: skip

    # -- git, as people use it

    def url(self, token: str, full_name: str) -> str:
        return self.running.url.replace("://", f"://x-access-token:{token}@") + f"/{full_name}.git"

    def clone(self, token: str, full_name: str, name: str) -> Path:
        target = self.folder / name
        git("clone", "-q", self.url(token, full_name), str(target))
        git("-C", str(target), "config", "user.name", "Grace")
        git("-C", str(target), "config", "user.email", "grace@example.com")
        return target

    def contribute(self, branch: str = "topic", text: str = "version: 3\ntask: new\n") -> Any:
        """grace forks, pushes a branch and opens a pull request; answers PyGithub's pull request."""
        github = self.github(self.grace)
        github.get_repo("acme/taxonomy").create_fork()
        work = self.folder / "fork"
        if not work.exists():
            self.clone(self.grace, "grace/taxonomy", "fork")
        git("-C", str(work), "checkout", "-q", "-B", branch, "origin/main")
        commit(work, {"knowledge/new/qna.yaml": text}, f"Add {branch}")
        git("-C", str(work), "push", "-q", "origin", branch)
        return github.get_repo("acme/taxonomy").create_pull(
            base="main", head=f"grace:{branch}", title=f"Add {branch}", body="A new *leaf*."
        )


def git(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["git", *args], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


def commit(work: Path, files: dict[str, str], message: str) -> str:
    for path, text in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text)
    git("-C", str(work), "add", "-A")
    git("-C", str(work), "commit", "-q", "-m", message)
    return git("-C", str(work), "rev-parse", "HEAD").stdout.strip()


@pytest.fixture
def make_world(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., World]]:
    problems: list[str] = []
    open_forges: list[Any] = []
    checker = Checker.load()
    plain_send = requests.Session.send

    def send(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        answer = plain_send(self, request, **options)
        body = request.body.encode() if isinstance(request.body, str) else request.body
        if "/api/v3/" in str(request.url) and not hasattr(body, "read"):
            problems.extend(
                checker.check(
                    str(request.method),
                    str(request.url),
                    dict(request.headers),
                    body,
                    answer.status_code,
                    dict(answer.headers),
                    answer.content,
                )
            )
        return answer

    monkeypatch.setattr(requests.Session, "send", send)
    monkeypatch.setenv("NO_PROXY", "*")

    def make(**options: Any) -> World:
        source = tmp_path / "taxonomy"
        if not source.exists():
            (source / "knowledge" / "old").mkdir(parents=True)
            (source / "knowledge" / "old" / "qna.yaml").write_text("version: 3\ntask: old\n")
            (source / "README.md").write_text("# Taxonomy\n\nA tree of *leaves*.\n")
        for path, text in options.pop("files", {}).items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_text(text)
        clock = options.pop("clock", None)
        context = running(ForgeSettings(tmp_path / "data", **options), clock=clock)
        served = context.__enter__()
        open_forges.append(context)
        forge = served.forge
        forge.create_org("acme")
        ada, grace = forge.create_user("ada"), forge.create_user("grace")
        who = Signature("Ada", "ada@example.com", DATE)
        repo = forge.create_repo("acme", "taxonomy", source, committer=who, message="Plant the tree")
        forge.set_collaborator(repo, "ada", "maintain")
        app = forge.create_app(
            "treewright", PERMISSIONS, EVENTS, receiver.url, repositories=["acme/taxonomy"]
        )
        return World(served, receiver, app, ada, grace, tmp_path, problems)

    yield make
    for context in open_forges:
        context.__exit__(None, None, None)
    assert not problems, "exchanges that are not as GitHub describes them:\n" + "\n".join(problems)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


def wait_for(what: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
