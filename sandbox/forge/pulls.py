"""Pull requests and what a push does to them: open, change, merge, synchronize. Real commits in the bare
repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.forge import events, views
from sandbox.forge.git import ZERO, BareRepo, Commit, FileChange, Signature, is_name
from sandbox.forge.records import Json, Pull, Repo
from sandbox.forge.state import Forge, InvalidError

COMMITTER = Signature("Treewright forge", "noreply@users.noreply.localhost", "")


class UnmergeableError(RuntimeError):
    """The pull request cannot be merged as it is: GitHub's 405."""


class HeadMovedError(RuntimeError):
    """The head is not the sha that the caller read: GitHub's 409."""


@dataclass(frozen=True)
class Shape:
    """What a pull request holds, by Git."""

    mergeable: bool | None
    commits: int
    files: int
    additions: int
    deletions: int
    merge: str | None  # the commit that GitHub makes to test the merge; it stands on no branch


def _base(git: BareRepo, pull: Pull) -> str:
    return git.merge_base(pull.base_sha, pull.head_sha) or pull.base_sha


def files(forge: Forge, repo: Repo, pull: Pull) -> list[FileChange]:
    git = forge.git(repo)
    return git.changes(_base(git, pull), pull.head_sha)


def commits(forge: Forge, repo: Repo, pull: Pull) -> list[Commit]:
    return forge.git(repo).commits(f"{pull.base_sha}..{pull.head_sha}", reverse=True)


_SHAPES: dict[tuple[str, ...], Shape] = {}


def shape(forge: Forge, repo: Repo, pull: Pull) -> Shape:
    git = forge.git(repo)
    tip = git.resolve(f"refs/heads/{pull.base_ref}") or pull.base_sha
    key = (str(git.path), pull.base_sha, pull.head_sha, tip, pull.state)
    if key not in _SHAPES:
        tree = None if pull.merged_at else git.merge_tree(tip, pull.head_sha)
        mergeable = None if pull.merged_at else tree is not None
        who = Signature(COMMITTER.name, COMMITTER.email, pull.created_at)
        text, parents = f"Merge {pull.head_sha} into {tip}\n", (tip, pull.head_sha)
        merge = git.commit_tree(tree, parents, text, who, who) if tree else None
        changes = files(forge, repo, pull)
        if len(_SHAPES) > 1000:
            _SHAPES.clear()
        _SHAPES[key] = Shape(
            mergeable, git.count(f"{pull.base_sha}..{pull.head_sha}"), len(changes),
            sum(c.additions for c in changes), sum(c.deletions for c in changes), merge,
        )  # fmt: skip
    return _SHAPES[key]


def emit(forge: Forge, repo: Repo, pull: Pull, action: str, sender: str, extra: Json | None = None) -> None:
    shown = views.pull_request(forge, repo, pull, fresh=True)
    body = {"number": pull.number, "pull_request": shown} | (extra or {})
    events.emit(forge, repo, "pull_request", action, body, sender)


def open_pull(
    forge: Forge, repo: Repo, login: str, title: str, body: str, head: str, base: str, draft: bool = False
) -> Pull:
    """`head` is `branch` or `owner:branch`; a fork's commits come into the base as refs/pull/N/head."""
    with forge.lock:
        owner, _, branch = head.rpartition(":")
        source = repo if not owner or owner.casefold() == repo.owner.casefold() else _fork(forge, repo, owner)
        git = forge.git(repo)
        base_sha = git.resolve(f"refs/heads/{base}") if is_name(base) else None
        if base_sha is None:
            raise InvalidError("Validation Failed", "PullRequest", "base")
        head_sha = forge.git(source).resolve(f"refs/heads/{branch}") if source and is_name(branch) else None
        if source is None or head_sha is None:
            raise InvalidError("Validation Failed", "PullRequest", "head")
        for known in forge.pulls:
            same = (known.repo, known.head_repo, known.head_ref, known.base_ref) == (
                repo.id, source.id, branch, base)  # fmt: skip
            if same and known.state == "open":
                raise InvalidError(f"A pull request already exists for {head}.", "PullRequest", "", "custom")
        repo.last_number += 1
        number = repo.last_number
        git.fetch_from(forge.git(source), f"refs/heads/{branch}", f"refs/pull/{number}/head")
        if git.count(f"{base_sha}..{head_sha}") == 0:
            git.delete_ref(f"refs/pull/{number}/head")
            repo.last_number -= 1
            raise InvalidError(f"No commits between {base} and {branch}", "PullRequest", "", "custom")
        forge.repos.put(repo)
        now = forge.now()
        pull = Pull(
            forge.next_id(), repo.id, number, title, body, login, base, base_sha, source.id, branch, head_sha,
            draft=draft, created_at=now, updated_at=now,
        )  # fmt: skip
        forge.pulls.put(pull)
        emit(forge, repo, pull, "opened", login)
        return pull


