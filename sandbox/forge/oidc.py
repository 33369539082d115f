"""The identity provider of workflow runs: `/_oidc`, in the place of token.actions.githubusercontent.com.

A step asks with the run's request token, `GET $ACTIONS_ID_TOKEN_REQUEST_URL&audience=X`, and gets a JWT of
five minutes whose claims are GitHub's (docs: "OpenID Connect reference"). Only a running job that declares
`id-token: write` gets one. The key lives in DIR/oidc.pem.
"""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from typing import TYPE_CHECKING

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import APIRouter, Request, Response

from sandbox.forge.auth import ApiError, credential
from sandbox.forge.records import Json, Repo, Run
from sandbox.forge.state import Forge
from sandbox.forge.wire import LockedRouter, reply
from sandbox.forge.workflows import JobSpec

if TYPE_CHECKING:
    from sandbox.forge.actions import Runner

TOKEN_SECONDS = 300


class Issuer:
    def __init__(self, forge: Forge) -> None:
        self.forge = forge
        path = forge.data / "oidc.pem"
        if not path.exists():
            made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            pem = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
        loaded = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise ValueError(f"{path} is not an RSA key; delete it and start again.")
        self.key = loaded
        numbers = loaded.public_key().public_numbers()
        self.jwk: Json = {
            "kty": "RSA", "alg": "RS256", "use": "sig", "n": _number(numbers.n), "e": _number(numbers.e),
        }  # fmt: skip
        self.jwk["kid"] = hashlib.sha256(self.jwk["n"].encode()).hexdigest()[:24]

    @property
    def url(self) -> str:
        return f"{self.forge.base_url}/_oidc"

    def token(self, repo: Repo, run: Run, job: JobSpec, audience: str | None) -> str:
        forge = self.forge
        owner, actor = forge.account(repo.owner), forge.account(run.login)
        now = int(forge.clock())
        place = f"environment:{job.environment}" if job.environment else f"ref:{run.ref}"
        workflow_ref = f"{repo.full_name}/{run.workflow}@{run.ref}"
        claims: Json = {
            "iss": self.url, "aud": audience or f"{forge.base_url}/{repo.owner}",
            "sub": f"repo:{repo.full_name}:{place}", "jti": str(uuid.uuid4()), "iat": now, "nbf": now - 10,
            "exp": now + TOKEN_SECONDS, "ref": run.ref, "sha": run.sha, "repository": repo.full_name,
            "repository_owner": repo.owner, "repository_owner_id": str(owner.id if owner else 0),
            "repository_id": str(repo.id), "repository_visibility": "private" if repo.private else "public",
            "run_id": str(run.id), "run_number": str(run.number), "run_attempt": "1", "actor": run.login,
            "actor_id": str(actor.id if actor else 0), "workflow": run.name, "workflow_ref": workflow_ref,
            "workflow_sha": run.sha, "job_workflow_ref": job.workflow_ref or workflow_ref,
            "job_workflow_sha": run.sha, "head_ref": "", "base_ref": "", "event_name": run.event,
            "ref_type": "tag" if run.ref.startswith("refs/tags/") else "branch", "ref_protected": "false",
            "runner_environment": "self-hosted",
        }  # fmt: skip
        if job.environment:
            claims["environment"] = job.environment
        return jwt.encode(claims, self.key, "RS256", {"kid": self.jwk["kid"]})


def _number(value: int) -> str:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def router(forge: Forge, issuer: Issuer, actions: Runner) -> APIRouter:
    api = LockedRouter(forge.lock, "/_oidc")

    @api.get("/.well-known/openid-configuration")
    def configuration(request: Request) -> Response:
        body = {
            "issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks", "subject_types_supported": ["public"],
            "response_types_supported": ["id_token"], "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid"],
        }  # fmt: skip
        return reply(request, body)

    @api.get("/jwks")
    @api.get("/.well-known/jwks")
    def jwks(request: Request) -> Response:
        return reply(request, {"keys": [issuer.jwk]})

    @api.get("/token")
    def token(request: Request) -> Response:
        run = actions.run_of_request_token(credential(request.headers.get("authorization")) or "")
        repo = forge.repos.get(run.repo) if run else None
        if run is None or repo is None:
            raise ApiError(401, "The request token is not one of a running workflow.")
        job = actions.job_with_identity(run)
        if job is None:
            raise ApiError(403, "No job that runs now has the permission `id-token: write`.")
        value = issuer.token(repo, run, job, request.query_params.get("audience"))
        return reply(request, {"count": len(value), "value": value})

    return api
