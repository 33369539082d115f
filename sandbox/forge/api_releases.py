"""REST: releases and their assets. A release makes its tag when the tag is not there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.requests import ClientDisconnect

from sandbox.forge import pulls, views, views_work
from sandbox.forge.api_apps import actor
from sandbox.forge.auth import ApiError, not_found, require
from sandbox.forge.git import ZERO, is_name
from sandbox.forge.records import Asset, Release, Repo
from sandbox.forge.state import Forge
from sandbox.forge.wire import Body, LockedRouter, fields, invalid, paginate, reply, text_field

BODY_CHARACTERS = 125_000  # GitHub: "body is too long (maximum is 125000 characters)"


def asset_path(forge: Forge, asset: Asset) -> Path:
    return forge.data / "assets" / str(asset.id)


def router(forge: Forge) -> APIRouter:
    api = LockedRouter(forge.lock, "/repos/{owner}/{name}/releases")

    def readable(request: Request, owner: str, name: str) -> Repo:
        return require(forge, actor(forge, request), forge.repo(owner, name), "contents")

    def writable(request: Request, owner: str, name: str) -> Repo:
        return require(forge, actor(forge, request), forge.repo(owner, name), "contents", "write", "write")

    def known(repo: Repo, key: int) -> Release:
        found = forge.releases.get(key)
        if found is None or found.repo != repo.id:
            raise not_found()
        return found

    def writes(request: Request, owner: str, name: str) -> bool:
        """Whether the asker sees drafts."""
        try:
            return bool(writable(request, owner, name))
        except ApiError:
            return False

    def words(value: object) -> str:
        if len(str(value or "")) > BODY_CHARACTERS:
            message = f"body is too long (maximum is {BODY_CHARACTERS} characters)"
            raise invalid("Release", "body", "custom", message)
        return str(value or "")

    def make_tag(request: Request, repo: Repo, item: Release) -> None:
        git = forge.git(repo)
        ref = f"refs/tags/{item.tag}"
        if item.draft or ref in git.refs(ref):
            return
        target = git.resolve(item.target)
        if target is None:
            raise invalid("Release", "target_commitish")
        git.update_ref(ref, target, ZERO)
        pulls.after_push(forge, repo, {ref: (ZERO, target)}, actor(forge, request).login)

    @api.get("")
    def list_releases(request: Request, owner: str, name: str) -> Response:
        repo = readable(request, owner, name)
        drafts = writes(request, owner, name)
        found = [r for r in forge.releases if r.repo == repo.id and (drafts or not r.draft)][::-1]
        return paginate(request, forge, found, lambda r: views_work.release(forge, repo, r))

    @api.post("")
    def create(request: Request, owner: str, name: str, body: Body) -> Response:
        repo = writable(request, owner, name)
        tag = text_field(body, "tag_name", "Release")
        if not is_name(tag):
            raise invalid("Release", "tag_name")
        if any(r.repo == repo.id and r.tag == tag for r in forge.releases):
            raise invalid("Release", "tag_name", "already_exists")
        wanted = fields(body)
        item = Release(
            forge.next_id(), repo.id, tag, wanted.get("target_commitish") or repo.default_branch,
            wanted.get("name") or "", words(wanted.get("body")), actor(forge, request).login,
            bool(wanted.get("draft")), bool(wanted.get("prerelease")), forge.now(),
            None if wanted.get("draft") else forge.now(),
        )  # fmt: skip
        make_tag(request, repo, item)
        return reply(request, views_work.release(forge, repo, forge.releases.put(item)), 201)

    @api.get("/latest")
    def latest(request: Request, owner: str, name: str) -> Response:
        repo = readable(request, owner, name)
        found = [r for r in forge.releases if r.repo == repo.id and not r.draft and not r.prerelease]
        if not found:
            raise not_found()
        return reply(request, views_work.release(forge, repo, found[-1]))

    @api.get("/tags/{tag:path}")
    def by_tag(request: Request, owner: str, name: str, tag: str) -> Response:
        repo = readable(request, owner, name)
        for item in forge.releases:
            if item.repo == repo.id and item.tag == tag and not item.draft:
                return reply(request, views_work.release(forge, repo, item))
        raise not_found()

    @api.get("/{key:int}")
    def get(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        found = known(repo, key)
        if found.draft and not writes(request, owner, name):
            raise not_found()
        return reply(request, views_work.release(forge, repo, found))

    @api.patch("/{key:int}")
    def update(request: Request, owner: str, name: str, key: int, body: Body) -> Response:
        repo = writable(request, owner, name)
        item, wanted = known(repo, key), fields(body)
        item.body = words(wanted.get("body", item.body))
        item.name = wanted.get("name", item.name) or ""
        item.prerelease = bool(wanted.get("prerelease", item.prerelease))
        if item.draft and wanted.get("draft") is False:
            item.draft, item.published_at = False, forge.now()
            make_tag(request, repo, item)
        return reply(request, views_work.release(forge, repo, forge.releases.put(item)))

    @api.delete("/{key:int}")
    def delete(request: Request, owner: str, name: str, key: int) -> Response:
        repo = writable(request, owner, name)
        item = known(repo, key)
        for asset in [a for a in forge.assets if a.release == item.id]:
            asset_path(forge, asset).unlink(missing_ok=True)
            forge.assets.remove(asset.id)
        forge.releases.remove(item.id)
        return Response(status_code=204)

    @api.get("/{key:int}/assets")
    def assets(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        item = known(repo, key)
        found = [a for a in forge.assets if a.release == item.id]
        return paginate(request, forge, found, lambda a: views_work.asset(forge, repo, item, a))

    def known_asset(repo: Repo, key: int) -> tuple[Asset, Release]:
        asset = forge.assets.get(key)
        if asset is None or asset.repo != repo.id:
            raise not_found()
        return asset, known(repo, asset.release)

    @api.get("/assets/{key:int}")
    def asset(request: Request, owner: str, name: str, key: int) -> Response:
        repo = readable(request, owner, name)
        found, item = known_asset(repo, key)
        if "application/octet-stream" in request.headers.get("accept", ""):
            where = f"/{repo.full_name}/releases/download/{quote(item.tag)}/{quote(found.name)}"
            return Response(status_code=302, headers={"Location": views.page(forge, where)})
        return reply(request, views_work.asset(forge, repo, item, found))

    @api.delete("/assets/{key:int}")
    def delete_asset(request: Request, owner: str, name: str, key: int) -> Response:
        repo = writable(request, owner, name)
        found, _ = known_asset(repo, key)
        asset_path(forge, found).unlink(missing_ok=True)
        forge.assets.remove(found.id)
        return Response(status_code=204)

    return api


def uploads(forge: Forge) -> APIRouter:
    """`/api/uploads`: GitHub's second host, which takes the bytes of an asset."""
    api = APIRouter(prefix="/repos/{owner}/{name}/releases")

    @api.post("/{key:int}/assets")
    async def upload(request: Request, owner: str, name: str, key: int) -> Response:
        with forge.lock:
            who = actor(forge, request)
            repo = require(forge, who, forge.repo(owner, name), "contents", "write", "write")
            item = forge.releases.get(key)
            if item is None or item.repo != repo.id:
                raise not_found()
            file_name = Path(request.query_params.get("name", "")).name.replace("/", "")
            if not file_name or file_name.startswith("."):
                raise invalid("ReleaseAsset", "name", "missing_field")
            if any(a.release == item.id and a.name == file_name for a in forge.assets):
                raise invalid("ReleaseAsset", "name", "already_exists")
            made = Asset(
                forge.next_id(), repo.id, item.id, file_name, request.query_params.get("label", ""),
                request.headers.get("content-type", "application/octet-stream"), 0, "", who.login,
                forge.now(), state="starter",
            )  # fmt: skip
            forge.assets.put(made)  # half an upload stays and keeps its name, until it is deleted
        target = asset_path(forge, made)
        target.parent.mkdir(parents=True, exist_ok=True)
        summed = hashlib.sha256()
        try:
            with target.open("wb") as out:
                async for piece in request.stream():
                    made.size += len(piece)
                    summed.update(piece)
                    out.write(piece)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody hears it
        with forge.lock:
            if made.size == 0:
                target.unlink()
                forge.assets.remove(made.id)
                raise ApiError(422, "An asset must not be empty.")
            made.digest, made.state = f"sha256:{summed.hexdigest()}", "uploaded"
            forge.assets.put(made)
            return reply(request, views_work.asset(forge, repo, item, made), 201)

    return api


def downloads(forge: Forge) -> APIRouter:
    api = LockedRouter(forge.lock)

    @api.get("/{owner}/{name}/releases/download/{tag:path}/{file}")
    def download(request: Request, owner: str, name: str, tag: str, file: str) -> Response:
        try:
            repo = require(forge, actor(forge, request), forge.repo(owner, name), "contents")
        except ApiError as error:
            return Response(error.message, error.status)
        releases = {r.id for r in forge.releases if r.repo == repo.id and r.tag == tag}
        for asset in forge.assets:
            if asset.release in releases and asset.name == file and asset.state == "uploaded":
                asset.downloads += 1
                forge.assets.put(asset)
                # Never shown in the browser: an asset is somebody's bytes on the forge's own origin.
                return FileResponse(
                    asset_path(forge, asset), filename=asset.name, media_type="application/octet-stream",
                    headers={"X-Content-Type-Options": "nosniff"},
                )  # fmt: skip
        return Response("Not Found", 404)

    return api
