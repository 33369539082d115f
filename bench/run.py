"""Runs the benchmarks one after the other and says which of them ran through.

    make bench                                      every folder's run.py with --quick
    make bench BENCH=learning BENCH_ARGS=           one of them, full size
    .venv/bin/python bench/run.py [NAME ...] [-- ARGUMENTS FOR EACH]

A benchmark is a folder here with a `run.py` that takes `--quick` and ends with 0 when it measured what it is
for. One at a time: two would measure each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(given: Sequence[str]) -> int:
    at = given.index("--") if "--" in given else len(given)
    there = sorted(path.parent.name for path in HERE.glob("*/run.py"))
    names, arguments = list(given[:at]) or there, list(given[at + 1 :])
    unknown = [name for name in names if name not in there]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(there)}", file=sys.stderr)
        return 2
    rows = []
    for name in names:
        print(f"\n== {name} {' '.join(arguments)}", flush=True)
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(HERE / name / "run.py"), *arguments],
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
            check=False,
        )
        rows.append((name, time.monotonic() - started, done.returncode))
    print("\n" + "\n".join(f"{name:<10} {seconds:6.0f} s  {_said(status)}" for name, seconds, status in rows))
    return 1 if any(status for *_, status in rows) else 0


def _said(status: int) -> str:
    return "ran through" if status == 0 else f"FAILED with status {status}, see above"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
