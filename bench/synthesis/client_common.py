"""What every client of this benchmark shares: the questions, and how processor time and memory are read."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILL = " ".join(f"background{number}" for number in range(75))
"""About 1 kB of text, constant, before the row's own number: a prompt with its few-shot part."""


def prompt(number: int) -> str:
    return f"{FILL}\n\nQuestion {number}: what is known about item {number}?"


def report(**found: object) -> None:
    """The one line that the driver reads."""
    sys.stdout.write("\nRESULT " + json.dumps(found) + "\n")
    sys.stdout.flush()


def cpu() -> float:
    """Seconds of processor time of this process and of its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What `work` gave, seconds by the clock, seconds of processor time."""
    before, started = cpu(), time.perf_counter()
    found = work()
    return found, time.perf_counter() - started, cpu() - before
