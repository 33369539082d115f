"""What an event is about: the same event has one name whatever delivery brings it, another event another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from bot.events import CheckEvent, CommentEvent, InstallationEvent, PullEvent, PullFacts, RunEvent, identity
from bot.store import Store

PULL = PullEvent(
    "synchronize",
    PullFacts(7, "acme/t", 1, 2, "a" * 40, "main", "main", "cleo", 3, "open", "2026-11-21T10:00:00Z"),
)
COMMENT = CommentEvent(7, "acme/t", 1, 2, 55, "/help", "2026-11-21T10:00:00Z", "mara", 4, "User")
CHECK = CheckEvent("requested_action", "preview", 9, 7, "acme/t", 1, 3, "a" * 40, "mara", 4, "User")
RUN = RunEvent("completed", 7, "acme/t", 1, 77, "release x", "completed", "success", "u", "workflow_dispatch")


def test_the_name_of_the_repository_and_the_text_are_not_part_of_it() -> None:
    assert identity(replace(COMMENT, repo="acme/renamed", body="/help\n")) == identity(COMMENT)
    assert identity(replace(RUN, repo="acme/renamed", title="another")) == identity(RUN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PULL, replace(PULL, action="closed")),
        (PULL, replace(PULL, pull=replace(PULL.pull, head="b" * 40))),
        (PULL, replace(PULL, pull=replace(PULL.pull, base_ref="next"))),
        (PULL, replace(PULL, pull=replace(PULL.pull, updated="2026-11-21T10:00:01Z"))),
        (COMMENT, replace(COMMENT, comment_id=56)),
        (COMMENT, replace(COMMENT, repo_id=8)),
        (CHECK, replace(CHECK, check_id=10)),
        (CHECK, replace(CHECK, identifier="retry")),
        (CHECK, replace(CHECK, user_id=5)),
        (RUN, replace(RUN, action="in_progress")),
        (RUN, replace(RUN, attempt=2)),
    ],
)
def test_what_is_another_event_has_another_name(one: PullEvent, other: PullEvent) -> None:
    assert identity(one) is not None
    assert identity(one) != identity(other)


def test_what_only_makes_the_bot_look_has_no_name() -> None:
    assert identity(InstallationEvent("created", 1)) is None


def test_the_first_holder_of_a_claim_keeps_it(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    assert store.claim("k", "first") == "first"
    assert store.claim("k", "second") == "first"
    assert store.claim("k", "first") == "first"
    store.close()


def test_an_older_database_gets_the_columns_that_are_new(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bot.sqlite'}"
    Store(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE releases DROP COLUMN asked")
        connection.exec_driver_sql("ALTER TABLE reviews DROP COLUMN preview_job")
        connection.exec_driver_sql(
            "INSERT INTO releases (key, repo_id, number, sha, base, state)"
            " VALUES ('k', 7, 2, 'a', 'b', 'queued')"
        )
    engine.dispose()
    store = Store(url)
    row = store.release("k")
    assert row is not None
    assert row["asked"] == 0
    store.close()
