"""Treewright's engine on the same questions: `Engine.stream`, one request a row, every answer stored.

client_treewright.py URL ROWS IN_FLIGHT STORE [ATTEMPTS]
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from client_common import measured, peak_mib, prompt, report, rss_mib

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.synthesis.endpoints import Endpoint
from lab.synthesis.engine import Answer, Engine, EngineSettings, Request


async def engine(url: str, rows: int, width: int, store: Path, settings: EngineSettings) -> dict[str, float]:
    endpoint = Endpoint("teacher", url, "bench", "r1")
    params = {"max_tokens": 64, "temperature": 0}
    requests = (
        Request(endpoint, [{"role": "user", "content": prompt(number)}], params, "document")
        for number in range(rows)
    )
    good, seen = 0, 0
    async with Engine(store, in_flight=width, settings=settings) as engine:
        async for _, found in engine.stream(requests):
            good += isinstance(found, Answer)
            seen += 1
        counters = engine.counters
        return {
            "rows": good,
            "seen": seen,
            "sent": counters.sent,
            "cached": counters.cached,
            "retried": counters.retried,
            "peak": counters.peak_in_flight,
        }


if __name__ == "__main__":
    address, count, wide, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    quick = EngineSettings(attempts=int(sys.argv[5]) if len(sys.argv) > 5 else 5, backoff_seconds=0.05)
    found, wall, used = measured(lambda: asyncio.run(engine(address, count, wide, Path(place), quick)))
    report(**found, wall=wall, cpu=used, peak_mib=peak_mib(), rss_mib=rss_mib())
