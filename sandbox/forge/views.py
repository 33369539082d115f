"""Records as GitHub's JSON. One function per shape of GitHub's OpenAPI description; nothing here changes
anything.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

from sandbox.forge.git import Commit, FileChange
from sandbox.forge.records import (
    Account,
    App,
    Comment,
    Json,
    Label,
    Pull,
    Reaction,
    Repo,
)
from sandbox.forge.state import Forge

REACTIONS = ("+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes")


def node(kind: str, key: object) -> str:
    return base64.b64encode(f"{kind}:{key}".encode()).decode()


def api(forge: Forge, path: str) -> str:
    return f"{forge.base_url}/api/v3{path}"


def page(forge: Forge, path: str) -> str:
    return f"{forge.base_url}{path}"


def of_repo(forge: Forge, repo: Repo) -> str:
    return api(forge, f"/repos/{repo.full_name}")


# -- accounts


def simple_user(forge: Forge, account: Account | str | None) -> Json | None:
    if isinstance(account, str):
        account = forge.account(account)
    if account is None:
        return None
    url = api(forge, f"/users/{quote(account.login)}")
    return {
        "login": account.login,
        "id": account.id,
        "node_id": node("User", account.id),
        "avatar_url": page(forge, f"/_avatars/{account.id}"),
        "gravatar_id": "",
        "url": url,
        "html_url": page(forge, f"/{quote(account.login)}"),
        "followers_url": f"{url}/followers",
        "following_url": f"{url}/following{{/other_user}}",
        "gists_url": f"{url}/gists{{/gist_id}}",
        "starred_url": f"{url}/starred{{/owner}}{{/repo}}",
        "subscriptions_url": f"{url}/subscriptions",
        "organizations_url": f"{url}/orgs",
        "repos_url": f"{url}/repos",
        "events_url": f"{url}/events{{/privacy}}",
        "received_events_url": f"{url}/received_events",
        "type": account.kind,
        "site_admin": False,
    }


def full_user(forge: Forge, account: Account) -> Json:
    user = simple_user(forge, account) or {}
    owned = sum(1 for repo in forge.repos if repo.owner == account.login)
    return user | {
        "name": account.name or None, "company": None, "blog": "", "location": None, "email": None,
        "hireable": None, "bio": None, "twitter_username": None, "public_repos": owned, "public_gists": 0,
        "followers": 0, "following": 0, "created_at": account.created_at, "updated_at": account.created_at,
    }  # fmt: skip


def organization(forge: Forge, login: str) -> Json | None:
    account = forge.account(login)
    if account is None or account.kind != "Organization":
        return None
    url = api(forge, f"/orgs/{account.login}")
    return {
        "login": account.login, "id": account.id, "node_id": node("Organization", account.id), "url": url,
        "repos_url": f"{url}/repos", "events_url": f"{url}/events", "hooks_url": f"{url}/hooks",
        "issues_url": f"{url}/issues", "members_url": f"{url}/members{{/member}}",
        "public_members_url": f"{url}/public_members{{/member}}",
        "avatar_url": page(forge, f"/_avatars/{account.id}"), "description": account.name,
    }  # fmt: skip


# -- repositories

_REPO_LINKS = {
    "archive_url": "/{archive_format}{/ref}", "assignees_url": "/assignees{/user}",
    "blobs_url": "/git/blobs{/sha}", "branches_url": "/branches{/branch}",
    "collaborators_url": "/collaborators{/collaborator}", "comments_url": "/comments{/number}",
    "commits_url": "/commits{/sha}", "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}", "contributors_url": "/contributors",
    "deployments_url": "/deployments", "downloads_url": "/downloads", "events_url": "/events",
    "forks_url": "/forks", "git_commits_url": "/git/commits{/sha}", "git_refs_url": "/git/refs{/sha}",
    "git_tags_url": "/git/tags{/sha}", "issue_comment_url": "/issues/comments{/number}",
    "issue_events_url": "/issues/events{/number}", "issues_url": "/issues{/number}",
    "keys_url": "/keys{/key_id}", "labels_url": "/labels{/name}", "languages_url": "/languages",
    "merges_url": "/merges", "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}", "pulls_url": "/pulls{/number}",
    "releases_url": "/releases{/id}", "stargazers_url": "/stargazers", "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers", "subscription_url": "/subscription", "tags_url": "/tags",
    "teams_url": "/teams", "trees_url": "/git/trees{/sha}", "hooks_url": "/hooks",
}  # fmt: skip


def repository(forge: Forge, repo: Repo, role: str | None = None) -> Json:
    url = of_repo(forge, repo)
    forks = sum(1 for other in forge.repos if other.fork_of == repo.id)
    pulls = sum(1 for pull in forge.pulls if pull.repo == repo.id and pull.state == "open")
    html = page(forge, f"/{repo.full_name}")
    body: Json = {
        "id": repo.id, "node_id": node("Repository", repo.id), "name": repo.name,
        "full_name": repo.full_name, "owner": simple_user(forge, repo.owner), "private": repo.private,
        "html_url": html, "description": repo.description or None, "fork": repo.fork_of is not None,
        "url": url, **{name: url + tail for name, tail in _REPO_LINKS.items()},
        "git_url": f"{html}.git", "ssh_url": f"git@localhost:{repo.full_name}.git",
        "clone_url": f"{html}.git", "mirror_url": None, "svn_url": html, "homepage": None, "language": None,
        "forks_count": forks, "stargazers_count": 0, "watchers_count": 0, "size": 0,
        "default_branch": repo.default_branch, "open_issues_count": pulls, "has_issues": True,
        "has_projects": False, "has_wiki": False, "has_pages": False, "has_downloads": True,
        "has_discussions": False, "archived": False, "disabled": False, "visibility":
        "private" if repo.private else "public", "topics": [],
        "custom_properties": {}, "is_template": False, "allow_forking": True,
        "web_commit_signoff_required": False, "pushed_at": repo.pushed_at, "created_at": repo.created_at,
        "updated_at": repo.pushed_at, "license": None, "forks": forks, "open_issues": pulls, "watchers": 0,
    }  # fmt: skip
    if role is not None:
        order = ("none", "read", "triage", "write", "maintain", "admin").index(role)
        body["permissions"] = {
            "pull": order >= 1, "triage": order >= 2, "push": order >= 3, "maintain": order >= 4,
            "admin": order >= 5,
        }  # fmt: skip
    return body


def full_repository(forge: Forge, repo: Repo, role: str | None = None) -> Json:
    body = repository(forge, repo, role) | {
        "subscribers_count": 0, "network_count": 0, "allow_merge_commit": True, "allow_squash_merge": True,
        "allow_rebase_merge": False, "allow_auto_merge": False, "delete_branch_on_merge": False,
    }  # fmt: skip
    parent = forge.repos.get(repo.fork_of)
    if parent is not None:
        body["parent"] = body["source"] = repository(forge, parent)
    return body


def branch_of_commit(forge: Forge, repo: Repo, commit: Commit, *, detail: bool = False) -> Json:
    """GitHub's `commit`; with `detail` also the files and the sums, as one commit is answered."""
    url = f"{of_repo(forge, repo)}/commits/{commit.sha}"
    html = page(forge, f"/{repo.full_name}/commit/{commit.sha}")
    person = {
        side: simple_user(forge, _login_of_email(forge, getattr(commit, side).email)) or {}
        for side in ("author", "committer")
    }
    body: Json = {
        "url": url, "sha": commit.sha, "node_id": node("Commit", f"{repo.id}:{commit.sha}"), "html_url": html,
        "comments_url": f"{url}/comments",
        "commit": {
            "url": f"{of_repo(forge, repo)}/git/commits/{commit.sha}", "message": commit.message,
            "author": _git_user(commit.author), "committer": _git_user(commit.committer), "comment_count": 0,
            "tree": {"sha": commit.tree, "url": f"{of_repo(forge, repo)}/git/trees/{commit.tree}"},
            "verification": {"verified": False, "reason": "unsigned", "signature": None, "payload": None,
                             "verified_at": None},
        },
        "author": person["author"] or None, "committer": person["committer"] or None,
        "parents": [
            {"sha": sha, "url": f"{of_repo(forge, repo)}/commits/{sha}",
             "html_url": page(forge, f"/{repo.full_name}/commit/{sha}")} for sha in commit.parents
        ],
    }  # fmt: skip
    if detail:
        git = forge.git(repo)
        from sandbox.forge.git import EMPTY_TREE

        changes = git.changes(commit.parents[0] if commit.parents else EMPTY_TREE, commit.sha)
        plus, minus = sum(c.additions for c in changes), sum(c.deletions for c in changes)
        body["stats"] = {"additions": plus, "deletions": minus, "total": plus + minus}
        body["files"] = [diff_entry(forge, repo, change, commit.sha) for change in changes]
    return body


