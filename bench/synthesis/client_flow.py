"""Whole flows of Treewright: the compact knowledge flow (a question by the teacher, nine checks, a round trip
by the judge, a filter) on leaves that are made up here.

    run      URL JUDGE_URL LEAVES ROWS STORE         every leaf, by the product's executor
    barrier  URL JUDGE_URL LEAVES ROWS STORE         the same cells, each for all rows before the next one
    edit     URL JUDGE_URL LEAVES ROWS STORE         again with one seed of one leaf changed
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from client_common import measured, peak_mib, report

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gpu_runner.generate import leaf_rows
from lab.contracts import digest
from lab.synthesis.cells import Cells, RejectedError, Row
from lab.synthesis.endpoints import Endpoint
from lab.synthesis.engine import Engine, EngineSettings
from lab.synthesis.executor import Drive, InProcess, Job, LeafRows
from lab.synthesis.flow import load_flow
from lab.synthesis.items import Example, Task
from lab.synthesis.run import count_rows
from lab.synthesis.units import units
from lab.taxonomy.chunks import Chunk

WIDTH = 64
FLOW = load_flow("knowledge")
SYLLABLES = ("ba", "den", "fir", "gol", "hem", "jar", "kel", "lom", "mar", "nor", "pel", "quin", "ros", "sut")


def name(draw: random.Random) -> str:
    return "".join(draw.choice(SYLLABLES) for _ in range(3)).capitalize()


def sentence(draw: random.Random) -> str:
    return draw.choice(
        [
            f"The lighthouse {name(draw)} stands on the island of {name(draw)} beside {name(draw)}.",
            f"In {draw.randint(1600, 1990)} the engineer {name(draw)} built the bridge {name(draw)} there.",
            f"Keeper {name(draw)} counted {draw.randint(3, 900)} seals near the rock called {name(draw)}.",
            f"The ferry {name(draw)} carries wool and salt from {name(draw)} to the market of {name(draw)}.",
        ]
    )


def task(number: int, rows: int) -> Task:
    """A leaf with a document of eight chunks and five seeds, a function of its number alone."""
    draw = random.Random(number)
    passages = tuple(
        Chunk(
            id=digest([number, index]),
            document=digest(["document", number]),
            heading=f"Part {index}",
            text=" ".join(sentence(draw) for _ in range(7)),
            index=index,
        )
        for index in range(8)
    )
    examples = tuple(
        Example(seed, f"What is told of {name(draw)}?", sentence(draw), None) for seed in range(5)
    )
    return Task(
        leaf=f"knowledge/islands/island_{number}",
        kind="knowledge",
        leaf_digest=digest(["leaf", number]),
        description="An island.",
        examples=examples,
        passages=passages,
        heldout=(),
        rows=rows,
        tries=rows,
        commit="0" * 40,
    )


def jobs(leaves: int, rows: int, edited: int | None = None) -> Iterator[Job]:
    for number in range(leaves):
        made = task(number, rows)
        if number == edited:
            first = replace(made.examples[0], question=f"Who wrote of {name(random.Random(-1))}?")
            made = replace(made, examples=(first, *made.examples[1:]), leaf_digest=digest(["edited", number]))
        yield Job(number, made, FLOW, count_rows(FLOW, made))


def endpoints(url: str, judge: str) -> dict[str, Endpoint]:
    places = {"teacher": url, "judge": judge, "student": url}
    return {role: Endpoint(role, place, "bench", "r1") for role, place in places.items()}


async def run(
    url: str, judge: str, leaves: int, rows: int, store: Path, edited: int | None = None
) -> tuple[dict[str, object], dict[int, str]]:
    found = {"asked": 0, "samples": 0, "rejected": 0}
    digests: dict[int, str] = {}

    def take(index: int, made: LeafRows) -> None:
        found["asked"] += made.numbers["asked"]
        found["samples"] += len(made.samples)
        found["rejected"] += len(made.rejections)
        plain = [{**row, "lineage": {**row["lineage"], "leaf_digest": ""}} for row in made.samples]
        digests[index] = digest(plain)

    settings = EngineSettings(attempts=3, backoff_seconds=0.05)
    async with Engine(store, WIDTH, settings) as engine:
        await InProcess(leaf_rows).run(
            jobs(leaves, rows, edited),
            engine,
            endpoints(url, judge),
            Drive(WIDTH, 4 * WIDTH, settings),
            take,
            lambda leaf, what: None,
        )
        return {**found, "sent": engine.counters.sent, "cached": engine.counters.cached}, digests


async def barrier(url: str, judge: str, leaves: int, rows: int, store: Path) -> dict[str, object]:
    settings = EngineSettings(attempts=3, backoff_seconds=0.05)
    done = lost = 0
    async with Engine(store, WIDTH, settings) as engine:
        live: list[tuple[Cells, Row]] = []
        for job in jobs(leaves, rows):
            cells = Cells(job.flow, job.task, engine, endpoints(url, judge))
            for unit in units(job.flow, job.task, 0, None):
                for number, way in enumerate(unit.values["ways"]):
                    values = {**unit.values, "way": way}
                    live.append((cells, Row(unit, (unit.order, number), values, done=frozenset({"way"}))))
        for cell in FLOW.cells[1:]:
            results = await asyncio.gather(
                *(cells.step(cell, row) for cells, row in live), return_exceptions=True
            )
            kept = []
            for (cells, _), result in zip(live, results, strict=True):
                if isinstance(result, Row):
                    kept.append((cells, result))
                elif isinstance(result, RejectedError):
                    lost += 1
                else:
                    raise result
            live = kept
        done = len(live)
        return {"asked": done + lost, "samples": done, "rejected": lost, "sent": engine.counters.sent}


def main(mode: str, url: str, judge: str, leaves: int, rows: int, store: Path) -> dict[str, object]:
    if mode == "barrier":
        return asyncio.run(barrier(url, judge, leaves, rows, store))
    if mode == "run":
        return asyncio.run(run(url, judge, leaves, rows, store))[0]
    before, first = asyncio.run(run(url, judge, leaves, rows, store))
    after, second = asyncio.run(run(url, judge, leaves, rows, store, edited=leaves // 2))
    changed = [index for index in first if first[index] != second[index]]
    return {
        **before,
        "sent_again": after["sent"],
        "cached_again": after["cached"],
        "changed_leaves": changed,
        "edited": leaves // 2,
    }


if __name__ == "__main__":
    mode, teacher, judge_url = sys.argv[1:4]
    found, wall, used = measured(
        lambda: main(mode, teacher, judge_url, int(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6]))
    )
    report(**found, wall=wall, cpu=used, peak_mib=peak_mib())
