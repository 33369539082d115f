"""What would the bot do? The whole bot runs on a copy of its memory, and every write to GitHub is noted
instead of sent.

    treewright bot simulate acme/taxonomy#12                        as if it had just been opened again
    treewright bot simulate acme/taxonomy#12 --say "/approve" --as mara
    treewright bot replay delivery.json --simulate

Nothing can be written by mistake: writes end in `ReadOnlyApp`, and the tokens that it asks for may only
read. Answers to writes are made up as far as the bot reads them, and what was "merged" is shown as merged
afterwards.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa
from github import GithubException

from bot import jobs, signature
from bot import tables as t
from bot.git import Mirrors
from bot.github import App, Json, Repository
from bot.grants import PERMISSIONS
from bot.inbox import Dispatcher
from bot.services import Services
from bot.settings import Settings
from bot.store import Store

MERGE = "5" * 40
"""The commit that a simulated merge makes."""
_TOKENS = re.compile(r"//app/installations/\d+/access_tokens")
_PULL = re.compile(r"/pulls/(\d+)")
_MERGED = re.compile(r"/pulls/(\d+)/merge")
# What the bot has learnt; not what it has waiting, or a simulated delivery would be taken for a repeated one.
_MEMORY = (t.pulls, t.heads, t.reviews, t.approvals, t.releases, t.writes, t.preview_runs)


class SimulationError(Exception):
    """It cannot be simulated; the text says why."""


@dataclass(frozen=True)
class Write:
    """One request that would have been sent. `path` is under the repository unless it starts with `//`."""

    verb: str
    path: str
    repo: str
    body: Mapping[str, Any]


@dataclass
class Notes:
    """What was noted, and what later reads must show of it."""

    writes: list[Write] = field(default_factory=list)
    merged: dict[str, str] = field(default_factory=dict)  # repo#number -> head
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(10**15))
    lock: threading.Lock = field(default_factory=threading.Lock)


class ReadOnlyApp(App):
    """The App with tokens that may only read, and repositories that note what they are told to write."""

    permissions = dict.fromkeys(PERMISSIONS, "read")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.notes = Notes()

    def repository(self, repo: str, installation: int) -> Repository:
        return _Noting(self, repo, installation, self._client(installation))

    def itself(self) -> Repository:
        return _Noting(self, "", 0, self._client(0))


class _Noting(Repository):
    app: ReadOnlyApp

    def exchange(
        self, verb: str, path: str, body: Json | None = None, parameters: Json | None = None
    ) -> tuple[Mapping[str, Any], Any]:
        if verb not in {"GET", "HEAD"}:
            if _TOKENS.fullmatch(path):
                return super().exchange(verb, path, body, parameters)
            return {}, self._note(verb, path, body or {})
        notes = self.app.notes
        if path == f"/commits/{MERGE}" and notes.merged:
            return {}, {"sha": MERGE, "parents": [{"sha": "0" * 40}]}
        headers, data = super().exchange(verb, path, body, parameters)
        found = _PULL.fullmatch(path)
        if found and f"{self.name}#{found[1]}" in notes.merged:
            data = {**data, "merged": True, "state": "closed", "merge_commit_sha": MERGE}
        return headers, data

    def _note(self, verb: str, path: str, body: Json) -> Any:
        notes = self.app.notes
        with notes.lock:
            notes.writes.append(Write(verb, path, self.name, body))
            number = next(notes.numbers)
        merge = _MERGED.fullmatch(path)
        if merge:
            notes.merged[f"{self.name}#{merge[1]}"] = str(body.get("sha", ""))
            return {"sha": MERGE, "merged": True, "message": "simulated"}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        given = (body.get("output") or {}).get("annotations") or []
        return {
            **body,
            "id": number,
            "html_url": "",
            "created_at": now,
            "updated_at": now,
            "user": {"login": self.app.settings.login},
            "output": {"annotations_count": len(given)},
        }


@dataclass(frozen=True)
class Delivery:
    """What GitHub would send."""

    event: str
    payload: Mapping[str, Any]


def read_delivery(data: bytes, event: str = "") -> Delivery:
    """A delivery from a file: GitHub's own record (`/app/hook/deliveries/ID`), one taken from the dashboard,
    or a bare body together with its `event`.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SimulationError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise SimulationError("not a webhook's JSON object")
    request = value.get("request")
    payload = request.get("payload") if isinstance(request, dict) else value.get("payload")
    named = value.get("event")
    if isinstance(payload, dict) and isinstance(named, str):
        return Delivery(event or named, payload)
    if not event:
        raise SimulationError("a bare body does not say which event it is: name it with --event")
    return Delivery(event, value)


