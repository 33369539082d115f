"""The forge's memory and its administration: people, organizations, repositories, Apps, tokens, roles.

This is the Python API behind `/_sandbox`; a test or the demo may use either:

    forge = Forge(Path("data"))
    token = forge.create_user("ada")
    forge.create_repo("acme", "taxonomy", Path("examples/taxonomy"), committer=who, message="Plant")
    app = forge.create_app("treewright", permissions, events, webhook_url, repositories=["acme/taxonomy"])

Everything that changes state holds `forge.lock`; requests are served by threads.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.forge.git import EMPTY_TREE, BareRepo, GitError, Signature
from sandbox.forge.records import (
    Account,
    App,
    Asset,
    CheckRun,
    CheckSuite,
    Comment,
    Delivery,
    Installation,
    Label,
    Pull,
    Reaction,
    Release,
    Repo,
    Review,
    ReviewComment,
    Run,
    Status,
    Store,
    Table,
    Team,
    Token,
)

ROLES = ("none", "read", "triage", "write", "maintain", "admin")
_LOGIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?\Z")
_REPO = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9._-]{1,100}\Z")
INSTALLATION_TOKEN_SECONDS = 3600  # GitHub's own lifetime of an installation token


class InvalidError(ValueError):
    """A request that can be understood but not done: GitHub's 422."""

    def __init__(self, message: str, resource: str = "", name: str = "", code: str = "invalid") -> None:
        super().__init__(message)
        self.message, self.resource, self.name, self.code = message, resource, name, code


@dataclass(frozen=True)
class NewApp:
    app: App
    installation: Installation | None
    private_key: str


@dataclass
class Faults:
    """What a test breaks on purpose; see `POST /_sandbox/faults`."""

    drop_deliveries: int = 0  # recorded as failed, never sent: the sweep over deliveries can heal it
    lose_deliveries: int = 0  # not even recorded: only a reconcile can heal it
    duplicate: int = 0  # sent twice under one delivery id
    fail_requests: list[dict[str, object]] = field(default_factory=list)
    # Weather for deliveries: {seed, drop, lose, duplicate, delay: shares of 1, seconds: the longest delay}.
    chaos: dict[str, float] = field(default_factory=dict)


