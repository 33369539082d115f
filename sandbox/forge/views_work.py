"""Records as GitHub's JSON, second half: checks, Apps, deliveries, releases, runs. See `views.py`."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

from sandbox.forge import views
from sandbox.forge.records import (
    Asset,
    CheckRun,
    CheckSuite,
    Delivery,
    Installation,
    Json,
    Release,
    Repo,
    Run,
    Status,
)
from sandbox.forge.state import Forge

# -- checks and statuses


def check_run(forge: Forge, repo: Repo, run: CheckRun) -> Json:
    app = forge.apps.get(run.app)
    url = f"{views.of_repo(forge, repo)}/check-runs/{run.id}"
    return {
        "id": run.id, "node_id": views.node("CheckRun", run.id), "head_sha": run.head_sha, "name": run.name,
        "external_id": run.external_id, "url": url,
        "html_url": views.page(forge, f"/{repo.full_name}/runs/{run.id}"),
        "details_url": run.details_url or views.page(forge, f"/{repo.full_name}/runs/{run.id}"),
        "status": run.status, "conclusion": run.conclusion, "started_at": run.started_at,
        "completed_at": run.completed_at,
        "output": {
            "title": run.title, "summary": run.summary, "text": run.text,
            "annotations_count": len(run.annotations), "annotations_url": f"{url}/annotations",
        },
        "check_suite": {"id": run.suite}, "app": views.integration(forge, app) if app else None,
        "pull_requests": pulls_of_sha(forge, repo, run.head_sha),
    }  # fmt: skip


def pulls_of_sha(forge: Forge, repo: Repo, sha: str) -> list[Json]:
    """As on GitHub, a pull request from a fork is not named here."""
    return [
        views.pull_minimal(forge, pull)
        for pull in forge.pulls
        if pull.repo == repo.id
        and pull.head_sha == sha
        and pull.head_repo == repo.id
        and pull.state == "open"
    ]


def check_suite(forge: Forge, repo: Repo, suite: CheckSuite) -> Json:
    runs = [run for run in forge.checks if run.suite == suite.id]
    done = bool(runs) and all(run.status == "completed" for run in runs)
    bad = next(
        (run.conclusion for run in runs if run.conclusion not in ("success", "neutral", "skipped")), None
    )
    app = forge.apps.get(suite.app)
    url = f"{views.of_repo(forge, repo)}/check-suites/{suite.id}"
    branch = next(
        (p.head_ref for p in forge.pulls if p.repo == repo.id and p.head_sha == suite.head_sha), None
    )
    return {
        "id": suite.id, "node_id": views.node("CheckSuite", suite.id), "head_branch": branch,
        "head_sha": suite.head_sha, "status": "completed" if done else "queued",
        "conclusion": (bad or "success") if done else None, "url": url, "before": None,
        "after": suite.head_sha,
        "pull_requests": pulls_of_sha(forge, repo, suite.head_sha),
        "app": views.integration(forge, app) if app else None, "repository": views.repository(forge, repo),
        "created_at": suite.created_at, "updated_at": suite.updated_at,
        "head_commit": views.simple_commit(forge.git(repo).commit(suite.head_sha)),
        "latest_check_runs_count": len(runs), "check_runs_url": f"{url}/check-runs",
    }  # fmt: skip


def annotation(forge: Forge, repo: Repo, run: CheckRun, item: Json) -> Json:
    body = {name: item.get(name) for name in ("path", "start_line", "end_line", "start_column", "end_column",
            "annotation_level", "title", "message", "raw_details")}  # fmt: skip
    where = quote(str(item.get("path", "")))
    return body | {"blob_href": views.page(forge, f"/{repo.full_name}/blob/{run.head_sha}/{where}")}


def status(forge: Forge, repo: Repo, item: Status) -> Json:
    return {
        "url": f"{views.of_repo(forge, repo)}/statuses/{item.sha}", "avatar_url": None, "id": item.id,
        "node_id": views.node("Status", item.id), "state": item.state, "description": item.description,
        "target_url": item.target_url, "context": item.context, "created_at": item.created_at,
        "updated_at": item.created_at, "creator": views.simple_user(forge, item.login),
    }  # fmt: skip


def installation(forge: Forge, item: Installation) -> Json:
    app = forge.apps.get(item.app)
    account = forge.account(item.account)
    return {
        "id": item.id, "account": views.simple_user(forge, account),
        "repository_selection": "all" if item.repositories is None else "selected",
        "access_tokens_url": views.api(forge, f"/app/installations/{item.id}/access_tokens"),
        "repositories_url": views.api(forge, "/installation/repositories"),
        "html_url": views.page(forge, f"/settings/installations/{item.id}"), "app_id": item.app,
        "app_slug": app.slug if app else "", "target_id": account.id if account else 0,
        "target_type": account.kind if account else "User", "permissions": item.permissions,
        "events": item.events, "created_at": item.created_at, "updated_at": item.created_at,
        "single_file_name": None, "suspended_by": None, "suspended_at": None,
    }  # fmt: skip


def delivery(item: Delivery, *, detail: bool = False) -> Json:
    body: Json = {
        "id": item.id, "guid": item.guid, "delivered_at": item.delivered_at, "redelivery": item.redelivery,
        "duration": round(item.duration, 3), "status": item.status, "status_code": item.status_code,
        "event": item.event, "action": item.action, "installation_id": item.installation,
        "repository_id": item.repository, "throttled_at": None,
    }  # fmt: skip
    if detail:
        body["url"] = ""
        body["request"] = {"headers": item.headers, "payload": item.payload}
        body["response"] = {"headers": item.response_headers, "payload": item.response_body}
    return body


# -- releases and Actions


def release(forge: Forge, repo: Repo, item: Release) -> Json:
    url = f"{views.of_repo(forge, repo)}/releases/{item.id}"
    upload = f"{forge.base_url}/api/uploads/repos/{repo.full_name}/releases/{item.id}/assets"
    assets = [asset(forge, repo, item, a) for a in forge.assets if a.release == item.id]
    return {
        "url": url, "html_url": views.page(forge, f"/{repo.full_name}/releases/tag/{quote(item.tag)}"),
        "assets_url": f"{url}/assets", "upload_url": f"{upload}{{?name,label}}",
        "tarball_url": f"{views.of_repo(forge, repo)}/tarball/{quote(item.tag)}",
        "zipball_url": f"{views.of_repo(forge, repo)}/zipball/{quote(item.tag)}", "id": item.id,
        "node_id": views.node("Release", item.id), "tag_name": item.tag, "target_commitish": item.target,
        "name": item.name or None, "body": item.body, "draft": item.draft, "prerelease": item.prerelease,
        "created_at": item.created_at, "published_at": item.published_at,
        "author": views.simple_user(forge, item.login), "assets": assets,
    }  # fmt: skip


def asset(forge: Forge, repo: Repo, item: Release, file: Asset) -> Json:
    return {
        "url": f"{views.of_repo(forge, repo)}/releases/assets/{file.id}", "id": file.id,
        "browser_download_url": views.page(
            forge, f"/{repo.full_name}/releases/download/{quote(item.tag)}/{quote(file.name)}"
        ),
        "node_id": views.node("ReleaseAsset", file.id), "name": file.name, "label": file.label or None,
        "state": file.state, "content_type": file.content_type, "size": file.size,
        "digest": file.digest or None,
        "download_count": file.downloads, "created_at": file.created_at, "updated_at": file.created_at,
        "uploader": views.simple_user(forge, file.login),
    }  # fmt: skip


def workflow(forge: Forge, repo: Repo, path: str, name: str, key: int) -> Json:
    url = f"{views.of_repo(forge, repo)}/actions/workflows/{key}"
    html = views.page(forge, f"/{repo.full_name}/blob/{repo.default_branch}/{path}")
    return {
        "id": key, "node_id": views.node("Workflow", key), "name": name, "path": path, "state": "active",
        "created_at": repo.created_at, "updated_at": repo.created_at, "url": url, "html_url": html,
        "badge_url": f"{html}/badge.svg",
    }  # fmt: skip


def workflow_key(path: str) -> int:
    """A workflow has a number on GitHub; here it is made of the file's path, so that it lasts."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")


