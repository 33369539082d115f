"""Durable work, by DBOS on the bot's own database: what was begun is finished, also after `kill -9`.

One workflow per delivery, with the delivery's id as its id, so a delivery that comes twice is one workflow.
Two queues, both with one job at a time per pull request: `commands` answers people within seconds while
`work` lints and previews. A finished step is never run again; a step in flight at a crash is, so every step
looks before it writes.

DBOS settings that matter (found by killing workers): a constant `application_version`, or a new release would
not take up the old one's jobs; a stable `executor_id`, or a restarted process would not take up its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dbos import DBOS, DBOSConfig, SetEnqueueOptions, SetWorkflowID
from github import GithubException

from bot import approve, audit, publish, release, replies, review, talk
from bot.commands import parse
from bot.events import CheckEvent, CommentEvent, Event, RunEvent, read
from bot.github import transient
from bot.services import Services
from bot.store import Pull
from bot.whose import whose

WORK = "work"
COMMANDS = "commands"
_ALIVE = {"PENDING", "ENQUEUED", "DELAYED"}
_A_MOMENT = 30.0
_services: list[Services] = []


def services() -> Services:
    """Of the bot that runs in this process; DBOS has one of each as well."""
    if not _services:
        raise RuntimeError("no bot is running in this process")
    return _services[-1]


def open_jobs(mine: Services) -> None:
    """Start DBOS: takes up what was in flight when this executor stopped, then what waits."""
    settings = mine.settings
    _services.append(mine)
    config: DBOSConfig = {
        "name": "treewright-bot",
        "system_database_url": settings.database_url,
        "application_version": "1",
        "executor_id": settings.executor_id,
        "run_migrations": True,
        "log_level": "WARNING",
        "notification_listener_polling_interval_sec": min(1.0, settings.polling_seconds),
        "use_listen_notify": False,
        "max_executor_threads": settings.workers + 16,
    }
    DBOS(config=config)
    DBOS.launch()
    for name in (WORK, COMMANDS):
        DBOS.register_queue(
            name,
            worker_concurrency=settings.workers if name == WORK else settings.workers + 4,
            partition_concurrency=1,
            polling_interval_sec=settings.polling_seconds,
            on_conflict="always_update",
        )


def close_jobs(seconds: int = 20) -> None:
    """Take no more jobs, give those that run some time, and stop. What is left is taken up at the next
    start.
    """
    DBOS.destroy(workflow_completion_timeout_sec=seconds)
    _services.clear()


@dataclass(frozen=True)
class Job:
    """One piece of durable work on one pull request. The same `id` twice is one job."""

    id: str
    queue: str
    kind: Literal["review", "preview", "command", "button", "run", "closed", "merge", "sorry", "place"]
    repo_id: int
    number: int
    head: str = ""


def enqueue(job: Job, work: Callable[..., Any], *arguments: object) -> None:
    """Put a workflow into its queue: one at a time for each pull request."""
    services().store.queue_job(job.id, job.queue, job.kind, job.repo_id, job.number, job.head)
    partition = f"{job.repo_id}:{job.number}"
    with SetWorkflowID(job.id), SetEnqueueOptions(queue_partition_key=partition):
        DBOS.enqueue_workflow(job.queue, work, *arguments)


def enqueue_review(
    pull: Pull, head: str, job: str, asked_by: tuple[str, int], what: str = "full", size: int | None = None
) -> None:
    """Lint and preview a head (`what` "full"), or only preview it ("preview")."""
    kind: Literal["review", "preview"] = "preview" if what == "preview" else "review"
    place = Job(job, WORK, kind, pull.repo_id, pull.number, head)
    enqueue(place, review_pull, pull.repo_id, pull.number, head, job, *asked_by, what, size)


def tell_place(pull: Pull, job: str) -> None:
    """Have the comment say where this pull request stands in the queue, when every worker is busy."""
    place = services().store.place(pull.repo_id, pull.number)
    if place is not None and not place.running and place.ahead >= services().settings.workers:
        told = Job(f"{job}-place", COMMANDS, "place", pull.repo_id, pull.number)
        enqueue(told, show_place, pull.repo_id, pull.number, told.id)


def end_lost_jobs() -> int:
    """Jobs that we noted and that the job library does not have, or has ended: a crash came between the two.
    What they were for is found again by the inbox or by reconcile. Returns how many.
    """
    lost = 0
    for row in services().store.all_unfinished():
        if time.time() - row["queued"] < _A_MOMENT:
            continue
        status = DBOS.get_workflow_status(row["id"])
        if status is None or status.status not in _ALIVE:
            ended = "failed" if status is None or status.status != "SUCCESS" else "done"
            lost += services().store.end_job(row["id"], ended, "ended without a word")
    return lost


def take_over(silence: float) -> list[str]:
    """Put the jobs of replicas that were silent for so many seconds back into their queues; say that this
    one is alive. Returns the replicas.
    """
    store = services().store
    mine = services().settings.executor_id
    store.alive(mine)
    gone = [one for one in store.gone_replicas(silence) if one != mine]
    for replica in gone:
        # DBOS has this as a request to its admin server only; the method is the same, and it puts the jobs
        # into their queues again, so that the order within a pull request holds.
        DBOS._recover_pending_workflows([replica])
        store.forget_replica(replica)
        audit.note("took over the jobs of a replica that is gone", replica=replica)
    return gone


def reason_of(error: BaseException) -> str:
    """What people are told when work failed: the kind of trouble, nothing of our insides."""
    seen: BaseException | None = error
    for _ in range(5):
        errors = getattr(seen, "errors", None)
        inner = errors[-1] if isinstance(errors, list) and errors else getattr(seen, "__cause__", None)
        if isinstance(inner, BaseException):
            seen = inner
        else:
            break
    if isinstance(seen, GithubException):
        return f"GitHub answered with status {seen.status}."
    if seen is not None and transient(seen):
        return "GitHub, or the network on the way to it, could not be reached."
    return f"an error on my side ({type(seen).__name__}); whoever runs me finds it in the log."


def _event(delivery: str) -> Event | None:
    row = services().store.delivery(delivery)
    return read(row["event"], json.loads(row["body"]))


def _retry(error: BaseException) -> bool:
    again = transient(error) or isinstance(error, release.NotYetError)
    audit.trouble("a step failed", error=f"{type(error).__name__}: {error}"[:500], again=again)
    return again


def _step(work: Callable[..., Any], name: str, *arguments: object) -> Any:
    """Run one durable step with the configured patience."""
    settings = services().settings
    options: Any = {
        "name": name,
        "retries_allowed": True,
        "max_attempts": settings.attempts,
        "interval_seconds": settings.retry_seconds,
        "backoff_rate": 2.0,
        "should_retry": _retry,
    }
    return DBOS.run_step(options, _on_behalf, DBOS.workflow_id, name, work, *arguments)


def _on_behalf(job: str | None, step: str, work: Callable[..., Any], *arguments: object) -> Any:
    """Whatever the step decides and writes is entered in the audit log with whose wish it was."""
    store = services().store
    # Two replicas may hold one job for a moment, when one of them was taken for gone and is only slow.
    with store.locked(f"job:{job}"), audit.acting(**whose(store, job or ""), job=job, step=step):
        return work(*arguments)


# --- workflows
# -------------------------------------------------------------------------------------------------------


def _work_off(job: str, work: Callable[[], str], tell: Callable[[str], object] | None = None) -> str:
    """Begin a job, do it and settle it with its outcome. A failure is entered as such; `tell` says the reason
    to people. Returns the outcome, or "failed".
    """
    _step(_begin, "begin", job)
    try:
        outcome = work()
    except Exception as error:
        _failed(job, error)
        if tell is not None:
            tell(reason_of(error))
        return "failed"
    _step(_settle, "settle", job, "done", outcome)
    return outcome


@DBOS.workflow(name="review")
def review_pull(
    repo_id: int, number: int, head: str, job: str, asked_by: str, user_id: int, what: str, size: int | None
) -> str:
    """Lint a head, then preview it. `what` is "full" or, when the lint is green already, "preview"."""

    def work() -> str:
        outcome = "ok"
        if what == "full":
            outcome = _step(_lint, "lint", repo_id, number, head, job)
        wanted = (repo_id, number, head, what, asked_by, user_id, job)
        if outcome == "ok" and _step(_wants_preview, "plan", *wanted):
            outcome = _step(_preview, "preview", repo_id, number, head, job, size)
        return outcome

    def tell(reason: str) -> None:
        _step(_give_up, "give up", repo_id, number, head, job, reason)

    return _work_off(job, work, tell)


@DBOS.workflow(name="answer")
def answer_comment(delivery: str) -> str:
    """Answer every command of a new comment. When not even the answer can be written, reconcile says sorry
    later.
    """
    return _work_off(delivery, lambda: _answer(delivery))


def _answer(delivery: str) -> str:
    eyes = _step(_acknowledge, "acknowledge", delivery)
    if eyes is None:
        return "withdrawn"
    answers: list[dict[str, Any]] = []
    try:
        for index in range(_step(_count, "read", delivery)):
            answer = _step(_execute, f"command {index}", delivery, index)
            answers.append(answer)
            if answer["work"]:
                _start_work(delivery, index, answer)
    except Exception as error:
        audit.trouble("a command failed", job=delivery, error=f"{type(error).__name__}: {error}"[:1000])
        answers.append(talk.Answer(False, replies.trouble()).to_json())
    _step(_finish, "finish", delivery, eyes, answers)
    return "answered"


def _start_work(delivery: str, index: int, answer: dict[str, Any]) -> None:
    repo_id, number, head, login, user_id = _step(_now, f"head {index}", delivery)
    pull = services().pull(repo_id, number)
    enqueue_review(pull, head, f"{delivery}-{index}", (login, user_id), answer["work"], answer["size"])


@DBOS.workflow(name="sorry")
def say_sorry(delivery: str, job: str) -> str:
    """A command was given up without an answer: say at least that."""

    def work() -> str:
        eyes = _step(_acknowledge, "acknowledge", delivery)
        if eyes is None:
            return "withdrawn"
        _step(_finish, "finish", delivery, eyes, [talk.Answer(False, replies.trouble()).to_json()])
        return "said"

    return _work_off(job, work)


@DBOS.workflow(name="merge")
def follow_merge(repo_id: int, number: int, job: str) -> str:
    """A merge of ours was not followed up: start its release."""
    return _work_off(job, lambda: str(_step(_follow_merge, "follow merge", repo_id, number)))


@DBOS.workflow(name="button")
def press_button(delivery: str) -> str:
    """A re-run or a button of a check: the same rules as for the command it stands for."""

    def work() -> str:
        for repo_id, number, head, job, login, what, size, user_id in _step(_pressed, "button", delivery):
            enqueue_review(services().pull(repo_id, number), head, job, (login, user_id), what, size)
        return "pressed"

    return _work_off(delivery, work)


@DBOS.workflow(name="run")
def follow_run(delivery: str) -> str:
    """A release's workflow run moved."""
    return _work_off(
        delivery,
        lambda: str(_step(_follow, "follow", delivery)),
        lambda reason: _step(_lost, "lost", delivery, reason),
    )