def digest_of_token(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Forge:
    def __init__(
        self,
        data: Path,
        base_url: str = "http://127.0.0.1:0",
        clock: Callable[[], float] = time.time,
        rate_limit: int = 5000,
    ) -> None:
        self.data = data
        self.base_url = base_url.rstrip("/")
        self.clock = clock
        self.rate_limit = rate_limit
        self.lock = threading.RLock()
        self.faults = Faults()
        # Whatever wants to hear of deliveries. Called with the lock held; must return at once.
        self.listeners: list[Callable[[Delivery], None]] = []
        self.store = store = Store(data / "forge.sqlite")
        self.accounts = Table(store, Account)
        self.teams = Table(store, Team)
        self.tokens = Table(store, Token)
        self.repos = Table(store, Repo)
        self.labels = Table(store, Label)
        self.pulls = Table(store, Pull)
        self.comments = Table(store, Comment)
        self.reviews = Table(store, Review)
        self.review_comments = Table(store, ReviewComment)
        self.reactions = Table(store, Reaction)
        self.suites = Table(store, CheckSuite)
        self.checks = Table(store, CheckRun)
        self.statuses = Table(store, Status)
        self.releases = Table(store, Release)
        self.assets = Table(store, Asset)
        self.apps = Table(store, App)
        self.installations = Table(store, Installation)
        self.deliveries = Table(store, Delivery)
        self.runs = Table(store, Run)

    # -- time and ids

    def now(self) -> str:
        return datetime.fromtimestamp(self.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def next_id(self) -> int:
        with self.lock:
            return self.store.next_id()

    def close(self) -> None:
        with self.lock:
            self.store.close()

    # -- people

    def account(self, login: str) -> Account | None:
        wanted = login.casefold()
        return next((a for a in self.accounts if a.login.casefold() == wanted), None)

    def ensure_account(
        self, login: str, kind: str = "User", name: str = "", app: int | None = None
    ) -> Account:
        with self.lock:
            found = self.account(login)
            if found is not None:
                return found
            if not _LOGIN.match(login.removesuffix("[bot]")):
                raise InvalidError(
                    f"Login {login!r} is not valid: use letters, digits and single hyphens.", "User"
                )
            return self.accounts.put(Account(self.next_id(), login, kind, name or login, self.now(), app))

    def create_user(self, login: str, name: str = "") -> str:
        """Makes the person if need be and gives a new personal token."""
        with self.lock:
            account = self.ensure_account(login, name=name)
            return self.issue_token("user", account.login, prefix="ghp_")

    def create_org(self, login: str, name: str = "") -> Account:
        account = self.ensure_account(login, "Organization", name)
        if account.kind != "Organization":
            raise InvalidError(f"{login!r} is a person, not an organization.", "Organization")
        return account

    def create_team(self, org: str, slug: str, members: Mapping[str, str], parent: str = "") -> Team:
        """Members map a login to `member` or `maintainer`; `parent` is the slug of the team around it."""
        with self.lock:
            self.create_org(org)
            for login in members:
                self.ensure_account(login)
            team = self.team(org, slug) or Team(self.next_id(), org, slug)
            team.members, team.parent = dict(members), parent
            return self.teams.put(team)

    def team(self, org: str, slug: str) -> Team | None:
        key = (org.casefold(), slug.casefold())
        return next((t for t in self.teams if (t.org.casefold(), t.slug.casefold()) == key), None)

    def team_role(self, team: Team, login: str) -> str | None:
        """member or maintainer of a team; who is in a team inside it is a member of it as well, as on
        GitHub.
        """
        for name, role in team.members.items():
            if name.casefold() == login.casefold():
                return role
        inner = [one for one in self.teams if one.org == team.org and one.parent == team.slug]
        return "member" if any(self.team_role(one, login) for one in inner) else None

    def issue_token(
        self,
        kind: str,
        login: str,
        *,
        prefix: str,
        app: int | None = None,
        installation: int | None = None,
        repositories: list[int] | None = None,
        permissions: Mapping[str, str] | None = None,
        seconds: float | None = None,
        run: int | None = None,
    ) -> str:
        text = prefix + secrets.token_hex(20)
        expires = None if seconds is None else self.clock() + seconds
        with self.lock:
            for old in self.tokens:  # an expired token is only ballast
                if old.expires is not None and old.expires < self.clock() - 86400:
                    self.tokens.remove(old.id)
            self.tokens.put(
                Token(digest_of_token(text), kind, login, app, installation, repositories,
                      dict(permissions or {}), expires, run)
            )  # fmt: skip
        return text

    def token(self, text: str) -> Token | None:
        found = self.tokens.get(digest_of_token(text))
        if found is None or (found.expires is not None and found.expires <= self.clock()):
            return None
        return found

    # -- repositories

    def git(self, repo: Repo) -> BareRepo:
        return BareRepo(self.data / "repos" / f"{repo.id}.git")

    def repo(self, owner: str, name: str) -> Repo | None:
        key = (owner.casefold(), name.casefold())
        return next((r for r in self.repos if (r.owner.casefold(), r.name.casefold()) == key), None)

    def named(self, full_name: str) -> Repo:
        owner, _, name = full_name.partition("/")
        repo = self.repo(owner, name)
        if repo is None:
            raise InvalidError(f"There is no repository {full_name!r}.", "Repository")
        return repo

    def create_repo(
        self,
        owner: str,
        name: str,
        source: Path | None = None,
        *,
        committer: Signature | None = None,
        message: str = "Initial commit",
        private: bool = False,
        description: str = "",
        default_branch: str = "main",
    ) -> Repo:
        """A new repository, with one commit of a folder's files when `source` is given.

        The commit is the same on every machine when the committer's date is given.
        """
        with self.lock:
            if not _REPO.match(name):
                raise InvalidError(f"Repository name {name!r} is not valid.", "Repository", "name")
            if self.repo(owner, name) is not None:
                raise InvalidError(f"{owner}/{name} exists already.", "Repository", "name", "already_exists")
            account = self.ensure_account(owner)
            repo = Repo(
                self.next_id(), account.login, name, description, private, default_branch,
                created_at=self.now(), pushed_at=self.now(),
            )  # fmt: skip
            if account.kind == "User":
                repo.collaborators[account.login] = "admin"
            git = self.git(repo)
            git.create(default_branch)
            if source is not None:
                who = committer or Signature(owner, f"{owner}@users.noreply.localhost", self.now())
                if not source.is_dir():
                    raise InvalidError(f"{source} is not a folder.", "Repository", "from")
                commit = git.commit_tree(git.tree_of_folder(source), (), message, who, who)
                git.update_ref(f"refs/heads/{default_branch}", commit)
            self.repos.put(repo)
            for label, color in (("bug", "d73a4a"), ("documentation", "0075ca"), ("enhancement", "a2eeef")):
                self.labels.put(Label(self.next_id(), repo.id, label, color))
            return repo

    def fork_repo(self, repo: Repo, login: str, name: str | None = None) -> Repo:
        with self.lock:
            for known in self.repos:
                if known.fork_of == repo.id and known.owner == login:
                    return known  # GitHub answers with the fork that is there
            fork_name = name or repo.name
            while self.repo(login, fork_name) is not None:
                fork_name += "-1"
            fork = Repo(
                self.next_id(), login, fork_name, repo.description, repo.private, repo.default_branch,
                fork_of=repo.id, collaborators={login: "admin"}, created_at=self.now(), pushed_at=self.now(),
            )  # fmt: skip
            self.git(fork).clone_from(self.git(repo))
            return self.repos.put(fork)

    def former_repo(self, full_name: str) -> Repo | None:
        """The repository that had this name before, as long as nobody else took it."""
        known = (repo for repo in self.repos if full_name.casefold() in repo.former)
        return next(known, None) if self.repo(*full_name.split("/", 1)) is None else None

    def move_repo(self, repo: Repo, owner: str, name: str) -> None:
        """Rename or transfer: number, Git and everything in it stay. An App that the new owner has is on
        it too.
        """
        with self.lock:
            if not _REPO.match(name) or self.repo(owner, name) is not None:
                raise InvalidError(f"{owner}/{name} cannot be taken.", "Repository", "name")
            before, repo.former = repo.owner, [*repo.former, repo.full_name.casefold()]
            repo.owner, repo.name = self.ensure_account(owner).login, name
            self.repos.put(repo)
            for known in self.installations:
                if known.repositories is not None and before != repo.owner:
                    rest = {one for one in known.repositories if one != repo.id}
                    mine = {repo.id} if known.account == repo.owner else set()
                    known.repositories = sorted(rest | mine)
                    self.installations.put(known)
            from sandbox.forge import events

            action = "renamed" if before == repo.owner else "transferred"
            events.emit(self, repo, "repository", action, {"changes": {}}, repo.owner)

    def delete_repo(self, repo: Repo) -> None:
        with self.lock:
            self.repos.remove(repo.id)
            shutil.rmtree(self.git(repo).path, ignore_errors=True)

    def set_collaborator(self, repo: Repo, login: str, role: str) -> None:
        if role not in ROLES:
            raise InvalidError(f"Role {role!r} is none of {', '.join(ROLES)}.", "Collaborator", "permission")
        with self.lock:
            account = self.ensure_account(login)
            repo.collaborators[account.login] = role
            self.repos.put(repo)

    def role(self, repo: Repo, login: str) -> str:
        """The highest role that a person has: as owner, collaborator, through a team, or as anybody."""
        roles = ["none" if repo.private else "read"]
        if login.casefold() == repo.owner.casefold():
            roles.append("admin")
        roles += [role for who, role in repo.collaborators.items() if who.casefold() == login.casefold()]
        for slug, role in repo.teams.items():
            team = self.team(repo.owner, slug)
            if team is not None and self.team_role(team, login):
                roles.append(role)
        return max(roles, key=ROLES.index)

    # -- Apps

    def create_app(
        self,
        slug: str,
        permissions: Mapping[str, str],
        events: Sequence[str],
        webhook_url: str | None = None,
        *,
        owner: str = "",
        repositories: Sequence[str] = (),
        webhook_secret: str | None = None,
    ) -> NewApp:
        """Registers an App with a new key; installs it on the repositories, which share one owner."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ).decode()
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with self.lock:
            if any(app.slug == slug for app in self.apps):
                raise InvalidError(
                    f"An App {slug!r} exists already.", "Integration", "slug", "already_exists"
                )
            who = owner or (repositories[0].split("/")[0] if repositories else slug)
            app = App(
                self.next_id(), slug, slug, self.ensure_account(who).login, public.decode(), self.next_id(),
                webhook_url, webhook_secret or secrets.token_hex(32), {"metadata": "read", **permissions},
                list(events), self.now(),
            )  # fmt: skip
            self.apps.put(app)
            self.ensure_account(f"{slug}[bot]", "Bot", slug, app.id)
            installation = self.install_app(app, repositories) if repositories else None
        return NewApp(app, installation, private)

    def install_app(self, app: App, repositories: Sequence[str]) -> Installation:
        with self.lock:
            repos = [self.named(name) for name in repositories]
            owners = {repo.owner for repo in repos}
            if len(owners) != 1:
                raise InvalidError(
                    "An installation belongs to one account; install once per owner.", "Installation"
                )
            owner = owners.pop()
            found = next((i for i in self.installations if i.app == app.id and i.account == owner), None)
            known = found or Installation(
                self.next_id(), app.id, owner, [], dict(app.permissions), list(app.events), self.now()
            )
            known.repositories = sorted({*(known.repositories or []), *(repo.id for repo in repos)})
            self.installations.put(known)
            from sandbox.forge import events

            if found is None:
                events.ping(self, app)
                events.installation(self, known, "created", owner)
            return known

    def installation_of(self, app: int, repo: Repo) -> Installation | None:
        for known in self.installations:
            covered = known.repositories is None or repo.id in known.repositories
            if covered and known.app == app and known.account == repo.owner:
                return known
        return None

    def bot_login(self, app: App) -> str:
        return f"{app.slug}[bot]"

    # -- labels and small look-ups

    def label(self, repo: Repo, name: str) -> Label:
        with self.lock:
            for known in self.labels:
                if known.repo == repo.id and known.name.casefold() == name.casefold():
                    return known
            return self.labels.put(Label(self.next_id(), repo.id, name))

    def pull(self, repo: Repo, number: int) -> Pull | None:
        return next((p for p in self.pulls if p.repo == repo.id and p.number == number), None)

    def association(self, repo: Repo, login: str) -> str:
        if login.casefold() == repo.owner.casefold():
            return "OWNER"
        if any(team.org.casefold() == repo.owner.casefold() and login in team.members for team in self.teams):
            return "MEMBER"
        if login in repo.collaborators:
            return "COLLABORATOR"
        if any(p.repo == repo.id and p.login == login and p.merged_at for p in self.pulls):
            return "CONTRIBUTOR"
        return "NONE"


__all__ = [
    "EMPTY_TREE",
    "INSTALLATION_TOKEN_SECONDS",
    "ROLES",
    "Faults",
    "Forge",
    "GitError",
    "InvalidError",
    "NewApp",
]
