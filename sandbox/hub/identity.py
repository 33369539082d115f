"""Who may do what on the hub: tokens, and the trusted publishers that exchange a workflow's OIDC identity for
one.

Tokens are kept as digests. The exchange is the one that huggingface_hub performs (RFC 8693 at `POST
/oauth/token`, see its `_oidc.py`): the JWT must be signed by a key of the issuer that the hub was started
with, be meant for this hub, and its claims must match a publisher that was registered for exactly the
repository asked for. What comes out may write to that one repository for an hour; it can create nothing.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt

TOKEN_LIFETIME = 3600
ROLES = ("read", "write", "admin")
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105  (the name of a type, from RFC 8693)

_TABLES = """
create table if not exists repositories (
  type text, name text, private integer not null, created real not null, primary key (type, name));
create table if not exists tokens (
  digest text primary key, name text not null, role text not null, orgs text not null, resource text,
  expires real);
create table if not exists publishers (
  resource text, repository text, workflow text, environment text, ref text,
  primary key (resource, repository, workflow, environment, ref));
create table if not exists secrets (name text primary key, value text not null);
"""


class Denied(Exception):  # noqa: N818  (a refusal is an answer, not a mistake)
    """401 without a usable token, 403 with one that does not reach so far, 400 for an exchange that is
    refused.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Caller:
    """`resource` is set for an exchanged token and then bounds everything: `acme/model` or
    `datasets/acme/data`.
    """

    name: str
    role: str
    orgs: tuple[str, ...]
    resource: str | None = None

    def may_write(self, resource: str) -> bool:
        if self.resource is not None:
            return self.resource == resource
        return self.role == "admin" or (self.role == "write" and self.owns(resource))

    def may_read(self, resource: str) -> bool:
        if self.resource is not None:
            return self.resource == resource
        return self.role == "admin" or self.owns(resource)

    def owns(self, resource: str) -> bool:
        return resource.split("/")[-2] in (self.name, *self.orgs)