@DBOS.workflow(name="release")
def follow_release(key: str, run_id: int, job: str) -> str:
    """A release's run ended and nobody told us."""
    return _work_off(
        job,
        lambda: str(_step(_follow_key, "follow", key, run_id)),
        lambda reason: _step(_lost_key, "lost", key, reason),
    )


@DBOS.workflow(name="tell release")
def tell_release(key: str, job: str) -> str:
    """What became of a release was not told to the end."""
    return _work_off(job, lambda: str(_step(_tell_release, "tell", key)))


@DBOS.workflow(name="place")
def show_place(repo_id: int, number: int, job: str) -> str:
    """The work on a pull request has to wait: the comment says behind how many others."""
    return _work_off(job, lambda: str(_step(_show_place, "place", repo_id, number)))


@DBOS.workflow(name="closed")
def close_pull(repo_id: int, number: int, delivery: str) -> str:
    """A pull request was closed or merged: the comment says so."""
    return _work_off(delivery, lambda: str(_step(_show, "show", repo_id, number)))


# --- steps: each may run twice, each looks before it writes
# --------------------------------------------------------------


def _lint(repo_id: int, number: int, head: str, job: str) -> str:
    return review.lint_head(services(), repo_id, number, head, job)


def _wants_preview(
    repo_id: int, number: int, head: str, what: str, asked_by: str, user_id: int, job: str
) -> bool:
    again = what == "preview"
    return review.wants_preview(services(), repo_id, number, head, again, asked_by, user_id, job)


