"""Publish an assembled release: model repository, data set repository, GitHub release. Idempotent from end to
end.

    HF_ENDPOINT=... GITHUB_TOKEN=... treewright release --work WORK --publish --key KEY [--dry-run]

It trusts nothing but the folder's own lock, checked here again: the build ran elsewhere, without secrets.
Each step looks before it writes, so a second run changes nothing and a run that was killed is completed by
the next.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_runner.release.facts import RefusedError
from gpu_runner.release.github import GitHubReleases, Release, marker
from gpu_runner.release.hub import PublishError, Target, publish_repository
from gpu_runner.release.lock import LOCK, problems_of
from lab.contracts import file_digest, read_json, require, write_json

HUB = "https://huggingface.co"
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}")
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class PublishSettings:
    """Where to publish. `key` is the dispatch's; the same key finds the same release."""

    key: str
    endpoint: str
    api_url: str
    repository: str
    token: str
    dry_run: bool = False


def settings_from(env: Mapping[str, str], key: str, dry_run: bool = False) -> PublishSettings:
    """From a workflow's environment; PublishError names what is missing. A dry run needs no token."""
    if not KEY.fullmatch(key) or "--" in key:
        raise PublishError("--key takes letters, digits and . _ : / @ - (no two dashes), 200 at most")
    repository = env.get("GITHUB_REPOSITORY", "")
    token = env.get("GITHUB_TOKEN", "")
    if not REPOSITORY.fullmatch(repository):
        raise PublishError("set GITHUB_REPOSITORY to owner/name of the taxonomy")
    if not token and not dry_run:
        raise PublishError(
            "set GITHUB_TOKEN to a token that may write releases (permissions: contents: write)"
        )
    return PublishSettings(
        key=key,
        endpoint=(env.get("HF_ENDPOINT") or HUB).rstrip("/"),
        api_url=env.get("GITHUB_API_URL") or "https://api.github.com",
        repository=repository,
        token=token,
        dry_run=dry_run,
    )


def publish(
    folder: Path,
    settings: PublishSettings,
    say: Callable[[str], None],
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The final report. It is also written to `<folder>/../published/report.json`."""
    env = os.environ if env is None else env
    wrong = problems_of(folder)
    if wrong:
        raise RefusedError(f"{folder} is not published: {'; '.join(wrong[:5])}")
    lock = read_json(folder / LOCK, "release_lock")
    report: dict[str, Any] = read_json(folder / "report.json", "report")
    say(f"checked {len(lock['files'])} files against the lock of {lock['tag']}")
    digest = file_digest(folder / LOCK)
    targets = {
        kind: Target(kind, lock[kind], folder / kind, lock["tag"], digest) for kind in ("model", "dataset")
    }
    if settings.dry_run:
        for target in targets.values():
            size = sum(path.stat().st_size for path in target.folder.rglob("*") if path.is_file())
            say(f"would publish {target.resource} ({size:,} bytes) as {target.tag} to {settings.endpoint}")
        say(f"would make the release {lock['tag']} of {settings.repository} with {LOCK} and report.json")
        return report
    commit = lock["content"]["taxonomy"]["head"]
    with GitHubReleases(settings.api_url, settings.repository, settings.token) as github:
        github.ours(lock["tag"], commit, (folder / LOCK).read_bytes())  # a tag that is taken, before all else
    for kind, target in targets.items():
        revision = publish_repository(target, settings.endpoint, env, say)
        report[kind] = {"id": target.id, "url": target.page(settings.endpoint), "revision": revision}
    report["key"] = settings.key
    require("report", report, "the final report")
    published = folder.parent / "published"
    write_json(published / "report.json", report)
    release = Release(
        tag=lock["tag"],
        commit=commit,
        name=f"{lock['model'].split('/')[-1]} {lock['tag']}",
        body=(folder / "notes.md").read_text("utf-8") + _where(report),
        marker=marker(settings.key),
        assets={
            LOCK: (folder / LOCK).read_bytes(),
            "report.json": (published / "report.json").read_bytes(),
        },
    )
    with GitHubReleases(settings.api_url, settings.repository, settings.token) as github:
        page = github.publish(release, say)
    say(f"released: {page}")
    return report


def _where(report: Mapping[str, Any]) -> str:
    lines = [
        f"- {name}: [{report[kind]['id']}](<{report[kind]['url']}>) at `{report[kind]['revision']}`"
        for name, kind in (("Model", "model"), ("Data set", "dataset"))
    ]
    return "\n### Where it is\n\n" + "\n".join(lines) + "\n"