def _git_user(person: Any) -> Json:
    return {"name": person.name, "email": person.email, "date": person.date}


def _login_of_email(forge: Forge, email: str) -> str:
    local, _, domain = email.partition("@")
    login = local.rpartition("+")[2]
    return login if domain == "users.noreply.localhost" and forge.account(login) else ""


def simple_commit(commit: Commit) -> Json:
    return {
        "id": commit.sha, "tree_id": commit.tree, "message": commit.message,
        "timestamp": commit.committer.date,
        "author": {"name": commit.author.name, "email": commit.author.email},
        "committer": {"name": commit.committer.name, "email": commit.committer.email},
    }  # fmt: skip


def diff_entry(forge: Forge, repo: Repo, change: FileChange, sha: str) -> Json:
    where = quote(change.path)
    body: Json = {
        "sha": change.sha, "filename": change.path, "status": change.status, "additions": change.additions,
        "deletions": change.deletions, "changes": change.additions + change.deletions,
        "blob_url": page(forge, f"/{repo.full_name}/blob/{sha}/{where}"),
        "raw_url": page(forge, f"/{repo.full_name}/raw/{sha}/{where}"),
        "contents_url": f"{of_repo(forge, repo)}/contents/{where}?ref={sha}",
    }  # fmt: skip
    if change.patch is not None:
        body["patch"] = change.patch
    if change.previous is not None:
        body["previous_filename"] = change.previous
    return body


