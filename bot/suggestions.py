"""Offer machine-made fixes where they belong: one review whose comments carry GitHub suggestions.

Called after each lint of a head. Every comment is found again by its hidden marker, so a repeated step, a
second lint or a crash between any two requests writes nothing twice. What people deleted stays deleted, and
a suggestion whose mistake is gone is taken back (or struck out, when people answered it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from github import GithubException

from bot import audit
from bot.github import Repository, transient
from bot.services import Services, Trees
from bot.store import Pull
from lab.report.suggestions import Offered, Suggestion, body, key_in, settled, steps, suggestions
from lab.taxonomy.findings import Finding


def offer(services: Services, pull: Pull, head: str, trees: Trees, findings: Iterable[Finding]) -> None:
    """Bring the suggestions on a pull request in line with what `head` needs. A refusal of GitHub's is only
    noted: the same fixes are in the check and, for all at once, in `treewright lint --fix`.
    """
    most = trees.config.pull_requests.suggestions
    carrying = [finding for finding in findings if finding.suggestion is not None]
    ever = f"{pull.key}:suggestions"
    if most == 0 or (not carrying and services.store.written(ever) is None):
        return
    shown = trees.mirror.shown(trees.base_sha, head, {finding.file for finding in carrying})
    wanted = suggestions(carrying, shown)
    repository = services.repository(pull)
    # Before the first write: after a crash somebody has to look, whatever the validator says then.
    services.store.wrote(ever)
    try:
        _bring_about(services, repository, pull, head, wanted, most)
    except GithubException as error:
        if transient(error):
            raise
        audit.trouble("suggestions were not written", repo=pull.repo, number=pull.number, status=error.status)


def _bring_about(
    services: Services, repository: Repository, pull: Pull, head: str, wanted: Sequence[Suggestion], most: int
) -> None:
    texts, offered = _offered(services, repository, pull)
    standing = Counter(one.key for one in offered)
    keys = {one.key for one in wanted} | set(standing)
    told = {key: _told(services, pull, key) for key in keys}
    todo = steps(wanted, offered, told, most)
    gone = Counter(one.key for one in offered if one.id in {*todo.delete, *todo.settle})
    missing = {key: max(0, told[key] - standing[key]) for key in keys}
    services.still(pull, head)
    for key in sorted(keys):  # before the deletions: a comment that is gone by our hand may come again
        _tell(services, pull, key, standing[key] - gone[key] + missing[key])
    for identifier in todo.delete:
        _quietly_gone(repository, "DELETE", identifier, None)
    for identifier in todo.settle:
        _quietly_gone(repository, "PATCH", identifier, {"body": settled(texts[identifier])})
    services.still(pull, head)
    for suggestion in _written(repository, pull, head, todo.create):
        _tell(services, pull, suggestion.key, _told(services, pull, suggestion.key) + 1)


def _offered(services: Services, repository: Repository, pull: Pull) -> tuple[dict[int, str], list[Offered]]:
    rows = list(repository.pages(f"/pulls/{pull.number}/comments", {}))
    answered = {row.get("in_reply_to_id") for row in rows}
    texts: dict[int, str] = {}
    found: list[Offered] = []
    for row in rows:
        key = key_in(str(row["body"]))
        # The marker in anybody else's comment means nothing.
        if key is not None and row["user"] is not None and row["user"]["login"] == services.settings.login:
            texts[int(row["id"])] = str(row["body"])
            found.append(Offered(int(row["id"]), key, row.get("line"), row["id"] in answered))
    return texts, found


def _written(repository: Repository, pull: Pull, head: str, create: Sequence[Suggestion]) -> list[Suggestion]:
    """Write one review. GitHub refuses a review whole when it cannot place one line (it shows no diff of a
    very large file); then each file goes alone, and what is refused again is left out.
    """
    if not create:
        return []
    try:
        _review(repository, pull, head, create)
    except GithubException as error:
        if error.status != 422:
            raise
        by_file = [list(some) for _, some in groupby(sorted(create, key=_file), key=_file)]
        if len(by_file) < 2:
            audit.trouble(
                "a suggestion was refused", repo=pull.repo, number=pull.number, file=_file(create[0])
            )
            return []
        return [one for some in by_file for one in _written(repository, pull, head, some)]
    return list(create)


def _file(suggestion: Suggestion) -> str:
    return suggestion.file


def _review(repository: Repository, pull: Pull, head: str, create: Sequence[Suggestion]) -> None:
    comments: list[dict[str, object]] = []
    for one in create:
        place: dict[str, object] = {"path": one.file, "line": one.last, "side": "RIGHT", "body": body(one)}
        if one.first < one.last:
            place |= {"start_line": one.first, "start_side": "RIGHT"}
        comments.append(place)
    values = {"commit_id": head, "event": "COMMENT", "comments": comments}
    repository.ask("POST", f"/pulls/{pull.number}/reviews", values)


def _quietly_gone(
    repository: Repository, verb: str, identifier: int, values: dict[str, object] | None
) -> None:
    try:
        repository.ask(verb, f"/pulls/comments/{identifier}", values)
    except GithubException as error:
        if error.status != 404:
            raise


def _told(services: Services, pull: Pull, key: str) -> int:
    row = services.store.written(f"{pull.key}:suggestion:{key}")
    return 0 if row is None else int(row["remote"] or 0)


def _tell(services: Services, pull: Pull, key: str, count: int) -> None:
    if count != _told(services, pull, key):
        services.store.wrote(f"{pull.key}:suggestion:{key}", count)
