"""GitHub, as far as the bot needs it. PyGithub carries the requests (App authentication, rate limits,
pacing); httpx does what it lacks: a token limited to one repository, and the download of a release's asset.

PyGithub's own retry repeats POST, which can write a comment twice when only the answer was lost. So here only
methods that may be repeated are repeated; a POST that failed goes back to the job's step, which looks before
it writes again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

import httpx
import requests
from github import Auth, Github, GithubException, GithubIntegration, GithubRetry

from bot import watch
from bot.events import PullFacts, pull_facts
from bot.git import GitError
from bot.grants import PERMISSIONS
from bot.settings import Settings

Json = dict[str, Any]
ROLES = ("none", "read", "triage", "write", "maintain", "admin")
"""What a person may do in a repository, the least first (GitHub, repository roles)."""
_SAFE = frozenset({"GET", "HEAD", "PATCH", "PUT", "DELETE"})
_LARGEST_ASSET = 8 * 1024 * 1024


def transient(error: BaseException) -> bool:
    """Whether the same step may work when it is tried again."""
    if isinstance(error, GithubException):
        limited = error.status == 403 and "rate limit" in str(error.data).lower()
        return error.status >= 500 or error.status == 429 or error.status == 409 or limited
    network = (requests.RequestException, httpx.TransportError, GitError, ConnectionError, TimeoutError)
    return isinstance(error, network)


class App:
    """The App itself; gives a `Repository` for each repository that it is installed on."""

    permissions: Mapping[str, str] = PERMISSIONS

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._auth = Auth.AppAuth(settings.app_id, settings.key)
        self._clients: dict[int, tuple[Github, threading.RLock]] = {}
        self._lock = threading.Lock()
        self._integration = GithubIntegration(
            auth=self._auth,
            base_url=settings.api_url,
            seconds_between_requests=settings.seconds_between_requests,
            seconds_between_writes=settings.seconds_between_writes,
        )

    def _client(self, installation: int) -> tuple[Github, threading.RLock]:
        settings = self.settings
        with self._lock:
            if installation not in self._clients:
                auth = Auth.AppInstallationAuth(
                    self._auth, installation, token_permissions=dict(self.permissions)
                )
                client = Github(
                    auth=auth,
                    base_url=settings.api_url,
                    timeout=30,
                    retry=GithubRetry(
                        total=5, max_rate_limit_wait=60, backoff_factor=0.2, allowed_methods=_SAFE
                    ),
                    seconds_between_requests=settings.seconds_between_requests,
                    seconds_between_writes=settings.seconds_between_writes,
                    user_agent="treewright",
                )
                # PyGithub's connection is not made for threads; the lock also keeps the pace of one
                # installation.
                self._clients[installation] = (client, threading.RLock())
            return self._clients[installation]

    def repository(self, repo: str, installation: int) -> Repository:
        client, lock = self._client(installation)
        return Repository(self, repo, installation, client, lock)

    def installations(self) -> list[int]:
        with self._lock:
            return [int(one.id) for one in self._integration.get_installations()]

    def repositories(self, installation: int) -> list[Json]:
        """The repositories that an installation can see."""
        some = self.repository("", installation)
        rows = some.pages("/installation/repositories", {}, "repositories")
        return list(rows)

    def token(self, installation: int, repo: str, permissions: dict[str, str]) -> str:
        """A token for one repository and these permissions only, for at most an hour."""
        answer = httpx.post(
            f"{self.settings.api_url}/app/installations/{installation}/access_tokens",
            json={"repositories": [repo.rpartition("/")[2]], "permissions": permissions},
            headers={
                "Authorization": f"Bearer {self._auth.create_jwt(expiration=300)}",
                "Accept": "application/vnd.github+json",
            },
            timeout=30,
        )
        if answer.status_code >= 400:
            raise GithubException(answer.status_code, {"message": "no token for this repository"}, {})
        return str(answer.json()["token"])


class Repository:
    """One repository through one installation. Every method is one or a few requests, and raises
    `GithubException`.
    """

    def __init__(self, app: App, repo: str, installation: int, client: Github, lock: threading.RLock) -> None:
        self.app = app
        self.name = repo
        self.installation = installation
        self._client = client
        self._lock = lock

    def ask(self, verb: str, path: str, body: Json | None = None, parameters: Json | None = None) -> Any:
        """One request; `path` is under `/repos/OWNER/NAME` unless it starts with `//`."""
        url = path[1:] if path.startswith("//") else f"/repos/{self.name}{path}"
        with watch.request(self.name, self.installation, verb, path, body) as answered, self._lock:
            headers, data = self._client.requester.requestJsonAndCheck(
                verb, url, parameters=parameters, input=body
            )
            answered(headers)
        return data

    def pages(self, path: str, parameters: Json, key: str | None = None, most: int = 10) -> Iterator[Json]:
        """The rows of a paged answer, at most `most` pages of 100."""
        for page in range(1, most + 1):
            prefix = "/" if not self.name else ""
            data = self.ask("GET", prefix + path, parameters={**parameters, "per_page": 100, "page": page})
            rows = data[key] if key is not None else data
            yield from rows
            if len(rows) < 100:
                return

    # --- reading
    # ---------------------------------------------------------------------------------------------------

    def pull(self, number: int) -> PullFacts:
        data = self.ask("GET", f"/pulls/{number}")
        return pull_facts(data, data["base"]["repo"], self.installation)

    def open_pulls(self) -> list[PullFacts]:
        rows = self.pages("/pulls", {"state": "open", "sort": "updated", "direction": "desc"})
        return [pull_facts(row, row["base"]["repo"], self.installation) for row in rows]

    def permission(self, login: str) -> str:
        """What a person may do here: none, read, triage, write, maintain or admin."""
        data = self.ask("GET", f"/collaborators/{quote(login, safe='')}/permission")
        # A custom role has any name; `permission` then says which of the four plain ones it comes from.
        role = str(data.get("role_name") or "")
        return role if role in ROLES else str(data["permission"])

    def in_team(self, team: str, login: str) -> bool:
        """Whether `login` is an active member of `org/team` (a bare name means this owner's)."""
        org, _, slug = team.rpartition("/")
        owner = org or self.name.partition("/")[0]
        try:
            names = [quote(name, safe="") for name in (owner, slug, login)]
            answer = self.ask("GET", "//orgs/{}/teams/{}/memberships/{}".format(*names))
            return bool(answer["state"] == "active")
        except GithubException as error:
            if error.status == 404:
                return False
            raise

    def git_token(self) -> str:
        return self.app.token(self.installation, self.name, {"contents": "read"})

    # --- comments
    # --------------------------------------------------------------------------------------------------

    def find_comment(self, number: int, marker: str) -> Json | None:
        """Our own comment that carries `marker`. The marker in anybody else's comment means nothing."""
        for row in self.pages(f"/issues/{number}/comments", {}):
            if marker in str(row["body"]) and row["user"]["login"] == self.app.settings.login:
                return row
        return None

    def create_comment(self, number: int, body: str) -> Json:
        return dict(self.ask("POST", f"/issues/{number}/comments", {"body": body}))

    def edit_comment(self, comment: int, body: str) -> Json | None:
        """None when somebody deleted the comment."""
        try:
            return dict(self.ask("PATCH", f"/issues/comments/{comment}", {"body": body}))
        except GithubException as error:
            if error.status == 404:
                return None
            raise

    def react(self, comment: int, content: Literal["eyes", "+1", "confused"]) -> int:
        """Reacting twice with the same content is one reaction (GitHub answers 200 instead of 201)."""
        return int(self.ask("POST", f"/issues/comments/{comment}/reactions", {"content": content})["id"])

    def unreact(self, comment: int, reaction: int) -> None:
        try:
            self.ask("DELETE", f"/issues/comments/{comment}/reactions/{reaction}")
        except GithubException as error:
            if error.status != 404:
                raise

    # --- checks
    # ----------------------------------------------------------------------------------------------------

    def find_check(self, head: str, name: str, external_id: str) -> Json | None:
        parameters = {"check_name": name, "filter": "all", "app_id": self.app.settings.app_id}
        for row in self.pages(f"/commits/{head}/check-runs", parameters, "check_runs"):
            if row.get("external_id") == external_id:
                return row
        return None

    def create_check(self, values: Json) -> Json:
        return dict(self.ask("POST", "/check-runs", values))

    def edit_check(self, check: int, values: Json) -> Json:
        return dict(self.ask("PATCH", f"/check-runs/{check}", values))

    # --- merging and releasing
    # -------------------------------------------------------------------------------------

    def merge(self, number: int, sha: str, title: str) -> str:
        """Merge exactly `sha`; GitHub answers 409 when it is not the head any more. Returns the merge
        commit.
        """
        body = {"sha": sha, "merge_method": "merge", "commit_title": title}
        return str(self.ask("PUT", f"/pulls/{number}/merge", body)["sha"])

    def merge_commit(self, number: int) -> str:
        return str(self.ask("GET", f"/pulls/{number}")["merge_commit_sha"] or "")

    def parents(self, sha: str) -> list[str]:
        return [str(parent["sha"]) for parent in self.ask("GET", f"/commits/{sha}")["parents"]]

    def find_run(self, workflow: str, matches: Callable[[Json], bool]) -> Json | None:
        path = f"/actions/workflows/{quote(workflow, safe='')}/runs"
        rows = self.pages(path, {"event": "workflow_dispatch"}, "workflow_runs", most=2)
        return next((row for row in rows if matches(row)), None)

    def dispatch(self, workflow: str, ref: str, inputs: dict[str, str]) -> None:
        self.ask(
            "POST",
            f"/actions/workflows/{quote(workflow, safe='')}/dispatches",
            {"ref": ref, "inputs": inputs},
        )

    def run(self, identifier: int) -> Json:
        return dict(self.ask("GET", f"/actions/runs/{identifier}"))

    def find_release(self, marker: str) -> Json | None:
        return next(
            (row for row in self.pages("/releases", {}) if marker in str(row.get("body") or "")), None
        )

    def asset(self, identifier: int) -> bytes:
        """The bytes of a release's asset, at most 8 MiB."""
        token = self.app.token(self.installation, self.name, {"contents": "read"})
        url = f"{self.app.settings.api_url}/repos/{self.name}/releases/assets/{identifier}"
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/octet-stream"}
        parts: list[bytes] = []
        size = 0
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as answer:
            if answer.status_code >= 400:
                raise GithubException(answer.status_code, {"message": "the asset cannot be read"}, {})
            for part in answer.iter_bytes():
                size += len(part)
                if size > _LARGEST_ASSET:
                    raise GithubException(413, {"message": "the asset is larger than 8 MiB"}, {})
                parts.append(part)
        return b"".join(parts)
