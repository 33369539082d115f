"""What no webhook told us: at the start and by a timer, compare GitHub's open pull requests with what we
know, and mend the difference.

GitHub never delivers again by itself, so a delivery that failed is lost unless we look (`sweep.py` asks for
it again). Here the look is at the state: heads that nobody reviewed, checks and comments that are not there,
merges and releases that were not followed up, commands that were given up without a word. What is found is
started as a job, as if it had been delivered, counted, and logged.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from bot import audit, jobs, release
from bot.commands import parse
from bot.courtesy import StoppingError
from bot.events import PullFacts, identity, read
from bot.github import Json, Repository
from bot.inbox import automatic
from bot.jobs import COMMANDS, Job
from bot.publish import MARKER, lint_ok
from bot.services import Services
from bot.store import Pull
from bot.sweep import sweep
from lab.report.checks import LINT

_A_DAY = 86_400.0
_HEARTBEAT = 15.0  # seconds
_SILENT_BEATS = 5  # a replica that missed so many is gone
_TRIES = 5
"""How often one head is reviewed again by itself after a review that failed for good."""


class Reconciler:
    """Two threads: one looks around, at once when `due` is set and else every `seconds` (0: only when it is
    told to); the other one says to the other replicas that this one lives, and takes over from those that
    do not.
    """

    def __init__(self, services: Services, seconds: float, due: threading.Event) -> None:
        self._services = services
        self._seconds = seconds
        self._due = due
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, name="reconcile", daemon=True)]
        if services.store.shared:
            self._threads.append(threading.Thread(target=self._live, name="heartbeat", daemon=True))

    def start(self) -> None:
        self._due.set()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._due.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._due.wait(self._seconds or None)
            self._due.clear()
            if self._stop.is_set():
                return
            # One replica at a time; the others would only ask GitHub the same.
            with self._services.store.leading("reconcile") as mine:
                for look in (sweep, reconcile, _prune) if mine else ():
                    self._safely(look)

    def _live(self) -> None:
        beat = min(_HEARTBEAT, self._seconds or _HEARTBEAT)
        while not self._stop.is_set():
            self._safely(lambda _: jobs.take_over(_SILENT_BEATS * beat))
            self._stop.wait(beat)

    def _safely(self, look: Callable[[Services], object]) -> None:
        try:
            look(self._services)
        except StoppingError:
            return
        except Exception:
            if not self._stop.is_set():
                audit.trouble("reconcile did not finish; the next one tries again")


def _prune(services: Services) -> int:
    return services.store.prune(time.time())


def reconcile(services: Services) -> int:
    """Look at every installation once. Returns how many things were mended."""
    healed: Counter[str] = Counter()
    jobs.end_lost_jobs()
    for installation in services.app.installations():
        for repository in services.app.repositories(installation):
            try:
                healed += _repository(services, installation, repository)
            except Exception as error:  # one repository in trouble must not keep the others waiting
                name = repository["full_name"]
                audit.trouble("a repository was not reconciled", repo=name, error=str(error)[:500])
    healed += _releases(services)
    healed += _apologies(services)
    for name, number in healed.items():
        services.store.count(f"healed_{name}", number)
    audit.note("reconciled", healed=dict(healed))
    return healed.total()


def _repository(services: Services, installation: int, found: Json) -> Counter[str]:
    healed: Counter[str] = Counter()
    repo_id, name = int(found["id"]), str(found["full_name"])
    services.store.move_repository(repo_id, name, installation)
    repository = services.app.repository(name, installation)
    open_now: set[int] = set()
    for facts in repository.open_pulls():
        open_now.add(facts.number)
        mended = _open_pull(services, repository, facts)
        healed[mended] += bool(mended)
    for pull in services.store.open_pulls():
        if pull.repo_id == repo_id and pull.number not in open_now:
            healed["pulls"] += _closed_pull(services, pull)
    for pull in services.store.merges_without_release(repo_id):
        if services.store.unfinished(pull.repo_id, pull.number):
            continue
        job = Job(f"heal-merge-{pull.key}-{pull.head}", COMMANDS, "merge", pull.repo_id, pull.number)
        healed["merges"] += _once(services, job) and _start(job, jobs.follow_merge)
    return +healed


def _open_pull(services: Services, repository: Repository, facts: PullFacts) -> str:
    """Mend one open pull request; returns what was wrong, "" for nothing."""
    store = services.store
    known = store.pull(facts.repo_id, facts.number)
    if store.unfinished(facts.repo_id, facts.number) or store.waiting(1):
        return ""  # somebody is at it, or a delivery that was not read yet may tell
    if known is None or known.head != facts.head or known.state != "open":
        pull = store.learn(facts, "api")
        return "pulls" if _review(services, pull, facts, "missed") else ""
    seen = store.review(known, facts.head)
    unseen = lint_ok(seen) and seen["preview_state"] == "none" and not known.held_by
    halfway = not seen["lint"] or seen["preview_state"] == "running" or unseen
    if halfway or (seen["trouble"] and _given_up(services, known)):
        return "pulls" if _review(services, known, facts, "unfinished") else ""
    if not _has_check(services, repository, facts.head):
        return "checks" if _review(services, known, facts, "check") else ""
    comments = list(repository.comments(known.number))
    if any(_unheard(services, known, repository, row) for row in comments):
        return "commands"
    if not _has_comment(services, known, comments):
        store.update_pull(known, comment_id=None, comment_digest="")
        return "comments" if _show(known, f"heal-comment-{known.key}-{time.time():.0f}") else ""
    return ""


def _given_up(services: Services, pull: Pull) -> bool:
    """Whether the newest review of this head failed for good, and not because of what it says."""
    last = services.store.last_job(pull.repo_id, pull.number, jobs.WORK)
    return last is not None and last["state"] == "failed" and last["head"] == pull.head


def _review(services: Services, pull: Pull, facts: PullFacts, why: str) -> bool:
    """Start the review of a head that nobody reviewed, or not to the end. The name says for which head, so
    that every look until it is done means the same job; one that failed gets a few more tries.
    """
    for attempt in range(_TRIES):
        job = f"heal-{why}-{facts.repo_id}-{facts.number}-{facts.head}-{attempt}"
        if services.store.job_state(job) == "":
            services.store.claim(automatic(facts), job)
            jobs.enqueue_review(pull, facts.head, job, (pull.author, pull.author_id))
            audit.note("healing", repo=pull.repo, number=pull.number, head=facts.head, why=why)
            return True
    return False


def _has_check(services: Services, repository: Repository, head: str) -> bool:
    parameters = {"check_name": LINT, "filter": "all", "app_id": services.settings.app_id}
    rows = list(repository.pages(f"/commits/{head}/check-runs", parameters, "check_runs"))
    return any(row["status"] == "completed" for row in rows)


def _has_comment(services: Services, pull: Pull, comments: list[Json]) -> bool:
    mine = [row for row in comments if row["user"]["login"] == services.settings.login]
    return any(MARKER in str(row["body"]) and int(row["id"]) == pull.comment_id for row in mine)


def _unheard(services: Services, pull: Pull, repository: Repository, row: Json) -> bool:
    """Put a command that no delivery brought into the inbox, as its delivery would have been. Only what is
    newer than our knowledge of the pull request and than a day, and was never edited.
    """
    if row["created_at"] != row["updated_at"] or row["user"]["type"] != "User" or not parse(str(row["body"])):
        return False
    first = services.store.heads(pull.repo_id, pull.number)[0].since
    yesterday = datetime.fromtimestamp(time.time() - _A_DAY, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if str(row["created_at"]) < max(first, yesterday):
        return False
    body = {
        "action": "created",
        "issue": {"number": pull.number, "pull_request": {}},
        "comment": row,
        "repository": {"id": pull.repo_id, "full_name": pull.repo},
        "installation": {"id": repository.installation},
        "sender": row["user"],
    }
    event = read("issue_comment", body)
    known = identity(event) if event is not None else None
    if known is None or services.store.claimed(known):
        return False
    raw = json.dumps(body).encode()
    name = f"heal-command-{row['id']}"
    return services.store.accept(name, "sha256:" + hashlib.sha256(raw).hexdigest(), "issue_comment", raw)


def _show(pull: Pull, identifier: str) -> bool:
    job = Job(identifier, COMMANDS, "closed", pull.repo_id, pull.number)
    return _start(job, jobs.close_pull, pull.repo_id, pull.number, identifier)


def _closed_pull(services: Services, pull: Pull) -> bool:
    now = services.refresh(pull)
    if now.state == "open":
        return False
    return _show(now, f"heal-closed-{pull.repo_id}-{pull.number}-{now.head}-{now.state}")


def _once(services: Services, job: Job) -> bool:
    return services.store.job_state(job.id) == ""


def _start(job: Job, work: Callable[..., object], *arguments: object) -> bool:
    jobs.enqueue(job, work, *(arguments or (job.repo_id, job.number, job.id)))
    return True


def _releases(services: Services) -> Counter[str]:
    """Releases whose runs ended unheard."""
    healed: Counter[str] = Counter()
    for row in services.store.releases_under_way():
        pull = services.pull(row["repo_id"], row["number"])
        if services.store.unfinished(pull.repo_id, pull.number):
            continue
        run = release.find(services, pull, row["key"])
        if run is None or run["status"] != "completed":
            continue
        job = Job(f"heal-release-{row['key']}-{run['id']}", COMMANDS, "run", pull.repo_id, pull.number)
        if _once(services, job):
            healed["releases"] += _start(job, jobs.follow_release, row["key"], int(run["id"]), job.id)
    return healed


def _apologies(services: Services) -> Counter[str]:
    """Commands that were given up and whose people were not told."""
    healed: Counter[str] = Counter()
    for row in services.store.dead_letters():
        if row["kind"] != "command" or row["ended"] < time.time() - _A_DAY:
            continue
        job = Job(f"sorry-{row['id']}", COMMANDS, "sorry", row["repo_id"], row["number"])
        if _once(services, job):
            healed["commands"] += _start(job, jobs.say_sorry, row["id"], job.id)
    return healed
