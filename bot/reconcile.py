"""What no webhook told us: at the start and by a timer, compare GitHub's open pull requests with what we
know.

GitHub never delivers again by itself, so a delivery that failed is lost unless we look. What was missed is
started as if it had been delivered, and counted as healed. Releases whose runs ended unheard are followed as
well.
"""

from __future__ import annotations

import threading

from bot import audit, jobs, release
from bot.events import PullFacts, RunEvent
from bot.services import Services


class Reconciler:
    """One thread; `due` makes it look at once. `seconds` 0 looks only when it is told to."""

    def __init__(self, services: Services, seconds: float, due: threading.Event) -> None:
        self._services = services
        self._seconds = seconds
        self._due = due
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        self._due.set()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._due.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._due.wait(self._seconds or None)
            self._due.clear()
            if self._stop.is_set():
                return
            try:
                healed = reconcile(self._services)
            except Exception:
                audit.trouble("reconcile did not finish; the next one tries again")
            else:
                audit.note("reconciled", healed=healed)


def reconcile(services: Services) -> int:
    """Look at every installation once. Returns how many pull requests and releases were healed."""
    healed = 0
    for installation in services.app.installations():
        for repository in services.app.repositories(installation):
            open_now: set[int] = set()
            name = str(repository["full_name"])
            for facts in services.app.repository(name, installation).open_pulls():
                open_now.add(facts.number)
                healed += _heal_open(services, facts)
            healed += _heal_closed(services, int(repository["id"]), open_now)
    healed += _heal_releases(services)
    if healed:
        services.store.count("healed", healed)
    return healed


def _heal_open(services: Services, facts: PullFacts) -> int:
    known = services.store.pull(facts.repo_id, facts.number)
    if known is not None and known.head == facts.head and known.state == "open":
        newest = services.store.heads(facts.repo_id, facts.number)[-1]
        # A head that a delivery told us about has a durable job; it is done or will be.
        if newest.source != "api" or services.store.review(known, facts.head)["lint"]:
            return 0
    pull = services.store.learn(facts, "api")
    # The name says for which head it heals, so that every look until it is done is the same job.
    job = f"heal-{facts.repo_id}-{facts.number}-{facts.head}"
    work = (pull.repo_id, pull.number, facts.head, job, pull.author, "full", None)
    jobs.enqueue(jobs.WORK, pull.key, job, jobs.review_pull, *work)
    fresh = services.store.written(job) is None
    services.store.wrote(job)
    return int(fresh)


def _heal_closed(services: Services, repo_id: int, open_now: set[int]) -> int:
    healed = 0
    for pull in services.store.open_pulls():
        if pull.repo_id != repo_id or pull.number in open_now:
            continue
        now = services.refresh(pull)
        if now.state != "open":
            job = f"heal-closed-{pull.repo_id}-{pull.number}-{now.head}"
            jobs.enqueue(jobs.COMMANDS, pull.key, job, jobs.close_pull, pull.repo_id, pull.number, job)
            healed += 1
    return healed


def _heal_releases(services: Services) -> int:
    healed = 0
    for row in services.store.releases_under_way():
        pull = services.pull(row["repo_id"], row["number"])
        run = release.find(services, pull, row["key"])
        if run is None or run["status"] != "completed":
            continue
        event = RunEvent(
            "completed",
            pull.repo_id,
            pull.repo,
            pull.installation,
            int(run["id"]),
            f"release {row['key']}",
            str(run["status"]),
            str(run["conclusion"]),
            str(run["html_url"]),
            "workflow_dispatch",
        )
        release.follow(services, event)
        healed += 1
    return healed
