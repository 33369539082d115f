"""A small world for stories: a forge, people with tokens, a bot, and a model endpoint of this test's own.

Everything is real but the model: Git over HTTP, signed webhooks, the App's key, the bot's database and jobs.
The model is a small chat-completions server that answers from the prompt, so that a story takes seconds.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn

from bot.main import build
from bot.settings import Settings
from sandbox.forge.serve import ForgeSettings, RunningForge, running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
EVENTS = [
    "pull_request",
    "issue_comment",
    "check_run",
    "check_suite",
    "workflow_run",
    "repository",
    "installation",
]
PERMISSIONS = {
    "actions": "write",
    "checks": "write",
    "contents": "write",
    "issues": "write",
    "members": "read",
    "metadata": "read",
    "pull_requests": "write",
}
Json = dict[str, Any]
T = TypeVar("T")
# One client for all: making one costs more time than most of the requests.
HTTP = httpx.Client(timeout=30, trust_env=False)


def until(look: Callable[[], T], what: str, seconds: float = 180.0) -> T:
    """The first true thing that `look` gives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} seconds; last: {look()!r}")


class Model(ThreadingHTTPServer):
    """Speaks chat completions. As a teacher it asks about the fact that it is shown, as a judge it copies the
    sentence that has most words of the question, and otherwise it knows nothing. `wait` cleared holds every
    answer back."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Chat)
        self.wait = threading.Event()
        self.wait.set()
        self.asked = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def say(self, asked: Json) -> str:
        first, last = (str(asked["messages"][index]["content"]) for index in (0, -1))
        if last.startswith("Fact: "):
            opening = re.search(r"\^([A-Z][a-z ]+) \[", json.dumps(asked)) or [" ", "What"]
            subject = " ".join(last.split()[2:8]).rstrip(".,")
            return json.dumps({"question": f"{opening[1]} {subject}?"})
        if "Text: " in first:
            words = set(re.findall(r"\w{4,}", last.lower()))
            sentences = re.split(r"(?<=\.)\s+", first.partition("Text: ")[2])
            return max(sentences, key=lambda one: len(words & set(re.findall(r"\w{4,}", one.lower()))))
        return "I do not know."


class _Chat(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        self.server.wait.wait(60)
        message = {"role": "assistant", "content": self.server.say(asked)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps(
            {"id": "x", "object": "chat.completion", "choices": [choice], "usage": {"completion_tokens": 5}}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # a cancelled preview hangs up
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@dataclass
class Person:
    """Somebody with a token, who acts through the API and by `git push` only."""

    world: World
    login: str
    token: str

    def api(self, verb: str, path: str, body: Json | None = None) -> Any:
        answer = HTTP.request(
            verb,
            f"{self.world.forge.api}{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.token}"},
        )
        assert answer.status_code < 400, f"{verb} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        basic = base64.b64encode(f"{self.login}:{self.token}".encode()).decode()
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{self.world.forge.url}/.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
        }
        for role in ("AUTHOR", "COMMITTER"):
            environment[f"GIT_{role}_NAME"] = self.login
            environment[f"GIT_{role}_EMAIL"] = f"{self.login}@example.org"
        done = subprocess.run(["git", *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@dataclass
class Change:
    """A pull request from a fork, with the clone that it is pushed from."""

    repository: Repository
    author: Person
    clone: Path
    number: int = 0

    @property
    def path(self) -> str:
        return f"/repos/{self.repository.name}"

    def push(self, files: Mapping[str, str | bytes | None] | Path) -> str:
        """Commit and push files by path (None removes), or all files of a folder. Returns the new head."""
        if isinstance(files, Path):
            shutil.copytree(files, self.clone, dirs_exist_ok=True)
        else:
            for name, text in files.items():
                place = self.clone / name
                if text is None:
                    place.unlink()
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.author.git("add", "-A", cwd=self.clone)
        self.author.git("commit", "-q", "-m", "A contribution", cwd=self.clone)
        self.author.git("push", "-q", "origin", "HEAD:refs/heads/mine", cwd=self.clone)
        return self.author.git("rev-parse", "HEAD", cwd=self.clone)

    def open(self, title: str = "A leaf") -> None:
        body = {"title": title, "head": f"{self.author.login}:mine", "base": "main"}
        self.number = int(self.author.api("POST", f"{self.path}/pulls", body)["number"])

    def say(self, who: Person, text: str) -> Json:
        return dict(who.api("POST", f"{self.path}/issues/{self.number}/comments", {"body": text}))

    def comments(self, login: str | None = None) -> list[Json]:
        rows = self.author.api("GET", f"{self.path}/issues/{self.number}/comments?per_page=100")
        return [row for row in rows if login is None or row["user"]["login"] == login]

    def from_bot(self) -> list[str]:
        return [str(row["body"]) for row in self.comments("treewright[bot]")]

    def sticky(self) -> str:
        found = [body for body in self.from_bot() if "treewright:pull-request" in body]
        assert len(found) <= 1, "more than one comment"
        return found[0] if found else ""

    def title(self) -> str:
        """The headline of the pull request's comment."""
        match = re.search(r"^### (.*)$", self.sticky(), re.MULTILINE)
        return match.group(1) if match else ""

    def becomes(self, title: str, seconds: float = 180.0) -> str:
        """Wait until the comment has this headline; returns the comment."""
        until(lambda: self.title() == title, f"the headline “{title}” (now “{self.title()}”)", seconds)
        return self.sticky()

    def replies(self, to: Json) -> list[str]:
        return [body for body in self.from_bot() if f"treewright:reply:{to['id']}" in body]

    def reply(self, to: Json) -> str:
        return until(lambda: self.replies(to), "a reply")[0]

    def reactions(self, to: Json) -> list[str]:
        rows = self.author.api("GET", f"{self.path}/issues/comments/{to['id']}/reactions")
        return [str(row["content"]) for row in rows]

    def answered(self, to: Json) -> str:
        """The reaction that is left when the bot is done with a comment."""
        return until(
            lambda: ([one for one in self.reactions(to) if one != "eyes"] and self.reactions(to)) or [],
            "a reaction",
        )[-1]

    def checks(self, head: str, name: str) -> list[Json]:
        rows = self.author.api("GET", f"{self.path}/commits/{head}/check-runs?filter=all")["check_runs"]
        return [row for row in rows if row["name"] == name]

    def check(self, head: str, name: str = "treewright / lint") -> Json:
        """The concluded check of a head."""

        def done() -> Json | None:
            rows = self.checks(head, name)
            return rows[0] if rows and rows[0]["status"] == "completed" else None

        return until(done, f"the check “{name}” of {head[:10]}") or {}

    def annotations(self, check: Json) -> list[Json]:
        return list(self.author.api("GET", f"{self.path}/check-runs/{check['id']}/annotations?per_page=100"))

    def pull(self) -> Json:
        return dict(self.author.api("GET", f"{self.path}/pulls/{self.number}"))


