"""A pull request's life on the forge: forked, pushed, synchronized, talked about, merged. Real Git, real
clients.
"""

from __future__ import annotations

from typing import Any

import pytest
from forge_world import World, commit, git
from github import GithubException


def test_a_fork_pushed_over_http_becomes_a_pull_request_with_its_real_diff(world: World) -> None:
    pull = world.contribute()
    files = list(world.github(world.ada).get_repo("acme/taxonomy").get_pull(1).get_files())
    assert [(f.filename, f.status, f.additions) for f in files] == [("knowledge/new/qna.yaml", "added", 2)]
    assert files[0].patch == "@@ -0,0 +1,2 @@\n+version: 3\n+task: new"
    assert (pull.changed_files, pull.commits) == (1, 1)
    assert [c.commit.message for c in pull.get_commits()] == ["Add topic"]
    assert "pull_request.opened" in world.heard()
    opened = world.receiver.payload("pull_request.opened")
    assert opened["number"] == 1
    assert opened["pull_request"]["head"]["label"] == "grace:topic"
    assert opened["organization"]["login"] == "acme"
    assert opened["installation"]["id"] == world.app.installation.id


def test_the_head_of_a_fork_is_fetched_from_the_base_by_pull_ref_and_by_sha(world: World) -> None:
    pull = world.contribute()
    target = world.folder / "ci"
    git("init", "-q", str(target))
    url = f"{world.running.url}/acme/taxonomy.git"
    git("-C", str(target), "fetch", "-q", url, "refs/pull/1/head")
    assert git("-C", str(target), "rev-parse", "FETCH_HEAD").stdout.strip() == pull.head.sha
    partial = world.folder / "partial"
    git("init", "-q", str(partial))
    git("-C", str(partial), "fetch", "-q", "--depth=1", "--filter=blob:none", url, pull.head.sha)


def test_a_push_to_the_head_synchronizes_the_pull_request(world: World) -> None:
    pull = world.contribute()
    work = world.folder / "fork"
    sha = commit(work, {"knowledge/new/qna.yaml": "version: 3\ntask: better\n"}, "Mend it")
    git("-C", str(work), "push", "-q", "origin", "topic")
    assert "pull_request.synchronize" in world.heard()
    said = world.receiver.payload("pull_request.synchronize")
    assert (said["before"], said["after"]) == (pull.head.sha, sha)
    assert world.github(world.ada).get_repo("acme/taxonomy").get_pull(1).head.sha == sha


def test_a_large_push_in_chunks_arrives_whole(world: World) -> None:
    work = world.clone(world.ada, "acme/taxonomy", "large")
    noise = "".join(f"{n * 2654435761 % 2**32:08x}" for n in range(300_000))
    sha = commit(work, {"documents/large.txt": noise}, "Add a large document")
    git("-C", str(work), "-c", "http.postBuffer=65536", "push", "-q", "origin", "main")
    assert world.github(world.ada).get_repo("acme/taxonomy").get_branch("main").commit.sha == sha
    pushed = [name for name in world.heard() if name == "push"]
    assert pushed == ["push"]
    assert world.receiver.payload("push")["head_commit"]["added"] == ["documents/large.txt"]


def test_a_contributor_cannot_push_to_the_base_nor_anybody_into_pull_refs(world: World) -> None:
    world.contribute()
    work = world.folder / "fork"
    refused = git("-C", str(work), "push", world.url(world.grace, "acme/taxonomy"), "topic:main", check=False)
    assert refused.returncode != 0
    assert "403" in refused.stderr
    wrong = git("-C", str(work), "push", world.url("ghp_wrong", "acme/taxonomy"), "topic:main", check=False)
    assert wrong.returncode != 0
    hidden = git(
        "-C", str(work), "push", "-f", world.url(world.ada, "acme/taxonomy"), "topic:refs/pull/1/head",
        check=False,
    )  # fmt: skip
    assert hidden.returncode != 0
    assert "push" not in world.heard()


def test_merge_takes_the_sha_that_was_read_and_no_other(world: World) -> None:
    pull = world.contribute()
    work = world.folder / "fork"
    commit(work, {"knowledge/new/qna.yaml": "version: 3\ntask: sneaked in\n"}, "After approval")
    git("-C", str(work), "push", "-q", "origin", "topic")
    repo = world.bot().get_repo("acme/taxonomy")
    with pytest.raises(GithubException) as refused:
        repo.get_pull(1).merge(sha=pull.head.sha)
    assert refused.value.status == 409
    now = repo.get_pull(1)
    merged = now.merge(sha=now.head.sha)
    assert merged.merged
    tip = repo.get_branch("main").commit
    assert tip.sha == merged.sha
    assert [parent.sha for parent in tip.parents][1] == now.head.sha
    assert world.heard()[-2:] == ["pull_request.closed", "push"]
    closed = world.receiver.payload("pull_request.closed")
    assert closed["pull_request"]["merged"] is True
    assert closed["pull_request"]["merge_commit_sha"] == merged.sha
    assert closed["sender"]["login"] == "treewright[bot]"
    again = repo.get_pull(1)
    assert (again.state, again.merged, again.changed_files) == ("closed", True, 1)
    with pytest.raises(GithubException) as twice:
        again.merge()
    assert twice.value.status == 405


