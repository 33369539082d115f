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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from bot import audit, jobs, release
from bot.commands import parse
from bot.courtesy import StoppingError
from bot.events import PullFacts, identity, read
from bot.github import Json, Repository
from bot.inbox import automatic
from bot.jobbook import Row
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
"""How often one thing is done again by itself after it failed for good."""


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
        with _apart("an installation", installation=installation):  # a suspended one refuses its token
            for repository in services.app.repositories(installation):
                with _apart("a repository", repo=repository["full_name"]):
                    healed += _repository(services, installation, repository)
    healed += _releases(services)
    healed += _apologies(services)
    for name, number in healed.items():
        services.store.count(f"healed_{name}", number)
    audit.note("reconciled", healed=dict(healed))
    return healed.total()


@contextmanager
def _apart(what: str, **where: object) -> Iterator[None]:
    """Trouble with one must not keep the others waiting."""
    try:
        yield
    except Exception as error:
        audit.trouble(f"{what} was not reconciled", **where, error=f"{type(error).__name__}: {error}"[:500])


def _repository(services: Services, installation: int, found: Json) -> Counter[str]:
    healed: Counter[str] = Counter()
    repo_id, name = int(found["id"]), str(found["full_name"])
    services.store.move_repository(repo_id, name, installation)
    repository = services.app.repository(name, installation)
    open_now: set[int] = set()
    for facts in repository.open_pulls():
        open_now.add(facts.number)
        with _apart("a pull request", repo=name, number=facts.number):
            mended = _open_pull(services, repository, facts)
            healed[mended] += bool(mended)
    for pull in services.store.open_pulls():
        if pull.repo_id == repo_id and pull.number not in open_now:
            with _apart("a pull request", repo=name, number=pull.number):
                healed["pulls"] += _closed_pull(services, pull)
    for pull in services.store.merges_without_release(repo_id):
        approval = services.store.approval(pull)
        followed = approval is not None and approval["merge_sha"]
        if followed and not services.store.review(pull, pull.head)["diff"]:
            continue  # there is nothing to release
        if not services.store.unfinished(pull.repo_id, pull.number):
            healed["merges"] += _follow_merge(services, pull, f"heal-merge-{pull.key}-{pull.head}")
    return +healed


def _open_pull(services: Services, repository: Repository, facts: PullFacts) -> str:
    """Mend one open pull request; returns what was wrong, "" for nothing."""
    store = services.store
    known = store.pull(facts.repo_id, facts.number)
    if store.unfinished(facts.repo_id, facts.number) or store.waiting(1):
        return ""  # somebody is at it, or a delivery that was not read yet may tell
    heard = None if known is None else (known.head, known.base_ref, known.state)
    if known is None or heard != (facts.head, facts.base_ref, "open"):
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
    login = services.settings.login
    mine = [row for row in comments if row["user"] is not None and row["user"]["login"] == login]
    return any(str(row["body"]).startswith(MARKER) and int(row["id"]) == pull.comment_id for row in mine)


def _unheard(services: Services, pull: Pull, repository: Repository, row: Json) -> bool:
    """Put a command that no delivery brought into the inbox, as its delivery would have been. Only what is
    newer than our knowledge of the pull request and than a day, and was never edited.
    """
    person = row["user"] is not None and row["user"]["type"] == "User"  # nobody: the account was deleted
    if row["created_at"] != row["updated_at"] or not person or not parse(str(row["body"])):
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
    # By the time: it may be opened and closed again at the same head.
    return _show(now, f"heal-closed-{pull.repo_id}-{pull.number}-{now.state}-{time.time():.0f}")


def _once(services: Services, job: Job) -> bool:
    return services.store.job_state(job.id) == ""


def _start(job: Job, work: Callable[..., object], *arguments: object) -> bool:
    jobs.enqueue(job, work, *arguments)
    return True


def _next_try(services: Services, name: str) -> str:
    """The id of a job that does `name`, the first time or again after it failed; "" when there is nothing to
    do any more.
    """
    for attempt in range(_TRIES):
        state = services.store.job_state(f"{name}-{attempt}")
        if state != "failed":
            return "" if state else f"{name}-{attempt}"
    return ""


def _follow_merge(services: Services, pull: Pull, name: str) -> bool:
    job = _next_try(services, name)
    place = Job(job, COMMANDS, "merge", pull.repo_id, pull.number)
    return bool(job) and _start(place, jobs.follow_merge, pull.repo_id, pull.number, job)


def _releases(services: Services) -> Counter[str]:
    """Releases whose start was given up, whose runs ended unheard, or whose end was not told."""
    healed: Counter[str] = Counter()
    for row in services.store.releases_to_look_at():
        with _apart("a release", key=row["key"]):
            pull = services.pull(row["repo_id"], row["number"])
            if not services.store.unfinished(pull.repo_id, pull.number):
                healed["releases"] += _release(services, pull, row)
    return +healed


def _release(services: Services, pull: Pull, row: Row) -> bool:
    key, state = row["key"], row["state"]
    if state == "dispatching":
        if not _follow_merge(services, pull, f"heal-start-{key}-{row['attempt']}"):
            release.lost(services, key, "I could not start its run.")
        return True
    if state in {"failed", "published"}:
        job = _next_try(services, f"heal-told-{key}-{row['attempt']}-{state}")
        place = Job(job, COMMANDS, "run", pull.repo_id, pull.number)
        return bool(job) and _start(place, jobs.tell_release, key, job)
    run = release.find(services, pull, key)
    if run is None or run["status"] != "completed":
        return False
    job = _next_try(services, f"heal-release-{key}-{run['id']}")
    place = Job(job, COMMANDS, "run", pull.repo_id, pull.number)
    return bool(job) and _start(place, jobs.follow_release, key, int(run["id"]), job)


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
