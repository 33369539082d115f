"""Lint side by side with instructlab-schema 0.4.2, one changed leaf in a large tree, and a diff's memory.

    .venv/bin/python bench/lint/run.py                 # everything, some minutes
    .venv/bin/python bench/lint/run.py --quick         # a quick look, no peer: proves nothing

Three questions, each answered by whole runs in one go on trees that `tree.py` makes:

1. How long does a file take in one process? Ours over the whole tree; the peer over every `--every`th file of
   the same tree, as it ships (it starts `yamllint` for each file) and without `yamllint` on its path.
2. How long is `treewright lint --base HEAD~1` (and `treewright diff`), start of the process to its end, when
   one leaf of a large tree in Git changed?
3. How much memory does a diff take in a small and in a large tree?

The peer is installed from PyPI into an environment in a temporary folder, which goes away. Its line numbers
come from a `yq` program; the trees hold no errors, so it is not asked for. Numbers are medians; the load of
the machine is printed with them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEER = "instructlab-schema==0.4.2"
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(HERE))

import tree as generator  # noqa: E402 - the path is set first

_GIT = {
    **os.environ,
    "GIT_AUTHOR_NAME": "Bench",
    "GIT_AUTHOR_EMAIL": "bench@example.org",
    "GIT_COMMITTER_NAME": "Bench",
    "GIT_COMMITTER_EMAIL": "bench@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def main() -> None:
    given = _arguments()
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, load {_load()}")
    with tempfile.TemporaryDirectory(prefix="treewright-bench-") as folder:
        small, large = Path(folder, "small"), Path(folder, "large")
        generator.write(small, given.leaves)
        ours = one_process(small, given.runs)
        rows: list[tuple[object, ...]] = [("Treewright, whole tree", given.leaves, *ours, "", "")]
        if not given.offline:
            rows += peer(Path(folder), small, given.every, given.runs, ours)
        _table(("one process", "files", "wall ms a file", "CPU ms a file", "wall x", "CPU x"), rows)
        generator.write(large, given.large)
        _history(small)
        _history(large)
        rows = [
            (name, size, *whole_process(place, command, given.runs))
            for place, size in ((small, given.leaves), (large, given.large))
            for name, command in (
                ("lint --base HEAD~1", ["lint", "--base", "HEAD~1"]),
                ("diff --base HEAD~1", ["diff", "--base", "HEAD~1"]),
                ("diff HEAD~1..HEAD", ["diff", "--base", "HEAD~1", "--head", "HEAD"]),
            )
        ]
        _table(("one changed leaf", "leaves", "wall s", "best", "CPU s", "peak MiB", "diff() KiB"), rows)
    print(f"load at the end {_load()}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of lint and diff.")
    parser.add_argument("--leaves", type=int, default=1000, help="the smaller tree")
    parser.add_argument("--large", type=int, default=10000, help="the larger tree")
    parser.add_argument(
        "--every", type=int, default=10, help="the peer reads each n-th file of the smaller tree"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--offline", action="store_true", help="leave the peer out")
    parser.add_argument("--quick", action="store_true", help="small trees, one run, no peer")
    given = parser.parse_args()
    if given.quick:
        given.leaves, given.large, given.runs, given.offline = 100, 1000, 1, True
    return given


def one_process(root: Path, runs: int) -> tuple[float, float]:
    """(wall, CPU) milliseconds a file, lint of the whole tree in this process: reading, all rules,
    attributions.
    """
    from lab.config import RepositoryConfig
    from lab.taxonomy.lint import lint
    from lab.taxonomy.tree import FolderTree

    files = len(list(root.rglob("qna.yaml")))
    walls, cpus = [], []
    for _ in range(runs):
        started, used = time.perf_counter(), time.process_time()
        report = lint(FolderTree(root), RepositoryConfig())
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - used)
        assert not [each for each in report.findings if each.severity == "error"], report.findings[:3]
    return statistics.median(walls) / files * 1000, statistics.median(cpus) / files * 1000


def peer(
    folder: Path, root: Path, every: int, runs: int, ours: tuple[float, float]
) -> list[tuple[object, ...]]:
    """The peer's rows: as it ships, and without the yamllint program."""
    place = folder / "peer"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER]
    subprocess.run(install, check=True, capture_output=True)
    files = sorted(root.rglob("qna.yaml"))[::every]
    rows: list[tuple[object, ...]] = []
    for name, path in (
        ("as it ships", f"{place / 'bin'}:{os.environ['PATH']}"),
        ("without yamllint", str(folder)),
    ):
        environment = {**os.environ, "PATH": path}
        environment.pop("PYTHONPATH", None)
        each = []
        for _ in range(max(1, runs // 2)):
            done = subprocess.run(
                [python, HERE / "peer.py"],
                input="\n".join(map(str, files)),
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            told = json.loads(done.stdout)
            assert told["errors"] == 0, "the peer finds the generated files wrong"
            each.append((told["wall"] / told["files"] * 1000, told["cpu"] / told["files"] * 1000))
        wall, cpu = (statistics.median(column) for column in zip(*each, strict=True))
        times = (f"{wall / ours[0]:.1f}", f"{cpu / ours[1]:.1f}")
        rows.append((f"{PEER} {name}", len(files), wall, cpu, *times))
    return rows


# Run in the measured process: its own high-water mark (Linux). `wait4` would tell the benchmark's as well.
_MAIN = """
import atexit, sys
def peak():
    with open("/proc/self/status") as status, open(sys.argv.pop(), "w") as place:
        place.write(next(line for line in status if line.startswith("VmHWM")).split()[1])
atexit.register(peak)
from treewright.cli import app
app(sys.argv[1:-1])
"""


def whole_process(root: Path, command: Sequence[str], runs: int) -> tuple[float, ...]:
    """(wall seconds, the best of them, CPU seconds with Git's, peak MiB, peak KiB of diff's own objects)."""
    walls, cpus, peaks = [], [], []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = root.with_suffix(".peak")
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        program = [sys.executable, "-c", _MAIN, *command, str(told)]
        done = subprocess.run(program, cwd=root, stdout=subprocess.DEVNULL, env=environment)
        walls.append(time.perf_counter() - started)
        assert done.returncode in (0, 1)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        peaks.append(int(told.read_text()) / 1024)
    own = traced(root, "--head" in command) if command[0] == "diff" else 0.0
    return statistics.median(walls), min(walls), statistics.median(cpus), statistics.median(peaks), own


def traced(root: Path, committed: bool) -> float:
    """KiB that `diff()` allocates at its peak, by tracemalloc."""
    import tracemalloc

    from lab.taxonomy.diff import diff
    from lab.taxonomy.tree import GitTree
    from lab.taxonomy.worktree import WorkTree, merge_base

    diff(
        GitTree(root, "HEAD"), GitTree(root, "HEAD~1")
    )  # what is made once (patterns, caches) is not counted
    base = GitTree(root, "HEAD~1")
    head = GitTree(root, "HEAD") if committed else WorkTree(root, merge_base(root, "HEAD~1"))
    tracemalloc.start()
    found = diff(base, head)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.leaves) == 1
    return peak / 1024


def _history(root: Path) -> None:
    """Two commits: the tree, and one leaf with one changed answer."""

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=root, env=_GIT, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "-m", "All leaves")
    leaf = min(root.rglob("knowledge/**/qna.yaml"))
    text = leaf.read_text("utf-8")
    at = text.index("answer: |\n") + len("answer: |\n")
    leaf.write_text(text[:at] + " " * 10 + "Another line.\n" + text[at:], "utf-8")
    git("commit", "-q", "-a", "-m", "One answer")


def _load() -> str:
    return " ".join(f"{each:.1f}" for each in os.getloadavg())


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print(
            "| " + " | ".join(f"{each:,.2f}" if isinstance(each, float) else str(each) for each in row) + " |"
        )


if __name__ == "__main__":
    main()
