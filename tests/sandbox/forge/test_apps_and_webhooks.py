"""Apps: who they are, what they may, what they are told. Signatures, failures, redelivery, faults."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from forge_world import EVENTS, PERMISSIONS, World, wait_for
from github import GithubException

# GitHub docs, "Validating webhook deliveries": the published test vector.
SECRET = "It's a Secret to Everybody"
VECTOR = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def app_jwt(world: World, **claims: Any) -> str:
    now = int(time.time())
    return jwt.encode(
        {"iat": now - 60, "exp": now + 300, "iss": str(world.app.app.id)} | claims,
        world.app.private_key,
        "RS256",
    )


def test_the_signature_is_githubs() -> None:
    from sandbox.forge.webhooks import sign

    assert sign(SECRET, b"Hello, World!") == VECTOR


def test_every_delivery_is_signed_and_named(world: World) -> None:
    world.contribute()
    assert world.heard()[:3] == ["ping", "installation.created", "pull_request.opened"]
    for headers, body in world.receiver.got:
        expected = hmac.new(world.app.app.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
        assert headers["x-hub-signature-256"] == f"sha256={expected}"
        assert headers["user-agent"].startswith("GitHub-Hookshot/")
        assert headers["x-github-hook-installation-target-id"] == str(world.app.app.id)
        assert headers["x-github-hook-installation-target-type"] == "integration"
        assert headers["x-github-hook-id"] == str(world.app.app.hook)
    guids = {headers["x-github-delivery"] for headers, _ in world.receiver.got}
    assert len(guids) == len(world.receiver.got)


def test_an_app_finds_itself_and_its_installation(world: World) -> None:
    integration = world.integration()
    assert integration.get_app().slug == "treewright"
    known = integration.get_repo_installation("acme", "taxonomy")
    assert known.id == world.app.installation.id
    assert [i.id for i in integration.get_installations()] == [known.id]
    http = world.http(app_jwt(world))
    assert http.get("/orgs/acme/installation").json()["id"] == known.id
    assert http.get("/users/grace/installation").status_code == 404
    token = integration.get_access_token(known.id, {"issues": "write"})
    assert token.permissions == {"metadata": "read", "issues": "write"}


@pytest.mark.parametrize(
    ("claims", "part"),
    [
        ({"exp": 1000}, "too far in the past"),
        ({"exp": 4_000_000_000}, "too far in the future"),
        ({"iat": 4_000_000_000}, "Issued at"),
        ({"iss": "999999"}, "Integration not found"),
        ({"exp": "soon"}, "could not be decoded"),
    ],
)
def test_a_wrong_jwt_is_401(world: World, claims: dict[str, Any], part: str) -> None:
    answer = world.http(app_jwt(world, **claims)).get("/app")
    assert answer.status_code == 401
    assert part in answer.json()["message"]


def test_a_jwt_signed_by_another_key_or_not_at_all_is_401(world: World) -> None:
    other = world.forge.create_app("other", {}, [], None, repositories=["acme/taxonomy"])
    now = int(time.time())
    claims = {"iat": now, "exp": now + 300, "iss": str(world.app.app.id)}
    for token in (jwt.encode(claims, other.private_key, "RS256"), jwt.encode(claims, None, "none")):
        assert world.http(token).get("/app").status_code == 401
    assert world.http("ghs_nothing").get("/repos/acme/taxonomy").status_code == 401
    assert world.http(app_jwt(world, exp=now + 640)).get("/app").status_code == 401  # ten minutes, no more


def test_an_installation_token_has_its_permissions_and_no_more(world: World) -> None:
    world.contribute()
    narrow = world.github(world.bot_token({"issues": "read"})).get_repo("acme/taxonomy")
    assert narrow.get_issue(1).title == "Add topic"
    with pytest.raises(GithubException) as refused:
        narrow.get_issue(1).create_comment("no")
    assert (refused.value.status, refused.value.data["message"]) == (
        403,
        "Resource not accessible by integration",
    )
    with pytest.raises(GithubException) as more:
        world.bot_token({"administration": "write"})
    assert more.value.status == 422


def test_an_installation_token_ends_after_an_hour(make_world: Callable[..., World]) -> None:
    now = [time.time()]
    world = make_world(clock=lambda: now[0])
    token = world.bot_token()
    assert world.http(token).get("/installation/repositories").json()["total_count"] == 1
    now[0] += 3601
    assert world.http(token).get("/installation/repositories").status_code == 401


def test_a_private_repository_is_404_for_others(world: World) -> None:
    world.forge.create_repo("acme", "secret", private=True)
    for token in (world.grace, world.bot_token(), None):
        assert world.http(token).get("/repos/acme/secret").status_code == 404
    owner = world.forge.named("acme/secret")
    world.forge.set_collaborator(owner, "grace", "read")
    assert world.http(world.grace).get("/repos/acme/secret").status_code == 200


def test_permission_levels_and_teams_are_told_as_github_does(world: World) -> None:
    repo = world.bot().get_repo("acme/taxonomy")
    assert repo.get_collaborator_permission("ada") == "write"
    assert repo.get_collaborator_permission("grace") == "read"
    answer = world.http(world.bot_token()).get("/repos/acme/taxonomy/collaborators/ada/permission")
    assert answer.json()["role_name"] == "maintain"
    body = {"org": "acme", "slug": "gardeners", "members": {"ada": "maintainer"}}
    assert world.admin().post("/teams", json=body).status_code == 201
    http = world.http(world.bot_token())
    assert http.get("/orgs/acme/teams/gardeners/memberships/ada").json()["role"] == "maintainer"
    assert http.get("/orgs/acme/teams/gardeners/memberships/grace").status_code == 404
    assert http.get("/orgs/acme/teams/nobodies/memberships/ada").status_code == 404
    elsewhere = {"org": "beta", "slug": "gardeners", "members": ["ada"]}
    assert world.admin().post("/teams", json=elsewhere).status_code == 201
    assert http.get("/orgs/beta/teams/gardeners/memberships/ada").status_code == 403  # not installed there


def test_a_failed_delivery_is_kept_and_redelivered_under_its_id(world: World) -> None:
    world.receiver.status = 500
    world.contribute()
    world.heard()
    world.receiver.status = 202
    http = world.http(app_jwt(world))
    listed = http.get("/app/hook/deliveries").json()
    failed = next(d for d in listed if d["event"] == "pull_request")
    assert (failed["status_code"], failed["redelivery"]) == (500, False)
    full = http.get(f"/app/hook/deliveries/{failed['id']}").json()
    assert full["request"]["payload"]["action"] == "opened"
    assert full["response"]["payload"] == "heard"
    assert http.post(f"/app/hook/deliveries/{failed['id']}/attempts").status_code == 202
    world.heard()
    guids = [headers["x-github-delivery"] for headers, _ in world.receiver.got]
    assert guids[-1] == failed["guid"]
    assert guids.count(failed["guid"]) == 2
    newest = http.get("/app/hook/deliveries").json()[0]
    assert (newest["guid"], newest["status"], newest["redelivery"]) == (failed["guid"], "OK", True)


def test_deliveries_are_listed_by_cursor(world: World) -> None:
    world.contribute()
    world.heard()
    http = world.http(app_jwt(world))
    first = http.get("/app/hook/deliveries", params={"per_page": 2})
    rest = http.get(first.links["next"]["url"])
    events = [d["event"] for d in first.json() + rest.json()]
    assert events == ["pull_request", "installation", "ping"]
    assert not first.links["next"]["url"].rpartition("=")[2].isdigit()  # a cursor is GitHub's own business


def test_deliveries_are_forgotten_after_three_days(make_world: Callable[..., World]) -> None:
    now = [time.time()]
    world = make_world(clock=lambda: now[0])
    world.contribute()
    world.heard()
    key = world.http(app_jwt(world)).get("/app/hook/deliveries").json()[0]["id"]
    now[0] += 3 * 86400 + 60
    http = world.http(app_jwt(world, iat=int(now[0]), exp=int(now[0]) + 300))
    assert http.get("/app/hook/deliveries").json() == []
    assert http.post(f"/app/hook/deliveries/{key}/attempts").status_code == 404


def test_faults_drop_double_and_lose_deliveries(world: World) -> None:
    world.contribute()
    world.heard()
    admin = world.admin()
    issue = world.github(world.grace).get_repo("acme/taxonomy").get_issue(1)
    admin.post("/faults", json={"drop_deliveries": 1})
    issue.create_comment("dropped")
    before = len(world.heard())
    dropped = world.http(app_jwt(world)).get("/app/hook/deliveries").json()[0]
    assert (dropped["event"], dropped["status_code"]) == ("issue_comment", 502)
    admin.post("/faults", json={"duplicate": 1})
    issue.create_comment("doubled")
    wait_for(lambda: len(world.heard()) == before + 2)
    assert len({h["x-github-delivery"] for h, _ in world.receiver.got[-2:]}) == 1
    admin.post("/faults", json={"lose_deliveries": 1})
    issue.create_comment("lost")
    assert len(world.heard()) == before + 2
    assert admin.post("/faults", json={"typo": 1}).status_code == 422


def test_a_lost_answer_leaves_the_work_done(world: World) -> None:
    world.contribute()
    fault = {
        "method": "POST",
        "path_prefix": "/repos/acme/taxonomy/issues/1/comments",
        "status": 502,
        "when": "after",
    }
    world.admin().post("/faults", json={"fail_requests": [fault, fault | {"when": "before"}]})
    http = world.http(world.grace)
    url = "/repos/acme/taxonomy/issues/1/comments"
    assert [http.post(url, json={"body": "once"}).status_code for _ in range(3)] == [502, 502, 201]
    assert [c["body"] for c in http.get(url).json()] == ["once", "once"]


def test_lists_have_pages_and_answers_have_etags_and_limits(world: World) -> None:
    world.contribute()
    http = world.http(world.grace)
    url = "/repos/acme/taxonomy/issues/1/comments"
    for number in range(5):
        http.post(url, json={"body": f"comment {number}"})
    first = http.get(url, params={"per_page": 2})
    assert set(first.links) == {"next", "last"}
    bodies = [c["body"] for c in first.json()]
    page = first
    while "next" in page.links:
        page = http.get(page.links["next"]["url"])
        bodies += [c["body"] for c in page.json()]
    assert bodies == [f"comment {number}" for number in range(5)]
    again = http.get(url, params={"per_page": 2}, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["X-GitHub-Request-Id"]
    left = http.get("/rate_limit").json()["rate"]["remaining"]
    assert int(http.get(url).headers["X-RateLimit-Remaining"]) == left - 1


def test_the_rate_limit_is_403_with_its_reset(world: World) -> None:
    world.running.forge.rate_limit = 3
    http = world.http(world.grace)
    codes = [http.get("/users/ada").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 403, 403]
    over = http.get("/users/ada")
    assert over.headers["X-RateLimit-Remaining"] == "0"
    assert int(over.headers["X-RateLimit-Reset"]) > time.time()


def test_administration_needs_the_admin_token(world: World) -> None:
    for token in ("none", "wrong", world.ada):
        answer = world.admin().post(
            "/users", json={"login": "mallory"}, headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 401
    made = world.admin().post("/users", json={"login": "mallory"}).json()
    assert world.http(made["token"]).get("/user").json()["login"] == "mallory"
    for login in ("../x", "a b", "-a", "<b>", "x" * 40):
        assert world.admin().post("/users", json={"login": login}).status_code == 422


def test_an_app_made_over_http_works_like_one_made_in_process(world: World) -> None:
    body = {
        "slug": "second", "permissions": PERMISSIONS, "events": EVENTS, "webhook_url": world.receiver.url,
        "repositories": ["acme/taxonomy"],
    }  # fmt: skip
    made = world.admin().post("/apps", json=body).json()
    now = int(time.time())
    token = jwt.encode({"iat": now, "exp": now + 60, "iss": str(made["id"])}, made["private_key"], "RS256")
    http = world.http(token)
    assert http.get("/app").json()["slug"] == "second"
    answer = http.post(
        f"/app/installations/{made['installation_id']}/access_tokens",
        json={"permissions": {"issues": "write"}},
    )
    assert answer.status_code == 201
    world.admin().patch("/apps/second", json={"webhook_url": None})
    world.heard()
    assert json.loads(world.receiver.got[-1][1])["installation"]["app_slug"] == "second"


def test_a_moved_repository_sends_readers_on_by_301_and_writers_by_307(world: World) -> None:
    world.contribute()
    http = world.http(world.grace)
    assert world.admin().post("/repos/acme/taxonomy/move", json={"name": "other"}).is_success
    url = "/repos/acme/taxonomy/issues/1/comments"
    read = http.get(url, params={"per_page": 2})
    assert read.status_code == 301
    assert read.headers["location"].endswith("/issues/1/comments?per_page=2")
    write = http.post(url, json={"body": "hello"})
    assert write.status_code == 307
    # By its number: an address that GitHub has and does not describe.
    followed = httpx.post(write.headers["location"], json={"body": "hello"}, headers=http.headers)
    assert followed.status_code == 201


def test_a_request_without_a_user_agent_is_refused(world: World) -> None:
    answer = world.http(world.grace).get("/user", headers={"User-Agent": ""})
    assert (answer.status_code, "User-Agent" in answer.json()["message"]) == (403, True)
