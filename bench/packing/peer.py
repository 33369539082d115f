"""The peer's side: reads cases as JSON lines, writes each rank's plan and its time. Runs in the peer's own
environment, started by `run.py`.

Only `batch_packer.py` of instructlab-training is loaded, by its path: the package itself wants a GPU stack,
its packer wants numba and numpy alone.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from importlib import metadata


def main() -> None:
    place = metadata.distribution("instructlab-training").locate_file("instructlab/training/batch_packer.py")
    spec = importlib.util.spec_from_file_location("batch_packer", str(place))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plan = module.batch_lengths_to_minibatches_lpt
    plan([5, 4, 3], 8, 2, 0)  # numba compiles at the first call; that is not what we measure
    for line in sys.stdin:
        case = json.loads(line)
        began = time.process_time()
        plan(case["lengths"], case["capacity"], case["ranks"], 0)
        seconds = time.process_time() - began
        plans = [
            plan(case["lengths"], case["capacity"], case["ranks"], rank) for rank in range(case["ranks"])
        ]
        print(json.dumps({"plans": plans, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
