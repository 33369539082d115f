"""The floor: C coroutines over one aiohttp session, nothing kept, nothing checked."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
from client_common import measured, peak_mib, prompt, report


async def main(url: str, rows: int, width: int) -> int:
    numbers = iter(range(rows))
    good = 0

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal good
        for number in numbers:
            body = {
                "model": "bench",
                "messages": [{"role": "user", "content": prompt(number)}],
                "max_tokens": 64,
                "temperature": 0,
            }
            async with session.post(f"{url}/chat/completions", json=body) as response:
                value = await response.json()
            good += "choices" in value

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(worker(session) for _ in range(width)))
    return good


if __name__ == "__main__":
    address, count, wide = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    good, wall, used = measured(lambda: asyncio.run(main(address, count, wide)))
    report(rows=good, wall=wall, cpu=used, peak_mib=peak_mib(), version=aiohttp.__version__)
