"""Plays a short life of a pull request on this machine: forge, App, bot and model, each as it would run in
earnest.

    treewright selftest        with the endpoints of this environment, or else with the embedded model

The App is made by the manifest flow, the bot is a process of its own with a temporary memory, and the people
act through GitHub's API and `git push`. Nothing outside of this machine is asked but the model endpoints
that the environment names. Everything is gone afterwards.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bot import chain
from bot.audit_log import AuditLog
from bot.doctor import doctor_checks
from bot.setup import Plan, prepare
from bot.setup_page import SetupServer
from sandbox.forge.serve import ForgeSettings, RunningForge, running
from sandbox.stage_hands import StoryError, free_port, git

ROLES = ("TEACHER", "JUDGE", "STUDENT")
LINT, PREVIEW = "treewright / lint", "treewright / preview"
REPOSITORY, BRANCH = "acme/taxonomy", "rhymes"
LEAF = "compositional_skills/writing/weather_rhymes"
_RHYMES = {
    "fog": "The fog came softly down the lane,\n      and hid the church and hid the train.",
    "frost": "The frost has drawn on every pane\n      a fern that will not grow again.",
    "a warm wind": "A warm wind wandered through the wheat,\n      and dried the puddles in the street.",
    "stars": "The clouds have gone, the stars are bright,\n      and all the roofs are washed with light.",
    "hail": "The hail is drumming on the tin,\n      so close the door and stay within.",
}
_ATTRIBUTION = """Title of work: Weather rhymes
Link to work: -
Revision: -
License of the work: CC0-1.0
Creator names: The Treewright authors
"""
_MODEL = "    id: HuggingFaceTB/SmolLM2-135M-Instruct\n    revision: main\n"
_CONFIG = (
    "version: 1\npreview:\n  seeds: 2\n  samples: 2\nmodels:\n"
    f"  teacher:\n{_MODEL}  judge:\n{_MODEL}  student:\n{_MODEL}"
)
_WORKFLOW = """name: Release
run-name: release ${{ inputs.key }}
on:
  workflow_dispatch:
    inputs:
      sha: {required: true, type: string}
      base: {required: true, type: string}
      pull_requests: {required: true, type: string}
      key: {required: true, type: string}
permissions: {}
jobs:
  build:
    runs-on: no-runner-of-this-machine
    steps:
      - run: "true"
