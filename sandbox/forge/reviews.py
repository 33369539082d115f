"""Reviews of a pull request: comments on lines of its diff, and where these lines are after the next push.

As on GitHub, a comment stands on a line that the pull request's diff shows (changed lines and three around
them), is refused anywhere else, moves with its line, and is outdated once that line was changed or is not in
the diff any more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.forge import events, pulls, views, views_reviews
from sandbox.forge.git import BareRepo
from sandbox.forge.records import Pull, Repo, Review, ReviewComment
from sandbox.forge.state import Forge, InvalidError

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
STATES = {"COMMENT": "COMMENTED", "APPROVE": "APPROVED", "REQUEST_CHANGES": "CHANGES_REQUESTED"}


class OutsideError(ValueError):
    """The line is not part of the pull request's diff: GitHub's 422."""


@dataclass(frozen=True)
class Place:
    """A line of a diff: which hunk shows it, its `position` in the file's patch, and the hunk up to it."""

    hunk: int
    position: int
    shown: str


@dataclass(frozen=True)
class Draft:
    """A comment as somebody sends it. `line` is the last one, of the side that `side` names."""

    path: str
    body: str
    line: int
    side: str = "RIGHT"
    start_line: int | None = None


def places(patch: str) -> dict[tuple[str, int], Place]:
    """Every (side, line) that a file's patch shows."""
    found: dict[tuple[str, int], Place] = {}
    hunk, old, new = 0, 0, 0
    shown: list[str] = []
    for position, raw in enumerate(patch.split("\n")):
        match = HUNK.match(raw)
        if match:
            hunk, old, new, shown = hunk + 1, int(match[1]), int(match[3]), []
        shown.append(raw)
        if match or raw.startswith("\\"):
            continue
        place = Place(hunk, position, "\n".join([shown[0], *shown[1:][-8:]]))
        if not raw.startswith("-"):
            found["RIGHT", new] = place
        if not raw.startswith("+"):
            found["LEFT", old] = place
        new += not raw.startswith("-")
        old += not raw.startswith("+")
    return found


_PLACES: dict[tuple[str, ...], Mapping[str, Mapping[tuple[str, int], Place]]] = {}


def diff_places(
    forge: Forge, repo: Repo, pull: Pull, commit: str
) -> Mapping[str, Mapping[tuple[str, int], Place]]:
    """By path: what the diff from where the pull request branched off to `commit` shows."""
    git = forge.git(repo)
    base = git.merge_base(pull.base_sha, commit) or pull.base_sha
    key = (str(git.path), base, commit)
    if key not in _PLACES:
        if len(_PLACES) > 200:
            _PLACES.clear()
        changes = git.changes(base, commit)
        _PLACES[key] = {change.path: places(change.patch) for change in changes if change.patch}
    return _PLACES[key]


def check_place(forge: Forge, repo: Repo, pull: Pull, commit: str, draft: Draft) -> None:
    """Raises `OutsideError` when the diff does not show every line of the comment in one hunk."""
    shown = diff_places(forge, repo, pull, commit).get(draft.path)
    if shown is None:
        raise OutsideError("Path could not be resolved")
    last = shown.get((draft.side, draft.line))
    if last is None:
        raise OutsideError("Line could not be resolved")
    if draft.start_line is None:
        return
    first = shown.get((draft.side, draft.start_line))
    if first is None or draft.start_line >= draft.line:
        raise OutsideError("Start line must precede the end line.")
    if first.hunk != last.hunk:
        raise OutsideError("Start line and line must be part of the same hunk.")


def known_commit(forge: Forge, repo: Repo, pull: Pull, sha: str) -> bool:
    return sha == pull.head_sha or any(sha == commit.sha for commit in pulls.commits(forge, repo, pull))


def lines_now(forge: Forge, repo: Repo, pull: Pull, item: ReviewComment) -> tuple[int | None, int | None]:
    """(first line or None, line) of a comment in the newest head; line None: it is outdated."""
    if item.side == "LEFT":
        outdated = item.commit != pull.head_sha
        return (None, None) if outdated else (item.start_line, item.line)
    first = item.start_line or item.line
    moved = _moved(forge.git(repo), item.commit, pull.head_sha, item.path, first, item.line)
    shown = diff_places(forge, repo, pull, pull.head_sha).get(item.path, {})
    if moved is None or ("RIGHT", item.line + moved) not in shown:
        return None, None
    start = None if item.start_line is None else item.start_line + moved
    return start, item.line + moved


_MOVES: dict[tuple[str, str, str, str], tuple[tuple[int, int, int], ...] | None] = {}