def test_a_squash_makes_one_commit_with_one_parent(world: World) -> None:
    world.contribute()
    repo = world.github(world.ada).get_repo("acme/taxonomy")
    before = repo.get_branch("main").commit.sha
    merged = repo.get_pull(1).merge(merge_method="squash", commit_title="Add the leaf")
    tip = repo.get_commit(merged.sha)
    assert [parent.sha for parent in tip.parents] == [before]
    assert tip.commit.message.startswith("Add the leaf")
    assert [f.filename for f in tip.files] == ["knowledge/new/qna.yaml"]


def test_a_conflict_is_not_mergeable(world: World) -> None:
    world.contribute(text="version: 3\ntask: one\n")
    work = world.clone(world.ada, "acme/taxonomy", "ada")
    commit(work, {"knowledge/new/qna.yaml": "version: 3\ntask: other\n"}, "Take the path")
    git("-C", str(work), "push", "-q", "origin", "main")
    pull = world.github(world.ada).get_repo("acme/taxonomy").get_pull(1)
    assert pull.mergeable is False
    with pytest.raises(GithubException) as refused:
        pull.merge()
    assert refused.value.status == 405


def test_whether_it_can_be_merged_is_found_out_later_and_the_test_merge_is_no_merge(world: World) -> None:
    pull = world.contribute()
    assert (pull.mergeable, pull.mergeable_state, pull.merge_commit_sha) == (None, "unknown", None)
    repo = world.github(world.ada).get_repo("acme/taxonomy")
    seen = repo.get_pull(1)
    assert (seen.mergeable, seen.mergeable_state, seen.merged) == (True, "clean", False)
    tried = repo.get_commit(seen.merge_commit_sha)
    assert [parent.sha for parent in tried.parents] == [repo.get_branch("main").commit.sha, pull.head.sha]
    assert repo.get_pull(1).merge_commit_sha == seen.merge_commit_sha
    assert seen.merge().sha != seen.merge_commit_sha


def test_an_app_merges_no_workflow_file_without_the_permission_for_it(world: World) -> None:
    world.contribute()
    work, path = world.folder / "fork", ".github/workflows/release.yml"
    commit(work, {path: "on: push\njobs: {}\n"}, "Add a workflow")
    git("-C", str(work), "push", "-q", "origin", "topic")
    bot = world.bot().get_repo("acme/taxonomy")
    refusals = (lambda: bot.get_pull(1).merge(), lambda: bot.create_file(path, "Add", "jobs: {}"))
    for refused in refusals:
        with pytest.raises(GithubException) as said:
            refused()
        assert said.value.status == 403
        assert f"create or update workflow `{path}` without `workflows`" in str(said.value.data)
    assert world.github(world.ada).get_repo("acme/taxonomy").get_pull(1).merge().merged


def test_a_merge_method_that_is_none_is_422_and_one_that_is_off_is_405(world: World) -> None:
    world.contribute()
    http = world.http(world.bot_token())
    for method, status in (("octopus", 422), ("rebase", 405)):
        answer = http.put("/repos/acme/taxonomy/pulls/1/merge", json={"merge_method": method})
        assert answer.status_code == status


def test_the_labels_of_one_who_may_not_label_are_dropped(world: World) -> None:
    world.contribute()
    url = "/repos/acme/taxonomy/issues/1"
    by_author = world.http(world.grace).patch(url, json={"title": "Mine", "labels": ["treewright: ready"]})
    assert (by_author.json()["title"], by_author.json()["labels"]) == ("Mine", [])
    assert world.http(world.ada).patch(url, json={"labels": ["fine"]}).json()["labels"][0]["name"] == "fine"


def test_a_large_file_is_read_raw_only(world: World) -> None:
    work = world.clone(world.ada, "acme/taxonomy", "large")
    commit(work, {"large.txt": "x" * (1024 * 1024 + 1)}, "Add a large file")
    git("-C", str(work), "push", "-q", "origin", "main")
    http, url = world.http(world.bot_token()), "/repos/acme/taxonomy/contents/large.txt"
    shown = http.get(url).json()
    assert (shown["encoding"], shown["content"]) == ("none", "")
    raw = http.get(url, headers={"Accept": "application/vnd.github.raw+json"})
    assert len(raw.content) == 1024 * 1024 + 1


