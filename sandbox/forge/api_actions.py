"""REST: workflows, dispatch, runs, jobs, logs, cancel."""

from __future__ import annotations

import io
import zipfile

from fastapi import APIRouter, Request, Response

from sandbox.forge import views_work
from sandbox.forge.actions import Runner
from sandbox.forge.api_apps import actor
from sandbox.forge.auth import ApiError, not_found, require
from sandbox.forge.records import Json, Repo, Run
from sandbox.forge.state import Forge
from sandbox.forge.wire import Body, LockedRouter, fields, paginate, reply, text_field


def router(forge: Forge, actions: Runner) -> APIRouter:
    api = LockedRouter(forge.lock, "/repos/{owner}/{name}/actions")

    def readable(request: Request, owner: str, name: str) -> Repo:
        return require(forge, actor(forge, request), forge.repo(owner, name), "actions")

    def writable(request: Request, owner: str, name: str) -> Repo:
        return require(forge, actor(forge, request), forge.repo(owner, name), "actions", "write", "write")

    def known(repo: Repo, key: int) -> Run:
        run = forge.runs.get(key)
        if run is None or run.repo != repo.id:
            raise not_found()
        return run

    def shown(repo: Repo, path: str, body: Json) -> Json:
        return views_work.workflow(
            forge, repo, path, str(body.get("name") or path), views_work.workflow_key(path)
        )

    @api.get("/workflows")
    def list_workflows(request: Request, owner: str, name: str) -> Response:
        repo = readable(request, owner, name)
        found = actions.workflow_files(repo)
        return paginate(request, forge, found, lambda item: shown(repo, *item), "workflows")

    @api.get("/workflows/{file}")
    def get_workflow(request: Request, owner: str, name: str, file: str) -> Response:
        repo = readable(request, owner, name)
        found = actions.find(repo, file)
        if found is None:
            raise not_found()
        return reply(request, shown(repo, *found))

    @api.post("/workflows/{file}/dispatches")
    def dispatch(request: Request, owner: str, name: str, file: str, body: Body) -> Response:
        repo = writable(request, owner, name)
        found = actions.find(repo, file)
        if found is None:
            raise not_found()
        inputs = fields(body).get("inputs") or {}
        if not isinstance(inputs, dict):
            raise ApiError(422, "inputs must be an object")
        ref = text_field(body, "ref", "Workflow")
        run = actions.dispatch(repo, found[0], ref, inputs, actor(forge, request).login)
        if fields(body).get("return_run_details"):
            shape = views_work.workflow_run(forge, repo, run)
            details = {"workflow_run_id": run.id, "run_url": shape["url"], "html_url": shape["html_url"]}
            return reply(request, details)
        return Response(status_code=204)

    def listed(request: Request, repo: Repo, found: list[Run]) -> Response:
        query = request.query_params
        for name, value in (
            ("event", "event"),
            ("head_sha", "sha"),
            ("branch", "branch"),
            ("actor", "login"),
        ):
            if query.get(name):
                found = [run for run in found if getattr(run, value) == query[name]]
        if query.get("status"):
            found = [run for run in found if query["status"] in (run.status, run.conclusion)]
        return paginate(
            request, forge, found[::-1], lambda r: views_work.workflow_run(forge, repo, r), "workflow_runs"
        )

    @api.get("/workflows/{file}/runs")
    def runs_of_workflow(request: Request, owner: str, name: str, file: str) -> Response:
        repo = readable(request, owner, name)
        path = next((r.workflow for r in forge.runs if file in (r.workflow.rpartition("/")[2],
                     str(views_work.workflow_key(r.workflow)))), None)  # fmt: skip
        if path is None and actions.find(repo, file) is None:
            raise not_found()
        return listed(request, repo, [r for r in forge.runs if r.repo == repo.id and r.workflow == path])

    @api.get("/runs")
    def list_runs(request: Request, owner: str, name: str) -> Response:
        repo = readable(request, owner, name)
        return listed(request, repo, [run for run in forge.runs if run.repo == repo.id])

    @api.get("/runs/{key:int}")
    def get_run(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        return reply(request, views_work.workflow_run(forge, repo, known(repo, key)))

    @api.get("/runs/{key:int}/jobs")
    def jobs(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        run = known(repo, key)
        return paginate(request, forge, run.jobs, lambda j: views_work.job(forge, repo, run, j), "jobs")

    @api.post("/runs/{key:int}/cancel")
    def cancel(request: Request, owner: str, name: str, key: int) -> Response:
        repo = writable(request, owner, name)
        if not actions.cancel(repo, known(repo, key)):
            raise ApiError(409, "Cannot cancel a workflow run that is completed.")
        return reply(request, {}, 202)

    @api.get("/runs/{key:int}/logs")
    def logs(request: Request, owner: str, name: str, key: int) -> Response:
        """A zip with one text file a job. GitHub redirects to such a file."""
        repo = readable(request, owner, name)
        run = known(repo, key)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for index, job in enumerate(run.jobs):
                text = "".join(line["text"] + "\n" for line in actions.log_lines(run, job["id"]))
                safe = "".join(c if c.isalnum() or c in " ._-()" else "_" for c in job["name"])
                archive.writestr(f"{index}_{safe}.txt", text)
        return Response(packed.getvalue(), media_type="application/zip")

    @api.get("/jobs/{key:int}")
    def job(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        for run in forge.runs:
            for item in run.jobs:
                if run.repo == repo.id and item["id"] == key:
                    return reply(request, views_work.job(forge, repo, run, item))
        raise not_found()

    @api.get("/jobs/{key:int}/logs")
    def job_logs(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        for run in forge.runs:
            if run.repo == repo.id and any(item["id"] == key for item in run.jobs):
                text = "".join(line["text"] + "\n" for line in actions.log_lines(run, key))
                return Response(text, media_type="text/plain; charset=utf-8")
        raise not_found()

    return api
