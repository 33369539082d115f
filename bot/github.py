"""GitHub, as far as the bot needs it. PyGithub carries the requests (App authentication, pacing); httpx does
what it lacks: a token limited to one repository, and the download of a release's asset.

PyGithub's own retry repeats POST, which can write a comment twice when only the answer was lost. So here only
methods that may be repeated are repeated; a POST that failed goes back to the job's step, which looks before
it writes again. A rate limit is no failure: the request waits (`courtesy.py`) and is sent again, for it was
not carried out. What was read before is asked for by its ETag.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, unquote

import httpx
import requests
from github import Auth, Github, GithubException
from urllib3.util import Retry

from bot import audit, watch
from bot.courtesy import Answers, Gate, limited_for
from bot.events import PullFacts, pull_facts
from bot.git import GitError
from bot.grants import PERMISSIONS
from bot.policy import ROLES
from bot.settings import Settings

Json = dict[str, Any]
_SAFE = frozenset({"GET", "HEAD", "PATCH", "PUT", "DELETE"})
_LARGEST_ASSET = 8 * 1024 * 1024


def transient(error: BaseException) -> bool:
    """Whether the same step may work when it is tried again."""
    if isinstance(error, GithubException):
        limited = error.status == 403 and "rate limit" in str(error.data).lower()
        return error.status >= 500 or error.status == 429 or error.status == 409 or limited
    network = (requests.RequestException, httpx.TransportError, GitError, ConnectionError, TimeoutError)
    return isinstance(error, network)


_MOVED = ("Moved Permanently", "Temporary Redirect")
_TOKEN_SECONDS = 3000.0  # a token of an installation lives an hour; GitHub's clock may be ahead of ours


@dataclass
class _Client:
    """The connection of one installation (0: of the App itself). PyGithub's is not made for threads; the
    lock also keeps the pace of one installation.
    """

    github: Github
    gate: Gate
    lock: threading.RLock = field(default_factory=threading.RLock)
    answers: Answers = field(default_factory=Answers)


class App:
    """The App itself; gives a `Repository` for each repository that it is installed on. `counts` is told the
    names of things worth counting.
    """

    permissions: Mapping[str, str] = PERMISSIONS

    def __init__(self, settings: Settings, counts: Callable[[str], None] = lambda _: None) -> None:
        self.settings = settings
        self.counts = counts
        self.stopping = threading.Event()
        self._auth = Auth.AppAuth(settings.app_id, settings.key)
        self._clients: dict[int, _Client] = {}
        self._tokens: dict[tuple[int, str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def _client(self, installation: int) -> _Client:
        settings = self.settings
        with self._lock:
            if installation not in self._clients:
                auth: Auth.Auth = self._auth
                if installation:
                    auth = Auth.AppInstallationAuth(
                        self._auth, installation, token_permissions=dict(self.permissions)
                    )
                github = Github(
                    auth=auth,
                    base_url=settings.api_url,
                    timeout=30,
                    retry=Retry(
                        total=3,
                        backoff_factor=min(0.2, settings.retry_seconds),
                        status_forcelist=[500, 502, 503, 504],
                        allowed_methods=_SAFE,
                        raise_on_status=False,
                        respect_retry_after_header=False,
                    ),
                    seconds_between_requests=settings.seconds_between_requests,
                    seconds_between_writes=settings.seconds_between_writes,
                    user_agent="treewright",
                )
                self._clients[installation] = _Client(github, Gate(self.stopping))
            return self._clients[installation]

    def repository(self, repo: str, installation: int) -> Repository:
        return Repository(self, repo, installation, self._client(installation))

    def itself(self) -> Repository:
        """For questions that the App asks as itself and not as one of its installations; no repository."""
        return Repository(self, "", 0, self._client(0))

    def installations(self) -> list[int]:
        return [int(one["id"]) for one in self.itself().pages("/app/installations", {}, most=100)]

    def repositories(self, installation: int) -> list[Json]:
        """The repositories that an installation can see."""
        some = self.repository("", installation)
        rows = some.pages("/installation/repositories", {}, "repositories")
        return list(rows)

    def token(self, installation: int, repo: str, permissions: dict[str, str]) -> str:
        """A token for one repository and these permissions only, for at most an hour; kept while it lives."""
        name = (installation, repo, str(sorted(permissions.items())))
        kept, until = self._tokens.get(name, ("", 0.0))
        if until > time.time():
            return kept
        body = {"repositories": [repo.rpartition("/")[2]], "permissions": permissions}
        answer = self.itself().ask("POST", f"//app/installations/{installation}/access_tokens", body)
        self._tokens[name] = (str(answer["token"]), time.time() + _TOKEN_SECONDS)
        return str(answer["token"])

    # --- webhook deliveries
    # ----------------------------------------------------------------------------------------

    def deliveries(self, cursor: str = "") -> tuple[list[Json], str]:
        """A page of the App's recent deliveries, the newest first, and the cursor of the next page ("" at the
        end). GitHub keeps three days of them.
        """
        parameters: Json = {"per_page": 100, **({"cursor": cursor} if cursor else {})}
        headers, rows = self.itself().exchange("GET", "//app/hook/deliveries", None, parameters)
        return list(rows), _next_cursor(headers)

    def redeliver(self, delivery: int) -> None:
        self.itself().ask("POST", f"//app/hook/deliveries/{delivery}/attempts", {})


def _next_cursor(headers: Mapping[str, Any]) -> str:
    links = next((str(value) for name, value in headers.items() if str(name).lower() == "link"), "")
    found = re.search(r"[?&]cursor=([^&>]+)[^>]*>;\s*rel=\"next\"", links)
    return unquote(found.group(1)) if found else ""


class Repository:
    """One repository through one installation. Every method is one or a few requests, and raises
    `GithubException`.
    """

    def __init__(self, app: App, repo: str, installation: int, client: _Client) -> None:
        self.app = app
        self.name = repo
        self.installation = installation
        self._client = client

    def ask(self, verb: str, path: str, body: Json | None = None, parameters: Json | None = None) -> Any:
        """One request; `path` is under `/repos/OWNER/NAME` unless it starts with `//`."""
        return self.exchange(verb, path, body, parameters)[1]

    def exchange(
        self, verb: str, path: str, body: Json | None = None, parameters: Json | None = None
    ) -> tuple[Mapping[str, Any], Any]:
        """As `ask`, with the answer's headers. Waits as long as GitHub wants us to."""
        client = self._client
        times = 0
        while True:
            client.gate.wait()
            try:
                with watch.request(self.name, self.installation, verb, path, body) as answered, client.lock:
                    headers, data = self._send(verb, path, body, parameters)
                    answered(headers)
                return headers, data
            except GithubException as error:
                seconds = limited_for(error, time.time(), times)
                if seconds is None:
                    raise
                times += 1
                client.gate.close_for(seconds)
                self.app.counts("rate_limited")
                audit.trouble("GitHub wants us to wait", seconds=seconds, installation=self.installation)

    def _send(
        self, verb: str, path: str, body: Json | None, parameters: Json | None
    ) -> tuple[Mapping[str, Any], Any]:
        url = path[1:] if path.startswith("//") else f"/repos/{self.name}{path}"
        requester, answers = self._client.github.requester, self._client.answers
        if verb != "GET":
            headers, data = requester.requestJsonAndCheck(verb, url, parameters=parameters, input=body)
            # The repository was renamed a moment ago: GitHub answers 307, which PyGithub takes for done.
            if headers.get("location") and isinstance(data, dict) and data.get("message") in _MOVED:
                return requester.requestJsonAndCheck(verb, str(headers["location"]), input=body)
            return headers, data
        key = answers.key(url, parameters)
        known = answers.get(key)
        wanted = {"If-None-Match": known.etag} if known is not None else None
        headers, data = requester.requestJsonAndCheck(verb, url, parameters=parameters, headers=wanted)
        if data is None and known is not None:  # 304: as it was
            return headers, known.data
        answers.put(key, headers, data)
        return headers, data

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

    def login_of(self, user_id: int) -> str:
        """The login that a person has now. A login can change hands, the number never does."""
        data = self.ask("GET", f"//user/{user_id}")
        if int(data["id"]) != user_id:
            raise GithubException(404, {"message": "another person answers to this number"}, {})
        return str(data["login"])

    def permission(self, login: str, user_id: int) -> str:
        """What a person may do here: none, read, triage, write, maintain or admin."""
        data = self.ask("GET", f"/collaborators/{quote(login, safe='')}/permission")
        if int(data["user"]["id"]) != user_id:
            return "none"
        # A custom role has any name; `permission` then says which of the four plain ones it comes from.
        role = str(data.get("role_name") or "")
        return role if role in ROLES else str(data["permission"])

    def in_team(self, team: str, login: str) -> bool:
        """Whether `login` is an active member of `org/team` (a bare name means this owner's), or of a team
        in it: GitHub's answer includes the members of child teams (REST, "Get team membership for a user").
        """
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

    def comments(self, number: int) -> Iterator[Json]:
        return self.pages(f"/issues/{number}/comments", {})

    def find_comment(self, number: int, marker: str) -> Json | None:
        """Our own comment that begins with `marker`. In anybody else's comment, or further down in ours,
        where we show what people wrote, it means nothing.
        """
        for row in self.comments(number):
            who = row["user"]  # null when the account was deleted
            if (
                str(row["body"]).startswith(marker)
                and who is not None
                and who["login"] == self.app.settings.login
            ):
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

    def react(self, comment: int, content: Literal["eyes", "+1", "confused"]) -> int | None:
        """Reacting twice with the same content is one reaction (GitHub answers 200 instead of 201). None when
        somebody deleted the comment.
        """
        try:
            return int(self.ask("POST", f"/issues/comments/{comment}/reactions", {"content": content})["id"])
        except GithubException as error:
            if error.status == 404:
                return None
            raise

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
        """None also when there is no such workflow: then it has no run."""
        path = f"/actions/workflows/{quote(workflow, safe='')}/runs"
        rows = self.pages(path, {"event": "workflow_dispatch"}, "workflow_runs", most=2)
        try:
            return next((row for row in rows if matches(row)), None)
        except GithubException as error:
            if error.status == 404:
                return None
            raise

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
