"""REST: check runs and check suites. Only an App may write them, and only its own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from sandbox.forge import events, views_work
from sandbox.forge.api_apps import actor
from sandbox.forge.auth import Actor, ApiError, not_found, require
from sandbox.forge.records import CheckRun, CheckSuite, Json, Repo
from sandbox.forge.state import ROLES, Forge
from sandbox.forge.wire import Body, LockedRouter, fields, invalid, paginate, reply, text_field

# Limits of GitHub's REST description of check runs. It says characters and counts bytes (github/docs issue
# 35252: "summary exceeds a maximum bytesize of 65535").
ANNOTATIONS = 50
ACTIONS = 3
TEXT_BYTES = 65535
ANNOTATION_BYTES = {"message": 65536, "raw_details": 65536}
TITLE = 255  # characters
STATUSES = ("queued", "in_progress", "completed", "waiting", "requested", "pending")
CONCLUSIONS = ("success", "failure", "neutral", "cancelled", "skipped", "timed_out", "action_required")
LEVELS = ("notice", "warning", "failure")


def router(forge: Forge) -> APIRouter:
    api = LockedRouter(forge.lock, "/repos/{owner}/{name}")

    def readable(request: Request, owner: str, name: str) -> Repo:
        return require(forge, actor(forge, request), forge.repo(owner, name), "checks")

    def writing_app(request: Request, owner: str, name: str) -> tuple[Repo, Actor]:
        who = actor(forge, request)
        repo = require(forge, who, forge.repo(owner, name), "checks", "write", "write")
        if not who.is_integration or who.app is None:
            raise ApiError(403, "You must authenticate via a GitHub App.")
        return repo, who

    def known_run(repo: Repo, key: int) -> CheckRun:
        found = forge.checks.get(key)
        if found is None or found.repo != repo.id:
            raise not_found()
        return found

    def suite_of(repo: Repo, app: int, sha: str) -> CheckSuite:
        for known in forge.suites:
            if (known.repo, known.app, known.head_sha) == (repo.id, app, sha):
                return known
        return forge.suites.put(CheckSuite(forge.next_id(), repo.id, app, sha, forge.now(), forge.now()))

    def say(repo: Repo, run: CheckRun, action: str, sender: str) -> None:
        events.emit(forge, repo, "check_run", action, {"check_run": check_payload(forge, repo, run)}, sender)

    @api.post("/check-runs")
    def create(request: Request, owner: str, name: str, body: Body) -> Response:
        repo, who = writing_app(request, owner, name)
        sha = forge.git(repo).resolve(text_field(body, "head_sha", "CheckRun"))
        if sha is None or len(text_field(body, "head_sha", "CheckRun")) != 40:
            raise ApiError(422, f"No commit found for SHA: {fields(body)['head_sha']}")
        assert who.app is not None  # noqa: S101 - writing_app proved it
        run = CheckRun(
            forge.next_id(), repo.id, who.app, 0, text_field(body, "name", "CheckRun"), sha,
            started_at=forge.now(),
        )  # fmt: skip
        update_run(run, fields(body), forge.now())
        run.suite = suite_of(repo, who.app, sha).id
        forge.checks.put(run)
        say(repo, run, "created", who.login)
        if run.status == "completed":
            say(repo, run, "completed", who.login)
        return reply(request, views_work.check_run(forge, repo, run), 201)

    @api.patch("/check-runs/{key:int}")
    def update(request: Request, owner: str, name: str, key: int, body: Body) -> Response:
        repo, who = writing_app(request, owner, name)
        run = known_run(repo, key)
        if run.app != who.app:
            raise ApiError(403, f"Check run {key} can only be modified by the GitHub App that created it.")
        was = run.status
        if isinstance(fields(body).get("name"), str):
            run.name = fields(body)["name"]
        update_run(run, fields(body), forge.now())
        forge.checks.put(run)
        if run.status == "completed" and was != "completed":
            say(repo, run, "completed", who.login)
        return reply(request, views_work.check_run(forge, repo, run))

    @api.get("/check-runs/{key:int}")
    def get_run(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        return reply(request, views_work.check_run(forge, repo, known_run(repo, key)))

    @api.get("/check-runs/{key:int}/annotations")
    def annotations(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        run = known_run(repo, key)
        return paginate(request, forge, run.annotations, lambda a: views_work.annotation(forge, repo, run, a))

    @api.post("/check-runs/{key:int}/rerequest")
    def rerequest(request: Request, owner: str, name: str, key: int) -> Response:
        who = actor(forge, request)
        repo = require(forge, who, forge.repo(owner, name), "checks", "write", "write")
        press(forge, repo, known_run(repo, key), who.login, None)
        return reply(request, {}, 201)

    @api.get("/commits/{ref:path}/check-runs")
    def of_commit(request: Request, owner: str, name: str, ref: str) -> Response:
        repo = readable(request, owner, name)
        query = request.query_params
        sha = forge.git(repo).resolve(ref)
        if sha is None:
            raise ApiError(422, f"No commit found for SHA: {ref}")
        found = [run for run in forge.checks if run.repo == repo.id and run.head_sha == sha]
        if query.get("check_name"):
            found = [run for run in found if run.name == query["check_name"]]
        if query.get("app_id"):
            found = [run for run in found if str(run.app) == query["app_id"]]
        if query.get("status"):
            found = [run for run in found if run.status == query["status"]]
        if query.get("filter", "latest") == "latest":
            found = list({(run.app, run.name): run for run in found}.values())
        return paginate(
            request, forge, found[::-1], lambda r: views_work.check_run(forge, repo, r), "check_runs"
        )

    @api.get("/commits/{ref:path}/check-suites")
    def suites(request: Request, owner: str, name: str, ref: str) -> Response:
        repo = readable(request, owner, name)
        sha = forge.git(repo).resolve(ref)
        found = [suite for suite in forge.suites if suite.repo == repo.id and suite.head_sha == sha]
        return paginate(
            request, forge, found, lambda s: views_work.check_suite(forge, repo, s), "check_suites"
        )

    @api.get("/check-suites/{key:int}")
    def suite(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        found = forge.suites.get(key)
        if found is None or found.repo != repo.id:
            raise not_found()
        return reply(request, views_work.check_suite(forge, repo, found))

    @api.get("/check-suites/{key:int}/check-runs")
    def runs_of_suite(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        found = [run for run in forge.checks if run.suite == key and run.repo == repo.id]
        return paginate(request, forge, found, lambda r: views_work.check_run(forge, repo, r), "check_runs")

    return api


def check_payload(forge: Forge, repo: Repo, run: CheckRun) -> Json:
    """In a webhook the check run carries its suite in full."""
    suite = forge.suites.get(run.suite)
    body = views_work.check_run(forge, repo, run)
    return body | {"check_suite": views_work.check_suite(forge, repo, suite)} if suite else body


def press(forge: Forge, repo: Repo, run: CheckRun, login: str, identifier: str | None) -> None:
    """A person pressed `Re-run` (no identifier) or one of the check's own buttons; its App is told."""
    if ROLES.index(forge.role(repo, login)) < ROLES.index("write"):
        raise ApiError(403, "Only people with write access can use a check's buttons.")
    body: Json = {"check_run": check_payload(forge, repo, run)}
    action = "rerequested"
    if identifier is not None:
        if identifier not in [known.get("identifier") for known in run.actions]:
            raise ApiError(422, f"This check has no action {identifier!r}.")
        action, body["requested_action"] = "requested_action", {"identifier": identifier}
    events.emit(forge, repo, "check_run", action, body, login, only_app=run.app)


