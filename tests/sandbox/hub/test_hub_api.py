"""What huggingface_hub, Git and a browser can do with the hub."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetInfo,
    HfApi,
    ModelInfo,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from sandbox.hub.background import RunningHub, running

CARD = b"""---
license: apache-2.0
tags: [lab]
---
# A card

<script>alert(1)</script> <a href="javascript:alert(2)" onclick="alert(3)">x</a>

<details><summary>fold</summary>

*in*

</details>

| a | b |
|---|---|
| 1 | 2 |
"""


def client(hub: RunningHub, token: str | bool) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_commit_with_a_large_file_is_one_revision_that_comes_back_byte_for_byte(
    hub: RunningHub, tmp_path: Path, kind: str
) -> None:
    api = client(hub, hub.token("acme"))
    url = api.create_repo("acme/thing", repo_type=kind)
    assert str(url) == f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}acme/thing"
    weights = os.urandom(11 * 1024 * 1024)
    before = api.repo_info("acme/thing", repo_type=kind).sha
    made = api.create_commit(
        "acme/thing",
        [
            add("README.md", CARD),
            add("model.safetensors", weights),
            add("logs/rows.txt", b"x" * (10 * 1024 * 1024 + 1)),
            add("data/a.jsonl", b"{}\n"),
        ],
        commit_message="First release",
        repo_type=kind,
        parent_commit=before,
    )
    api.create_tag("acme/thing", tag="v1", revision=made.oid, tag_message="one", repo_type=kind)
    refs = api.list_repo_refs("acme/thing", repo_type=kind)
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", made.oid)]
    assert [row.title for row in api.list_repo_commits("acme/thing", repo_type=kind)] == [
        "First release",
        "initial commit",
    ]
    folder = Path(
        snapshot_download(
            "acme/thing", revision="v1", repo_type=kind, cache_dir=tmp_path / "c", endpoint=hub.url
        )
    )
    assert (folder / "model.safetensors").read_bytes() == weights
    assert (folder / "data/a.jsonl").read_bytes() == b"{}\n"
    info = api.repo_info("acme/thing", repo_type=kind, files_metadata=True)
    assert isinstance(info, ModelInfo | DatasetInfo)
    large = {file.rfilename: file.lfs.size for file in info.siblings or [] if file.lfs}
    assert large == {"model.safetensors": len(weights), "logs/rows.txt": 10 * 1024 * 1024 + 1}
    assert "logs/rows.txt filter=lfs" in (folder / ".gitattributes").read_text()
    assert info.card_data is not None
    assert info.card_data.license == "apache-2.0"
    rows = api.get_paths_info("acme/thing", ["data", "model.safetensors"], repo_type=kind)
    assert sorted(row.path for row in rows) == ["data", "model.safetensors"]
    assert api.file_exists("acme/thing", "data/a.jsonl", repo_type=kind)
    assert not api.file_exists("acme/thing", "data/b.jsonl", repo_type=kind)


def test_a_plain_git_clone_shows_pointers_and_the_tag(hub: RunningHub, tmp_path: Path) -> None:
    api = client(hub, hub.token("acme"))
    api.create_repo("acme/thing")
    weights = os.urandom(4096)
    made = api.create_commit("acme/thing", [add("m.safetensors", weights)], commit_message="one")
    api.create_tag("acme/thing", tag="v1", revision=made.oid)
    target = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", f"{hub.url}/acme/thing", str(target)], check=True)
    assert (
        (target / "m.safetensors")
        .read_text()
        .startswith("version https://git-lfs.github.com/spec/v1\noid sha256:")
    )
    tags = subprocess.run(
        ["git", "-C", str(target), "tag"], capture_output=True, text=True, check=True
    ).stdout
    assert tags == "v1\n"


def test_a_commit_on_a_parent_that_is_not_the_head_is_refused_and_changes_nothing(hub: RunningHub) -> None:
    api = client(hub, hub.token("acme"))
    api.create_repo("acme/thing")
    first = api.create_commit("acme/thing", [add("a", b"1")], commit_message="a")
    api.create_commit("acme/thing", [add("b", b"1")], commit_message="b", parent_commit=first.oid)
    with pytest.raises(HfHubHTTPError) as refusal:
        api.create_commit("acme/thing", [add("c", b"1")], commit_message="c", parent_commit=first.oid)
    assert refusal.value.response.status_code == 412
    assert sorted(api.list_repo_files("acme/thing")) == [".gitattributes", "a", "b"]


def test_a_tag_is_made_once(hub: RunningHub) -> None:
    api = client(hub, hub.token("acme"))
    api.create_repo("acme/thing")
    api.create_tag("acme/thing", tag="v1")
    with pytest.raises(HfHubHTTPError) as refusal:
        api.create_tag("acme/thing", tag="v1")
    assert refusal.value.response.status_code == 409
    api.create_tag("acme/thing", tag="v1", exist_ok=True)
    with pytest.raises(RevisionNotFoundError):
        api.create_tag("acme/thing", tag="v2", revision="nowhere")


def test_branches_and_deletions_work(hub: RunningHub) -> None:
    api = client(hub, hub.token("acme"))
    api.create_repo("acme/thing")
    api.create_branch("acme/thing", branch="candidate/one")
    api.create_commit(
        "acme/thing", [add("d/a", b"1"), add("b", b"2")], commit_message="x", revision="candidate/one"
    )
    api.create_commit(
        "acme/thing",
        [CommitOperationDelete("d/", is_folder=True)],
        commit_message="y",
        revision="candidate/one",
    )
    assert api.list_repo_files("acme/thing", revision="candidate/one") == [".gitattributes", "b"]
    assert api.list_repo_files("acme/thing") == [".gitattributes"]
    api.delete_branch("acme/thing", branch="candidate/one")
    assert [branch.name for branch in api.list_repo_refs("acme/thing").branches] == ["main"]


def test_a_file_that_did_not_change_is_not_sent_again(hub: RunningHub) -> None:
    api = client(hub, hub.token("acme"))
    api.create_repo("acme/thing")
    first = api.create_commit("acme/thing", [add("a.bin", b"\0" * 100), add("b", b"2")], commit_message="a")
    again = api.create_commit("acme/thing", [add("a.bin", b"\0" * 100), add("b", b"2")], commit_message="a")
    assert again.oid == first.oid


def test_a_token_reaches_as_far_as_it_says_and_no_farther(hub: RunningHub) -> None:
    owner, stranger = client(hub, hub.token("acme")), client(hub, hub.token("mallory"))
    reader = client(hub, hub.token("acme", "read"))
    owner.create_repo("acme/open")
    owner.create_repo("acme/closed", private=True)
    assert owner.whoami()["name"] == "acme"
    for api, status in (
        (client(hub, "hf_wrong"), 401),
        (stranger, 403),
        (reader, 403),
        (client(hub, False), 401),
    ):
        with pytest.raises(HfHubHTTPError) as refusal:
            api.create_commit("acme/open", [add("a", b"1")], commit_message="a")
        assert refusal.value.response.status_code == status
    assert reader.model_info("acme/closed").private is True
    for api in (stranger, client(hub, False)):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("acme/closed")
    with pytest.raises(HfHubHTTPError):
        stranger.create_repo("acme/another")
    with pytest.raises(HfHubHTTPError, match="already created"):
        owner.create_repo("acme/open")
    owner.create_repo("acme/open", exist_ok=True)
    assert [model.id for model in stranger.list_models(author="acme")] == ["acme/open"]


def test_only_the_admin_makes_tokens_and_publishers(hub: RunningHub) -> None:
    token = hub.token("acme")
    assert hub.post("/_sandbox/tokens", {"name": "x", "role": "admin"}, token).status_code == 403
    assert hub.post("/_sandbox/publishers", {}, token).status_code == 403
    assert hub.post("/_sandbox/tokens", {"name": "x", "role": "king"}).status_code == 422
    assert oct((hub.data / "admin-token").stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", ".git/config", "a//b", "a\n", "/etc/passwd", "a/.GIT/x"]
)
def test_a_path_that_leaves_the_repository_is_refused(hub: RunningHub, path: str) -> None:
    token = hub.token("acme")
    client(hub, token).create_repo("acme/thing")
    value = {"path": path, "content": "MQ==", "encoding": "base64"}
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "file", "value": value}]
    answer = httpx.post(
        f"{hub.url}/api/models/acme/thing/commit/main",
        content="\n".join(json.dumps(line) for line in lines),
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 400
    assert "not a file path" in answer.json()["error"]


def test_a_commit_that_the_hub_would_refuse_is_refused_and_changes_nothing(hub: RunningHub) -> None:
    token = hub.token("acme")
    api = client(hub, token)
    api.create_repo("acme/thing")
    head = str(api.model_info("acme/thing").sha)
    api.preupload_lfs_files("acme/thing", [stored := add("m.safetensors", b"\0" * 100)])
    oid = stored.upload_info.sha256.hex()

    def file(path: str, content: bytes) -> dict[str, object]:
        value = {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}
        return {"key": "file", "value": value}

    def commit(row: dict[str, object], **header: str) -> tuple[int, str]:
        lines = [{"key": "header", "value": {"summary": "x", **header}}, row]
        answer = httpx.post(
            f"{hub.url}/api/models/acme/thing/commit/main",
            content="\n".join(json.dumps(line) for line in lines),
            headers={"Authorization": f"Bearer {token}"},
        )
        return answer.status_code, answer.json().get("error", "")

    lfs = {"path": "m.safetensors", "algo": "sha256", "oid": oid, "size": 99}
    for row, header, part in (
        (file("large.txt", b"x" * (10 * 1024 * 1024 + 1)), {}, "larger than 10 MiB"),
        (file("README.md", b"---\ntags: lab\n---\n"), {}, '"tags" must be a list'),
        (file("a", b"1"), {"parentCommit": head[:1]}, "parentCommit"),
        ({"key": "lfsFile", "value": lfs}, {}, "has 100 bytes, not 99"),
    ):
        status, message = commit(row, **header)
        assert (status, part in message) == (400, True), message
    assert str(api.model_info("acme/thing").sha) == head
    assert commit(file("a", b"1"), parentCommit=head[:7])[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/models/acme/thing/preupload/main", {"files": 1}),
        ("/api/models/acme/thing/preupload/main", {"files": [{"path": "a"}]}),
        ("/api/models/acme/thing/preupload/main", {"files": [{"path": "a", "size": 1, "sample": "é"}]}),
        ("/api/models/acme/thing/paths-info/main", {"paths": None}),
        ("/acme/thing.git/info/lfs/objects/batch", {"operation": "upload", "objects": [None]}),
    ],
)
def test_a_body_of_another_shape_is_400(hub: RunningHub, path: str, body: dict[str, object]) -> None:
    token = hub.token("acme")
    client(hub, token).create_repo("acme/thing")
    answer = hub.post(path, body, token)
    assert (answer.status_code, "must be a list" in answer.text or "base64" in answer.text) == (400, True)


def test_an_upload_must_be_signed_and_must_have_the_announced_digest(hub: RunningHub) -> None:
    token = hub.token("acme")
    client(hub, token).create_repo("acme/thing")
    body: dict[str, object] = {"operation": "upload", "objects": [{"oid": "a" * 64, "size": 3}]}
    batch = hub.post("/acme/thing.git/info/lfs/objects/batch", body, token).json()
    href = batch["objects"][0]["actions"]["upload"]["href"]
    assert httpx.put(href, content=b"abc").status_code == 400
    assert httpx.put(href, content=b"abcd").status_code == 413
    assert httpx.put(href.replace("size=3", "size=4"), content=b"abcd").status_code == 403
    assert not list((hub.data / "repositories").rglob("*.partial"))


def test_a_card_that_is_not_yaml_is_refused_before_anything_is_sent(hub: RunningHub) -> None:
    api = client(hub, hub.token("acme"))
    api.create_repo("acme/thing")
    with pytest.raises(ValueError, match="not YAML"):
        api.create_commit("acme/thing", [add("README.md", b"---\na: [\n---\n")], commit_message="x")


def test_pages_show_the_card_the_files_and_the_tags_and_no_script(hub: RunningHub) -> None:
    api = client(hub, hub.token("acme"))
    api.create_repo("acme/thing")
    made = api.create_commit(
        "acme/thing", [add("README.md", CARD), add("x.bin", b"\0")], commit_message="<b>one</b>"
    )
    api.create_tag("acme/thing", tag="v1", revision=made.oid)
    with httpx.Client(base_url=hub.url, headers={"accept": "text/html"}) as browser:
        card = browser.get("/acme/thing")
        assert "<h1>A card</h1>" in card.text
        assert "<td>1</td>" in card.text
        assert "<details><summary>fold</summary>" in card.text
        for attack in ("<script", "alert(", "javascript:", "onclick"):
            assert attack not in card.text
        assert "default-src 'none'" in card.headers["content-security-policy"]
        for path in ("/", "/acme/thing/commits/main"):
            assert "&lt;b&gt;one&lt;/b&gt;" in browser.get(path).text
        files = browser.get("/acme/thing/tree/v1").text
        assert "<h1>A card</h1>" in files
        assert "x.bin" in files
        assert "v1" in files
        assert "# A card" in browser.get("/acme/thing/blob/main/README.md").text
        assert browser.get("/_static/style.css").status_code == 200
        missing = browser.get("/acme/nothing")
        assert missing.status_code in (401, 404)
        assert "Repository Not Found" in missing.text


def test_the_hub_remembers_everything_after_a_restart(hub: RunningHub, tmp_path: Path) -> None:
    token = hub.token("acme")
    client(hub, token).create_repo("acme/thing")
    client(hub, token).upload_file(path_or_fileobj=b"1", path_in_repo="a", repo_id="acme/thing")
    with running(hub.data) as again:
        got = hf_hub_download("acme/thing", "a", endpoint=again.url, cache_dir=tmp_path / "c", token=token)
        assert Path(got).read_bytes() == b"1"
        assert again.admin == hub.admin
