"""Shards on a local Ray cluster of several simulated nodes: the same rows, whatever happens to a node."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_runner.generate import leaf_rows
from gpu_runner.ray_executor import RayExecutor, Shard, cut, run_shard, version
from lab.synthesis.answers import StoreError
from lab.synthesis.endpoints import EndpointError
from lab.synthesis.engine import Engine, EngineSettings
from lab.synthesis.executor import Drive, Executor, InProcess, Job, LeafRows
from lab.synthesis.flow import load_flow
from lab.synthesis.items import Example, Task
from lab.synthesis.run import count_rows
from tests.lab.synthesis.helpers import Model, model

DRIVE = Drive(12, 24, EngineSettings(attempts=2, backoff_seconds=0.01))


def rule(body: dict[str, Any]) -> str | int:
    """A task and its answer, told apart by the prompt alone, so that every executor gets the same."""
    if body.get("max_tokens") == 1:
        return "Yes"
    mark = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    words = " ".join(f"thing{mark[at : at + 4]}" for at in range(0, 24, 4))
    return f"Explain how {words} belong together."


def jobs(leaves: int = 9) -> list[Job]:
    flow = load_flow("freeform_skill")
    made = []
    for leaf in range(leaves):
        examples = tuple(
            Example(seed, f"How does part {leaf}-{seed} of a loom work?", f"Part {seed} lifts warp {leaf}.")
            for seed in range(3)
        )
        task = Task(
            leaf=f"compositional_skills/loom_{leaf}",
            kind="freeform_skill",
            leaf_digest="sha256:" + f"{leaf:064x}",
            description=f"Explain looms of kind {leaf}.",
            examples=examples,
            passages=(),
            heldout=(),
            rows=6,
            tries=6,
            commit="0" * 40,
        )
        made.append(Job(leaf, task, flow, count_rows(flow, task)))
    return made


def run(executor: Executor, store: Path, found: Model, work: list[Job]) -> Any:
    async def inner() -> tuple[dict[int, LeafRows], list[str], Engine]:
        rows: dict[int, LeafRows] = {}
        ticks: list[str] = []
        async with Engine(store, DRIVE.in_flight, DRIVE.engine) as engine:
            await executor.run(
                work, engine, found.endpoints(), DRIVE, rows.__setitem__, lambda leaf, _: ticks.append(leaf)
            )
        return rows, ticks, engine

    return inner()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head that works not, and two nodes that do."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray writes a token under the home directory
    patch.setenv("RAY_raylet_start_wait_time_s", "180")  # a busy machine starts nodes slowly
    ray = pytest.importorskip("ray", reason="the extra `scale` is not installed")
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True, connect=False, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        made.add_node(num_cpus=1)
    ray.init(address=made.address, namespace="treewright", log_to_driver=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        patch.undo()


def test_shards_are_runs_of_neighbours_and_hold_every_leaf_once() -> None:
    every = jobs(9)
    for shards in (1, 2, 4, 9, 30):
        parts = cut(every, shards)
        assert [job.index for part in parts for job in part] == list(range(9))
        assert len(parts) == min(shards, 9)
        sizes = [sum(job.size for job in part) for part in parts]
        assert max(sizes) - min(sizes) <= 2 * every[0].size
    assert cut([], 4) == []


def test_a_shard_of_another_version_is_refused() -> None:
    shard = Shard(tuple(jobs(1)), {}, DRIVE, leaf_rows, "treewright 0.0.0, python 2.7")
    with pytest.raises(StoreError, match=r"install the same on every node"):
        run_shard(shard, None)
    assert "treewright" in version()


def test_ray_gives_the_rows_of_one_process_and_a_second_run_asks_nothing(
    cluster: Any, tmp_path: Path
) -> None:
    async def inner() -> None:
        async with model(rule) as found:
            alone, ticks, _ = await run(InProcess(leaf_rows), tmp_path / "a.sqlite", found, jobs())
            asked = len(found.asked)
            spread, told, engine = await run(
                RayExecutor(leaf_rows, tmp_path / "b.sqlite", 5), tmp_path / "b.sqlite", found, jobs()
            )
            assert spread == alone
            assert sum(len(rows.samples) for rows in alone.values()) > 9
            assert sorted(told) == sorted(ticks)
            assert len(found.asked) == 2 * asked
            assert engine.counters.sent == asked
            again, _, engine = await run(
                RayExecutor(leaf_rows, tmp_path / "a.sqlite"), tmp_path / "a.sqlite", found, jobs()
            )
            assert again == alone
            assert len(found.asked) == 2 * asked
            assert (engine.counters.sent, engine.counters.cached) == (0, asked)

    asyncio.run(inner())


def test_an_endpoint_that_is_down_ends_a_run_on_ray_with_the_same_error(cluster: Any, tmp_path: Path) -> None:
    dead = Model("http://127.0.0.1:1/v1")
    with pytest.raises(EndpointError, match="TREEWRIGHT_TEACHER_URL"):
        asyncio.run(run(RayExecutor(leaf_rows, tmp_path / "s", 2), tmp_path / "s", dead, jobs(2)))


def test_a_node_that_is_killed_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    async def inner() -> None:
        async with model(rule, delay=0.03) as found:
            alone, _, _ = await run(InProcess(leaf_rows), tmp_path / "a.sqlite", found, jobs())
            asked = len(found.asked)
            doomed = cluster.add_node(num_cpus=1)

            async def kill() -> None:
                await found.reached(asked + asked // 3)
                await asyncio.to_thread(cluster.remove_node, doomed, allow_graceful=False)

            killing = asyncio.create_task(kill())
            spread, _, _ = await run(
                RayExecutor(leaf_rows, tmp_path / "b.sqlite", 9), tmp_path / "b.sqlite", found, jobs()
            )
            await killing
            assert spread == alone
            again = len(found.asked) - 2 * asked
            assert 0 <= again <= DRIVE.in_flight, "more was asked again than was in flight"

    asyncio.run(inner())