def _preview(repo_id: int, number: int, head: str, job: str, size: int | None) -> str:
    return review.preview_head(services(), repo_id, number, head, job, size)


def _give_up(repo_id: int, number: int, head: str, job: str, reason: str) -> None:
    review.give_up(services(), repo_id, number, head, job, reason)


def _begin(job: str) -> None:
    services().store.begin_job(job)


def _settle(job: str, state: str, detail: str) -> None:
    services().store.settle(job, state, detail)
    services().store.end_job(job, state, detail)


def _comment(delivery: str) -> CommentEvent:
    event = _event(delivery)
    if not isinstance(event, CommentEvent):
        raise TypeError("not a comment")
    return event


def _acknowledge(delivery: str) -> int | None:
    return talk.acknowledge(services(), _comment(delivery))


def _count(delivery: str) -> int:
    return len(parse(_comment(delivery).body))


def _execute(delivery: str, index: int) -> dict[str, Any]:
    return talk.execute(services(), _comment(delivery), index, f"{delivery}-{index}").to_json()


def _now(delivery: str) -> tuple[int, int, str, str, int]:
    said = _comment(delivery)
    pull = services().refresh(talk.pull_of(services(), said))
    return pull.repo_id, pull.number, pull.head, said.login, said.user_id


def _finish(delivery: str, eyes: int, answers: list[dict[str, Any]]) -> None:
    talk.finish(services(), _comment(delivery), eyes, answers)