def _fork(forge: Forge, repo: Repo, owner: str) -> Repo | None:
    for known in forge.repos:
        if known.owner.casefold() == owner.casefold() and known.fork_of == repo.id:
            return known
    return None


def update_pull(forge: Forge, repo: Repo, pull: Pull, sender: str, changes: Mapping[str, object]) -> None:
    with forge.lock:
        said: Json = {}
        for name in ("title", "body"):
            new = changes.get(name)
            if isinstance(new, str) and new != getattr(pull, name):
                said[name] = {"from": getattr(pull, name)}
                setattr(pull, name, new)
        base = changes.get("base")
        if isinstance(base, str) and base != pull.base_ref:
            sha = forge.git(repo).resolve(f"refs/heads/{base}") if is_name(base) else None
            if sha is None:
                raise InvalidError("Validation Failed", "PullRequest", "base")
            said["base"] = {"ref": {"from": pull.base_ref}, "sha": {"from": pull.base_sha}}
            pull.base_ref, pull.base_sha = base, sha
        pull.updated_at = forge.now()
        forge.pulls.put(pull)
        if said:
            emit(forge, repo, pull, "edited", sender, {"changes": said})
        state = changes.get("state")
        if state in ("open", "closed") and state != pull.state:
            if pull.merged_at:
                raise InvalidError("A merged pull request stays closed.", "PullRequest", "state")
            pull.state = str(state)
            pull.closed_at = forge.now() if state == "closed" else None
            forge.pulls.put(pull)
            emit(forge, repo, pull, "closed" if state == "closed" else "reopened", sender)


def set_labels(forge: Forge, repo: Repo, pull: Pull, names: list[str], sender: str) -> None:
    with forge.lock:
        wanted = list(dict.fromkeys(names))
        added = [name for name in wanted if name not in pull.labels]
        removed = [name for name in pull.labels if name not in wanted]
        pull.labels, pull.updated_at = wanted, forge.now()
        forge.pulls.put(pull)
        for action, changed in (("labeled", added), ("unlabeled", removed)):
            for name in changed:
                label = views.label(forge, repo, forge.label(repo, name))
                emit(forge, repo, pull, action, sender, {"label": label})


def merge_pull(
    forge: Forge,
    repo: Repo,
    pull: Pull,
    login: str,
    sha: str | None = None,
    method: str = "merge",
    title: str | None = None,
    message: str | None = None,
) -> str:
    """Merges and returns the new commit. Raises `HeadMovedError` when the head is not `sha`,
    `UnmergeableError` when it cannot.
    """
    with forge.lock:
        git = forge.git(repo)
        if pull.state != "open":
            raise UnmergeableError("Pull Request is not mergeable")
        if sha is not None and sha != pull.head_sha:
            raise HeadMovedError("Head branch was modified. Review and try the merge again.")
        if method not in ("merge", "squash"):
            raise UnmergeableError(f"Merge method {method!r} is not allowed on this repository.")
        if pull.draft:
            raise UnmergeableError("Pull Request is still a draft")
        tip = git.resolve(f"refs/heads/{pull.base_ref}")
        tree = git.merge_tree(tip, pull.head_sha) if tip else None
        if tip is None or tree is None:
            raise UnmergeableError("Pull Request is not mergeable")
        now = forge.now()
        account = forge.account(login)
        who = Signature(
            account.name if account and account.name else login,
            f"{account.id if account else 0}+{login}@users.noreply.localhost",
            now,
        )
        committer = Signature(COMMITTER.name, COMMITTER.email, now)
        if method == "merge":
            head = forge.repos.get(pull.head_repo)
            subject = (
                title
                or f"Merge pull request #{pull.number} from {head.owner if head else ''}/{pull.head_ref}"
            )
            text = f"{subject}\n\n{message if message is not None else pull.title}".rstrip() + "\n"
            parents: tuple[str, ...] = (tip, pull.head_sha)
        else:
            subject = title or f"{pull.title} (#{pull.number})"
            default = "\n\n".join(f"* {c.message}" for c in commits(forge, repo, pull))
            text = f"{subject}\n\n{message if message is not None else default}".rstrip() + "\n"
            parents = (tip,)
            first = commits(forge, repo, pull)[0].author
            who = Signature(first.name, first.email, now)
        commit = git.commit_tree(tree, parents, text, who, committer)
        git.update_ref(f"refs/heads/{pull.base_ref}", commit, tip)
        pull.base_sha = tip
        _mark_merged(forge, repo, pull, login, commit)
        after_push(forge, repo, {f"refs/heads/{pull.base_ref}": (tip, commit)}, login)
        return commit


