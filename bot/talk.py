"""Commands in comments: acknowledged at once, judged by one rule (`policy.may`), answered at most once.

The eyes say that it was read; they become a thumb or a confused face. Refusals, mistakes and questions get
one short reply; what was done shows in the pull request's own comment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from bot import approve, audit, budgets, policy, publish, release, replies, review
from bot.commands import Command, Misused, Said, Unknown, parse
from bot.events import CheckEvent, CommentEvent
from bot.services import Services, default_config
from bot.store import Pull
from lab.config import RepositoryConfig


@dataclass(frozen=True)
class Answer:
    """What came of one command: whether it was taken, what to reply, and what work to start."""

    taken: bool
    reply: str | None = None
    work: Literal["", "full", "preview"] = ""
    size: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pull_of(services: Services, said: CommentEvent) -> Pull:
    """The pull request of a comment; asked from GitHub when no delivery told us about it."""
    known = services.store.pull(said.repo_id, said.number)
    if known is not None:
        return known
    facts = services.app.repository(said.repo, said.installation).pull(said.number)
    return services.store.learn(facts, "api")


def acknowledge(services: Services, said: CommentEvent) -> int | None:
    """Eyes on the comment. Returns the reaction, to be taken away later; None when the comment is not there
    any more: who deleted it does not want it done.
    """
    pull = pull_of(services, said)
    return services.repository(pull).react(said.comment_id, "eyes")


def execute(services: Services, said: CommentEvent, index: int, job: str) -> Answer:
    """The command number `index` of a comment; `job` is the id of the work that it may start."""
    command = parse(said.body)[index]
    pull = pull_of(services, said)
    answer = _execute(services, pull, said, command, job)
    audit.decided(
        "command",
        command=command.word if isinstance(command, Unknown) else command.name,
        taken=answer.taken,
        login=said.login,
        user_id=said.user_id,
        repo=pull.repo,
        number=pull.number,
        comment=said.comment_id,
    )
    return answer


def _execute(services: Services, pull: Pull, said: CommentEvent, command: Said, job: str) -> Answer:
    if isinstance(command, Unknown):
        return Answer(False, replies.unknown(command))
    if isinstance(command, Misused):
        return Answer(False, replies.misused(command))
    if command.name == "approve":
        refused = approve.approve(services, pull, said, command.argument)
        now = services.pull(pull.repo_id, pull.number)
        unseen = now.state == "open" and not services.store.review(now, now.head)["lint"]
        # A head that no delivery told us about came to light here; its review starts as if one had.
        return Answer(refused is None, refused, "full" if unseen and refused else "")
    if command.spec.who == "anyone":
        return _tell(services, pull, command)
    config = default_config(services, pull)
    person = approve.person(services, pull, said, config)
    if not policy.may(command.spec.who, person, pull.author_id, approve.rules(config)):
        why = replies.not_known if person.role is None else replies.not_for_you
        return Answer(False, why(command.spec))
    if command.name == "hold":
        services.store.update_pull(pull, held_by="" if command.argument else said.login)
        publish.comment(services, pull)
        return Answer(True, work="full" if command.argument else "")
    if pull.state != "open" and command.name != "retry":
        return Answer(False, replies.approval_refused("not_open", pull.head))
    if command.name == "cancel":
        return _cancel(services, pull, command)
    if pull.held_by:
        return Answer(False, replies.on_hold())
    if command.name == "lint":
        return Answer(True, work="full")
    refusal = partial(_refusal, services, pull, (said.login, said.user_id), config, person, job)
    if command.name == "retry":
        maintains = policy.maintains(person, approve.rules(config))
        return _retry(services, pull, said, command, maintains, refusal)
    return _preview(services, pull, command, refusal)


def _tell(services: Services, pull: Pull, command: Command) -> Answer:
    if command.name == "help":
        return Answer(True, replies.help_text())
    if command.name == "status":
        publish.comment(services, pull)
        now = services.pull(pull.repo_id, pull.number)
        where = f"{services.settings.web_url}/{pull.repo}/pull/{pull.number}#issuecomment-{now.comment_id}"
        return Answer(True, replies.status(publish.view_of(services, now), where))
    from lab.taxonomy.rules import RULES

    rule = command.argument or ""
    known = {name: (f"{spec.title}. {spec.why}", spec.fix) for name, spec in RULES.items()}
    return Answer(rule in known, replies.explain(rule, known.get(rule), sorted(known)))


def _cancel(services: Services, pull: Pull, command: Command) -> Answer:
    running = services.store.review(pull, pull.head)["preview_state"] == "running"
    if not running:
        return Answer(False, replies.nothing_to_do(command))
    services.store.update_pull(pull, cancelled=time.time())
    return Answer(True)


def _refusal(
    services: Services,
    pull: Pull,
    who: tuple[str, int],
    config: RepositoryConfig,
    person: policy.Person,
    job: str,
) -> str | None:
    """Why `who` (login and number) cannot have one more preview; None when it is granted. Then it is counted
    at once: what waits in the queue is compute that was given away.
    """
    store = services.store
    if not policy.maintains(person, approve.rules(config)):
        why = budgets.refusal(store, pull.repo_id, *who, config.budgets, job)
        if why is not None:
            return why
    store.note_preview(pull, job, *who)
    return None


def _retry(
    services: Services,
    pull: Pull,
    said: CommentEvent,
    command: Command,
    maintains: bool,
    refusal: Callable[[], str | None],
) -> Answer:
    failed = services.store.release_of(pull)
    if failed is not None:
        # This very comment may have started the attempt, before a crash.
        if failed["state"] != "failed" and failed["retried_by"] != said.comment_id:
            return Answer(False, replies.nothing_to_do(command))
        if not maintains:  # hours of a GPU, as an approval starts them
            return Answer(False, replies.release_not_for_you())
        release.start(services, pull, failed["sha"], again=said.comment_id)
        return Answer(True)
    seen = services.store.review(pull, pull.head)
    if not seen["trouble"] and seen["preview_state"] != "failed" and seen["lint"]:
        return Answer(False, replies.nothing_to_do(command))
    if not publish.lint_ok(seen):
        return Answer(True, work="full")
    why = refusal()
    return Answer(True, work="preview") if why is None else Answer(False, why)


def _preview(services: Services, pull: Pull, command: Command, refusal: Callable[[], str | None]) -> Answer:
    if not publish.lint_ok(services.store.review(pull, pull.head)):
        return Answer(False, replies.not_linted())
    why = refusal()
    if why is not None:
        return Answer(False, why)
    size = int(command.argument) if command.argument else None
    note = replies.generated_by_release() if command.name == "generate" else None
    if size is not None and size > review.MOST_SAMPLES:
        note = replies.most_samples(review.MOST_SAMPLES)
    return Answer(True, note, "preview", size)


def pressed(services: Services, event: CheckEvent, delivery: str) -> list[tuple[Any, ...]]:
    """What a button or a re-run asks for, as arguments of reviews; the same rules as for the commands.

    There is no comment to answer, so a press that is not allowed is only in the audit log.
    """
    work: list[tuple[Any, ...]] = []
    if event.app_id != services.settings.app_id:
        return work
    for pull in services.store.pulls_with_head(event.repo_id, event.head):
        config = default_config(services, pull)
        person = approve.person(services, pull, event, config)
        allowed = policy.may("author", person, pull.author_id, approve.rules(config)) and not pull.held_by
        audit.decided(
            "button",
            button=event.identifier,
            taken=allowed,
            login=event.login,
            user_id=event.user_id,
            repo=pull.repo,
            number=pull.number,
            head=event.head,
        )
        if not allowed:
            continue
        failed = services.store.release_of(pull)
        if failed is not None:
            if event.identifier == "retry" and failed["state"] == "failed":
                release.start(services, pull, failed["sha"], again=event.check_id)
            continue
        if pull.state == "open":
            green = publish.lint_ok(services.store.review(pull, pull.head))
            what = "preview" if event.identifier in {"preview", "retry"} and green else "full"
            job, who = f"{delivery}-{pull.number}", (event.login, event.user_id)
            if what == "preview" and _refusal(services, pull, who, config, person, job) is not None:
                audit.decided("button over budget", repo=pull.repo, number=pull.number, login=event.login)
                continue
            work.append((pull.repo_id, pull.number, pull.head, job, event.login, what, None, event.user_id))
    return work


def finish(services: Services, said: CommentEvent, eyes: int, answers: Sequence[Mapping[str, Any]]) -> None:
    """One reply for all that is to be said, and the reaction that shows the outcome."""
    pull = pull_of(services, said)
    parts = [str(answer["reply"]) for answer in answers if answer["reply"]]
    if parts:
        url = f"{services.settings.web_url}/{pull.repo}/pull/{pull.number}#issuecomment-{said.comment_id}"
        body = replies.reply(said.comment_id, url, said.login, parts)
        publish.reply(services, pull, said.comment_id, body)
    repository = services.repository(pull)
    outcome = repository.react(
        said.comment_id, "+1" if all(answer["taken"] for answer in answers) else "confused"
    )
    if outcome is not None:
        repository.unreact(said.comment_id, eyes)