def test_a_contributor_may_not_merge(world: World) -> None:
    pull = world.contribute()
    with pytest.raises(GithubException) as refused:
        pull.merge()
    assert refused.value.status == 403


def test_comments_reactions_and_labels_tell_the_app(world: World) -> None:
    world.contribute()
    mine = world.github(world.grace).get_repo("acme/taxonomy").get_issue(1)
    comment = mine.create_comment("/preview please")
    bot = world.bot().get_repo("acme/taxonomy")
    bot.get_issue(1).get_comment(comment.id).create_reaction("eyes")
    assert [r.content for r in comment.get_reactions()] == ["eyes"]
    bot.get_issue(1).get_comment(comment.id).delete_reaction(next(iter(comment.get_reactions())).id)
    assert list(comment.get_reactions()) == []
    answer = bot.get_issue(1).create_comment("Working on it.")
    answer.edit("Done.")
    assert [c.body for c in mine.get_comments()] == ["/preview please", "Done."]
    assert [c.user.login for c in mine.get_comments()] == ["grace", "treewright[bot]"]
    bot.get_issue(1).add_to_labels("leaf: valid", "bug")
    bot.get_issue(1).remove_from_labels("bug")
    assert [label.name for label in bot.get_pull(1).labels] == ["leaf: valid"]
    comment.delete()
    said = [name for name in world.heard() if not name.startswith(("ping", "installation"))]
    assert said == [
        "pull_request.opened", "issue_comment.created", "issue_comment.created", "issue_comment.edited",
        "pull_request.labeled", "pull_request.labeled", "pull_request.unlabeled", "issue_comment.deleted",
    ]  # fmt: skip
    created = world.receiver.payload("issue_comment.created")
    assert created["issue"]["pull_request"]["url"].endswith("/repos/acme/taxonomy/pulls/1")
    assert world.receiver.payload("issue_comment.edited")["changes"] == {"body": {"from": "Working on it."}}


def test_close_reopen_and_edit_are_told(world: World) -> None:
    pull = world.contribute()
    pull.edit(title="A better title")
    pull.edit(state="closed")
    pull.edit(state="open")
    assert world.heard()[-3:] == ["pull_request.edited", "pull_request.closed", "pull_request.reopened"]
    listed = world.github(world.ada).get_repo("acme/taxonomy").get_pulls(state="open", head="grace:topic")
    assert [p.title for p in listed] == ["A better title"]


def test_a_comment_too_long_and_an_empty_one_are_refused(world: World) -> None:
    world.contribute()
    http = world.http(world.grace)
    for body in ("x" * 65537, "  "):
        answer = http.post("/repos/acme/taxonomy/issues/1/comments", json={"body": body})
        assert answer.status_code == 422
        assert answer.json()["message"] == "Validation Failed"


@pytest.mark.parametrize(
    ("head", "base"),
    [("grace:nowhere", "main"), ("nobody:topic", "main"), ("grace:topic", "--help"), ("grace:../x", "main")],
)
def test_a_pull_request_needs_branches_that_exist(world: World, head: str, base: str) -> None:
    world.contribute()
    answer = world.http(world.grace).post(
        "/repos/acme/taxonomy/pulls", json={"head": head, "base": base, "title": "x"}
    )
    assert answer.status_code == 422


def test_contents_refs_compare_and_statuses_read_the_repository(world: World) -> None:
    world.contribute()
    repo = world.bot().get_repo("acme/taxonomy")
    head = repo.get_pull(1).head.sha
    assert repo.get_contents("knowledge/new/qna.yaml", ref=head).decoded_content == b"version: 3\ntask: new\n"
    assert [item.name for item in repo.get_contents("knowledge", ref="main")] == ["old"]
    assert repo.get_git_ref("heads/main").object.sha == repo.get_branch("main").commit.sha
    span = repo.compare("main", head)
    assert (span.status, span.ahead_by, [f.filename for f in span.files]) == (
        "ahead", 1, ["knowledge/new/qna.yaml"])  # fmt: skip
    repo.get_commit(head).create_status("success", context="treewright/lint", description="fine")
    combined = repo.get_commit(head).get_combined_status()
    assert (combined.state, combined.statuses[0].context) == ("success", "treewright/lint")
    created: Any = repo.create_git_ref("refs/heads/release-1", head)
    assert repo.get_branch("release-1").commit.sha == created.object.sha
    with pytest.raises(GithubException) as missing:
        repo.get_contents("no/such/file", ref="main")
    assert missing.value.status == 404