@dataclass(frozen=True)
class Publisher:
    """`workflow` is the file under `.github/workflows/` of the starting repository; `ref` "" is any."""

    resource: str
    repository: str
    workflow: str
    environment: str
    ref: str = ""

    def mismatch(self, claims: Mapping[str, Any]) -> str | None:
        """The first claim that does not fit, in words, or None."""
        file = str(claims.get("workflow_ref", "")).split("@")[0]
        seen = {
            "repository": (str(claims.get("repository", "")), self.repository),
            "workflow": (file, f"{self.repository}/.github/workflows/{self.workflow}"),
            "environment": (str(claims.get("environment", "")), self.environment),
        }
        if self.ref:
            seen["ref"] = (str(claims.get("ref", "")), self.ref)
        for name, (found, wanted) in seen.items():
            # GitHub's names of repositories and environments have no case, those of files and branches have.
            same = found.casefold() == wanted.casefold()
            if not same or (name in ("workflow", "ref") and found.split("/")[2:] != wanted.split("/")[2:]):
                return f"{name} is {found!r}, the publisher of {self.resource} is registered for {wanted!r}"
        return None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Identity:
    """The hub's small database. One connection under a lock: a sandbox has few callers."""

    def __init__(self, path: Path, issuer: str | None) -> None:
        self.issuer = issuer.rstrip("/") if issuer else None
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.executescript(_TABLES)
        self._keys: dict[str, Any] = {}

    def _run(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()

    def close(self) -> None:
        self._db.close()

    def secret(self, name: str) -> str:
        """A random value made once for this data folder."""
        self._run("insert or ignore into secrets values (?, ?)", (name, secrets.token_hex(32)))
        return str(self._run("select value from secrets where name = ?", (name,))[0][0])

    # repositories

    def repositories(self) -> list[tuple[str, str, bool, float]]:
        rows = self._run("select type, name, private, created from repositories order by type, name")
        return [
            (str(kind), str(name), bool(private), float(created)) for kind, name, private, created in rows
        ]

    def add_repository(self, kind: str, name: str, private: bool) -> None:
        self._run("insert into repositories values (?, ?, ?, ?)", (kind, name, private, time.time()))

    def is_private(self, kind: str, name: str) -> bool | None:
        rows = self._run("select private from repositories where type = ? and name = ?", (kind, name))
        return bool(rows[0][0]) if rows else None

    # tokens

    def add_token(
        self,
        name: str,
        role: str,
        orgs: Sequence[str] = (),
        resource: str | None = None,
        lifetime: float | None = None,
        token: str | None = None,
    ) -> str:
        token = token or f"hf_{'oidc_' if resource else ''}{secrets.token_urlsafe(30)}"
        expires = time.time() + lifetime if lifetime is not None else None
        values = (_digest(token), name, role, json.dumps(list(orgs)), resource, expires)
        self._run("insert or replace into tokens values (?, ?, ?, ?, ?, ?)", values)
        return token

    def caller(self, authorization: str | None) -> Caller | None:
        """None without a token; `Denied` when there is one that is unknown or over."""
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() == "basic":  # git sends user:token
            token = _basic_password(token)
        rows = self._run(
            "select name, role, orgs, resource, expires from tokens where digest = ?", (_digest(token),)
        )
        if not rows:
            raise Denied(401, "Invalid username or password.")
        name, role, orgs, resource, expires = rows[0]
        if expires is not None and expires < time.time():
            raise Denied(401, "This token has expired: exchange a fresh identity token.")
        return Caller(name, role, tuple(json.loads(orgs)), resource)

    # trusted publishers

    def add_publisher(self, publisher: Publisher) -> None:
        values = (
            publisher.resource,
            publisher.repository,
            publisher.workflow,
            publisher.environment,
            publisher.ref,
        )
        self._run("insert or replace into publishers values (?, ?, ?, ?, ?)", values)

    def publishers(self, resource: str | None = None) -> list[Publisher]:
        rows = self._run(
            "select resource, repository, workflow, environment, ref from publishers order by 1, 2, 3"
        )
        return [Publisher(*row) for row in rows if resource is None or row[0] == resource]

    def exchange(self, subject: str, resource: str, audiences: Sequence[str]) -> dict[str, Any]:
        """The RFC 8693 answer with a one-hour, one-repository write token, or `Denied` with the reason."""
        claims = self._verify(subject, audiences)
        publishers = self.publishers(resource)
        if not publishers:
            raise Denied(400, f"no trusted publisher is registered for {resource!r}")
        reasons = [publisher.mismatch(claims) for publisher in publishers]
        if None not in reasons:
            raise Denied(400, f"the identity does not match: {'; '.join(str(reason) for reason in reasons)}")
        name = f"[OIDC] {claims['repository']}"
        token = self.add_token(name, "write", (), resource, TOKEN_LIFETIME)
        return {
            "access_token": token,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "bearer",
            "expires_in": TOKEN_LIFETIME,
            "scope": f"write {resource}",
        }

    def _verify(self, subject: str, audiences: Sequence[str]) -> dict[str, Any]:
        if self.issuer is None:
            raise Denied(400, "this hub was started without an OIDC issuer, so it trusts no identity token")
        try:
            header = jwt.get_unverified_header(subject)
            claims: dict[str, Any] = jwt.decode(
                subject,
                self._key(str(header.get("kid", ""))),
                algorithms=["RS256"],
                audience=list(audiences),
                issuer=self.issuer,
                leeway=30,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Denied(400, f"the identity token is not valid: {error}") from error
        return claims

    def _key(self, kid: str) -> Any:
        """A public key of the issuer. The set is fetched again for an id that is not known: keys rotate."""
        if kid not in self._keys:
            try:
                # The issuer is on loopback as well: a proxy of the environment must not come between.
                with httpx.Client(timeout=10, trust_env=False) as client:
                    config = client.get(f"{self.issuer}/.well-known/openid-configuration")
                    config.raise_for_status()
                    keys = client.get(str(config.json()["jwks_uri"]))
                    keys.raise_for_status()
                found = jwt.PyJWKSet.from_dict(keys.json()).keys
            except (httpx.HTTPError, ValueError, KeyError, jwt.PyJWTError) as error:
                raise Denied(503, f"cannot read the keys of {self.issuer}: {error}") from error
            self._keys = {key.key_id or "": key.key for key in found}
        if kid not in self._keys:
            raise Denied(400, "the identity token is not signed by a key of the trusted issuer")
        return self._keys[kid]


def _basic_password(encoded: str) -> str:
    import base64
    import binascii

    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
