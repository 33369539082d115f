"""Who asks, and whether they may: personal tokens, App JWTs, installation and workflow tokens.

The answers are GitHub's: 401 for a credential that is wrong, 404 for what the asker may not see, 403 for
what they may see but not do.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jwt

from sandbox.forge.records import App, Repo, Token
from sandbox.forge.state import ROLES, Forge

LEVELS = ("none", "read", "write", "admin")
JWT_SECONDS = 600  # GitHub: an App's JWT may live for ten minutes at most
DOCS = "https://docs.github.com/rest"


class ApiError(Exception):
    def __init__(
        self,
        status: int,
        message: str,
        errors: Sequence[object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.errors, self.headers = status, message, errors, dict(headers or {})


def not_found() -> ApiError:
    return ApiError(404, "Not Found")


@dataclass(frozen=True)
class Actor:
    kind: str  # anonymous, user, app, installation or workflow
    login: str = ""
    app: int | None = None
    installation: int | None = None
    repositories: frozenset[int] | None = None
    permissions: Mapping[str, str] = field(default_factory=dict)
    run: int | None = None
    key: str = "anonymous"  # what the rate limit counts by

    @property
    def is_integration(self) -> bool:
        return self.kind in ("installation", "workflow")


ANONYMOUS = Actor("anonymous")


def credential(header: str | None) -> str | None:
    """The secret in an Authorization header; Basic carries it as the password (or as the name alone)."""
    if not header:
        return None
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return value.strip()
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return name if password in ("", "x-oauth-basic") else password
    return ""


def actor_of(forge: Forge, header: str | None) -> Actor:
    """Raises a 401 for a credential that is there and wrong."""
    text = credential(header)
    if text is None:
        return ANONYMOUS
    if text.count(".") == 2:
        app = app_of_jwt(forge, text)
        return Actor("app", forge.bot_login(app), app.id, key=f"app:{app.id}")
    token = forge.token(text)
    if token is None:
        raise ApiError(401, "Bad credentials")
    return actor_of_token(forge, token)


def actor_of_token(forge: Forge, token: Token) -> Actor:
    repositories = token.repositories
    if token.kind == "installation":
        known = forge.installations.get(token.installation)
        if known is None:
            raise ApiError(401, "Bad credentials")
        if repositories is None and known.repositories is not None:
            repositories = known.repositories
        elif repositories is None:
            repositories = [repo.id for repo in forge.repos if repo.owner == known.account]
    return Actor(
        token.kind, token.login, token.app, token.installation,
        None if repositories is None else frozenset(repositories), token.permissions, token.run, token.id,
    )  # fmt: skip


def app_of_jwt(forge: Forge, text: str) -> App:
    wrong = ApiError(401, "A JSON web token could not be decoded")
    try:
        claims = jwt.decode(text, options={"verify_signature": False})
        issuer = str(claims.get("iss", "")).removeprefix("Iv1.")
        app = next((a for a in forge.apps if str(a.id) == issuer), None)
        if app is None:
            raise ApiError(401, "Integration not found")
        # Time is checked below, against the forge's own clock.
        claims = jwt.decode(
            text, app.public_key, algorithms=["RS256"],
            options={"verify_exp": False, "verify_iat": False, "verify_aud": False, "verify_sub": False,
                     "verify_iss": False, "require": ["exp", "iat", "iss"]},
        )  # fmt: skip
    except jwt.PyJWTError as error:
        raise wrong from error
    now = forge.clock()
    expires, issued = claims["exp"], claims["iat"]
    if not isinstance(expires, int | float) or not isinstance(issued, int | float):
        raise wrong
    if expires <= now:
        raise ApiError(401, "'Expiration time' claim ('exp') is too far in the past")
    if expires > now + JWT_SECONDS:
        raise ApiError(401, "'Expiration time' claim ('exp') is too far in the future")
    if issued > now + 60:
        raise ApiError(401, "'Issued at' claim ('iat') must be an Integer representing the time in the past")
    return app


def need_app(forge: Forge, actor: Actor) -> App:
    app = forge.apps.get(actor.app) if actor.kind == "app" else None
    if app is None:
        raise ApiError(401, "A JSON web token could not be decoded")
    return app


def allows(actor: Actor, permission: str, level: str) -> bool:
    return LEVELS.index(actor.permissions.get(permission, "none")) >= LEVELS.index(level)


def require(
    forge: Forge,
    actor: Actor,
    repo: Repo | None,
    permissions: str | tuple[str, ...] = "metadata",
    level: str = "read",
    role: str = "read",
) -> Repo:
    """Any one of `permissions` at `level` lets an integration in; a person needs `role`."""
    if repo is None:
        raise not_found()
    if actor.kind == "app":
        raise ApiError(401, "A JSON web token could not be decoded")
    if actor.is_integration:
        wanted = (permissions,) if isinstance(permissions, str) else permissions
        if actor.repositories is None or repo.id not in actor.repositories:
            if repo.private:
                raise not_found()
            if level != "read":
                raise ApiError(403, "Resource not accessible by integration")
        elif "metadata" not in wanted and not any(allows(actor, name, level) for name in wanted):
            raise ApiError(403, "Resource not accessible by integration")
        return repo
    has = forge.role(repo, actor.login) if actor.login else ("none" if repo.private else "read")
    if has == "none":
        raise not_found()
    if level != "read" and actor.kind == "anonymous":
        raise ApiError(401, "Requires authentication")
    if ROLES.index(has) < ROLES.index(role):
        raise ApiError(403, f"You need the role {role!r} in this repository; you have {has!r}.")
    return repo


def need_workflows(actor: Actor, paths: Iterable[str]) -> None:
    """Workflow files are code with the repository's rights, so an App writes them with a permission of their
    own only; a workflow's token cannot have it.
    """
    if actor.is_integration and not allows(actor, "workflows", "write"):
        for path in paths:
            if path.startswith(".github/workflows/"):
                what = f"refusing to allow a GitHub App to create or update workflow `{path}`"
                raise ApiError(403, f"{what} without `workflows` permission")


def need_login(actor: Actor) -> Actor:
    if actor.kind == "anonymous":
        raise ApiError(401, "Requires authentication")
    return actor
