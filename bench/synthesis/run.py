"""The request engine side by side with sdg-hub, instructlab-sdg, distilabel and a bare aiohttp loop.

    .venv/bin/python bench/synthesis/run.py                    # everything, about 25 minutes
    .venv/bin/python bench/synthesis/run.py --quick            # small sizes, no network, about 2 minutes
    .venv/bin/python bench/synthesis/run.py --quick --peers    # small sizes with the peers
    .venv/bin/python bench/synthesis/run.py --only overhead,kill

One test server (`server.py`, a process of its own) answers everybody. Peers are installed from PyPI, each
into an environment of its own under `.cache/bench-synthesis`, where they stay for the next run. Processor
time is the client's own, without the start of its interpreter and without its imports. "Ideal" is rows / in
flight x latency. The load of the machine is printed with the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "bench-synthesis"
PARTS = ("overhead", "again", "judge", "kill", "faults", "memory", "edit")

# Without its dependencies, instructlab-sdg needs no torch: only what its blocks import is added.
PEERS: dict[str, tuple[str, list[list[str]]]] = {
    "sdg-hub 0.9.4": ("peer_sdg_hub.py", [["sdg-hub==0.9.4"]]),
    "instructlab-sdg 0.8.3": (
        "peer_instructlab_sdg.py",
        [
            ["--no-deps", "instructlab-sdg==0.8.3"],
            ["openai<2", "datasets", "jinja2", "pyyaml", "httpx", "tqdm"],
        ],
    ),
    "distilabel 1.5.3": ("peer_distilabel.py", [["distilabel[openai]==1.5.3", "requests"]]),
}


@dataclass(frozen=True)
class Sizes:
    rounds: int
    rows: int
    again: int
    kill: int
    faults: int
    memory: tuple[int, int]
    leaves: tuple[int, int]
    leaf_rows: int
    edit: int
    judge: int


FULL = Sizes(5, 4000, 200_000, 20_000, 20_000, (10_000, 200_000), (50, 1000), 200, 1000, 100)
QUICK = Sizes(1, 1000, 20_000, 3_000, 5_000, (2_000, 20_000), (10, 50), 50, 50, 20)


def main() -> None:
    given = _arguments()
    sizes = QUICK if given.quick else FULL
    wanted = given.only.split(",") if given.only else list(PARTS)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        sys.exit(f"--only knows {', '.join(PARTS)}; not {', '.join(unknown)}")
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, load {_load()}")
    if given.peers:
        _python("server", SERVER)  # on uvloop, so that the server does not set the limit
    with tempfile.TemporaryDirectory(prefix="treewright-bench-") as folder:
        for part in PARTS:
            if part in wanted:
                RUNS[part](sizes, Path(folder), given)
    print(f"load at the end {_load()}")


def overhead(sizes: Sizes, folder: Path, given: argparse.Namespace) -> None:
    """One request a row, 256 in flight, 200 ms: everybody in turn, again and again."""
    width, latency = 256, 0.2
    contenders = {"aiohttp, nothing else": (sys.executable, "client_aiohttp.py")}
    if given.peers:
        for name in PEERS:
            contenders[name] = (environment(name), PEERS[name][0])
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("Treewright", *contenders)}
    with server(latency=latency) as at:
        for turn in range(sizes.rounds):
            arguments = [at.url, sizes.rows, width, folder / f"overhead{turn}.sqlite"]
            found["Treewright"].append(client(at, sys.executable, "client_treewright.py", *arguments))
            for name, (python, script) in contenders.items():
                found[name].append(client(at, python, script, at.url, sizes.rows, width))
    ideal = sizes.rows / width * latency
    rows = [
        (
            name,
            _ms([one["cpu"] for one in runs], sizes.rows),
            f"{100 * ideal / statistics.median(one['wall'] for one in runs):.0f} %",
            f"{100 * ideal / min(one['wall'] for one in runs):.0f} %",
            f"{statistics.median(one['server']['requests'] / sizes.rows for one in runs):.3f}",
            max(one["server"]["peak"] for one in runs),
            f"{sum(one['rows'] for one in runs) / len(runs):.0f}",
            f"{max(one['peak_mib'] for one in runs):.0f}",
        )
        for name, runs in found.items()
    ]
    head = ("client", "CPU ms/row (min to max)", "of ideal, median", "best", "requests/row", "peak in flight")
    _table(
        f"{sizes.rows} rows, {width} in flight, {latency * 1000:.0f} ms, {sizes.rounds} turns",
        (*head, "rows back", "peak MiB"),
        rows,
    )


def again(sizes: Sizes, folder: Path, given: argparse.Namespace) -> None:
    """A second run over stored answers."""
    with server(latency=0) as at:
        arguments = [at.url, sizes.again, 256, folder / "again.sqlite"]
        first = client(at, sys.executable, "client_treewright.py", *arguments)
        seconds = [client(at, sys.executable, "client_treewright.py", *arguments) for _ in range(3)]
    rows = [
        (
            label,
            one["server"]["requests"],
            f"{sizes.again / one['wall']:,.0f}",
            f"{sizes.again / one['cpu']:,.0f}",
        )
        for label, one in [("first", first), *(("again", one) for one in seconds)]
    ]
    _table(f"the same {sizes.again} rows again", ("run", "requests", "rows/s", "rows per CPU s"), rows)


def judge(sizes: Sizes, folder: Path, given: argparse.Namespace) -> None:
    """Generate, check, judge on two endpoints: rows by themselves, or a barrier after each cell."""
    walls: dict[str, list[dict[str, Any]]] = {"barrier": [], "run": []}
    with server(latency=0.2, capacity=64, echo=True) as at, server(latency=0.2, capacity=64, echo=True) as by:
        for turn in range(sizes.rounds):
            for mode, found in walls.items():
                store = folder / f"judge-{mode}{turn}.sqlite"
                given_ = [mode, at.url, by.url, sizes.judge, 40, store]
                found.append(client(at, sys.executable, "client_flow.py", *given_))
    medians = {mode: statistics.median(one["wall"] for one in found) for mode, found in walls.items()}
    rows = [
        (
            label,
            walls[mode][0]["asked"],
            walls[mode][0]["sent"],
            f"{medians[mode]:.1f}",
            f"{medians['barrier'] / medians[mode]:.2f} x",
            _ms([one["cpu"] for one in walls[mode]], walls[mode][0]["asked"]),
        )
        for label, mode in (("a barrier after each cell", "barrier"), ("Treewright", "run"))
    ]
    head = ("order", "rows", "requests", "wall s (median)", "times the barrier", "CPU ms/row (min to max)")
    _table("knowledge flow, teacher and judge of 64 slots and 200 ms each", head, rows)


def kill(sizes: Sizes, folder: Path, given: argparse.Namespace) -> None:
    """SIGKILL when half is answered, then the same command again."""
    width = 256
    with server(latency=0.2) as at:
        arguments = [at.url, sizes.kill, width, folder / "kill.sqlite"]
        command = _command(sys.executable, "client_treewright.py", *arguments)
        process = subprocess.Popen(command, cwd=HERE, env=_environment(), stdout=subprocess.DEVNULL)
        while at.stats()["finished"] < sizes.kill // 2 and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(1)
        before = at.stats()
        second = client(at, sys.executable, "client_treewright.py", *arguments, reset=False)
        after = second["server"]
    rows = [
        ("rows wanted / in the end", f"{sizes.kill} / {second['rows']}"),
        ("requests before the kill", before["requests"]),
        ("asked again (at most what was in flight)", f"{after['repeated']} (peak in flight {width})"),
        ("rows lost", sizes.kill - after["distinct"]),
        ("rows twice", second["seen"] - sizes.kill),
        ("requests / rows over both runs", f"{after['requests'] / sizes.kill:.4f}"),
    ]
    _table("kill -9 at half", ("", ""), rows)


def faults(sizes: Sizes, folder: Path, given: argparse.Namespace) -> None:
    """One question in a hundred always gets HTTP 500."""
    with server(latency=0.02, faults=0.01) as at:
        arguments = [at.url, sizes.faults, 256, folder / "faults.sqlite", 3]
        one = client(at, sys.executable, "client_treewright.py", *arguments)
    lost = one["seen"] - one["rows"]
    faulty = one["server"]["faults"] // 3
    rows = [
        ("rows", sizes.faults),
        ("questions that always fail", faulty),
        ("rows lost", lost),
        ("other rows lost", lost - faulty),
        ("requests (3 attempts for each that fails)", one["server"]["requests"]),
    ]
    _table("1 % injected faults", ("", ""), rows)


def memory(sizes: Sizes, folder: Path, given: argparse.Namespace) -> None:
    rows: list[tuple[object, ...]] = []
    with server(latency=0) as at:
        for count in sizes.memory:
            arguments = [at.url, count, 256, folder / f"memory{count}.sqlite"]
            one = client(at, sys.executable, "client_treewright.py", *arguments)
            rows.append(
                ("Engine.stream", count, one["rows"], f"{one['peak_mib']:.0f}", _ms([one["cpu"]], count))
            )
    with server(latency=0, echo=True) as at:
        for leaves in sizes.leaves:
            store = folder / f"leaves{leaves}.sqlite"
            arguments = ["run", at.url, at.url, leaves, sizes.leaf_rows, store]
            one = client(at, sys.executable, "client_flow.py", *arguments)
            rows.append(
                (
                    f"knowledge flow, {leaves} leaves",
                    one["asked"],
                    one["samples"],
                    f"{one['peak_mib']:.0f}",
                    _ms([one["cpu"]], one["asked"]),
                )
            )
    head = ("what", "rows", "came out", "peak MiB", "CPU ms/row")
    _table("memory by size of the run", head, rows)


def edit(sizes: Sizes, folder: Path, given: argparse.Namespace) -> None:
    """One seed of one leaf is changed in a plan of many."""
    with server(latency=0, echo=True) as at:
        store = folder / "edit.sqlite"
        one = client(at, sys.executable, "client_flow.py", "edit", at.url, at.url, sizes.edit, 20, store)
    rows = [
        ("leaves", sizes.edit),
        ("requests, first run", one["sent"]),
        ("requests after the edit", one["sent_again"]),
        ("answers from the store", one["cached_again"]),
        ("leaves whose rows changed", f"{one['changed_leaves']} (edited: {one['edited']})"),
    ]
    _table("one seed edited", ("", ""), rows)


RUNS = {
    "overhead": overhead,
    "again": again,
    "judge": judge,
    "kill": kill,
    "faults": faults,
    "memory": memory,
    "edit": edit,
}


@dataclass(frozen=True)
class At:
    url: str

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stats", timeout=30) as answer:  # noqa: S310 (ours)
            found: dict[str, Any] = json.load(answer)
        return found

    def reset(self) -> None:
        urllib.request.urlopen(self.url.removesuffix("/v1") + "/reset", timeout=30).close()  # noqa: S310 (ours)


@contextlib.contextmanager
def server(
    latency: float, faults: float = 0.0, capacity: int = 1_000_000, echo: bool = False
) -> Iterator[At]:
    command = [_server_python(), str(HERE / "server.py"), "--latency", str(latency)]
    command += ["--faults", str(faults), "--capacity", str(capacity), *(["--echo"] if echo else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield At(json.loads(process.stdout.readline())["url"])
    finally:
        process.kill()
        process.wait()


def client(at: At, python: str, script: str, *arguments: object, reset: bool = True) -> dict[str, Any]:
    """One whole run of a client; what it reports, with what the server saw."""
    if reset:
        at.reset()
    done = subprocess.run(
        _command(python, script, *arguments), cwd=HERE, env=_environment(), capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"{script} gave no figures:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return {**json.loads(lines[-1].removeprefix("RESULT ")), "server": at.stats()}


def _command(python: str, script: str, *arguments: object) -> list[str]:
    return [python, str(HERE / script), *(str(argument) for argument in arguments)]


def _environment() -> dict[str, str]:
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "TQDM_DISABLE": "1"}
    return {**os.environ, **quiet, "HF_HOME": str(CACHE / "hf"), "XDG_CACHE_HOME": str(CACHE / "xdg")}


def environment(name: str) -> str:
    """The interpreter of the peer's own environment, made on first use."""
    return _python(name.split()[0], PEERS[name][1])


SERVER = [["uvloop==0.23.0"]]


def _server_python() -> str:
    python = CACHE / "server" / "bin" / "python"
    return str(python) if python.exists() else sys.executable


def _python(name: str, installs: Sequence[Sequence[str]]) -> str:
    folder = CACHE / name
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.is_file():
        print(f"installing {name} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        for wanted in installs:
            command = [python, "-m", "pip", "install", "-q", *wanted]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                sys.exit(f"{name} cannot be installed:\n{run.stderr[-3000:]}")
        done.touch()
    return str(python)


def _ms(seconds: Sequence[float], rows: int) -> str:
    each = sorted(1000 * one / rows for one in seconds)
    return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def _load() -> str:
    return " ".join(f"{one:.1f}" for one in os.getloadavg())


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n{title} (load {_load()})\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--peers", action="store_true", help="the peers too (default without --quick)")
    parser.add_argument("--offline", action="store_true", help="no peers, nothing is installed")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    given = parser.parse_args()
    given.peers = (given.peers or not given.quick) and not given.offline
    return given


if __name__ == "__main__":
    main()
