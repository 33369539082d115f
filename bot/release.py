"""From a merge to a published release: dispatch the workflow once, follow its run, bring the result to the
pull request.

A release is known by its key. The key is in the run's name, in the GitHub release's notes and in
`report.json`, so each step can look whether it was done before it does it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

from github import GithubException

from bot import audit, publish
from bot.github import Repository, transient
from bot.services import Services, default_config
from bot.store import Pull
from lab.contracts import ContractError, require
from lab.report import checks
from lab.report.comment import release_comment

_LOOK_SECONDS = 0.5
_KEY = re.compile(r"\brelease ([0-9a-f]{32})\b")


class NotYetError(RuntimeError):
    """GitHub does not show yet what must be there soon; the step is tried again."""


def key_of(repo_id: int, merge_sha: str) -> str:
    """The idempotency key of a merge's release: the same merge never gets two."""
    return hashlib.sha256(f"treewright release {repo_id} {merge_sha}".encode()).hexdigest()[:32]


def key_in(title: str) -> str | None:
    """The key in a run's name, `release <key>`."""
    match = _KEY.search(title)
    return match.group(1) if match else None


def result_marker(key: str) -> str:
    return f"<!-- treewright:released:{key} -->"


def start(services: Services, pull: Pull, merge_sha: str, again: int = 0) -> str:
    """Dispatch the release of a merge, unless a run of it is there. Returns the key. `again`: what asks for
    another attempt after a failed one, by its number at GitHub (a comment, or a check run).
    """
    key = key_of(pull.repo_id, merge_sha)
    # A button, a comment and reconcile may ask at once: none of them is in the others' queue.
    with services.store.locked(f"release:{key}"):
        _start(services, pull, merge_sha, key, again)
    return key


def _start(services: Services, pull: Pull, merge_sha: str, key: str, again: int) -> None:
    repository = services.repository(pull)
    known = services.store.release(key)
    if known is None:
        services.store.put_release(
            key,
            repo_id=pull.repo_id,
            number=pull.number,
            sha=merge_sha,
            base=repository.parents(merge_sha)[0],
            state="dispatching",
        )
    elif known["state"] not in {"dispatching", "failed"} or (known["state"] == "failed" and not again):
        return
    elif known["state"] == "failed":
        before = find(services, pull, key)
        services.store.update_release(
            key,
            attempt=known["attempt"] + 1,
            state="dispatching",
            asked=0.0,
            retried_by=again,
            after_run=int(before["id"]) if before is not None else 0,
            run_id=None,
            run_url="",
        )
    workflow = default_config(services, pull).release.workflow
    try:
        run = _dispatch_once(services, pull, repository, workflow, key)
    except GithubException as error:
        if transient(error):
            raise
        why = str((error.data or {}).get("message", error.status)) if isinstance(error.data, dict) else ""
        trouble = f"GitHub did not start the workflow `{workflow}`: {why or error.status}. "
        services.store.update_release(key, state="failed", asked=0.0, trouble=trouble)
        show(services, pull, key)
        return
    services.store.update_release(key, state="queued", trouble="")
    if run is not None:
        services.store.update_release(key, run_id=int(run["id"]), run_url=str(run["html_url"]))
    show(services, pull, key)


def _dispatch_once(
    services: Services, pull: Pull, repository: Repository, workflow: str, key: str
) -> dict[str, Any] | None:
    """Ask GitHub for a run of this key unless there is one. GitHub shows a run only some seconds after it was
    asked for; when an earlier try ended in between, look for as long as that takes before asking again.
    """
    known = services.store.release(key)
    if known is None:
        raise LookupError(f"no release {key}")
    while True:
        run = repository.find_run(workflow, lambda row: _is_of(row, key, int(known["after_run"])))
        if run is not None:
            return run
        if time.time() >= float(known["asked"]) + services.settings.dispatch_seconds:
            break
        time.sleep(_LOOK_SECONDS)
    services.store.update_release(key, asked=time.time())
    inputs = {
        "sha": str(known["sha"]),
        "base": str(known["base"]),
        "pull_requests": str(pull.number),
        "key": key,
    }
    repository.dispatch(workflow, pull.default_branch, inputs)
    audit.decided("release dispatched", repo=pull.repo, number=pull.number, sha=known["sha"], key=key)
    return None