"""


@dataclass(frozen=True)
class Line:
    """One check of the table; `found` says what was seen, or why it failed."""

    name: str
    ok: bool
    found: str
    seconds: float


@dataclass
class SelfTest:
    """Runs the checks in order; the first that fails ends them, for each builds on the one before."""

    say: Callable[[Line], None] = lambda _: None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    patience: float = 300.0
    lines: list[Line] = field(default_factory=list)
    people: dict[str, str] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def run(self) -> bool:
        with tempfile.TemporaryDirectory(prefix="treewright-selftest-") as folder, self.stack:
            self.folder = Path(folder)
            try:
                self._play()
            except _FailedError:
                return False
        return all(line.ok for line in self.lines)

    @contextmanager
    def check(self, name: str) -> Iterator[list[str]]:
        begun, found = time.monotonic(), [""]
        try:
            yield found
        except (StoryError, httpx.HTTPError, OSError, KeyError, RuntimeError) as error:
            self._line(Line(name, False, f"{error}"[:300], time.monotonic() - begun))
            raise _FailedError from error
        self._line(Line(name, True, found[0], time.monotonic() - begun))

    def _line(self, line: Line) -> None:
        self.lines.append(line)
        self.say(line)

    def _play(self) -> None:
        with self.check("model endpoints") as found:
            models = self._models()
            found[0] = models["TREEWRIGHT_TEACHER_URL"]
        with self.check("forge") as found:
            self.forge = self._forge()
            found[0] = self.forge.url
        with self.check("App by the manifest flow") as found:
            settings = self._app()
            found[0] = settings.name
        with self.check("bot") as found:
            self._bot(settings, models)
            found[0] = self.bot_url
        with self.check("App, permissions, events, clock") as found:
            found[0] = self._doctor(settings)
        with self.check("a mistake is found at its line") as found:
            number, head = self._open_with_mistake()
            run = self._check_run(head, LINT)
            notes = self._api("ada", "GET", f"/repos/{REPOSITORY}/check-runs/{run['id']}/annotations")
            right = [note for note in notes if note["start_line"] == 3]
            if run["conclusion"] != "failure" or not right:
                raise StoryError(f"the check ended as {run['conclusion']} with {len(notes)} annotations")
            found[0] = f"qna.yaml:3: {right[0]['message'].splitlines()[0]}"[:80]
        with self.check("the repair turns it green") as found:
            head = self._push(_leaf("newcomer"), "Mend the leaf")
            found[0] = str(self._check_run(head, LINT)["output"]["title"])
        with self.check("the preview asks the models") as found:
            run = self._check_run(head, PREVIEW)
            if run["conclusion"] not in {"success", "failure"}:
                raise StoryError(f"it ended as {run['conclusion']}: {run['output']['title']}")
            found[0] = str(run["output"]["title"])
        with self.check("a stranger may not approve") as found:
            found[0] = self._refused(number)
        with self.check("a maintainer's approval merges that commit") as found:
            found[0] = self._merged(number, head)
        with self.check("the release is dispatched once") as found:
            found[0] = self._dispatched()
        with self.check("the bot stops and its audit log is whole") as found:
            found[0] = self._stopped(head)

    # --- the house

    def _models(self) -> dict[str, str]:
        """The operator's endpoints when the environment names them all, the embedded model otherwise."""
        named = [f"TREEWRIGHT_{role}_URL" for role in ROLES]
        if all(self.environment.get(name) for name in named):
            return {k: v for k, v in self.environment.items() if k.startswith("TREEWRIGHT_")}
        ready = self.folder / "endpoint.json"
        self._start("endpoint", ["serve", "--model", "embedded", "--ready-file", str(ready)], {})
        self._until(ready.exists, "the embedded model", 120)
        served = json.loads(ready.read_text())
        return {
            **{f"TREEWRIGHT_{role}_URL": served["url"] for role in ROLES},
            **{f"TREEWRIGHT_{role}_MODEL": served["model"] for role in ROLES},
        }

    def _forge(self) -> RunningForge:
        forge = self.stack.enter_context(running(ForgeSettings(self.folder / "forge")))
        forge.forge.create_org("acme", "Acme")
        self.people = {person: forge.forge.create_user(person) for person in ("ada", "newcomer")}
        tree = self.folder / "taxonomy"
        for name, text in {
            ".github/treewright.yml": _CONFIG,
            ".github/workflows/release.yml": _WORKFLOW,
            "README.md": "A taxonomy for a self-test.\n",
        }.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text, "utf-8")
        repo = forge.forge.create_repo("acme", "taxonomy", tree, message="Start the taxonomy\n")
        forge.forge.set_collaborator(repo, "ada", "maintain")
        return forge

    def _app(self) -> Path:
        """As a person in a browser would: our page, the forge's page, and back."""
        self.bot_url = f"http://127.0.0.1:{free_port()}"
        folder = self.folder / "app"
        prepare(folder)
        hook = f"{self.bot_url}/webhook"
        server = SetupServer(
            Plan.of(self.forge.url, name="treewright", webhook_url=hook, folder=folder, owner="acme")
        )
        server.start()
        try:
            with httpx.Client(trust_env=False, timeout=30) as browser:
                asked = _press(browser, browser.get(server.url))
                back = _press(browser, asked, owner="acme")
                answer = browser.get(back.headers["location"])
        finally:
            server.shutdown()
            server.server_close()
        made = server.outcome.made
        if made is None:
            raise StoryError(server.outcome.trouble or f"the set-up's page answered {answer.status_code}")
        app = next(one for one in self.forge.forge.apps if one.id == made.app_id)
        self.forge.forge.install_app(app, [REPOSITORY])
        return Path(server.outcome.settings)

    def _bot(self, settings: Path, models: Mapping[str, str]) -> None:
        environment = {
            **models,
            "TREEWRIGHT_BOT_DATA": str(self.folder / "bot"),
            "TREEWRIGHT_BOT_DATABASE": "",
            "TREEWRIGHT_BOT_SECONDS_BETWEEN_REQUESTS": "0",
            "TREEWRIGHT_BOT_SECONDS_BETWEEN_WRITES": "0",
            "TREEWRIGHT_BOT_POLLING_SECONDS": "0.1",
            "TREEWRIGHT_CACHE": str(self.folder / "cache"),
        }
        port = self.bot_url.rpartition(":")[2]
        arguments = ["bot", "run", "--port", port, "--settings", str(settings)]
        self.bot = self._start("bot", arguments, environment)

        def ready() -> bool:
            try:
                return httpx.get(f"{self.bot_url}/readyz", trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        self._until(ready, "the bot", 60)

    def _start(
        self, name: str, arguments: list[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        mine = {k: v for k, v in self.environment.items() if not k.startswith("TREEWRIGHT_BOT_")}
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "treewright", *arguments],
                env={**mine, "OMP_WAIT_POLICY": "PASSIVE", **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.stack.callback(_end, process)
        self.processes = [*getattr(self, "processes", []), (name, process)]
        return process

    def _doctor(self, settings: Path) -> str:
        context = _Machine({"TREEWRIGHT_BOT_SETTINGS": str(settings)})
        results = [look(context) for look in doctor_checks()["bot"]]
        bad = [f"{one.name}: {one.found}" for one in results if one.state == "failed"]
        if bad:
            raise StoryError("; ".join(bad))
        return f"{len(results)} lines of the doctor"

    # --- the people

    def _open_with_mistake(self) -> tuple[int, str]:
        self._api("newcomer", "POST", f"/repos/{REPOSITORY}/forks", {})
        address = self.forge.url.replace("://", f"://newcomer:{self.people['newcomer']}@")
        self.clone = self.folder / "clone"
        self._until(lambda: self._api("newcomer", "GET", "/repos/newcomer/taxonomy"), "the fork", 30)
        git("clone", "--quiet", f"{address}/newcomer/taxonomy.git", str(self.clone))
        git("checkout", "--quiet", "-b", BRANCH, cwd=self.clone)
        head = self._push(_leaf("newcomer").replace("task_description:", "task_descriptoin:"), "Add rhymes")
        body = {"title": "Add rhymes", "head": f"newcomer:{BRANCH}", "base": "main"}
        return int(self._api("newcomer", "POST", f"/repos/{REPOSITORY}/pulls", body)["number"]), head

    def _push(self, leaf: str, message: str) -> str:
        folder = self.clone / LEAF
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "qna.yaml").write_text(leaf, "utf-8")
        (folder / "attribution.txt").write_text(_ATTRIBUTION, "utf-8")
        git("add", "--all", cwd=self.clone)
        who = ("-c", "user.name=newcomer", "-c", "user.email=newcomer@example.invalid")
        git(*who, "commit", "--quiet", "--message", message, cwd=self.clone)
        git("push", "--quiet", "origin", BRANCH, cwd=self.clone)
        return git("rev-parse", "HEAD", cwd=self.clone).strip()

    def _refused(self, number: int) -> str:
        said = self._say("newcomer", number, "/approve")
        reply = self._until(lambda: self._reply(number, said), "the refusal", 60)
        if self._api("ada", "GET", f"/repos/{REPOSITORY}/pulls/{number}")["merged"]:
            raise StoryError("a stranger's approval merged the pull request")
        return re.sub(r"<!--.*?-->|\s+", " ", str(reply)).strip()[:80]

    def _merged(self, number: int, head: str) -> str:
        said = self._say("ada", number, f"/approve {head}")

        def merged() -> Any:
            if reply := self._reply(number, said):
                raise StoryError(re.sub(r"<!--.*?-->|\s+", " ", str(reply)).strip())
            pull = self._api("ada", "GET", f"/repos/{REPOSITORY}/pulls/{number}")
            return pull if pull["merged"] else None

        pull = self._until(merged, "the merge", 120)
        if pull["head"]["sha"] != head:
            raise StoryError(f"merged {pull['head']['sha'][:10]}, approved was {head[:10]}")
        return head[:10]

    def _dispatched(self) -> str:
        path = f"/repos/{REPOSITORY}/actions/runs"
        self._until(lambda: self._api("ada", "GET", path)["workflow_runs"], "the run", 60)
        self.forge.hooks.drain(10)
        runs = self._api("ada", "GET", path)["workflow_runs"]
        if len(runs) != 1 or not re.fullmatch(r"release [0-9a-f]{32}", runs[0]["display_title"]):
            raise StoryError(f"{len(runs)} runs: {[run['display_title'] for run in runs]}")
        return str(runs[0]["display_title"])

    def _stopped(self, head: str) -> str:
        self.bot.terminate()
        if self.bot.wait(60) != 0:
            raise StoryError(f"the bot ended with status {self.bot.returncode}")
        log = AuditLog.reading(f"sqlite:///{self.folder / 'bot' / 'bot.sqlite'}")
        records = list(log.records())
        end, problems = chain.verify(records)
        merges = [one for one in records if isinstance(one, chain.Record) and one.what == "merged"]
        if problems or [one.fields.get("head") for one in merges] != [head]:
            raise StoryError(f"{len(problems)} problems, {len(merges)} merges in {end.count} records")
        return f"{end.count} records"

    # --- looking

    def _say(self, person: str, number: int, text: str) -> int:
        path = f"/repos/{REPOSITORY}/issues/{number}/comments"
        return int(self._api(person, "POST", path, {"body": text})["id"])

    def _reply(self, number: int, to: int) -> str:
        rows = self._api("ada", "GET", f"/repos/{REPOSITORY}/issues/{number}/comments?per_page=100")
        found = [str(row["body"]) for row in rows if f"treewright:reply:{to}" in row["body"]]
        return found[0] if found else ""

    def _check_run(self, head: str, name: str) -> dict[str, Any]:
        def done() -> Any:
            rows = self._api("ada", "GET", f"/repos/{REPOSITORY}/commits/{head}/check-runs")["check_runs"]
            ended = [row for row in rows if row["name"] == name and row["status"] == "completed"]
            return ended[0] if ended else None

        return dict(self._until(done, f"the check {name!r}", self.patience))

    def _until(self, look: Callable[[], Any], what: str, seconds: float) -> Any:
        end = time.monotonic() + seconds
        while not (found := look()):
            for name, process in getattr(self, "processes", []):
                if process.poll() is not None:
                    words = (self.folder / f"{name}.log").read_text("utf-8", "replace").splitlines()[-3:]
                    raise StoryError(f"the {name} ended by itself: {' '.join(words)}"[:300])
            if time.monotonic() > end:
                raise StoryError(f"waited {seconds:.0f} s for {what}")
            time.sleep(0.2)
        return found

    def _api(self, person: str, verb: str, path: str, body: object = None) -> Any:
        answer = httpx.request(
            verb,
            self.forge.api + path,
            json=body,
            headers={"Authorization": f"Bearer {self.people[person]}"},
            timeout=60,
            trust_env=False,
        )
        if answer.is_error:
            raise StoryError(f"{verb} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json() if answer.content else None


class _FailedError(Exception):
    """A check failed, and its line says why."""


@dataclass(frozen=True)
class _Machine:
    environment: Mapping[str, str]


def _leaf(author: str) -> str:
    seeds = "".join(
        f'  - question: "Write a rhyme of two lines about {about}."\n    answer: |\n      {rhyme}\n'
        for about, rhyme in _RHYMES.items()
    )
    task = "Write a rhyme of two lines about a kind of weather."
    return f"version: 3\ncreated_by: {author}\ntask_description: {task}\nseed_examples:\n{seeds}"


def _press(browser: httpx.Client, page: httpx.Response, **choices: str) -> httpx.Response:
    """Press the one button of a page."""
    action = re.search(r'<form method="post" action="([^"]+)"', page.text)
    if action is None:
        raise StoryError(f"a page without a button: {page.status_code}")
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
    data = {name: html.unescape(value) for name, value in hidden.items()} | choices
    return browser.post(str(page.url.join(html.unescape(action[1]))), data=data)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
