"""The true yield of every shipped flow on the small embedded model: knowledge, freeform, grounded,
foundational.

    nice python bench/synthesis/yield.py [--rows 6] [--presets lab,compact] [--work FOLDER] [--json FILE]

Starts the embedded model itself (no network), runs each leaf of the example taxonomy through its flow with
the model as teacher and as judge, and prints a table: rows asked for, tries, rows delivered, requests,
seconds, and the reasons of the rejections. The embedded model has 135 million parameters; the LAB flows are
written for teachers a hundred times larger, so their yield here says what the checks and judges let
through, not what the method can do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_runner.serving import ServeSettings, serve
from lab.synthesis.endpoints import Endpoint
from lab.synthesis.engine import Engine
from lab.synthesis.flow import load_flow
from lab.synthesis.heldout import split
from lab.synthesis.leaf import LeafResult, make_task, synthesize
from lab.taxonomy.chunks import chunk
from lab.taxonomy.documents import SourceDocument
from lab.taxonomy.leaf import load_leaf
from lab.taxonomy.tree import FolderTree

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LEAVES = {
    "knowledge": (EXAMPLES / "contributions" / "good", "knowledge/geography/farne_mora"),
    "freeform skill": (EXAMPLES / "taxonomy", "compositional_skills/writing/plain_words"),
    "grounded skill": (EXAMPLES / "taxonomy", "compositional_skills/grounded/extraction/shopping_lists"),
    "foundational skill": (EXAMPLES / "taxonomy", "foundational_skills/arithmetic/counting_change"),
}
DOCUMENT = EXAMPLES / "documents" / "farne_mora" / "field_guide.md"


async def one(
    name: str, preset: str, rows: int, rounds: int, engine: Engine, url: str, model: str
) -> LeafResult:
    tree, path = LEAVES[name]
    leaf = load_leaf(FolderTree(tree), path)
    text = DOCUMENT.read_text("utf-8")
    pieces = chunk(SourceDocument("farne_mora/field_guide.md", text, "sha256:" + "1" * 64))
    passages = pieces if leaf.kind == "knowledge" else ()
    task = make_task(leaf, split(leaf, 0.5, 42), passages, rows)
    endpoints = {role: Endpoint(role, url, model, "embedded") for role in ("teacher", "judge", "student")}
    flow = load_flow(leaf.kind, preset)
    return await synthesize(task, engine, endpoints, flow=replace(flow, rounds=min(rounds, flow.rounds)))


async def measure(arguments: argparse.Namespace, url: str, model: str, work: Path) -> list[dict[str, Any]]:
    found = []
    for preset in arguments.presets.split(","):
        for name in LEAVES:
            async with Engine(work / f"{preset}-{name.split()[0]}.sqlite", in_flight=8) as engine:
                started = time.monotonic()
                result = await one(name, preset, arguments.rows, arguments.rounds, engine, url, model)
                found.append(
                    {
                        "flow": result.flow.name,
                        "leaf": name,
                        "wanted": arguments.rows,
                        "tried": result.asked,
                        "kept": len(result.kept),
                        "rows": dict(sorted(Counter(row["dataset"] for row in result.samples).items())),
                        "requests": engine.counters.sent,
                        "seconds": round(time.monotonic() - started, 1),
                        "rejected": dict(Counter(row.reason for row in result.rejected).most_common()),
                        "why": result.why,
                        "ledger": [row.to_json() for row in result.rejected],
                        "samples": list(result.samples),
                    }
                )
                print(_line(found[-1]), flush=True)
    return found


def _line(row: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in row["rejected"].items()) or "none"
    cells = [
        row["flow"],
        row["leaf"],
        row["wanted"],
        row["tried"],
        row["kept"],
        row["requests"],
        row["seconds"],
        reasons,
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=6, help="rows asked for, for each leaf")
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds at most; the flows' own limits hold as well"
    )
    parser.add_argument("--presets", default="lab,compact", help="which sets of flows")
    parser.add_argument("--work", type=Path, help="folder for stored answers, to go on after an interruption")
    parser.add_argument("--json", type=Path, help="write everything, rejected rows too, as JSON")
    arguments = parser.parse_args()
    print("| flow | leaf | wanted | tried | kept | requests | seconds | rejected |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as scratch, serve(settings=ServeSettings(threads=2)) as served:
        work = arguments.work or Path(scratch)
        found = asyncio.run(measure(arguments, served.url, served.model, work))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
