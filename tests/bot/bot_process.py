"""The real bot as a process of its own that a test can kill at an exact moment.

`Nursery` forks it from a server that has its modules loaded, so that a start takes a fraction of a second;
what runs is `bot.main.serve`, as `treewright bot run` does. Moments are told apart in two places: `Wire`
stands before the forge and sees every request of the bot, and `Diary` is in the process and sees every
transaction and durable step.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
from bot_world import HTTP, World, bot_settings, until

LOADED = ["bot.main", "bot.review", "lab.synthesis.preview", "bot_process"]
WRITES = frozenset({"POST", "PATCH", "PUT", "DELETE"})


# --- in the process
# --------------------------------------------------------------------------------------------


def run_bot(
    settings: dict[str, Any], environment: Mapping[str, str], port: int, diary: str, deadly: bool
) -> None:
    os.environ.update(environment)
    quiet = os.open(os.environ.get("BOT_PROCESS_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 2)
    from bot.main import serve
    from bot.settings import Settings

    if diary:
        Diary(Path(diary), deadly).open()
    serve(Settings(**settings), "127.0.0.1", port)


class Diary:
    """Notes each committed transaction and each recorded step of a job, by a name that is the same when the
    step is done again. With `deadly` the process kills itself the first time that it comes to a name.
    """

    def __init__(self, place: Path, deadly: bool) -> None:
        self.place = place
        self.deadly = deadly
        self.seen = set(place.read_text().splitlines()) if place.exists() else set()
        self.lock = threading.Lock()
        self.counts: dict[str, int] = {}

    def note(self, name: str) -> None:
        with self.lock:
            if name in self.seen:
                return
            self.seen.add(name)
            with self.place.open("a") as file:
                file.write(name + "\n")
                file.flush()
                os.fsync(file.fileno())
            if self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()  # the signal comes in an instant

    def open(self) -> None:
        from bot import audit, jobs
        from bot.database import Database

        write, step = Database.write, jobs._step

        @contextmanager
        def noted_write(database: Database) -> Iterator[Any]:
            with write(database) as connection:
                yield connection
            now = audit.on_behalf().get("step")
            if now:
                with self.lock:
                    self.counts[now] = self.counts.get(now, 0) + 1
                    name = f"{now}: transaction {self.counts[now]}"
                self.note(name)

        def noted_step(work: Callable[..., Any], name: str, *arguments: object) -> Any:
            with self.lock:
                self.counts[name] = 0
            result = step(work, name, *arguments)
            self.note(f"{name}: recorded")
            return result

        Database.write = noted_write  # type: ignore[method-assign]  # the test puts its own in
        jobs._step = noted_step


# --- around the process
# ----------------------------------------------------------------------------------------


@dataclass
class Wire:
    """An ASGI layer before the forge that knows the App's writes and kills the bot at some of them:
    `before` the forge has seen the request, or `after` it did the work and before anybody hears of it.
    """

    kill: Callable[[], None] = lambda: None
    deadly: Callable[[str, int], list[str]] = lambda name, index: []
    """When to die at a write, by its name and its number among the writes so far: of before and after."""
    seen: list[str] = field(default_factory=list)
    died: set[tuple[str, str]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wrap(self, app: Any) -> Any:
        async def layer(scope: Any, receive: Any, send: Any) -> None:
            agent = dict(scope.get("headers") or []).get(b"user-agent", b"")
            ours = scope["type"] == "http" and agent == b"treewright" and scope["method"] in WRITES
            if not ours or "/access_tokens" in scope["path"] or "/app/hook/" in scope["path"]:
                await app(scope, receive, send)
                return
            body = b""
            more = True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            waiting = [{"type": "http.request", "body": body, "more_body": False}]

            async def again() -> Any:
                return waiting.pop() if waiting else await receive()

            when = self._when(scope, body)
            if when != "before":
                await app(scope, again, send if when != "after" else _nobody_hears)
            if when:
                self.kill()

        return layer

    def _when(self, scope: Any, body: bytes) -> str:
        where = f"{scope['method']} {scope['path'].removeprefix('/api/v3')}"
        with self.lock:
            index = len(self.seen)
            self.seen.append(where)
            name = f"{where} {hashlib.sha256(body).hexdigest()[:12]}"
            for when in self.deadly(where, index):
                if (name, when) not in self.died:
                    self.died.add((name, when))
                    return when
        return ""

    def arm(self, deadly: Callable[[str, int], list[str]] = lambda name, index: []) -> None:
        """From now on: no writes seen yet, nobody died."""
        with self.lock:
            self.seen, self.died, self.deadly = [], set(), deadly


async def _nobody_hears(message: Any) -> None: ...


@dataclass
class Running:
    process: BaseProcess
    url: str

    def kill(self) -> None:
        self.process.kill()

    def wait(self, seconds: float = 60.0) -> None:
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the bot lives"

    @property
    def died(self) -> bool:
        return self.process.exitcode is not None


class Nursery:
    def __init__(self, world: World) -> None:
        self.world = world
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(LOADED)
        self.born: list[BaseProcess] = []

    def start(
        self, port: int = 0, diary: Path | None = None, deadly: bool = False, **changes: Any
    ) -> Running:
        """A bot on `port` (0: a free one), which gets the App's webhooks once it is ready."""
        port = port or self.world.port()
        settings = bot_settings(self.world, **changes).model_dump(exclude_none=True)
        for name in ("private_key", "webhook_secret"):
            settings[name] = settings[name].get_secret_value()
        environment = {name: value for name, value in os.environ.items() if name.startswith("TREEWRIGHT_")}
        if "BOT_PROCESS_LOG" in os.environ:
            environment["BOT_PROCESS_LOG"] = os.environ["BOT_PROCESS_LOG"]
        process = self.context.Process(
            target=run_bot, args=(settings, environment, port, str(diary or ""), deadly), daemon=True
        )
        process.start()
        self.born.append(process)
        running = Running(process, f"http://127.0.0.1:{port}")
        until(lambda: running.died or _ready(running.url), "the bot's start")
        return running

    def close(self) -> None:
        for process in self.born:
            process.kill()
            process.join(10)


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return HTTP.get(f"{url}/readyz").status_code == 200
    return False


class Keeper:
    """Keeps one bot alive on one port: whoever kills it, it comes back, as a service manager would see to."""

    def __init__(self, nursery: Nursery, wire: Wire, **changes: Any) -> None:
        """`changes` are settings, and `diary` and `deadly` of `Nursery.start`."""
        self.nursery = nursery
        self.port = nursery.world.port()
        self.changes = {"reconcile_seconds": 1, "dispatch_seconds": 0.5, **changes}
        self.deaths = 0
        self.closing = False
        self.running = self._start()
        self.thread = threading.Thread(target=self._keep, daemon=True)
        wire.kill = self.kill

    def _start(self) -> Running:
        return self.nursery.start(self.port, **self.changes)

    def __enter__(self) -> Keeper:
        hook = {"webhook_url": f"{self.running.url}/webhook"}
        self.nursery.world.admin("PATCH", "/apps/treewright", hook)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing = True
        self.nursery.close()
        self.thread.join(10)

    def kill(self) -> None:
        self.running.kill()

    def _keep(self) -> None:
        while True:
            self.running.process.join()
            if self.closing:
                return
            self.deaths += 1
            self.running = self._start()
