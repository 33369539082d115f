"""The forge as one web application: the API, its administration, Git, OIDC and the pages.

What a real GitHub has and this does not: pending and dismissed reviews, comments on whole files, issues that
are not pull requests, GraphQL, OAuth, settings of organizations, rebase merges, branch protection, Packages,
Pages, secondary rate limits (inject them as faults). Workflows start by `workflow_dispatch` only.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from sandbox.forge import (
    api_actions,
    api_admin,
    api_apps,
    api_checks,
    api_pulls,
    api_releases,
    api_repos,
    api_reviews,
    git_http,
    manifests,
    oidc,
    pages,
)
from sandbox.forge.actions import Runner, RunnerSettings
from sandbox.forge.auth import ApiError
from sandbox.forge.git import GitError, need_git
from sandbox.forge.state import Forge, InvalidError
from sandbox.forge.webhooks import Dispatcher
from sandbox.forge.wire import Edge, error_response

log = logging.getLogger("sandbox.forge")


def create_app(forge: Forge, admin_token: str, runner: RunnerSettings | None = None) -> FastAPI:
    if not admin_token:
        raise ValueError("The forge needs an admin token that is not empty.")
    need_git()
    hooks = Dispatcher(forge)
    issuer = oidc.Issuer(forge)
    actions = Runner(forge, issuer, runner or RunnerSettings())

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        hooks.start()
        actions.start()
        try:
            yield
        finally:
            actions.close()
            hooks.close()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.forge, app.state.hooks, app.state.actions = forge, hooks, actions
    for router in (
        api_apps.router(forge, hooks), api_checks.router(forge), api_pulls.router(forge),
        api_reviews.router(forge), api_actions.router(forge, actions), api_releases.router(forge),
        api_repos.router(forge),
    ):  # fmt: skip
        app.include_router(router, prefix="/api/v3")
    app.include_router(api_releases.uploads(forge), prefix="/api/uploads")
    app.include_router(api_admin.router(forge, hooks, admin_token))
    app.include_router(oidc.router(forge, issuer, actions))
    app.include_router(api_releases.downloads(forge))
    app.include_router(git_http.router(forge))
    app.include_router(manifests.router(forge))
    app.include_router(pages.router(forge, actions))
    _errors(app)
    app.add_middleware(Edge, forge=forge)
    return app


def _errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    def api_error(_: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(InvalidError)
    def not_valid(_: Request, error: InvalidError) -> Response:
        named: dict[str, object] = {"resource": error.resource, "field": error.name, "code": error.code}
        return error_response(ApiError(422, "Validation Failed", [named | {"message": error.message}]))

    @app.exception_handler(GitError)
    def git_error(_: Request, error: GitError) -> Response:
        log.warning("%s", error)
        return error_response(ApiError(422, str(error)))

    @app.exception_handler(HTTPException)
    def no_route(request: Request, error: HTTPException) -> Response:
        if request.url.path.startswith(("/api/", "/_sandbox", "/_oidc")):
            return error_response(ApiError(error.status_code, str(error.detail)))
        return pages.problem(error.status_code, str(error.detail))