def _is_of(run: dict[str, Any], key: str, after: int) -> bool:
    """Whether a run is the newest attempt's, and not an earlier one's."""
    return key in _names(run) and int(run["id"]) > after


def find(services: Services, pull: Pull, key: str) -> dict[str, Any] | None:
    """The newest run of a key, whatever became of it."""
    workflow = default_config(services, pull).release.workflow
    return services.repository(pull).find_run(workflow, lambda row: key in _names(row))


def _names(run: dict[str, Any]) -> str:
    return f"{run.get('name') or ''} {run.get('display_title') or ''}"


def show(services: Services, pull: Pull, key: str) -> None:
    """The release's check on the pull request's head, the comment and, once it is published, the last one."""
    release = services.store.release(key)
    if release is None:
        return
    value = checks.release_check(
        release["state"], key, release["run_url"], release["trouble"], release["url"]
    )
    external = f"release:{key}:{release['attempt']}"
    publish.check(services, pull, pull.head, external, value)
    publish.comment(services, pull)
    if release["state"] == "published":
        body = release_comment(release["report"], result_marker(key), release["url"], pull.number)
        publish.once(services, pull, f"released:{key}", result_marker(key), body)
        audit.decided("release published", repo=pull.repo, number=pull.number, key=key, url=release["url"])
    services.store.update_release(key, told=release["state"])


def show_again(services: Services, key: str) -> str:
    """What became of a release is known, and people were not told."""
    release = services.store.release(key)
    if release is None:
        return "not ours"
    show(services, services.pull(release["repo_id"], release["number"]), key)
    return str(release["state"])


def follow(services: Services, key: str, run_id: int) -> str:
    """Take in that a run moved. What counts is what GitHub says about the run now, not the order of
    deliveries.
    """
    release = services.store.release(key)
    if release is None:
        return "not ours"
    pull = services.pull(release["repo_id"], release["number"])
    repository = services.repository(pull)
    run = repository.run(run_id)
    if run.get("event") != "workflow_dispatch" or not _is_of(run, key, int(release["after_run"])):
        return "nothing new"
    if release["state"] != "published":
        _take_in(services, pull, repository, key, run)
    return show_again(services, key)


def _take_in(services: Services, pull: Pull, repository: Repository, key: str, run: dict[str, Any]) -> None:
    services.store.update_release(key, run_id=int(run["id"]), run_url=str(run["html_url"]))
    if run["status"] != "completed":
        state = "running" if run["status"] == "in_progress" else "queued"
        services.store.update_release(key, state=state)
    elif run["conclusion"] == "success":
        _take_result(services, pull, repository, key)
    else:
        trouble = f"The release workflow ended with “{run['conclusion']}”. "
        services.store.update_release(key, state="failed", trouble=trouble)


def _take_result(services: Services, pull: Pull, repository: Repository, key: str) -> None:
    """Read `report.json` from the GitHub release that carries the key."""
    found = repository.find_release(f"<!-- treewright:key={key} -->")
    if found is None:
        raise NotYetError("the run succeeded, but no release carries its key yet")
    asset = next((one for one in found["assets"] if one["name"] == "report.json"), None)
    if asset is None:
        raise NotYetError("the release has no report.json yet")
    try:
        report = json.loads(repository.asset(int(asset["id"])))
        require("report", report, "report.json")
        if report["key"] != key:
            raise ContractError("report", [f"key: {report['key']} is not {key}"], "report.json")
    except (ValueError, GithubException) as error:
        if transient(error):
            raise
        trouble = f"The release is there, but its report.json cannot be used: {error} "
        services.store.update_release(key, state="failed", url=str(found["html_url"]), trouble=trouble[:1000])
        return
    services.store.update_release(
        key, state="published", url=str(found["html_url"]), report=report, trouble=""
    )


def lost(services: Services, key: str, reason: str) -> None:
    """Following a release failed for good."""
    release = services.store.release(key)
    if release is None or release["state"] == "published":
        return
    services.store.update_release(key, state="failed", trouble=f"{reason} ")
    show(services, services.pull(release["repo_id"], release["number"]), key)
