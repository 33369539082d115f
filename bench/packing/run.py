"""Packing inside one effective batch, beside instructlab-training's, on the same batches in one run.

    .venv/bin/python bench/packing/run.py                    # about a minute, most of it for the peer's numba
    .venv/bin/python bench/packing/run.py --offline --batches 3   # ours alone

For every mix of lengths (`lengths.py`), batch size and number of ranks:

- excess: micro-steps over the lower bound `ceil(tokens / (capacity * ranks))`, summed over the batches;
- efficiency: tokens / (ranks * the longest pack of each micro-step): what share of the time ranks do not
  wait for each other, where time goes with tokens;
- time: CPU milliseconds for one plan (the peer makes the plan once in every rank; one rank's is shown).

The peer is installed from PyPI into an environment in a temporary folder, without its dependencies but numba
and numpy. Both packers' plans are checked: every row once, no pack above its capacity.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEER = "instructlab-training==0.16.2"
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(HERE))

from lengths import CAPACITY, MIXES, lengths  # noqa: E402 - the path is set first

from gpu_runner.tune.packing import pack  # noqa: E402 - the path is set first

Plan = list[list[Sequence[int]]]  # [micro-step][rank]


@dataclass
class Tally:
    bound: int = 0
    steps: int = 0
    tokens: int = 0
    room: int = 0
    milliseconds: list[float] = field(default_factory=list)

    def add(self, rows: Sequence[int], ranks: int, plan: Plan, seconds: float) -> None:
        loads = [[sum(rows[position] for position in one) for one in step] for step in plan]
        seen = sorted(position for step in plan for one in step for position in one)
        assert seen == list(range(len(rows))), "a row is missing or doubled"
        assert max(map(max, loads)) <= CAPACITY, "a pack is too full"
        self.bound += -(-sum(rows) // (CAPACITY * ranks))
        self.steps += len(plan)
        self.tokens += sum(rows)
        self.room += ranks * sum(map(max, loads))
        self.milliseconds.append(seconds * 1000)

    def cells(self) -> list[str]:
        return [
            f"{100 * (self.steps / self.bound - 1):.2f} %",
            f"{self.tokens / self.room:.4f}",
            f"{max(self.milliseconds):.1f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batches", type=int, default=20, help="batches a cell")
    parser.add_argument("--offline", action="store_true", help="without the peer")
    parser.add_argument("--quick", action="store_true", help="two batches a cell, without the peer")
    given = parser.parse_args()
    if given.quick:
        given.batches, given.offline = 2, True
    load = os.getloadavg()[0]
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, load {load:.1f}, capacity {CAPACITY}")
    cases = [(mix, size, ranks) for size in (128, 3840) for ranks in (1, 8) for mix in MIXES]
    ours = {case: Tally() for case in cases}
    theirs = {case: Tally() for case in cases}
    work = [(case, lengths(case[0], case[1], seed)) for case in cases for seed in range(given.batches)]
    for case, rows in work:
        began = time.process_time()
        plan = pack(rows, CAPACITY, case[2])
        ours[case].add(rows, case[2], [list(step) for step in plan], time.process_time() - began)
    if not given.offline:
        for (case, rows), (plan_, seconds) in zip(work, _peer(work), strict=True):
            theirs[case].add(rows, case[2], plan_, seconds)
    head = ["rows", "ranks", "mix", "excess", "efficiency", "max ms"]
    head += [] if given.offline else ["peer's excess", "efficiency", "max ms"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for case in cases:
        cells = [f"{case[1]:,}", str(case[2]), case[0], *ours[case].cells()]
        print("| " + " | ".join(cells + ([] if given.offline else theirs[case].cells())) + " |")
    for size, limit in ((128, 0.03), (3840, 0.01)):
        chosen = [ours[case] for case in cases if case[1] == size]
        excess = sum(one.steps for one in chosen) / sum(one.bound for one in chosen) - 1
        print(f"{size:,} rows: {100 * excess:.2f} % over the bound (at most {100 * limit:.0f} % wanted)")
    spread = min(ours[case].tokens / ours[case].room for case in cases if case[2] == 8)
    slowest = max(max(one.milliseconds) for one in ours.values())
    print(
        f"8 ranks: efficiency at least {spread:.4f} (0.98 wanted); slowest plan {slowest:.1f} ms (50 wanted)"
    )


def _peer(work: Sequence[tuple[tuple[str, int, int], list[int]]]) -> Iterator[tuple[Plan, float]]:
    with tempfile.TemporaryDirectory(prefix="treewright-bench-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "numba", "numpy"], check=True)
        subprocess.run([*pip, "--no-deps", PEER], check=True)
        listed = [str(python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
        versions = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
        print("peer:", ", ".join(one for one in versions if one.startswith(("instructlab", "num"))))
        lines = "".join(
            json.dumps({"lengths": rows, "capacity": CAPACITY, "ranks": case[2]}) + "\n"
            for case, rows in work
        )
        done = subprocess.run(
            [str(python), str(HERE / "peer.py")], input=lines, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            value = json.loads(line)
            ranks = value["plans"]
            plan = [
                [[position for position in one if position >= 0] for one in step]
                for step in zip(*ranks, strict=True)
            ]
            yield plan, value["seconds"]


if __name__ == "__main__":
    main()