def _pressed(delivery: str) -> list[tuple[Any, ...]]:
    event = _event(delivery)
    if not isinstance(event, CheckEvent):
        raise TypeError("not a check")
    return talk.pressed(services(), event, delivery)


def _run(delivery: str) -> RunEvent:
    event = _event(delivery)
    if not isinstance(event, RunEvent):
        raise TypeError("not a workflow run")
    return event


def _follow(delivery: str) -> str:
    event = _run(delivery)
    return release.follow(services(), release.key_in(event.title) or "", event.run_id)


def _follow_key(key: str, run_id: int) -> str:
    return release.follow(services(), key, run_id)


def _tell_release(key: str) -> str:
    return release.show_again(services(), key)


def _lost_key(key: str, reason: str) -> None:
    release.lost(services(), key, reason)


def _follow_merge(repo_id: int, number: int) -> str:
    approve.follow_up(services(), repo_id, number)
    return "followed up"


def _lost(delivery: str, reason: str) -> None:
    key = release.key_in(_run(delivery).title)
    if key is not None:
        release.lost(services(), key, reason)


def _show(repo_id: int, number: int) -> str:
    # By what GitHub says now: a "closed" that comes late must not hide that it was opened again.
    publish.comment(services(), services().refresh(services().pull(repo_id, number)))
    return "shown"


def _show_place(repo_id: int, number: int) -> str:
    place = services().store.place(repo_id, number)
    if place is None or place.running:  # the work itself has written since, or is about to
        return "in work"
    publish.comment(services(), services().pull(repo_id, number))
    return "shown"


def _failed(delivery: str, error: Exception) -> None:
    why = f"{type(error).__name__}: {error}"[:1000]
    services().store.settle(delivery, "failed", why)
    # A workflow that is taken up again after a crash comes here again: it is one dead letter all the same.
    if services().store.end_job(delivery, "failed", why):
        audit.trouble("a job was given up", job=delivery, error=why)
        services().store.count("failed")