def _moved(git: BareRepo, old: str, new: str, path: str, first: int, last: int) -> int | None:
    """By how many lines `first` to `last` moved from one commit to another; None when one of them changed."""
    if old == new:
        return 0
    key = (str(git.path), old, new, path)
    if key not in _MOVES:
        if len(_MOVES) > 2000:
            _MOVES.clear()
        _MOVES[key] = _hunks(git, old, new, path)
    hunks = _MOVES[key]
    if hunks is None:
        return None
    by = 0
    for start, removed, added in hunks:
        if removed and start <= last and first < start + removed:
            return None
        # A hunk that removes nothing puts lines in after line `start`, which pushes what is below.
        if not removed and first <= start < last:
            return None
        if start + removed <= first if removed else start < first:
            by += added - removed
    return by


def _hunks(git: BareRepo, old: str, new: str, path: str) -> tuple[tuple[int, int, int], ...] | None:
    if git.entry(new, path) is None:
        return None
    done = git.attempt("diff", "-U0", "--no-color", "--no-ext-diff", "--no-textconv", old, new, "--", path)
    if done.returncode != 0:
        return None
    found = []
    for line in done.stdout.decode("utf-8", "replace").split("\n"):
        match = HUNK.match(line)
        if match:
            removed, added = (int(match[n] if match[n] is not None else 1) for n in (2, 4))
            found.append((int(match[1]), removed, added))
    return tuple(found)


def submit(
    forge: Forge,
    repo: Repo,
    pull: Pull,
    login: str,
    app: int | None,
    *,
    event: str,
    body: str,
    commit: str,
    drafts: list[Draft],
) -> Review:
    """A whole review or nothing. Raises `OutsideError`, `InvalidError`."""
    with forge.lock:
        if event not in STATES:
            raise InvalidError("This forge has no pending reviews; send an event.", "PullRequestReview")
        if event != "COMMENT" and login == pull.login:
            raise InvalidError("Can not approve your own pull request", "PullRequestReview")
        if not body.strip() and (event == "REQUEST_CHANGES" or (event == "COMMENT" and not drafts)):
            raise InvalidError("A review needs a body or comments.", "PullRequestReview", "body")
        if not known_commit(forge, repo, pull, commit):
            raise InvalidError("commit_id is not part of the pull request", "PullRequestReview", "commit_id")
        for draft in drafts:
            check_place(forge, repo, pull, commit, draft)
        now = forge.now()
        made = forge.reviews.put(
            Review(forge.next_id(), repo.id, pull.number, login, body, STATES[event], commit, now, app)
        )
        _touch(forge, pull, now)
        shown = views_reviews.review(forge, repo, pull, made)
        tell(forge, repo, pull, "pull_request_review", "submitted", {"review": shown}, login)
        for draft in drafts:
            add(forge, repo, pull, made, draft)
        return made


def add(
    forge: Forge, repo: Repo, pull: Pull, review: Review, draft: Draft, reply_to: int | None = None
) -> ReviewComment:
    now = forge.now()
    made = forge.review_comments.put(
        ReviewComment(
            forge.next_id(), repo.id, pull.number, review.id, review.login, draft.body, draft.path,
            review.commit, draft.line, draft.side, draft.start_line, now, now, reply_to, review.app,
        )
    )  # fmt: skip
    tell_comment(forge, repo, pull, made, "created", review.login)
    return made


def remove(forge: Forge, repo: Repo, pull: Pull, item: ReviewComment, sender: str) -> None:
    """Takes a comment away; a review of which nothing is left goes with its last comment."""
    with forge.lock:
        shown = views_reviews.comment(forge, repo, pull, item)
        forge.review_comments.remove(item.id)
        review = forge.reviews.get(item.review)
        left = any(other.review == item.review for other in forge.review_comments)
        if review is not None and not left and not review.body.strip():
            forge.reviews.remove(review.id)
        tell(forge, repo, pull, "pull_request_review_comment", "deleted", {"comment": shown}, sender)


def tell_comment(
    forge: Forge, repo: Repo, pull: Pull, item: ReviewComment, action: str, sender: str, was: str = ""
) -> None:
    extra = {"changes": {"body": {"from": was}}} if action == "edited" else {}
    shown = views_reviews.comment(forge, repo, pull, item)
    tell(forge, repo, pull, "pull_request_review_comment", action, {"comment": shown, **extra}, sender)


def tell(
    forge: Forge, repo: Repo, pull: Pull, event: str, action: str, body: dict[str, object], sender: str
) -> None:
    body = {"pull_request": views.pull_simple(forge, repo, pull), **body}
    events.emit(forge, repo, event, action, body, sender)


@dataclass(frozen=True)
class Remark:
    """A review comment as the pages show it."""

    item: ReviewComment
    line: int | None
    start_line: int | None

    @property
    def outdated(self) -> bool:
        return self.line is None


def remarks(forge: Forge, repo: Repo, pull: Pull) -> list[Remark]:
    found = []
    for item in forge.review_comments:
        if (item.repo, item.number) == (repo.id, pull.number):
            start, line = lines_now(forge, repo, pull, item)
            found.append(Remark(item, line, start))
    return found


def _touch(forge: Forge, pull: Pull, now: str) -> None:
    pull.updated_at = now
    forge.pulls.put(pull)