def of_pull(app: App, repo: str, number: int, text: str = "", login: str = "") -> Delivery:
    """The delivery that GitHub would send for a pull request that is opened again, or for a comment on it."""
    try:
        installation = int(app.itself().ask("GET", f"//repos/{repo}/installation")["id"])
        repository = app.repository(repo, installation)
        pull = repository.ask("GET", f"/pulls/{number}")
        whole = pull["base"]["repo"]
        common = {"installation": {"id": installation}, "repository": whole}
        if not text:
            return Delivery(
                "pull_request", {**common, "action": "reopened", "pull_request": pull, "sender": pull["user"]}
            )
        person = repository.ask("GET", f"//users/{login}")
    except GithubException as error:
        raise SimulationError(
            f"GitHub answered {error.status}: is the App installed on {repo}, and is there a #{number}?"
        ) from None
    except requests.RequestException as error:
        where = app.settings.api_url
        raise SimulationError(f"{where} could not be reached ({type(error).__name__})") from None
    comment = {
        "id": 10**15,
        "body": text,
        "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "user": person,
    }
    issue = {"number": number, "pull_request": {"url": pull["url"]}}
    return Delivery(
        "issue_comment", {**common, "action": "created", "issue": issue, "comment": comment, "sender": person}
    )


@dataclass(frozen=True)
class Outcome:
    """How the delivery ended (`state` and `detail` as in the inbox), and what would have been written."""

    state: str
    detail: str
    writes: tuple[Write, ...]


def simulate(settings: Settings, delivery: Delivery, remember: bool = True, seconds: float = 600) -> Outcome:
    """Play one delivery. `remember`: start from a copy of the bot's memory, when there is one."""
    with tempfile.TemporaryDirectory(prefix="treewright-simulate-") as folder:
        mine = settings.model_copy(
            update={"data": Path(folder), "database": "", "polling_seconds": 0.05, "retry_seconds": 0.2}
        )
        store = Store(mine.database_url)
        if remember:
            _copy_memory(settings, store)
        app = ReadOnlyApp(mine)
        services = Services(mine, store, app, Mirrors(mine.data / "git", mine.web_url))
        try:
            return _play(services, app, delivery, seconds)
        finally:
            store.close()


def _play(services: Services, app: ReadOnlyApp, delivery: Delivery, seconds: float) -> Outcome:
    store, settings = services.store, services.settings
    body = json.dumps(delivery.payload).encode()
    name = str(uuid.uuid4())
    store.accept(name, signature.sign(b"simulated", body), delivery.event, body)
    dispatcher = Dispatcher(store, settings.login, 0.1, threading.Event())
    jobs.open_jobs(services)
    try:
        dispatcher.start()
        end = time.monotonic() + seconds
        while not _quiet(store):
            if time.monotonic() > end:
                raise SimulationError(f"not finished after {seconds:.0f} s; what it wrote so far is lost")
            time.sleep(0.05)
    finally:
        dispatcher.stop()
        jobs.close_jobs(5)
    row = store.delivery(name)
    return Outcome(str(row["state"]), str(row["detail"]), tuple(app.notes.writes))


def _quiet(store: Store) -> bool:
    return not store.waiting(1) and not store.all_unfinished()


def _copy_memory(settings: Settings, store: Store) -> None:
    url = sa.engine.make_url(settings.database_url)
    if url.drivername.startswith("sqlite") and not Path(url.database or "").is_file():
        return
    engine = sa.create_engine(url)
    try:
        with engine.connect() as source, store.write() as target:
            there = sa.inspect(source)
            for table in _MEMORY:
                if there.has_table(table.name):
                    # An older bot may not have made every column yet.
                    known = {str(column["name"]) for column in there.get_columns(table.name)}
                    columns = [column for column in table.columns if column.name in known]
                    for row in source.execute(sa.select(*columns)).mappings():
                        target.execute(sa.insert(table), dict(row))
    except sa.exc.SQLAlchemyError as error:
        raise SimulationError(f"the bot's memory cannot be read ({type(error).__name__})") from None
    finally:
        engine.dispose()


def told(writes: tuple[Write, ...]) -> list[str]:
    """One line for each write, for people."""
    lines = []
    for one in writes:
        line = f"{one.verb} {one.repo}{one.path}"
        output = one.body.get("output") or {}
        notes = len(output.get("annotations") or [])
        words = (
            one.body.get("name"),
            one.body.get("conclusion") or one.body.get("status"),
            output.get("title"),
            f"{notes} annotations" if notes else None,
            one.body.get("content"),
            one.body.get("sha"),
            (one.body.get("inputs") or {}).get("key"),
        )
        rest = ", ".join(str(word) for word in words if word)
        lines.append(f"{line}: {rest}" if rest else line)
    return lines
