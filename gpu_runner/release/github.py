"""The GitHub release: found by its tag first, made when it is missing, its assets compared before they are
sent.

A create is never repeated blindly: after any doubtful answer the release is looked for again. A tag or a
release that is there already must be of this commit and this lock: nothing of another one is ever replaced.
`report.json` goes last, so whoever sees it sees a finished release.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import httpx

from gpu_runner.release.hub import PublishError
from gpu_runner.release.lock import LOCK

TRIES = 4
TIMEOUT = httpx.Timeout(60.0, connect=10.0)


@dataclass(frozen=True)
class Release:
    """What is published on GitHub. `marker` is hidden in the body: the bot finds the release by it."""

    tag: str
    commit: str
    name: str
    body: str
    marker: str
    assets: Mapping[str, bytes]


_MARK = "<!-- treewright:key="


def marker(key: str) -> str:
    return f"{_MARK}{key} -->"


class GitHubReleases:
    """The few calls that a release needs. `pause` is what waiting is (tests make it nothing)."""

    def __init__(
        self, api_url: str, repository: str, token: str, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.repository = repository
        self._pause = pause
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "User-Agent": "treewright",
        }
        self._http = httpx.Client(base_url=api_url.rstrip("/"), headers=headers, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def publish(self, release: Release, say: Callable[[str], None]) -> str:
        """The release's page. A run that finds everything in place sends nothing."""
        found = self.ours(release.tag, release.commit, release.assets[LOCK])
        if found is None:
            found = self._create(release)
            say(f"{self.repository}: release {release.tag} made")
        elif release.marker not in str(found.get("body") or ""):
            body = f"{found.get('body') or ''}\n\n{release.marker}"
            found = self._send(
                "PATCH", f"/repos/{self.repository}/releases/{found['id']}", json={"body": body}
            )
            say(f"{self.repository}: release {release.tag} was there; it answers to this key as well now")
        else:
            say(f"{self.repository}: release {release.tag} is there already")
        for name, content in release.assets.items():
            if self._attach(found, name, content):
                say(f"{self.repository}: {name} attached")
        return str(found["html_url"])

    def ours(self, tag: str, commit: str, lock: bytes) -> dict[str, Any] | None:
        """This release as far as it is there. PublishError when tag or release are of something else."""
        again = "is never moved or overwritten. Assemble again with another --tag"
        at = self._commit_of(tag)
        if at not in (None, commit):
            raise PublishError(f"{self.repository} has a tag {tag} at {at}, not at {commit}: it {again}")
        found = self._find(tag)
        if found is None:
            return None
        listed = self._assets(found)
        locks = [one for one in listed if one["name"] == LOCK and one.get("state") == "uploaded"]
        # Before its lock is up, a release of ours has nothing but its mark.
        if not (self._same(locks[0], lock) if locks else _MARK in str(found.get("body") or "")):
            raise PublishError(f"{self.repository} has a release {tag} of something else: it {again}")
        return found

    def _commit_of(self, tag: str) -> str | None:
        path = f"/repos/{self.repository}/git/ref/tags/{quote(tag, safe='')}"
        answer = self._ask("GET", path)
        if answer.status_code == 404:
            return None
        named = self._json(answer)["object"]
        if named["type"] == "tag":  # an annotated one
            path = f"/repos/{self.repository}/git/tags/{named['sha']}"
            named = self._json(self._ask("GET", path))["object"]
        return str(named["sha"])

    def _assets(self, release: Mapping[str, Any]) -> list[dict[str, Any]]:
        path = f"/repos/{self.repository}/releases/{release['id']}/assets"
        return self._json_list(self._ask("GET", path, params={"per_page": 100}))

    def _find(self, tag: str) -> dict[str, Any] | None:
        answer = self._ask("GET", f"/repos/{self.repository}/releases/tags/{quote(tag, safe='')}")
        return None if answer.status_code == 404 else self._json(answer)

    def _create(self, release: Release) -> dict[str, Any]:
        body = {
            "tag_name": release.tag,
            "target_commitish": release.commit,
            "name": release.name,
            "body": f"{release.body}\n\n{release.marker}",
        }
        for attempt in range(TRIES):
            try:
                answer = self._http.post(f"/repos/{self.repository}/releases", json=body)
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            else:
                if answer.status_code == 201:
                    return self._json(answer)
                if answer.status_code < 500 and answer.status_code not in (403, 409, 422, 429):
                    return self._json(answer)
                problem = _problem(answer)
            # It may have been made although we did not hear so.
            found = self.ours(release.tag, release.commit, release.assets[LOCK])
            if found is not None:
                return found
            self._pause(2**attempt)
        raise PublishError(f"GitHub did not make the release {release.tag} of {self.repository}: {problem}")

    def _attach(self, release: Mapping[str, Any], name: str, content: bytes) -> bool:
        """Whether anything had to be sent. Half an upload is left over as state `starter`, and is removed."""
        for attempt in range(TRIES):
            for asset in self._assets(release):
                if asset["name"] != name:
                    continue
                if asset.get("state") == "uploaded" and self._same(asset, content):
                    return attempt > 0
                self._ask("DELETE", f"/repos/{self.repository}/releases/assets/{asset['id']}")
            url = str(release["upload_url"]).split("{")[0]
            try:
                answer = self._http.post(
                    url, params={"name": name}, content=content, headers={"Content-Type": "application/json"}
                )
                if answer.status_code == 201:
                    return True
                problem = _problem(answer)
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            self._pause(2**attempt)
        raise PublishError(f"GitHub did not take the asset {name} of {self.repository}: {problem}")

    def _same(self, asset: Mapping[str, Any], content: bytes) -> bool:
        if asset.get("size") != len(content):
            return False
        if asset.get("digest"):
            return bool(asset["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}")
        path = f"/repos/{self.repository}/releases/assets/{asset['id']}"
        answer = self._ask("GET", path, headers={"Accept": "application/octet-stream"}, follow_redirects=True)
        return answer.status_code == 200 and answer.content == content

    def _send(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self._json(self._ask(method, path, **options))

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A call that may be repeated: it reads, or sets a state that setting again leaves alone."""
        problem = ""
        for attempt in range(TRIES):
            try:
                answer = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            else:
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
                problem = _problem(answer)
            self._pause(2**attempt)
        raise PublishError(f"{method} {path}: GitHub gave no good answer in {TRIES} tries: {problem}")

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.status_code >= 400:
            raise PublishError(f"{answer.request.method} {answer.request.url.path}: {_problem(answer)}")
        value: dict[str, Any] = answer.json()
        return value

    def _json_list(self, answer: httpx.Response) -> list[dict[str, Any]]:
        if answer.status_code >= 400:
            raise PublishError(f"{answer.request.method} {answer.request.url.path}: {_problem(answer)}")
        value: list[dict[str, Any]] = answer.json()
        return value


def _problem(answer: httpx.Response) -> str:
    hint = " (the job needs `permissions: contents: write`)" if answer.status_code in (401, 403) else ""
    return f"{answer.status_code} {answer.text[:300]}{hint}"
