"""How often the gate's statistics err where nothing happened, and find what did, by simulation.

    .venv/bin/python bench/gate/run.py                 # the tables, some minutes
    .venv/bin/python bench/gate/run.py --quick         # fewer runs and only the smaller sets: a quick look

Two questions about `gpu_runner/statistics.py`, over runs whose truth is known (`truth.py`):

1. No effect, or a loss of exactly the margin: how often is a gain, or "no such loss", called proven at 5 %?
   The rate has to stay at 5 % or below; the table has an exact binomial bound for it.
2. A real difference of the size that a paired test should see in 80 % of runs: how often is it found? Next to
   it what an unpaired comparison of the same numbers would find.

And one about `gpu_runner/gate.py` as a whole: what becomes of releases whose truth is known?

It ends with 1 when some error rate is above 5 % beyond doubt.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from statistics import NormalDist

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))
sys.path.insert(0, str(HERE))

import truth  # noqa: E402 - the path is set first


def unpaired(items: int, difference: float) -> float:
    """Power of a one-sided z-test of two independent shares near one half."""
    normal = NormalDist()
    return 1 - normal.cdf(normal.inv_cdf(0.95) - difference / math.sqrt(0.5 / items))


def main() -> int:
    given = _arguments()
    runs, draws = (200, 499) if given.quick else (given.runs, given.draws)
    most = 2000 if given.quick else 10**9
    print(f"{runs} runs each, {draws} bootstrap draws, seed {given.seed}, level {truth.ALPHA:.0%}\n")
    print("| nothing happened, or just the margin was lost | called proven | at least | at most |")
    print("| --- | ---: | ---: | ---: |")
    sound = True
    for name, one in {**truth.NULLS, **truth.LOSSES}.items():
        if len(one.passages) <= most:
            rate = truth.error_rate(one, runs, draws, given.seed)
            print(f"| {name} | {rate.share:.1%} | {rate.at_least:.1%} | {rate.at_most:.1%} |", flush=True)
            sound = sound and rate.at_least <= truth.ALPHA
    print("\n| set | items | disagree on | real difference | found | unpaired would find |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, items, disagree, difference in truth.POWER:
        if items <= most:
            rate = truth.power(items, disagree, difference, runs, draws, given.seed)
            print(
                f"| {name} | {items:,} | {disagree:.0%} | {difference:.2%} | {rate.share:.0%} "
                f"| {unpaired(items, difference):.0%} |",
                flush=True,
            )
    few = max(20, runs // 20)
    print(f"\n| release in truth ({few} runs) | pass | inconclusive | fail |\n| --- | ---: | ---: | ---: |")
    for name, release in truth.RELEASES.items():
        found = truth.verdicts(release, few, given.seed)
        shares = " | ".join(f"{found.get(each, 0) / few:.0%}" for each in ("pass", "inconclusive", "fail"))
        print(f"| {name} | {shares} |", flush=True)
    return 0 if sound else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="200 runs, sets of up to 2,000 items")
    parser.add_argument("--runs", type=int, default=2000, help="simulated releases for each row")
    parser.add_argument("--draws", type=int, default=999, help="bootstrap draws (a real gate takes 10,000)")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