def _mark_merged(forge: Forge, repo: Repo, pull: Pull, login: str, commit: str) -> None:
    now = forge.now()
    pull.state, pull.closed_at, pull.merged_at, pull.updated_at = "closed", now, now, now
    pull.merged_by, pull.merge_commit_sha = login, commit
    forge.pulls.put(pull)
    emit(forge, repo, pull, "closed", login)


def after_push(forge: Forge, repo: Repo, moved: Mapping[str, tuple[str, str]], login: str) -> None:
    """What GitHub does when refs moved, by whatever way: `push`, then `synchronize` or `closed`.

    `moved` maps a full ref to (old sha, new sha); forty zeros for a ref that was or is not there.
    """
    with forge.lock:
        repo.pushed_at = forge.now()
        forge.repos.put(repo)
        git = forge.git(repo)
        for ref, (old, new) in moved.items():
            if ref.startswith("refs/pull/") or old == new:
                continue
            events.emit(forge, repo, "push", None, _push(forge, repo, git, ref, old, new, login), login)
            if not ref.startswith("refs/heads/"):
                continue
            branch = ref.removeprefix("refs/heads/")
            for pull in [p for p in forge.pulls if p.state == "open"]:
                base = forge.repos.get(pull.repo)
                if base is None:
                    continue
                if pull.head_repo == repo.id and pull.head_ref == branch:
                    _head_moved(forge, base, pull, repo, new, login)
                elif (pull.repo, pull.base_ref) != (repo.id, branch) or new == ZERO:
                    continue
                elif git.is_ancestor(pull.head_sha, new):
                    _mark_merged(forge, base, pull, login, new)


def _head_moved(forge: Forge, base: Repo, pull: Pull, source: Repo, new: str, login: str) -> None:
    if new == ZERO:
        pull.state, pull.closed_at = "closed", forge.now()
        forge.pulls.put(pull)
        emit(forge, base, pull, "closed", login)
        return
    git = forge.git(base)
    git.fetch_from(forge.git(source), f"refs/heads/{pull.head_ref}", f"refs/pull/{pull.number}/head")
    before, pull.head_sha, pull.updated_at = pull.head_sha, new, forge.now()
    pull.base_sha = git.resolve(f"refs/heads/{pull.base_ref}") or pull.base_sha
    forge.pulls.put(pull)
    emit(forge, base, pull, "synchronize", login, {"before": before, "after": new})


def _push(forge: Forge, repo: Repo, git: BareRepo, ref: str, old: str, new: str, login: str) -> Json:
    created, deleted = old == ZERO, new == ZERO
    listed: list[Commit] = []
    if not deleted and ref.startswith("refs/heads/"):
        base = git.resolve(repo.default_branch)
        if not created:
            listed = git.commits(f"{old}..{new}", limit=20, reverse=True)
        elif base is not None and base != new:
            listed = git.commits(f"{base}..{new}", limit=20, reverse=True)
        else:
            listed = git.commits(new, limit=1)
    target = None if deleted else git.resolve(new)
    span = f"{old[:12]}...{new[:12]}"
    return {
        "ref": ref, "before": old, "after": new, "created": created, "deleted": deleted,
        "forced": not created and not deleted and not git.is_ancestor(old, new), "base_ref": None,
        "compare": views.page(forge, f"/{repo.full_name}/compare/{span}"),
        "commits": [_push_commit(forge, repo, git, commit) for commit in listed],
        "head_commit": _push_commit(forge, repo, git, git.commit(target)) if target else None,
        "pusher": {"name": login, "email": f"{login}@users.noreply.localhost"},
    }  # fmt: skip


def _push_commit(forge: Forge, repo: Repo, git: BareRepo, commit: Commit) -> Json:
    from sandbox.forge.git import EMPTY_TREE

    changes = git.changes(commit.parents[0] if commit.parents else EMPTY_TREE, commit.sha)
    return views.simple_commit(commit) | {
        "distinct": True, "url": views.page(forge, f"/{repo.full_name}/commit/{commit.sha}"),
        "added": [c.path for c in changes if c.status == "added"],
        "removed": [c.path for c in changes if c.status == "removed"],
        "modified": [c.path for c in changes if c.status not in ("added", "removed")],
    }  # fmt: skip
