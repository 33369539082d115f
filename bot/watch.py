"""The door to GitHub: each write enters the audit log before it goes out, each answer is counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from github import GithubException

from bot import audit, metrics
from lab.contracts import digest

_READS = frozenset({"GET", "HEAD"})
# Where a body names the commit that a write is about.
_COMMIT = ("head_sha", "sha")


@contextmanager
def request(
    repo: str, installation: int, verb: str, path: str, body: Mapping[str, Any] | None
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Around one request; call what it gives with the answer's headers."""
    writes = verb not in _READS
    if writes:
        audit.writing(verb, path, repo=repo, body=digest(body or {}), **_commit(body))
    begun = time.monotonic()

    def answered(headers: Mapping[str, Any]) -> None:
        _budget(installation, headers)
        metrics.REQUESTS.labels(verb, "2xx").inc()
        metrics.REQUEST_SECONDS.observe(time.monotonic() - begun)
        if (
            verb == "POST"
            and path == "/check-runs"
            and str((body or {}).get("external_id")).startswith("lint:")
        ):
            _first_status()

    try:
        yield answered
    except GithubException as error:
        _budget(installation, error.headers or {})
        metrics.REQUESTS.labels(verb, f"{error.status // 100}xx").inc()
        if writes:
            audit.decided("write refused", verb=verb, where=path, repo=repo, status=error.status)
        raise
    except Exception:
        metrics.REQUESTS.labels(verb, "no answer").inc()
        raise


def _commit(body: Mapping[str, Any] | None) -> dict[str, str]:
    for name in _COMMIT:
        value = (body or {}).get(name) or ((body or {}).get("inputs") or {}).get(name)
        if isinstance(value, str):
            return {"head": value}
    return {}


def _budget(installation: int, headers: Mapping[str, Any]) -> None:
    left = str({str(name).lower(): value for name, value in headers.items()}.get("x-ratelimit-remaining", ""))
    if left.isdigit():
        metrics.BUDGET.labels(str(installation)).set(int(left))


def _first_status() -> None:
    """The first check of a delivery's job: how long people waited until they saw something."""
    heard = audit.on_behalf().get("heard")
    job = str(audit.on_behalf().get("job", ""))
    if isinstance(heard, float) and metrics.first(job):
        metrics.FIRST_STATUS.observe(max(0.0, time.time() - heard))
