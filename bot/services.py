"""What every job is given: settings, memory, GitHub, Git; and how a head of a pull request is opened for
reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bot.database import Locks
from bot.git import Mirror, MirrorLagError, Mirrors
from bot.github import App, Repository
from bot.settings import Settings
from bot.store import Pull, Store
from lab.config import RepositoryConfig, load_config
from lab.taxonomy.findings import Finding
from lab.taxonomy.tree import GitTree

CONFIG = ".github/treewright.yml"
_LARGEST_CONFIG = 256 * 1024


class SupersededError(Exception):
    """The head that this work is for is not the head any more, or the pull request is closed."""


@dataclass
class Services:
    settings: Settings
    store: Store
    app: App
    mirrors: Mirrors

    @property
    def comment_locks(self) -> Locks:
        """One writer of a pull request's comment at a time, among all threads and replicas."""
        return Locks(self.store)

    @classmethod
    def open(cls, settings: Settings) -> Services:
        settings.data.mkdir(parents=True, exist_ok=True)
        store = Store(settings.database_url)
        app = App(settings, store.count)
        return cls(settings, store, app, Mirrors(settings.data / "git", settings.web_url))

    def repository(self, pull: Pull) -> Repository:
        return self.app.repository(pull.repo, pull.installation)

    def pull(self, repo_id: int, number: int) -> Pull:
        pull = self.store.pull(repo_id, number)
        if pull is None:
            raise LookupError(f"no pull request {repo_id}:{number}")
        return pull

    def refresh(self, pull: Pull) -> Pull:
        """Ask GitHub how the pull request is now; a head that no delivery told us about enters the ledger
        as such.
        """
        return self.store.learn(self.repository(pull).pull(pull.number), "api")

    def still(self, pull: Pull, head: str) -> Pull:
        """The pull request, when `head` is still its head by what we heard; raises `SupersededError`
        otherwise.
        """
        now = self.pull(pull.repo_id, pull.number)
        if now.head != head or now.state != "open":
            raise SupersededError(head)
        return now


@dataclass(frozen=True)
class Trees:
    """A pull request's two sides as Git objects, and the configuration of the default branch, never of the
    head.
    """

    mirror: Mirror
    base_sha: str
    """Where the head branched off; `base_tip` is where the base branch is now."""
    base_tip: str
    base: GitTree
    head: GitTree
    config: RepositoryConfig
    config_findings: tuple[Finding, ...]


def open_trees(services: Services, pull: Pull, head: str) -> Trees:
    """Fetch and open `head` and where it branched off. Raises `MirrorLagError` while Git lags behind the
    API.
    """
    token = services.repository(pull).git_token()
    branches = [pull.base_ref, pull.default_branch]
    mirror = services.mirrors.sync(pull.repo_id, pull.repo, token, branches, pull.number)
    if mirror.commit(f"refs/pull/{pull.number}/head") != head:
        raise MirrorLagError(f"refs/pull/{pull.number}/head is not {head} yet")
    base_sha = mirror.merge_base(f"refs/heads/{pull.base_ref}", head)
    config, findings = read_config(mirror.git_dir, f"refs/heads/{pull.default_branch}")
    return Trees(
        mirror,
        base_sha,
        mirror.commit(f"refs/heads/{pull.base_ref}"),
        GitTree(mirror.git_dir, base_sha),
        GitTree(mirror.git_dir, head),
        config,
        tuple(findings),
    )


def read_config(git_dir: Path, revision: str) -> tuple[RepositoryConfig, list[Finding]]:
    tree = GitTree(git_dir, revision)
    data = tree.read(CONFIG, _LARGEST_CONFIG) if CONFIG in set(tree.paths()) else None
    return load_config(data)


def default_config(services: Services, pull: Pull) -> RepositoryConfig:
    """The configuration on the default branch as it is now; the defaults where it cannot be read."""
    return default_settings(services, pull)[0]


def default_settings(services: Services, pull: Pull) -> tuple[RepositoryConfig, list[Finding]]:
    """The configuration on the default branch as it is now, and what is wrong with it."""
    token = services.repository(pull).git_token()
    mirror = services.mirrors.sync(pull.repo_id, pull.repo, token, [pull.default_branch], None)
    return read_config(mirror.git_dir, f"refs/heads/{pull.default_branch}")
