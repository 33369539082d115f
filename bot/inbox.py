"""From the inbox to the jobs: reads what was delivered, enters heads in the ledger at once, and starts
durable work.

Heads are entered here and not in the job, so that a job on an older head learns of the newer one while it
runs. Starting work twice for one delivery is harmless: the job has the delivery's id.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import sqlalchemy as sa

from bot import audit, jobs
from bot.commands import parse
from bot.events import (
    CheckEvent,
    CommentEvent,
    Event,
    InstallationEvent,
    PullEvent,
    PullFacts,
    RepositoryEvent,
    RunEvent,
    identity,
    read,
)
from bot.jobbook import UNFINISHED
from bot.jobs import COMMANDS, Job
from bot.release import key_in
from bot.store import Pull, Store

_ONCE_FOR_A_HEAD = {"opened", "synchronize"}
_SETTLED = {"done", "empty", "failed"}
_STARTS_A_REVIEW = {"opened", "reopened", "synchronize", "ready_for_review", "edited"}
_TRIES = 5
"""How often a delivery that cannot be handed on is looked at before it counts as failed."""
# The database is away or overloaded: no delivery's own fault.
_DATABASE_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


class Dispatcher:
    """One thread that empties the inbox whenever it is woken, and looks by itself every `seconds`."""

    def __init__(self, store: Store, login: str, seconds: float, reconcile: threading.Event) -> None:
        self._store = store
        self._login = login
        self._seconds = seconds
        self._reconcile = reconcile
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._failures: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=10)

    def wake(self) -> None:
        self._wake.set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                while self._empty() and not self._stop.is_set():
                    pass
            except Exception:
                audit.trouble("the inbox could not be read; trying again")
            self._wake.wait(self._seconds)

    def _empty(self) -> bool:
        rows = self._store.waiting()
        settled: list[tuple[str, str, str]] = []
        try:
            for row in rows:
                try:
                    state, detail = self._start(row["id"], row["event"], row["body"])
                except (ValueError, RecursionError, OverflowError) as error:
                    state, detail = "ignored", f"unreadable: {type(error).__name__}"
                except _DATABASE_AWAY:
                    raise
                except Exception as error:  # one delivery must not keep the others waiting
                    self._failures[row["id"]] += 1
                    audit.trouble("a delivery could not be handed on", id=row["id"], event=row["event"])
                    if self._failures[row["id"]] < _TRIES:
                        continue
                    state, detail = "failed", f"{type(error).__name__}: {error}"
                settled.append((row["id"], state, detail))
                audit.note("delivery", id=row["id"], event=row["event"], state=state, detail=detail)
        finally:  # also when one could not be started: those before it were
            if settled:
                self._store.hand_over(settled)
        return bool(settled)

    def _start(self, delivery: str, name: str, body: bytes) -> tuple[str, str]:
        payload: Any = json.loads(body)
        event = read(name, payload) if isinstance(payload, dict) else None
        if event is None:
            return "ignored", "nothing for us"
        about = identity(event)
        if about is not None and (holder := self._store.claim(about, delivery)) != delivery:
            self._store.count("duplicate_events")
            return "ignored", f"the same event as delivery {holder}"
        return self._begin(delivery, event)

    def _begin(self, delivery: str, event: Event) -> tuple[str, str]:
        match event:
            case PullEvent():
                pull = self._store.learn(event.pull, delivery)
                if event.action in _STARTS_A_REVIEW and event.pull.state == "open":
                    return self._review(pull, event, delivery)
                if event.action == "closed":
                    job = Job(delivery, COMMANDS, "closed", pull.repo_id, pull.number)
                    jobs.enqueue(job, jobs.close_pull, pull.repo_id, pull.number, delivery)
                    return "queued", "closed"
                return "ignored", f"pull request {event.action}"
            case CommentEvent():
                if event.user_type != "User" or event.login == self._login:
                    return "ignored", "not a person's comment"
                if not parse(event.body):
                    return "ignored", "no command"
                job = Job(delivery, COMMANDS, "command", event.repo_id, event.number)
                jobs.enqueue(job, jobs.answer_comment, delivery)
                return "queued", "commands"
            case CheckEvent():
                # A check belongs to a commit, and so perhaps to several pull requests: number 0.
                job = Job(delivery, COMMANDS, "button", event.repo_id, 0)
                jobs.enqueue(job, jobs.press_button, delivery)
                return "queued", "button"
            case RunEvent():
                key = key_in(event.title) or ""
                release = self._store.release(key)
                if release is None or release["repo_id"] != event.repo_id:
                    return "ignored", "not a release of ours"
                job = Job(delivery, COMMANDS, "run", release["repo_id"], release["number"])
                jobs.enqueue(job, jobs.follow_run, delivery)
                return "queued", "run"
            case RepositoryEvent():
                self._store.move_repository(event.repo_id, event.repo, event.installation)
                self._reconcile.set()
                return "done", "repository"
            case InstallationEvent():
                self._reconcile.set()
                return "done", "installation"

    def _review(self, pull: Pull, event: PullEvent, delivery: str) -> tuple[str, str]:
        head = event.pull.head
        if event.action in _ONCE_FOR_A_HEAD:
            # Reconcile may have found this head before its delivery came; then the work is done or under way.
            holder = self._store.claim(automatic(event.pull), delivery)
            if holder != delivery and self._store.job_state(holder) in UNFINISHED:
                return "ignored", f"{holder} is at it"
            seen = self._store.review(pull, head)
            if holder != delivery and seen["lint"] and seen["preview_state"] in _SETTLED:
                # The same commit again, after a push back and forth, say: everything is known, so show it.
                job = Job(delivery, COMMANDS, "closed", pull.repo_id, pull.number)
                jobs.enqueue(job, jobs.close_pull, pull.repo_id, pull.number, delivery)
                return "queued", f"reviewed by {holder}"
        jobs.enqueue_review(pull, head, delivery, (pull.author, pull.author_id))
        jobs.tell_place(pull, delivery)
        return "queued", "review"


def automatic(facts: PullFacts) -> str:
    """The claim of whoever reviews a head that nobody asked about, so that it happens once."""
    return f"review:{facts.repo_id}:{facts.number}:{facts.head}:{facts.base_ref}"
