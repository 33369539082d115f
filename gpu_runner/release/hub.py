"""One repository on the Hub: look, one atomic commit of every file, one tag. Safe to run again after any
interruption.

The identity is HF_TOKEN when it is set; else huggingface_hub itself exchanges the workflow's OIDC identity
for a one-hour token that may write to this one repository (`HF_OIDC_RESOURCE`, see its `_oidc.py`).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_runner.release.lock import LOCK
from lab.contracts import file_digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TRIES = 4
COMMITS_LOOKED_AT = 100
KEPT = ".gitattributes"  # the Hub's own file


class PublishError(RuntimeError):
    """Publishing cannot go on; the message says why and what to do. Running again is always safe."""


@dataclass(frozen=True)
class Target:
    """One repository of the release; `kind` is the Hub's repository type."""

    kind: str
    id: str
    folder: Path
    tag: str
    lock_digest: str

    @property
    def resource(self) -> str:
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def page(self, endpoint: str) -> str:
        return f"{endpoint}/{self.resource}/tree/{self.tag}"


@contextmanager
def signed_in(resource: str, endpoint: str, env: Mapping[str, str]) -> Iterator[HfApi]:
    """A client of the Hub that may write to `resource`.

    huggingface_hub reads the resource from the process environment each time it needs a token, and exchanges
    a fresh one before the hour is over; so the variable stays set while the client is in use, and is put back
    afterwards.
    """
    from huggingface_hub import HfApi

    token = env.get("HF_TOKEN")
    if token:
        yield HfApi(endpoint=endpoint, token=token, library_name="treewright")
        return
    if not (env.get("ACTIONS_ID_TOKEN_REQUEST_URL") or env.get("HF_OIDC_ID_TOKEN")):
        raise PublishError(
            "there is no identity for the Hub: give the job `permissions: id-token: write` and register "
            "this workflow as a "
            f"trusted publisher of {resource}, or set HF_TOKEN"
        )
    before = os.environ.get("HF_OIDC_RESOURCE")
    os.environ["HF_OIDC_RESOURCE"] = resource
    try:
        yield HfApi(endpoint=endpoint, library_name="treewright")
    finally:
        if before is None:
            del os.environ["HF_OIDC_RESOURCE"]
        else:
            os.environ["HF_OIDC_RESOURCE"] = before


def publish_repository(
    target: Target, endpoint: str, env: Mapping[str, str], say: Callable[[str], None]
) -> str:
    """Commit and tag what is not there yet; returns the released commit. Somebody else's commit meanwhile
    (412), a Hub that is busy or an answer that was lost is no end: each try looks before it writes."""
    import httpx2
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OIDCError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    for attempt in range(TRIES):
        try:
            with signed_in(target.resource, endpoint, env) as api:
                return _publish(api, target, say)
        except RepositoryNotFoundError as error:
            raise PublishError(
                f"{target.resource} is not on {endpoint}, or this identity cannot see it: create it once by "
                "hand (a workflow's token creates nothing) and register the workflow as its trusted publisher"
            ) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, OIDCError, httpx2.HTTPError) as error:
            passing = isinstance(error, LocalEntryNotFoundError | httpx2.TransportError) or (
                isinstance(error, HfHubHTTPError)
                and (error.response.status_code in (412, 429) or error.response.status_code >= 500)
            )
            if not passing or attempt + 1 == TRIES:
                raise PublishError(f"{target.resource}: {_first_lines(error)}") from error
            say(f"{target.resource}: {_first_lines(error)}; looking again")
            time.sleep(2**attempt)
    raise AssertionError("the last try returns or raises")


def _publish(api: HfApi, target: Target, say: Callable[[str], None]) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    refs = api.list_repo_refs(target.id, repo_type=target.kind)
    tagged = {ref.name: ref.target_commit for ref in refs.tags}
    if target.tag in tagged:
        _require_ours(api, target, tagged[target.tag])
        say(f"{target.resource}: tag {target.tag} is there already")
        return tagged[target.tag]
    head = next((ref.target_commit for ref in refs.branches if ref.name == "main"), None)
    revision = _committed(api, target)
    if revision is None:
        revision = _commit(api, target, head, say)
    else:
        say(f"{target.resource}: the commit {revision[:12]} is there already")
    try:
        api.create_tag(
            target.id,
            tag=target.tag,
            tag_message=f"Release {target.tag}\n\nLock: {target.lock_digest}",
            revision=revision,
            repo_type=target.kind,
        )
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        _require_ours(api, target, target.tag)  # another run of the same release was faster
    say(f"{target.resource}: tagged {target.tag}")
    return revision


def _commit(api: HfApi, target: Target, head: str | None, say: Callable[[str], None]) -> str:
    """One commit on `head` that leaves exactly this release's files in the repository."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = sorted(path for path in target.folder.rglob("*") if path.is_file())
    names = {path.relative_to(target.folder).as_posix(): path for path in files}
    present = api.list_repo_files(target.id, repo_type=target.kind, revision=head) if head else []
    gone = [name for name in present if name not in names and name != KEPT]
    operations: list[Any] = [CommitOperationAdd(name, path) for name, path in names.items()]
    operations += [CommitOperationDelete(name) for name in gone]
    say(
        f"{target.resource}: sending {len(names)} files, {sum(path.stat().st_size for path in files):,} bytes"
    )
    made = api.create_commit(
        target.id,
        operations,
        commit_message=f"Release {target.tag}",
        commit_description=f"Lock: {target.lock_digest}",
        repo_type=target.kind,
        parent_commit=head,
    )
    say(f"{target.resource}: committed {made.oid[:12]}")
    return str(made.oid)


def _committed(api: HfApi, target: Target) -> str | None:
    """The commit of this very release, when an earlier run was stopped between commit and tag."""
    for commit in api.list_repo_commits(target.id, repo_type=target.kind)[:COMMITS_LOOKED_AT]:
        if f"Lock: {target.lock_digest}" in commit.message.splitlines() and _lock_at(
            api, target, commit.commit_id
        ):
            return commit.commit_id
    return None


def _require_ours(api: HfApi, target: Target, revision: str) -> None:
    if not _lock_at(api, target, revision):
        raise PublishError(
            f"{target.resource} has a tag {target.tag} already, of another release: a tag is never moved. "
            "Assemble "
            "again with another --tag"
        )


def _lock_at(api: HfApi, target: Target, revision: str) -> bool:
    """Whether the repository holds this release's lock, byte for byte, at that revision."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with tempfile.TemporaryDirectory(prefix="treewright-lock-") as folder:
        try:
            path = api.hf_hub_download(
                target.id, LOCK, repo_type=target.kind, revision=revision, local_dir=folder
            )
        except RemoteEntryNotFoundError:  # only this one says that there is none
            return False
        return file_digest(Path(path)) == target.lock_digest


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:600]
