"""Tuning beside TRL's SFTTrainer: tokens per CPU-second and peak memory, same model, rows and batch, one run.

    .venv/bin/python bench/tuning/run.py                       # about ten minutes on two quiet cores
    .venv/bin/python bench/tuning/run.py --rows 48 --rounds 1  # a quick look
    .venv/bin/python bench/tuning/run.py --offline             # ours alone

The student is the embedded 135M model. Both sides take one epoch over the same rows (`rows.py`), learn the
answers only, with bf16 arithmetic over fp32 weights, fused AdamW and clipping, on all cores. Each runs in a
process of its own, in turns; what is counted is training alone, from the first step to the last, without
loading. Tokens are the rows' own; neither side pads. Both take packs of 512 and of 1,024 tokens; TRL's
better figure counts. It makes its optimizer steps of packs where we make them of rows, so the number of rows
a step is equal on the average.

TRL 1.16.0 is installed from PyPI into an environment in a temporary folder that borrows this environment's
torch and transformers, so that both sides run on the very same ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEER = "trl==1.16.0"
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(HERE))

from rows import rows as make_rows  # noqa: E402 - the path is set first

from gpu_runner.embedded import cache_folder  # noqa: E402 - the path is set first
from gpu_runner.student import resolve_student  # noqa: E402 - the path is set first
from gpu_runner.tune.phases import EMBEDDED_CPU  # noqa: E402 - the path is set first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16, help="rows an optimizer step")
    parser.add_argument("--rounds", type=int, default=2, help="times that each side runs, in turns")
    parser.add_argument("--student", default="embedded", help="a model folder, or `embedded`")
    parser.add_argument("--offline", action="store_true", help="without the peer")
    parser.add_argument("--quick", action="store_true", help="16 rows once, without the peer")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.batch, given.rounds, given.offline = 16, 8, 1, True
    student = resolve_student(given.student, cache_folder())
    job: dict[str, Any] = {
        "student": str(student),
        "rows": make_rows(given.rows),
        "batch": given.batch,
        "learning_rate": 1e-5,
    }
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    print(
        f"python {sys.version.split()[0]}, {versions}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    packs = (512, EMBEDDED_CPU.pack_tokens)
    sides = [(name, pack) for name in ("Treewright", "TRL")[: 1 if given.offline else 2] for pack in packs]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix="treewright-bench-") as folder:
        peer = Path(sys.executable) if given.offline else _peer(Path(folder))
        for _ in range(given.rounds):
            for name, pack in sides:
                mean = sum(len(row["question"].split()) + len(row["answer"].split()) for row in job["rows"])
                # About 1.25 tokens a word and 25 for the chat template: how many packs make one step.
                tokens = given.batch * (1.25 * mean / given.rows + 25)
                task = {**job, "pack_tokens": pack, "packs_a_step": max(1, round(tokens / pack))}
                script = HERE / ("ours.py" if name == "Treewright" else "peer.py")
                made = _one(peer if name == "TRL" else Path(sys.executable), script, task)
                found[name, pack].append(made)
                speed, memory = made["tokens"] / made["cpu"], made["peak"] / 1e9
                print(
                    f"{name}, packs of {pack}: {speed:.1f} tokens a CPU-second, {memory:.2f} GB", flush=True
                )
    print(f"load {os.getloadavg()[0]:.1f} after")
    print("| | packs of | tokens | steps | tokens a CPU-second | best | tokens a second | peak GB |")
    print("|---|---|---|---|---|---|---|---|")
    speeds = {}
    for (name, pack), runs in found.items():
        each = [run["tokens"] / run["cpu"] for run in runs]
        speeds[name, pack] = statistics.median(each)
        wall = statistics.median(run["tokens"] / run["wall"] for run in runs)
        peak = max(run["peak"] for run in runs) / 1e9
        print(
            f"| {name} | {pack} | {runs[0]['tokens']:,} | {runs[0]['steps']} | {speeds[name, pack]:.1f} | "
            f"{max(each):.1f} | {wall:.1f} | {peak:.2f} |"
        )
    if not given.offline:
        rival = max(speed for (name, _), speed in speeds.items() if name == "TRL")
        for (name, pack), speed in speeds.items():
            if name == "Treewright":
                print(
                    f"packs of {pack}: {speed / rival:.2f} times the tokens a CPU-second of TRL's better size"
                )


def _one(python: Path, script: Path, task: dict[str, Any]) -> dict[str, Any]:
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(python), str(script)],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        raise SystemExit(f"{script.name} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _peer(folder: Path) -> Path:
    """An environment with TRL alone that sees this one's packages behind its own."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    packages = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    Path(packages, "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", PEER]
    subprocess.run(pip, check=True)
    return python


if __name__ == "__main__":
    main()
