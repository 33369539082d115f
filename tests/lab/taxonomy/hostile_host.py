"""Git hosts that misbehave, for tests: raw sockets on loopback, and commits that no porcelain would make."""

from __future__ import annotations

import hashlib
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from git_host import ENVIRONMENT

Handler = Callable[[socket.socket, bytes], None]


@contextmanager
def listening(handle: Handler) -> Iterator[str]:
    """A server that reads a request's head and then does what `handle` says."""

    class Request(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data = b""
            while b"\r\n\r\n" not in data:
                part = self.request.recv(4096)
                if not part:
                    return
                data += part
            handle(self.request, data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, *_: object) -> None:
            pass  # the client goes away in the middle, as it should

    with Server(("127.0.0.1", 0), Request) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def answer(status: str, *headers: str, body: bytes = b"") -> Handler:
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close"])

    def handle(stream: socket.socket, _: bytes) -> None:
        stream.sendall(head.encode() + b"\r\n\r\n" + body)

    return handle


class Store:
    """Writes Git objects one by one, so that trees can hold what `git add` refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._git("init", "-q", "-b", "main")
        for name in ("allowFilter", "allowAnySHA1InWant"):
            self._git("config", f"uploadpack.{name}", "true")

    def _git(self, *arguments: str, feed: bytes = b"") -> str:
        done = subprocess.run(
            ["git", "-C", str(self.folder), *arguments],
            env=ENVIRONMENT,
            input=feed,
            capture_output=True,
            check=True,
        )
        return done.stdout.decode().strip()

    def blob(self, data: bytes) -> str:
        return self._git("hash-object", "-w", "--stdin", feed=data)

    def tree(self, entries: list[tuple[str, bytes, str]]) -> str:
        """(mode, name, id); sorted here as Git wants it."""
        ordered = sorted(entries, key=lambda each: each[1] + (b"/" if each[0] == "40000" else b""))
        data = b"".join(
            f"{mode} ".encode() + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in ordered
        )
        return self._git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", feed=data)

    def commit(self, tree: str) -> str:
        made = self._git("commit-tree", tree, "-m", "Change")
        self._git("update-ref", "refs/heads/main", made)
        return made

    def tag(self, commit: str) -> str:
        self._git("tag", "-a", "v1", "-m", "One", commit)
        return self._git("rev-parse", "v1")

    def files(self, files: dict[bytes, bytes]) -> str:
        return self.commit(self.tree([("100644", name, self.blob(data)) for name, data in files.items()]))


def listing(root: Path) -> dict[str, str]:
    """Every file below the folder with its content's digest, to see that nothing else was touched."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "-"
        for path in root.rglob("*")
        if not path.is_symlink()
    }


def children() -> set[int]:
    """Processes that descend from this one, zombies too."""
    import os

    parents: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(place.name)] = int(fields[1])
    found: set[int] = set()
    wave = {os.getpid()}
    while wave:
        wave = {pid for pid, parent in parents.items() if parent in wave} - found
        found |= wave
    return found