def update_run(run: CheckRun, body: Json, now: str) -> None:
    """Takes GitHub's fields of a create or an update; raises 422 before anything is changed."""
    output = body.get("output")
    annotations = _output(output, run.title) if output is not None else []
    actions = body.get("actions")
    if actions is not None:
        _actions(actions)
    status, conclusion = body.get("status"), body.get("conclusion")
    if status is not None and status not in STATUSES:
        raise invalid("CheckRun", "status")
    if conclusion is not None and conclusion not in CONCLUSIONS:
        raise invalid("CheckRun", "conclusion")
    if status == "completed" and conclusion is None and run.conclusion is None:
        raise invalid("CheckRun", "conclusion", "missing_field")
    for name in ("external_id", "details_url", "started_at"):
        if isinstance(body.get(name), str):
            setattr(run, name, body[name])
    if actions is not None:
        run.actions = actions
    if output is not None:
        run.title, run.summary = output.get("title", run.title), output["summary"]
        run.text = output.get("text", run.text)
        run.annotations = [*run.annotations, *annotations]  # an update appends, it never replaces
    if conclusion is not None:
        run.status, run.conclusion = "completed", conclusion
        run.completed_at = body.get("completed_at") or now
    elif status is not None:
        run.status = status
        if status != "completed":
            run.conclusion = run.completed_at = None


def _output(output: Any, known_title: str | None) -> list[Json]:
    if not isinstance(output, dict) or not isinstance(output.get("summary"), str):
        raise invalid("CheckRun", "output.summary", "missing_field")
    if not isinstance(output.get("title", known_title), str):
        raise invalid("CheckRun", "output.title", "missing_field")
    for name in ("summary", "text"):
        if not isinstance(output.get(name, ""), str | None):
            raise invalid("CheckRun", f"output.{name}")
        if _bytes(output.get(name)) > TEXT_BYTES:
            message = f"{name} exceeds a maximum bytesize of {TEXT_BYTES}"
            raise invalid("CheckRun", name, "custom", message)
    annotations = output.get("annotations") or []
    if not isinstance(annotations, list) or len(annotations) > ANNOTATIONS:
        raise invalid(
            "CheckRun", "output.annotations", "custom", f"Only {ANNOTATIONS} annotations in one request."
        )
    for item in annotations:
        good = (
            isinstance(item, dict)
            and item.get("annotation_level") in LEVELS
            and all(isinstance(item.get(name), str) and item[name] for name in ("path", "message"))
            and all(isinstance(item.get(name), int) and item[name] > 0 for name in ("start_line", "end_line"))
            and item["start_line"] <= item["end_line"]
            and all(isinstance(item.get(name, ""), str | None) for name in ("title", *ANNOTATION_BYTES))
            and all(_bytes(item.get(name)) <= most for name, most in ANNOTATION_BYTES.items())
            and len(item.get("title") or "") <= TITLE
        )
        if not good:
            raise invalid("CheckRun", "output.annotations")
        columns = item.get("start_column") is not None or item.get("end_column") is not None
        if columns and item["start_line"] != item["end_line"]:
            raise invalid(
                "CheckRun", "output.annotations", "custom", "A column needs an annotation of one line."
            )
    return list(annotations)


def _bytes(text: str | None) -> int:
    return len((text or "").encode("utf-8", "replace"))


def _actions(actions: Any) -> None:
    limits = (("label", 20), ("description", 40), ("identifier", 20))
    if not isinstance(actions, list) or len(actions) > ACTIONS:
        raise invalid("CheckRun", "actions", "custom", f"At most {ACTIONS} actions.")
    for item in actions:
        for name, most in limits:
            if not isinstance(fields(item).get(name), str) or not 0 < len(item[name]) <= most:
                raise invalid("CheckRun", f"actions.{name}", "custom", f"1 to {most} characters.")