@dataclass
class Repository:
    world: World
    name: str

    def fork(self, who: Person) -> Change:
        """A change by `who` in a fork of this repository."""
        made = who.api("POST", f"/repos/{self.name}/forks", {"name": self.name.replace("/", "-")})
        clone = self.world.folder / f"clone-{made['id']}"
        url = f"{self.world.forge.url}/{made['full_name']}.git"
        until(lambda: not who.git("ls-remote", url).isspace(), "the fork")
        who.git("clone", "-q", url, str(clone))
        return Change(self, who, clone)


@dataclass
class World:
    forge: RunningForge
    folder: Path
    model: Model
    app: Json = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)
    repositories: int = 0

    def admin(self, verb: str, path: str, body: Json) -> Any:
        answer = httpx.request(
            verb,
            f"{self.forge.url}/_sandbox{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.forge.admin_token}"},
            timeout=30,
        )
        assert answer.status_code < 400, answer.text
        return answer.json() if answer.content else None

    @staticmethod
    def port() -> int:
        """A port that is free now."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    def person(self, login: str) -> Person:
        if login not in self.people:
            self.people[login] = Person(self, login, self.admin("POST", "/users", {"login": login})["token"])
        return self.people[login]

    def repository(self, workflow: str | None = None, config: str | None = None) -> Repository:
        """A fresh copy of the example taxonomy, with the App installed and `mara` as its maintainer."""
        self.repositories += 1
        source = self.folder / f"source-{self.repositories}"
        shutil.copytree(EXAMPLES / "taxonomy", source)
        if workflow is not None:
            (source / ".github/workflows/release.yml").write_text(workflow)
        if config is not None:
            (source / ".github/treewright.yml").write_text(config)
        name = f"taxonomy-{self.repositories}"
        wanted = {
            "owner": "acme",
            "name": name,
            "from": str(source),
            "collaborators": {self.person("mara").login: "write"},
        }
        self.admin("POST", "/repos", wanted)
        self.admin("PATCH", "/apps/treewright", {"repositories": [f"acme/{name}"]})
        return Repository(self, f"acme/{name}")


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI app on a free port in a thread."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, "the server")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def bot_settings(world: World, **changes: Any) -> Settings:
    return Settings(
        **{
            "app_id": world.app["id"],
            "app_slug": "treewright",
            "private_key": world.app["private_key"],
            "webhook_secret": world.app["webhook_secret"],
            "api_url": world.forge.api,
            "web_url": world.forge.url,
            "data": world.folder / "bot",
            "seconds_between_requests": 0,
            "seconds_between_writes": 0,
            "polling_seconds": 0.05,
            "retry_seconds": 0.1,
            "reconcile_seconds": 0,
            **changes,
        }
    )


@contextmanager
def bot(world: World, **changes: Any) -> Iterator[str]:
    """A bot of this world; the App's webhooks go to it while it runs."""
    with serving(build(bot_settings(world, **changes))) as url:
        world.admin("PATCH", "/apps/treewright", {"webhook_url": f"{url}/webhook"})
        yield url


@contextmanager
def new_world(folder: Path, wrap: Callable[[Any], Any] = lambda app: app) -> Iterator[World]:
    """`wrap` listens between the bot and the forge."""
    model = Model()
    with running(ForgeSettings(folder / "forge"), wrap=wrap) as forge:
        world = World(forge, folder, model)
        world.admin("POST", "/orgs", {"login": "acme"})
        world.person("mara")
        author = json.loads((EXAMPLES / "documents.json").read_text())
        committer = {name: author[name] for name in ("name", "email", "date")}
        documents = {
            "owner": "acme",
            "name": "documents",
            "from": str(EXAMPLES / "documents"),
            "committer": committer,
            "message": author["message"] + "\n",
        }
        world.admin("POST", "/repos", documents)
        wanted = {"slug": "treewright", "permissions": PERMISSIONS, "events": EVENTS, "repositories": []}
        world.app = world.admin("POST", "/apps", wanted)
        for role in ("TEACHER", "JUDGE", "STUDENT"):
            os.environ[f"TREEWRIGHT_{role}_URL"] = model.url
        place = "https://github.com/acme/documents"
        ours = f"{forge.url}/acme/documents.git"
        os.environ["TREEWRIGHT_GIT_MIRRORS"] = json.dumps({place: ours, f"{place}.git": ours})
        try:
            yield world
        finally:
            model.shutdown()
