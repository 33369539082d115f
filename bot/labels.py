"""A label that follows the state of a pull request, where the repository's configuration asks for it.

Off by default. Only the labels of this table, with the configured prefix, are ever made, put or taken away;
whatever else stands on a pull request is people's. A label that a person took off comes back only with the
next change of state. The configuration is the default branch's, as the last lint of the pull request read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from github import GithubException

from bot import audit
from bot.github import Repository, transient
from bot.services import Services
from bot.store import Pull
from lab.config import PullRequests
from lab.report.comment import State

# State -> (what follows the prefix, colour, description). GitHub's limit of a name is 50 characters.
LABELS: Mapping[State, tuple[str, str, str]] = {
    "waiting": ("checking", "c5def5", "The validator has not finished yet."),
    "checking": ("checking", "c5def5", "The validator has not finished yet."),
    "fix": ("needs fixes", "d93f0b", "The validator found errors; its author is next."),
    "previewing": ("previewing", "c5def5", "The teacher writes samples."),
    "preview_failed": ("preview failed", "e99695", "The preview did not work; a maintainer is next."),
    "ready": ("ready", "0e8a16", "Checked and previewed; a maintainer is next."),
    "nothing_to_learn": ("ready", "0e8a16", "Checked and previewed; a maintainer is next."),
    "held": ("on hold", "fbca04", "A maintainer put it on hold."),
    "merged": ("merged", "6f42c1", "Merged without a release."),
    "releasing": ("releasing", "6f42c1", "Merged; the release is under way."),
    "released": ("released", "6f42c1", "In a published model."),
    "release_failed": ("release failed", "d93f0b", "Merged, but the release failed; a maintainer is next."),
    "trouble": ("stopped", "e99695", "Something went wrong; a maintainer is next."),
}
"""A closed pull request has no label of ours."""


def configure(services: Services, pull: Pull, settings: PullRequests) -> None:
    """Remember what the default branch says about labels, for the states to come."""
    prefix = settings.label_prefix if settings.labels else ""
    before = _kept(services, pull, "labels")
    if (before is None and not prefix) or before == prefix:
        return
    if before:
        _away(services.repository(pull), pull, before, keep="")
        _keep(services, pull, "label", "")
    _keep(services, pull, "labels", prefix)


def follow(services: Services, pull: Pull, state: State) -> None:
    """Put the label of `state` on the pull request and take the others of ours away, once for each change."""
    prefix = _kept(services, pull, "labels")
    if not prefix:
        return
    told = LABELS.get(state)
    name = f"{prefix}{told[0]}" if told is not None else ""
    if name == (_kept(services, pull, "label") or ""):
        return
    repository = services.repository(pull)
    try:
        if told is not None:
            _there(repository, name, told[1], told[2])
            repository.ask("POST", f"/issues/{pull.number}/labels", {"labels": [name]})
        _away(repository, pull, prefix, keep=name)
        _keep(services, pull, "label", name)
    except GithubException as error:
        if transient(error):
            raise
        audit.trouble("a label was not put", repo=pull.repo, number=pull.number, status=error.status)


def _there(repository: Repository, name: str, color: str, description: str) -> None:
    """Make the label when the repository does not have it; one that is there keeps its colour and words."""
    try:
        repository.ask("GET", f"/labels/{quote(name, safe='')}")
    except GithubException as error:
        if error.status != 404:
            raise
    else:
        return
    try:
        repository.ask("POST", "/labels", {"name": name, "color": color, "description": description})
    except GithubException as error:
        if error.status != 422:  # another pull request of ours made it in this moment
            raise


def _away(repository: Repository, pull: Pull, prefix: str, keep: str) -> None:
    ours = {f"{prefix}{told[0]}" for told in LABELS.values()} - {keep}
    for row in repository.pages(f"/issues/{pull.number}/labels", {}):
        if row["name"] in ours:
            try:
                repository.ask("DELETE", f"/issues/{pull.number}/labels/{quote(row['name'], safe='')}")
            except GithubException as error:
                if error.status != 404:
                    raise


def _kept(services: Services, pull: Pull, what: str) -> str | None:
    row = services.store.written(f"{pull.key}:{what}")
    return None if row is None else str(row["digest"])


def _keep(services: Services, pull: Pull, what: str, value: str) -> None:
    services.store.wrote(f"{pull.key}:{what}", digest=value)
