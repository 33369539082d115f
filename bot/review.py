"""A head of a pull request: lint it, compare it, preview it, and show all of that.

Nothing of a head is run. A newer head ends this work at the next look, its checks are concluded as cancelled,
and nothing more is written for it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bot import audit, budgets, config_review, labels, metrics, publish, suggestions
from bot.services import CONFIG, Services, SupersededError, Trees, default_config, open_trees
from bot.store import Pull
from lab.contracts import digest
from lab.report import checks
from lab.synthesis.endpoints import EndpointError, endpoints_from_environment
from lab.taxonomy.chunks import cut
from lab.taxonomy.cost import cost
from lab.taxonomy.diff import TreeDiff, diff
from lab.taxonomy.document_limits import mirrors_from_environment
from lab.taxonomy.documents import DocumentError, fetch_documents
from lab.taxonomy.leaf import LeafError, load_leaf
from lab.taxonomy.lint import LintReport, lint
from lab.taxonomy.pinned import Fetch, document_findings
from lab.taxonomy.sizes import ESTIMATE, Tokens
from lab.taxonomy.tokenizer import TokenizerError, teacher_tokens

if TYPE_CHECKING:
    from lab.synthesis.preview import Preview

Outcome = Literal["ok", "red", "superseded", "failed", "cancelled", "skipped"]
T = TypeVar("T")
MOST_SAMPLES = 50
MOST_PRICED = 100  # leaves of one pull request whose cost is worked out
_LOOK_SECONDS = 0.5


class CancelledError(Exception):
    """Somebody commented `/cancel`."""


class PreviewTroubleError(Exception):
    """The preview cannot be made; the text says why, for people."""


# --- lint
# ----------------------------------------------------------------------------------------------------------


def lint_head(services: Services, repo_id: int, number: int, head: str, job: str) -> Outcome:
    """Lint one head and show the result. Safe to repeat: the same `job` writes the same check."""
    external = f"lint:{job}"
    pull = services.pull(repo_id, number)
    begun = False
    try:
        pull = services.refresh(pull)
        services.still(pull, head)
        start = checks.running(checks.LINT, "Checking", "The validator reads the changed files.")
        if not publish.concluded(services, pull, external):
            publish.check(services, pull, head, external, start)
        begun = True
        trees = open_trees(services, pull, head)
        report, changes = read_head(trees)
        services.still(pull, head)
        remember(services, pull, trees, report, changes)
        config_review.remember(services, pull, head, trees, changes)
        labels.configure(services, pull, trees.config.pull_requests)
        publish.check(
            services, pull, head, external, checks.lint_check(publish.view_of(services, pull, head))
        )
        services.still(pull, head)
        _price(services, pull, head, trees, changes)
        publish.comment(services, pull)
        suggestions.offer(services, pull, head, trees, report.findings)
    except SupersededError:
        if begun:
            conclude(services, pull, head, external, checks.LINT)
        return "superseded"
    audit.note(
        "linted", repo=pull.repo, number=number, head=head, ok=report.ok, findings=len(report.findings)
    )
    return "ok" if report.ok else "red"


def read_head(trees: Trees) -> tuple[LintReport, TreeDiff]:
    """What the validator says about the changed files, and how the leaves differ from where the head
    branched off.
    """
    changes = diff(trees.base, trees.head)
    report = lint(trees.head, trees.config, only=set(changes.paths), tokens=_tokens())
    if CONFIG in changes.paths or not trees.config_findings:
        return report, changes
    # A broken configuration on the default branch is nobody's fault here, but it must not pass in silence.
    softened = tuple(type(one)(**{**asdict(one), "severity": "warning"}) for one in trees.config_findings)
    return type(report)(findings=report.findings + softened, files=report.files), changes


def _tokens() -> Tokens:
    """As the operator has it counted; a file that went bad since the start must not stop every lint."""
    try:
        return teacher_tokens(os.environ)
    except TokenizerError as error:
        audit.trouble("the tokenizer cannot be read", error=str(error))
        return ESTIMATE


def _price(services: Services, pull: Pull, head: str, trees: Trees, changes: TreeDiff) -> None:
    """Keep what the change costs. It stands beside the verdict, so no trouble with it stops a lint."""
    from lab.taxonomy.tree import GitTree

    known = services.store.review(pull, head)["lint"]
    if not known["ok"] or len(changes.leaves) > MOST_PRICED:
        return
    try:
        with GitTree(trees.mirror.git_dir, f"refs/heads/{pull.default_branch}") as settings:
            price = cost(changes, trees.head, trees.config, tokens=_tokens(), settings=settings).to_json()
    except Exception as error:
        audit.trouble("a cost could not be told", repo=pull.repo, number=pull.number, error=str(error)[:500])
        return
    services.store.update_review(pull, head, lint={**known, "cost": price})


def remember(services: Services, pull: Pull, trees: Trees, report: LintReport, changes: TreeDiff) -> None:
    rows = [asdict(one) for one in sorted(report.findings)]
    leaves = [asdict(change) for change in changes.leaves]
    known = services.store.review(pull, trees_head(trees, pull))
    teaches = set(previewable(changes))
    # A lint that runs again keeps the preview of the same head: the same objects give the same samples. With
    # another base (retargeted, or moved) the head may teach leaves that nobody has seen a sample of.
    state = known["preview_state"] if known["preview_state"] in {"done", "failed"} else "none"
    if state == "done" and {leaf["leaf"] for leaf in known["preview"]["leaves"]} != teaches:
        state = "none"
    if report.ok and not teaches:
        state = "empty"
    services.store.update_review(
        pull,
        trees_head(trees, pull),
        base=trees.base_sha,
        lint={"ok": report.ok, "files": report.files, "findings": rows},
        diff=leaves,
        preview_state=state,
        preview=known["preview"] if state == "done" else None,
        preview_digest=known["preview_digest"] or (digest(leaves) if state == "empty" else ""),
        trouble=known["trouble"] if state == "failed" else "",
    )


def trees_head(trees: Trees, pull: Pull) -> str:
    return trees.mirror.commit(f"refs/pull/{pull.number}/head")


def previewable(changes: TreeDiff) -> list[str]:
    """Leaves of which a model would learn something else: new, moved, or with other content."""
    return [change.path for change in changes.leaves if change.teaches]


def conclude(services: Services, pull: Pull, head: str, external: str, name: str) -> None:
    """A newer head came: say so in the check of the old one, and nowhere else."""
    publish.check(services, pull, head, external, checks.superseded(name))


# --- preview
# -------------------------------------------------------------------------------------------------------


def preview_head(
    services: Services, repo_id: int, number: int, head: str, job: str, size: int | None
) -> Outcome:
    """Preview the leaves of one head and show what came out, also when it is only why nothing came out."""
    external = f"preview:{job}"
    pull = services.pull(repo_id, number)
    started = time.time()
    try:
        pull = services.still(services.refresh(pull), head)
        review = services.store.review(pull, head)
        if pull.held_by or not publish.lint_ok(review) or review["preview_state"] == "empty":
            return "skipped"
        # After a crash between the samples and their showing, what is made is not made again.
        outcome: Outcome = "ok" if review["preview_state"] == "done" else "failed"
        if review["preview_job"] != job:
            services.store.update_review(pull, head, preview_state="running", trouble="")
            start = checks.running(checks.PREVIEW, "Previewing", "The teacher writes a few samples.")
            publish.check(services, pull, head, external, start)
            publish.comment(services, pull)
            outcome = _preview_and_keep(services, pull, head, job, started, size)
        services.still(pull, head)
        publish.check(
            services, pull, head, external, checks.preview_check(publish.view_of(services, pull, head))
        )
        services.still(pull, head)
        publish.comment(services, pull)
    except SupersededError:
        conclude(services, pull, head, external, checks.PREVIEW)
        return "superseded"
    audit.note("previewed", repo=pull.repo, number=number, head=head, outcome=outcome)
    return outcome


def _preview_and_keep(
    services: Services, pull: Pull, head: str, job: str, started: float, size: int | None
) -> Outcome:
    def keep(**values: object) -> None:
        services.store.update_review(pull, head, preview_job=job, **values)

    try:
        made = _make_preview(services, pull, head, started, size)
    except CancelledError:
        keep(preview_state="failed", trouble="it was cancelled by a comment.", preview=None)
        return "cancelled"
    except PreviewTroubleError as error:
        keep(preview_state="failed", trouble=str(error), preview=None)
        return "failed"
    keep(preview_state="done", preview=made.to_json(), preview_digest=made.digest, trouble="")
    return "ok"


def _make_preview(services: Services, pull: Pull, head: str, started: float, size: int | None) -> Preview:
    # Only workers that preview need the model client; the web starts without it.
    from lab.synthesis.engine import Engine
    from lab.synthesis.flow import FlowError
    from lab.synthesis.flow_files import benchmark_of, flows_of
    from lab.synthesis.preview import preview
    from lab.taxonomy.tree import GitTree

    trees = open_trees(services, pull, head)
    config = trees.config
    if size is not None:
        wanted = min(size, MOST_SAMPLES)
        config = replace(config, preview=replace(config.preview, samples=wanted))
    try:
        models = {role: getattr(config.models, role) for role in ("teacher", "judge", "student")}
        endpoints = endpoints_from_environment(models, os.environ)
        leaves = [load_leaf(trees.head, path) for path in previewable(diff(trees.base, trees.head))]
        # Of the default branch, as the configuration is: a pull request cannot change how it is judged.
        with GitTree(trees.mirror.git_dir, f"refs/heads/{pull.default_branch}") as settings:
            flows, benchmark = flows_of(config, settings), benchmark_of(config, settings)
        tokens = teacher_tokens(os.environ)
        fetch = _fetcher(services, trees)
        texts = {leaf.path: fetch(leaf.document) if leaf.document else [] for leaf in leaves}
    except (EndpointError, DocumentError, LeafError, FlowError, TokenizerError) as error:
        raise PreviewTroubleError(str(error)) from error
    _hold_against_documents(services, pull, head, trees, [leaf.path for leaf in leaves])
    documents = {
        path: [piece for text in found for piece in cut(text, tokens)] for path, found in texts.items()
    }

    async def run() -> Preview:
        async with Engine(services.settings.data / "answers.sqlite") as engine:
            work = preview(leaves, documents, config, engine, endpoints, lambda *_: None, flows, benchmark)
            try:
                return await _watched(services, pull, head, started, work)
            finally:
                metrics.asked(engine.counters.prompt_tokens, engine.counters.tokens)

    return asyncio.run(run())


def _fetcher(services: Services, trees: Trees) -> Fetch:
    mirrors = mirrors_from_environment(os.environ)
    cache = services.settings.data / "documents"
    return lambda ref: fetch_documents(ref, cache, trees.config.documents, mirrors)


def _hold_against_documents(
    services: Services, pull: Pull, head: str, trees: Trees, folders: list[str]
) -> None:
    """Add to the head's findings what only its documents can tell, such as a context that is in none of them.

    Raises `PreviewTroubleError` where the repository's settings call such a finding an error.
    """
    found = document_findings(trees.head, folders, trees.config, _fetcher(services, trees))
    known = services.store.review(pull, head)["lint"]
    rows = [asdict(one) for one in sorted(found)]
    more = [row for row in rows if row not in known["findings"]]
    services.store.update_review(pull, head, lint={**known, "findings": [*known["findings"], *more]})
    errors = [one for one in found if one.severity == "error"]
    if errors:
        raise PreviewTroubleError(f"{errors[0].file}:{errors[0].line}: {errors[0].message} {errors[0].help}")


async def _watched(services: Services, pull: Pull, head: str, started: float, work: Awaitable[T]) -> T:
    """`work`, given up as soon as a newer head came or somebody cancelled."""
    task = asyncio.ensure_future(work)
    while True:
        done, _ = await asyncio.wait({task}, timeout=_LOOK_SECONDS)
        if done:
            return await task
        try:
            now = services.still(pull, head)
            if now.cancelled > started:
                raise CancelledError
        except BaseException:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise


def wants_preview(
    services: Services,
    repo_id: int,
    number: int,
    head: str,
    again: bool,
    asked_by: str,
    user_id: int,
    job: str,
) -> bool:
    """Whether a preview follows. `again`: a command asked for it, and its budget was looked at there."""
    pull = services.pull(repo_id, number)
    seen = services.store.review(pull, head)
    if pull.head != head or pull.held_by or not publish.lint_ok(seen) or seen["preview_state"] == "empty":
        return False
    if not again:
        if seen["preview_state"] == "done":
            return False
        config = default_config(services, pull)
        why = budgets.refusal(services.store, pull.repo_id, asked_by, user_id, config.budgets, job)
        if why is not None:
            services.store.update_review(pull, head, preview_state="failed", trouble=why)
            publish.comment(services, pull)
            return False
    services.store.note_preview(pull, job, asked_by, user_id)
    return True


def give_up(services: Services, repo_id: int, number: int, head: str, job: str, reason: str) -> None:
    """Work on a head failed for good: say so where people look, with what to do; leave no check spinning."""
    pull = services.pull(repo_id, number)
    for name, external in ((checks.LINT, f"lint:{job}"), (checks.PREVIEW, f"preview:{job}")):
        known_check = services.store.written(f"{pull.key}:check:{external}")
        if known_check is not None and not known_check["digest"].endswith(publish.FINAL):
            publish.check(services, pull, head, external, checks.stopped(name, reason))
    if pull.head != head:
        return
    known: Mapping[str, Any] = services.store.review(pull, head)
    state = "failed" if publish.lint_ok(known) and known["preview_state"] == "running" else None
    values = {"trouble": reason, **({"preview_state": state} if state else {})}
    services.store.update_review(pull, head, **values)
    publish.comment(services, pull)