def workflow_run(forge: Forge, repo: Repo, run: Run) -> Json:
    url = f"{views.of_repo(forge, repo)}/actions/runs/{run.id}"
    key = workflow_key(run.workflow)
    actor = views.simple_user(forge, run.login)
    return {
        "id": run.id, "name": run.name, "node_id": views.node("WorkflowRun", run.id),
        "head_branch": run.branch,
        "head_sha": run.sha, "path": run.workflow, "display_title": run.title, "run_number": run.number,
        "run_attempt": 1, "event": run.event, "status": run.status, "conclusion": run.conclusion,
        "workflow_id": key, "check_suite_id": run.id, "check_suite_node_id": views.node("CheckSuite", run.id),
        "url": url, "html_url": views.page(forge, f"/{repo.full_name}/actions/runs/{run.id}"),
        "pull_requests": [], "created_at": run.created_at, "updated_at": run.updated_at,
        "run_started_at": run.started_at or run.created_at, "actor": actor, "triggering_actor": actor,
        "jobs_url": f"{url}/jobs", "logs_url": f"{url}/logs",
        "check_suite_url": f"{views.of_repo(forge, repo)}/check-suites/{run.id}",
        "artifacts_url": f"{url}/artifacts",
        "cancel_url": f"{url}/cancel", "rerun_url": f"{url}/rerun", "previous_attempt_url": None,
        "workflow_url": f"{views.of_repo(forge, repo)}/actions/workflows/{key}",
        "head_commit": views.simple_commit(forge.git(repo).commit(run.sha)),
        "repository": views.repository(forge, repo), "head_repository": views.repository(forge, repo),
    }  # fmt: skip


def job(forge: Forge, repo: Repo, run: Run, item: Json) -> Json:
    url = f"{views.of_repo(forge, repo)}/actions/jobs/{item['id']}"
    return {
        "id": item["id"], "run_id": run.id, "workflow_name": run.name, "head_branch": run.branch,
        "run_url": f"{views.of_repo(forge, repo)}/actions/runs/{run.id}", "run_attempt": 1,
        "node_id": views.node("Job", item["id"]), "head_sha": run.sha, "url": url,
        "html_url": views.page(forge, f"/{repo.full_name}/actions/runs/{run.id}#job-{item['id']}"),
        "status": item["status"], "conclusion": item["conclusion"],
        "created_at": item["started_at"], "started_at": item["started_at"],
        "completed_at": item["completed_at"], "name": item["name"], "steps": item["steps"],
        "check_run_url": f"{views.of_repo(forge, repo)}/check-runs/{item['id']}", "labels": ["self-hosted"],
        "runner_id": 1, "runner_name": "sandbox", "runner_group_id": 1, "runner_group_name": "Default",
    }  # fmt: skip