# -- pull requests, issues, comments


def label(forge: Forge, repo: Repo, item: Label) -> Json:
    return {
        "id": item.id, "node_id": node("Label", item.id), "name": item.name, "description": item.description,
        "url": f"{of_repo(forge, repo)}/labels/{quote(item.name)}", "color": item.color, "default": False,
    }  # fmt: skip


def _labels(forge: Forge, repo: Repo, pull: Pull) -> list[Json]:
    return [label(forge, repo, forge.label(repo, name)) for name in pull.labels]


def _end(forge: Forge, repo: Repo | None, owner: str, ref: str, sha: str) -> Json:
    return {
        "label": f"{owner}:{ref}", "ref": ref, "sha": sha, "user": simple_user(forge, owner),
        "repo": repository(forge, repo) if repo is not None else None,
    }  # fmt: skip


def pull_simple(forge: Forge, repo: Repo, pull: Pull) -> Json:
    url = f"{of_repo(forge, repo)}/pulls/{pull.number}"
    issue = f"{of_repo(forge, repo)}/issues/{pull.number}"
    html = page(forge, f"/{repo.full_name}/pull/{pull.number}")
    links = {
        "comments": f"{issue}/comments", "commits": f"{url}/commits", "html": html, "issue": issue,
        "review_comment": f"{of_repo(forge, repo)}/pulls/comments{{/number}}",
        "review_comments": f"{url}/comments", "self": url,
        "statuses": f"{of_repo(forge, repo)}/statuses/{pull.head_sha}",
    }  # fmt: skip
    head_repo = forge.repos.get(pull.head_repo)
    return {
        "url": url, "id": pull.id, "node_id": node("PullRequest", pull.id), "html_url": html,
        "diff_url": f"{html}.diff", "patch_url": f"{html}.patch", "issue_url": issue,
        "number": pull.number, "state": pull.state, "locked": False, "title": pull.title,
        "user": simple_user(forge, pull.login), "body": pull.body or None,
        "labels": _labels(forge, repo, pull), "milestone": None, "created_at": pull.created_at,
        "updated_at": pull.updated_at, "closed_at": pull.closed_at, "merged_at": pull.merged_at,
        "merge_commit_sha": pull.merge_commit_sha, "assignee": None, "assignees": [],
        "requested_reviewers": [], "requested_teams": [], "commits_url": links["commits"],
        "review_comments_url": links["review_comments"], "review_comment_url": links["review_comment"],
        "comments_url": links["comments"], "statuses_url": links["statuses"],
        "head": _end(
            forge, head_repo, head_repo.owner if head_repo else pull.login, pull.head_ref, pull.head_sha
        ),
        "base": _end(forge, repo, repo.owner, pull.base_ref, pull.base_sha),
        "_links": {name: {"href": link} for name, link in links.items()},
        "author_association": forge.association(repo, pull.login), "auto_merge": None,
        "active_lock_reason": None, "draft": pull.draft,
    }  # fmt: skip


def pull_request(forge: Forge, repo: Repo, pull: Pull, *, fresh: bool = False) -> Json:
    """`fresh`: right after a change, when GitHub has not yet found out whether it can be merged."""
    from sandbox.forge import pulls

    shape = pulls.shape(forge, repo, pull)
    mergeable = None if fresh else shape.mergeable
    count = sum(1 for c in forge.comments if c.repo == repo.id and c.number == pull.number)
    reviewed = sum(1 for c in forge.review_comments if c.repo == repo.id and c.number == pull.number)
    return pull_simple(forge, repo, pull) | {
        "merged": pull.merged_at is not None, "mergeable": mergeable, "rebaseable": None,
        "mergeable_state": "unknown" if mergeable is None else "clean" if mergeable else "dirty",
        # Not null before the merge either: it says nothing about whether there was one.
        "merge_commit_sha": pull.merge_commit_sha or (None if fresh else shape.merge),
        "merged_by": simple_user(forge, pull.merged_by), "comments": count, "review_comments": reviewed,
        "maintainer_can_modify": False, "commits": shape.commits, "additions": shape.additions,
        "deletions": shape.deletions, "changed_files": shape.files,
    }  # fmt: skip


