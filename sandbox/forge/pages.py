"""The forge's pages for people: repositories, pull requests, checks, runs, releases. No script at all.

Everything shown may be contributed by a stranger. Templates escape; Markdown goes through `markdown.render`;
a file is shown as text, and a raw file or an asset never as a page of this origin. A strict
Content-Security-Policy stands behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException

from sandbox.forge import markdown, pulls, reviews, views
from sandbox.forge.actions import Runner
from sandbox.forge.git import EMPTY_TREE, Entry, FileChange
from sandbox.forge.records import CheckRun, Pull, Repo
from sandbox.forge.state import Forge
from sandbox.forge.wire import LockedRouter

MAX_SHOWN = 512 * 1024
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
_CSS = (Path(__file__).parent / "style.css").read_text()

templates = Environment(
    loader=PackageLoader("sandbox.forge", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters["markdown"] = lambda text: Markup(markdown.render(text or ""))  # noqa: S704 - cleaned by nh3
templates.filters["path"] = lambda text: quote(str(text))
templates.filters["short"] = lambda sha: str(sha)[:7]


def _ago(text: str | None) -> str:
    if not text:
        return ""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).strftime("%-d %b %Y, %H:%M")


def _lasted(item: dict[str, Any]) -> str:
    begin, end = item.get("started_at"), item.get("completed_at")
    if not begin or not end:
        return ""
    span = datetime.fromisoformat(end.replace("Z", "+00:00")) - datetime.fromisoformat(
        begin.replace("Z", "+00:00")
    )
    seconds = int(span.total_seconds())
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


templates.filters["when"] = _ago
templates.filters["lasted"] = _lasted


@dataclass(frozen=True)
class Line:
    """One line of a diff: `kind` is add, del, same, hunk or note."""

    kind: str
    old: int | None
    new: int | None
    text: str


def diff_lines(patch: str) -> list[Line]:
    lines: list[Line] = []
    old = new = 0
    for raw in patch.split("\n"):
        match = _HUNK.match(raw)
        if match:
            old, new = int(match[1]), int(match[2])
            lines.append(Line("hunk", None, None, raw))
        elif raw.startswith("+"):
            lines.append(Line("add", None, new, raw[1:]))
            new += 1
        elif raw.startswith("-"):
            lines.append(Line("del", old, None, raw[1:]))
            old += 1
        elif raw.startswith("\\"):
            lines.append(Line("note", None, None, raw))
        else:
            lines.append(Line("same", old, new, raw[1:]))
            old, new = old + 1, new + 1
    return lines


@dataclass(frozen=True)
class ShownFile:
    change: FileChange
    lines: list[Line]
    notes: dict[int, list[dict[str, Any]]]  # annotations by the line of the new file they end at
    remarks: dict[int, list[reviews.Remark]] = field(default_factory=dict)  # review comments, likewise


def page(name: str, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(templates.get_template(name).render(**values), status, SECURITY)


def problem(status: int, text: str) -> HTMLResponse:
    return page("problem.html", status, title=f"{status} {text}", text=text)


def latest_checks(forge: Forge, repo: Repo, sha: str) -> list[CheckRun]:
    found = [run for run in forge.checks if run.repo == repo.id and run.head_sha == sha]
    return list({(run.app, run.name): run for run in found}.values())


def state_of(checks: list[CheckRun]) -> str:
    """One word for a row of checks: the worst that is there."""
    if not checks:
        return ""
    if any(run.status != "completed" for run in checks):
        return "in_progress"
    bad = [run.conclusion for run in checks if run.conclusion not in ("success", "neutral", "skipped")]
    return bad[0] or "failure" if bad else "success"


def router(forge: Forge, actions: Runner) -> APIRouter:
    api = LockedRouter(forge.lock)

    def missing() -> HTTPException:
        return HTTPException(404, "There is nothing here.")

    def public(owner: str, name: str) -> Repo:
        """Pages have no sign-in, so a private repository has none."""
        repo = forge.repo(owner, name)
        if repo is None or repo.private:
            raise missing()
        return repo

    def frame(repo: Repo, tab: str) -> dict[str, Any]:
        opened = sum(1 for p in forge.pulls if p.repo == repo.id and p.state == "open")
        parent = forge.repos.get(repo.fork_of)
        return {"repo": repo, "tab": tab, "open_pulls": opened, "parent": parent}

    def pull_frame(repo: Repo, pull: Pull, tab: str) -> dict[str, Any]:
        checks = latest_checks(forge, repo, pull.head_sha)
        head = forge.repos.get(pull.head_repo)
        return frame(repo, "pulls") | {
            "pull": pull, "pull_tab": tab, "head": head, "checks": checks, "state": state_of(checks),
            "shape": pulls.shape(forge, repo, pull), "base": f"/{repo.full_name}/pull/{pull.number}",
            "comment_count": sum(1 for c in forge.comments if c.repo == repo.id and c.number == pull.number),
        }  # fmt: skip

    @api.get("/")
    def home() -> Response:
        repos = [repo for repo in forge.repos if not repo.private]
        return page("home.html", title="Forge", repos=repos, apps=list(forge.apps), forge=forge)

    @api.get("/_style.css")
    def style() -> Response:
        return Response(_CSS, media_type="text/css")

    @api.get("/_avatars/{key:int}")
    def avatar(key: int) -> Response:
        account = forge.accounts.get(key)
        letter = (account.login[0].upper() if account else "?") if key else "?"
        hue = key * 47 % 360
        picture = (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40">'
            f'<rect width="40" height="40" rx="8" fill="hsl({hue},42%,46%)"/>'
            '<text x="20" y="27" font-family="sans-serif" font-size="20" fill="#fff" text-anchor="middle">'
            f"{letter}</text>"
            "</svg>"
        )
        return Response(picture, media_type="image/svg+xml", headers={"Cache-Control": "max-age=3600"})

    @api.get("/{owner}/{name}")
    def repository(owner: str, name: str) -> Response:
        repo = public(owner, name)
        return tree_page(repo, repo.default_branch, "")

    @api.get("/{owner}/{name}/tree/{rest:path}")
    def tree(owner: str, name: str, rest: str) -> Response:
        repo = public(owner, name)
        return tree_page(repo, *split(repo, rest))

    def split(repo: Repo, rest: str) -> tuple[str, str]:
        """`branch/with/slashes/path` as (ref, path): the shortest ref that is one."""
        git, parts = forge.git(repo), rest.split("/")
        for cut in range(1, min(len(parts), 8) + 1):
            if git.resolve("/".join(parts[:cut])):
                return "/".join(parts[:cut]), "/".join(parts[cut:])
        raise missing()

    def tree_page(repo: Repo, ref: str, path: str) -> Response:
        git = forge.git(repo)
        sha = git.resolve(ref)
        entries = git.entries(sha, path) if sha else []
        if path and not entries:
            raise missing()
        entries.sort(key=lambda entry: (entry.kind != "tree", entry.path))
        readme = next((e for e in entries if e.path.rpartition("/")[2].lower() == "readme.md"), None)
        text = git.blob(readme.sha)[:MAX_SHOWN].decode("utf-8", "replace") if readme else ""
        commit = git.commit(sha) if sha else None
        return page(
            "repository.html", title=repo.full_name, ref=ref, path=path, entries=entries, readme=text,
            commit=commit, clone=views.page(forge, f"/{repo.full_name}.git"), **frame(repo, "code"),
        )  # fmt: skip

    def file_at(repo: Repo, rest: str) -> tuple[str, Entry]:
        """The ref and the file that a path after `blob/` or `raw/` names."""
        ref, path = split(repo, rest)
        entry = forge.git(repo).entry(forge.git(repo).resolve(ref) or "", path)
        if entry is None or entry.kind != "blob":
            raise missing()
        return ref, entry

    @api.get("/{owner}/{name}/blob/{rest:path}")
    def blob(owner: str, name: str, rest: str) -> Response:
        repo = public(owner, name)
        ref, entry = file_at(repo, rest)
        data = forge.git(repo).blob(entry.sha)[:MAX_SHOWN]
        text = None if b"\0" in data else data.decode("utf-8", "replace")
        return page(
            "blob.html", title=entry.path, ref=ref, path=entry.path, text=text, entry=entry,
            rendered=entry.path.lower().endswith(".md"), **frame(repo, "code"),
        )  # fmt: skip

    @api.get("/{owner}/{name}/raw/{rest:path}")
    def raw(owner: str, name: str, rest: str) -> Response:
        repo = public(owner, name)
        data = forge.git(repo).blob(file_at(repo, rest)[1].sha)
        return Response(data, headers=SECURITY, media_type="text/plain; charset=utf-8")

    @api.get("/{owner}/{name}/commit/{sha}")
    def commit_page(owner: str, name: str, sha: str) -> Response:
        repo = public(owner, name)
        git = forge.git(repo)
        full = git.resolve(sha)
        if full is None:
            raise missing()
        commit = git.commit(full)
        changes = git.changes(commit.parents[0] if commit.parents else EMPTY_TREE, full)
        files = [
            ShownFile(change, diff_lines(change.patch) if change.patch else [], {}) for change in changes
        ]
        return page("commit.html", title=commit.message, commit=commit, files=files, **frame(repo, "code"))

    # -- pull requests

    @api.get("/{owner}/{name}/pulls")
    def list_pulls(owner: str, name: str, state: str = "all") -> Response:
        repo = public(owner, name)
        found = [p for p in forge.pulls if p.repo == repo.id and state in ("all", p.state)][::-1]
        rows = [(p, state_of(latest_checks(forge, repo, p.head_sha))) for p in found]
        return page(
            "pulls.html", title=f"Pull requests of {repo.full_name}", rows=rows, **frame(repo, "pulls")
        )

    def numbered(owner: str, name: str, number: int) -> tuple[Repo, Pull]:
        repo = public(owner, name)
        pull = forge.pull(repo, number)
        if pull is None:
            raise missing()
        return repo, pull

    @api.get("/{owner}/{name}/pull/{number:int}.diff")
    @api.get("/{owner}/{name}/pull/{number:int}.patch")
    def patch(owner: str, name: str, number: int) -> Response:
        repo, pull = numbered(owner, name, number)
        git = forge.git(repo)
        base = git.merge_base(pull.base_sha, pull.head_sha) or pull.base_sha
        text = git.run("diff", "--no-ext-diff", "--no-textconv", base, pull.head_sha, "--")
        return PlainTextResponse(text.decode("utf-8", "replace"), headers=SECURITY)

    @api.get("/{owner}/{name}/pull/{number:int}")
    def pull_page(owner: str, name: str, number: int) -> Response:
        repo, pull = numbered(owner, name, number)
        comments = [c for c in forge.comments if c.repo == repo.id and c.number == number]
        marks: dict[str, dict[str, int]] = {}
        for reaction in forge.reactions:
            if reaction.repo == repo.id:
                count = marks.setdefault(reaction.subject, {})
                count[reaction.content] = count.get(reaction.content, 0) + 1
        said: list[Any] = [r for r in forge.reviews if (r.repo, r.number) == (repo.id, number)]
        roles = {c.login: forge.association(repo, c.login) for c in [*comments, *said]}
        roles[pull.login] = forge.association(repo, pull.login)
        return page(
            "pull.html", title=f"{pull.title} · #{number}", marks=marks, roles=roles,
            timeline=sorted([*comments, *said], key=lambda c: c.id),
            remarks=reviews.remarks(forge, repo, pull),
            faces={"+1": "👍", "-1": "👎", "laugh": "😄", "confused": "😕", "heart": "❤️", "hooray": "🎉",
                   "rocket": "🚀", "eyes": "👀"},
            accounts={a.login: a for a in forge.accounts}, **pull_frame(repo, pull, "conversation"),
        )  # fmt: skip

    @api.get("/{owner}/{name}/pull/{number:int}/commits")
    def pull_commits(owner: str, name: str, number: int) -> Response:
        repo, pull = numbered(owner, name, number)
        listed = pulls.commits(forge, repo, pull)
        return page(
            "pull_commits.html", title=f"Commits · {pull.title}", commits=listed,
            **pull_frame(repo, pull, "commits"),
        )  # fmt: skip

    @api.get("/{owner}/{name}/pull/{number:int}/checks")
    def pull_checks(owner: str, name: str, number: int) -> Response:
        repo, pull = numbered(owner, name, number)
        apps = {app.id: app for app in forge.apps}
        return page(
            "pull_checks.html", title=f"Checks · {pull.title}", apps=apps, **pull_frame(repo, pull, "checks")
        )

    @api.get("/{owner}/{name}/pull/{number:int}/files")
    def pull_files(owner: str, name: str, number: int) -> Response:
        repo, pull = numbered(owner, name, number)
        files = []
        remarks: dict[str, dict[int, list[reviews.Remark]]] = {}
        for remark in reviews.remarks(forge, repo, pull):
            if remark.line is not None and remark.item.side == "RIGHT":
                remarks.setdefault(remark.item.path, {}).setdefault(remark.line, []).append(remark)
        for change in pulls.files(forge, repo, pull):
            notes: dict[int, list[dict[str, Any]]] = {}
            for run in latest_checks(forge, repo, pull.head_sha):
                for note in run.annotations:
                    if note["path"] == change.path:
                        notes.setdefault(note["end_line"], []).append(note | {"check": run.name})
            lines = diff_lines(change.patch) if change.patch else []
            files.append(ShownFile(change, lines, notes, remarks.get(change.path, {})))
        return page(
            "pull_files.html", title=f"Files · {pull.title}", files=files, **pull_frame(repo, pull, "files")
        )

    @api.get("/{owner}/{name}/runs/{key:int}")
    def check_page(owner: str, name: str, key: int) -> Response:
        repo, run = public(owner, name), forge.checks.get(key)
        if run is None or run.repo != repo.id:
            raise missing()
        apps = {app.id: app for app in forge.apps}
        return page("check.html", title=run.name, checks=[run], apps=apps, **frame(repo, "pulls"))

    # -- actions and releases

    @api.get("/{owner}/{name}/actions")
    def runs(owner: str, name: str) -> Response:
        repo = public(owner, name)
        found = [run for run in forge.runs if run.repo == repo.id][::-1]
        return page("runs.html", title=f"Runs of {repo.full_name}", runs=found, **frame(repo, "actions"))

    @api.get("/{owner}/{name}/actions/runs/{key:int}")
    def run_page(owner: str, name: str, key: int) -> Response:
        repo, run = public(owner, name), forge.runs.get(key)
        if run is None or run.repo != repo.id:
            raise missing()
        logs: dict[tuple[int, int], list[str]] = {}
        for line in actions.log_lines(run):
            logs.setdefault((line["job"], line["step"]), []).append(line["text"])
        return page("run.html", title=run.title, run=run, logs=logs, **frame(repo, "actions"))

    @api.get("/{owner}/{name}/releases")
    @api.get("/{owner}/{name}/releases/tag/{tag:path}")
    def releases(owner: str, name: str, tag: str | None = None) -> Response:
        """All of them, or the one of a tag."""
        repo = public(owner, name)
        found = [r for r in forge.releases if r.repo == repo.id and not r.draft and tag in (None, r.tag)]
        if tag is not None and not found:
            raise missing()
        assets = [asset for asset in forge.assets if asset.state == "uploaded"]
        rows = [(item, [a for a in assets if a.release == item.id]) for item in reversed(found)]
        title = tag or f"Releases of {repo.full_name}"
        return page("releases.html", title=title, rows=rows, **frame(repo, "releases"))

    return api
