"""The manifest's conversion as GitHub describes it, and manifests that the page refuses."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from forge_world import World

GOOD: dict[str, Any] = {
    "name": "Helper",
    "url": "https://example.org",
    "hook_attributes": {"url": "https://example.org/hook"},
    "redirect_url": "http://127.0.0.1:1/back",
    "default_permissions": {"checks": "write"},
    "default_events": ["push"],
}


def post(world: World, manifest: object, where: str = "/settings/apps/new?state=s") -> httpx.Response:
    data = {"manifest": manifest if isinstance(manifest, str) else json.dumps(manifest)}
    return httpx.post(f"{world.running.url}{where}", data=data, trust_env=False)


def test_a_code_becomes_an_app_as_github_describes_it(world: World) -> None:
    page = post(world, GOOD)
    key = page.text.partition("/settings/apps/manifest/")[2].partition('"')[0]
    place = f"{world.running.url}/settings/apps/manifest/{key}"
    back = httpx.post(place, data={"owner": "ada"}, trust_env=False)
    address = httpx.URL(back.headers["location"])
    assert address.params["state"] == "s"
    made = world.http().post(f"/app-manifests/{address.params['code']}/conversions")
    assert made.status_code == 201
    assert made.json()["permissions"] == {"checks": "write", "metadata": "read"}
    assert world.problems == []
    again = world.http().post(f"/app-manifests/{address.params['code']}/conversions")
    assert again.status_code == 404
    assert httpx.post(place, data={"owner": "ada"}, trust_env=False).status_code == 404


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": None}, "needs a name"),
        ({"name": "---"}, "no letter"),
        ({"default_permissions": {"checks": "all"}}, "none of read"),
        ({"default_events": ["installation"]}, "every App gets it"),
        ({"redirect_url": "javascript:alert(1)"}, "must be http"),
        ({"redirect_url": "http://example.org; script-src *"}, "must be http"),
        ({"redirect_url": "http://[x"}, "must be http"),
        ({"hook_attributes": {}}, "must be http"),
        ({"hook_attributes": "https://example.org"}, "must be http"),
    ],
)
def test_a_manifest_that_github_would_refuse_is_refused(
    world: World, change: dict[str, Any], said: str
) -> None:
    answer = post(world, GOOD | change)
    assert answer.status_code == 422
    assert said in answer.text


def test_what_is_no_manifest_is_refused(world: World) -> None:
    assert post(world, "[" * 5000).status_code == 422
    assert post(world, GOOD, "/organizations/nobody/settings/apps/new").status_code == 404


def test_a_manifest_cannot_put_markup_into_the_page(world: World) -> None:
    answer = post(world, GOOD | {"name": "a<script>alert(1)</script>"})
    assert answer.status_code == 200
    assert "<script" not in answer.text