def pull_minimal(forge: Forge, pull: Pull) -> Json:
    base, head = forge.repos.get(pull.repo), forge.repos.get(pull.head_repo)

    def side(repo: Repo | None, ref: str, sha: str) -> Json:
        where = {"id": repo.id, "url": of_repo(forge, repo), "name": repo.name} if repo else None
        return {"ref": ref, "sha": sha, "repo": where}

    return {
        "id": pull.id, "number": pull.number,
        "url": f"{of_repo(forge, base)}/pulls/{pull.number}" if base else "",
        "head": side(head, pull.head_ref, pull.head_sha), "base": side(base, pull.base_ref, pull.base_sha),
    }  # fmt: skip


def issue(forge: Forge, repo: Repo, pull: Pull) -> Json:
    """A pull request seen as an issue: it has the key `pull_request`."""
    url = f"{of_repo(forge, repo)}/issues/{pull.number}"
    html = page(forge, f"/{repo.full_name}/pull/{pull.number}")
    return {
        "id": pull.id, "node_id": node("PullRequest", pull.id), "url": url,
        "repository_url": of_repo(forge, repo), "labels_url": f"{url}/labels{{/name}}",
        "comments_url": f"{url}/comments", "events_url": f"{url}/events", "html_url": html,
        "number": pull.number, "state": pull.state, "state_reason": None, "title": pull.title,
        "body": pull.body or None, "user": simple_user(forge, pull.login),
        "labels": _labels(forge, repo, pull), "assignee": None, "assignees": [], "milestone": None,
        "locked": False, "active_lock_reason": None, "draft": pull.draft,
        "comments": sum(1 for c in forge.comments if c.repo == repo.id and c.number == pull.number),
        "pull_request": {
            "url": f"{of_repo(forge, repo)}/pulls/{pull.number}", "html_url": html,
            "diff_url": f"{html}.diff", "patch_url": f"{html}.patch", "merged_at": pull.merged_at,
        },
        "closed_at": pull.closed_at, "created_at": pull.created_at, "updated_at": pull.updated_at,
        "author_association": forge.association(repo, pull.login),
        "reactions": reaction_rollup(forge, f"issue:{pull.number}", repo, f"{url}/reactions"),
        "performed_via_github_app": None,
    }  # fmt: skip


def reaction_rollup(forge: Forge, subject: str, repo: Repo, url: str) -> Json:
    mine = [r.content for r in forge.reactions if r.subject == subject and r.repo == repo.id]
    return {"url": url, "total_count": len(mine), **{name: mine.count(name) for name in REACTIONS}}


def comment(forge: Forge, repo: Repo, item: Comment) -> Json:
    url = f"{of_repo(forge, repo)}/issues/comments/{item.id}"
    by = forge.apps.get(item.app)
    return {
        "id": item.id, "node_id": node("IssueComment", item.id), "url": url,
        "html_url": page(forge, f"/{repo.full_name}/pull/{item.number}#issuecomment-{item.id}"),
        "issue_url": f"{of_repo(forge, repo)}/issues/{item.number}", "body": item.body,
        "user": simple_user(forge, item.login), "created_at": item.created_at,
        "updated_at": item.updated_at, "author_association": forge.association(repo, item.login),
        "reactions": reaction_rollup(forge, f"comment:{item.id}", repo, f"{url}/reactions"),
        "performed_via_github_app": integration(forge, by) if by else None,
    }  # fmt: skip


def reaction(forge: Forge, item: Reaction) -> Json:
    return {
        "id": item.id, "node_id": node("Reaction", item.id), "user": simple_user(forge, item.login),
        "content": item.content, "created_at": item.created_at,
    }  # fmt: skip


def integration(forge: Forge, app: App) -> Json:
    return {
        "id": app.id, "slug": app.slug, "node_id": node("App", app.id), "client_id": f"Iv1.{app.id}",
        "owner": simple_user(forge, app.owner), "name": app.name, "description": None,
        "external_url": page(forge, f"/apps/{app.slug}"), "html_url": page(forge, f"/apps/{app.slug}"),
        "created_at": app.created_at, "updated_at": app.created_at, "permissions": app.permissions,
        "events": app.events,
        "installations_count": sum(1 for i in forge.installations if i.app == app.id),
    }  # fmt: skip
