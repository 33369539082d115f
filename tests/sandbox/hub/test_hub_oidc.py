"""A workflow's identity becomes a one-hour token for one repository, by huggingface_hub's own client code."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub._oidc import exchange_oidc_token
from huggingface_hub.errors import HfHubHTTPError

from sandbox.hub.background import RunningHub, listening, running
from sandbox.hub.identity import Identity

CLAIMS = {
    "sub": "repo:acme/taxonomy:environment:release",
    "repository": "acme/taxonomy",
    "workflow_ref": "acme/taxonomy/.github/workflows/release.yml@refs/heads/main",
    "environment": "release",
    "ref": "refs/heads/main",
}


@dataclass
class Issuer:
    """An OIDC issuer as GitHub's: a discovery document, keys, and signed tokens."""

    url: str = ""
    key: Any = None

    def token(self, audience: str, key: Any = None, **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": audience,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            **CLAIMS,
            **changes,
        }
        return jwt.encode(claims, key or self.key, algorithm="RS256", headers={"kid": "one"})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer(key=rsa.generate_private_key(public_exponent=65537, key_size=2048))
    app = FastAPI()

    @app.get("/_oidc/.well-known/openid-configuration")
    def configuration() -> dict[str, str]:
        return {"issuer": made.url, "jwks_uri": f"{made.url}/jwks"}

    @app.get("/_oidc/jwks")
    def keys() -> dict[str, Any]:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(made.key.public_key()))
        return {"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]}

    with listening(app) as url:
        made.url = f"{url}/_oidc"
        yield made


@pytest.fixture
def trusting(tmp_path: Path, issuer: Issuer) -> Iterator[RunningHub]:
    with running(tmp_path / "hub", forge_issuer=issuer.url) as hub:
        owner = HfApi(endpoint=hub.url, token=hub.token("acme"))
        for name in ("model", "other"):
            owner.create_repo(f"acme/{name}")
        owner.create_repo("acme/model", repo_type="dataset")
        hub.publisher("acme/model", "acme/taxonomy", "release.yml", "release")
        yield hub


def test_the_registered_workflow_gets_a_token_for_its_repository_only(
    trusting: RunningHub, issuer: Issuer
) -> None:
    token = issuer.token(trusting.url)
    answer = exchange_oidc_token(subject_token=token, resource="acme/model", endpoint=trusting.url)
    assert answer["expires_in"] == 3600
    api = HfApi(endpoint=trusting.url, token=answer["access_token"])

    def commit(name: str, kind: str = "model") -> None:
        addition = CommitOperationAdd("a", b"1")
        api.create_commit(name, [addition], commit_message="one", repo_type=kind)

    commit("acme/model")
    assert api.list_repo_commits("acme/model")[0].authors == ["[OIDC] acme/taxonomy"]
    for name, kind in (("acme/other", "model"), ("acme/model", "dataset")):
        with pytest.raises(HfHubHTTPError) as refusal:
            commit(name, kind)
        assert refusal.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError):
        api.create_repo("acme/new")


def test_a_proxy_of_the_environment_does_not_come_between_hub_and_issuer(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "hub", forge_issuer=issuer.url) as hub:
        hub.publisher("acme/model", "ACME/Taxonomy", "release.yml", "Release")
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        # The hub's own memory, opened once more: no client of the test is in between.
        identity = Identity(hub.data / "hub.sqlite3", issuer.url)
        answer = identity.exchange(issuer.token(hub.url), "acme/model", [hub.url])
        assert answer["scope"] == "write acme/model"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"repository": "mallory/taxonomy"}, "repository is 'mallory/taxonomy'"),
        ({"workflow_ref": "acme/taxonomy/.github/workflows/other.yml@refs/heads/main"}, "other.yml"),
        ({"workflow_ref": "mallory/x/.github/workflows/release.yml@refs/heads/main"}, "workflow is 'mallory"),
        ({"workflow_ref": "acme/taxonomy/.github/workflows/Release.yml@refs/heads/main"}, "Release.yml"),
        ({"environment": ""}, "environment is ''"),
        ({"audience": "https://huggingface.co"}, "Audience"),
        ({"iss": "https://token.actions.githubusercontent.com"}, "issuer"),
        ({"exp": 1_000_000_000}, "expired"),
    ],
)
def test_another_identity_is_refused_with_the_claim_that_is_wrong(
    trusting: RunningHub, issuer: Issuer, changes: dict[str, Any], reason: str
) -> None:
    token = issuer.token(**{"audience": trusting.url, **changes})
    with pytest.raises(HfHubHTTPError, match=reason) as refusal:
        exchange_oidc_token(subject_token=token, resource="acme/model", endpoint=trusting.url)
    assert refusal.value.response.status_code == 400


def test_a_token_signed_by_another_key_or_by_none_is_refused(trusting: RunningHub, issuer: Issuer) -> None:
    forged = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    unsigned = jwt.encode({"iss": issuer.url, **CLAIMS}, "", algorithm="none", headers={"kid": "one"})
    for token in (issuer.token(trusting.url, key=forged), unsigned, "not.a.token"):
        with pytest.raises(HfHubHTTPError, match="not valid"):
            exchange_oidc_token(subject_token=token, resource="acme/model", endpoint=trusting.url)


def test_a_repository_without_a_publisher_gives_no_token(trusting: RunningHub, issuer: Issuer) -> None:
    token = issuer.token(trusting.url)
    for resource in ("acme/other", "datasets/acme/model", "acme"):
        with pytest.raises(HfHubHTTPError, match="no trusted publisher"):
            exchange_oidc_token(subject_token=token, resource=resource, endpoint=trusting.url)


def test_a_hub_without_an_issuer_trusts_nobody(tmp_path: Path, issuer: Issuer) -> None:
    with running(tmp_path / "hub") as hub:
        hub.publisher("acme/model", "acme/taxonomy", "release.yml", "release")
        token = issuer.token(hub.url)
        with pytest.raises(HfHubHTTPError, match="without an OIDC issuer"):
            exchange_oidc_token(subject_token=token, resource="acme/model", endpoint=hub.url)


def test_the_exchanged_token_ends_after_its_hour(
    trusting: RunningHub, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.hub.identity.TOKEN_LIFETIME", -1)
    token = issuer.token(trusting.url)
    answer = exchange_oidc_token(subject_token=token, resource="acme/model", endpoint=trusting.url)
    api = HfApi(endpoint=trusting.url, token=answer["access_token"])
    with pytest.raises(HfHubHTTPError, match="expired"):
        api.model_info("acme/model")
