"""Documents that were fetched or converted, on disk: no network and no converter the second time.

An entry is one file: the SHA-256 of everything after it on the first line, a JSON list of names and sizes on
the second, then the bytes. It is written beside its place, synced and renamed, so a reader sees a whole entry
or none; what does not match its digest is removed and counts as missing. Names of entries are digests, so
nothing that a contributor writes becomes a path.

Entries that are read or written are held by a shared `flock`; eviction (least recently used first, by the
file's time, which every use renews) takes only what nobody holds. A second process that wants the entry which
a first one is filling waits for it. Everything stays below `folder`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_STALE_SECONDS = 600  # a work folder of a process that was killed
_SHARDS = 64


class DocumentCache:
    """At most `limit` bytes of entries in `folder`, but never less than what is in use. Safe for processes
    and threads.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def read(self, key: str) -> list[tuple[str, bytes]] | None:
        """(name, bytes) as written under the key, or None. A damaged entry is removed."""
        place = self._place(key)
        try:
            with place.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH)
                found = _decode(stream.read())
                with contextlib.suppress(OSError):
                    os.utime(place)
        except FileNotFoundError:
            return None
        if found is None:
            place.unlink(missing_ok=True)
        return found

    def write(self, key: str, files: Sequence[tuple[str, bytes]]) -> None:
        place = self._place(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".new-", delete=False) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH)
                stream.write(_encode(files))
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(stream.name, place)
            except BaseException:
                Path(stream.name).unlink(missing_ok=True)
                raise
            self._evict()

    @contextlib.contextmanager
    def filling(self, key: str, seconds: float) -> Iterator[None]:
        """Held while an entry is being made. After `seconds` of waiting the caller goes on alone: the worst
        is work done twice.
        """
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + seconds
        with (locks / f"{int(_name(key)[:8], 16) % _SHARDS}").open("w") as stream:
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > until:
                        break
                    time.sleep(0.02)
            yield

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Path]:
        """An empty folder that is gone afterwards. Folders of processes that were killed go as well."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        place = Path(tempfile.mkdtemp(prefix=".work-", dir=self.folder))
        try:
            with (place / "held").open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _place(self, key: str) -> Path:
        name = _name(key)
        return self.folder / "entries" / name[:2] / name

    def _entries(self) -> list[tuple[float, int, Path]]:
        found = []
        for place in (self.folder / "entries").glob("??/*"):
            with contextlib.suppress(OSError):
                status = place.stat()
                found.append((status.st_mtime, status.st_size, place))
        return sorted(found)

    def _evict(self) -> None:
        entries = self._entries()
        total = sum(size for _, size, _ in entries)
        for used, size, place in entries:
            if total <= self.limit:
                return
            with contextlib.suppress(OSError), place.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # in use: raises, and the entry stays
                if os.fstat(stream.fileno()).st_mtime == used:
                    place.unlink()
                    total -= size

    def _sweep(self) -> None:
        old = time.time() - _STALE_SECONDS
        for place in [*self.folder.glob(".work-*"), *(self.folder / "entries").glob("??/.new-*")]:
            with contextlib.suppress(OSError):
                if place.stat().st_mtime > old:
                    continue
                held = place / "held" if place.is_dir() else place
                if held.exists():
                    with held.open("rb") as stream:
                        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if place.is_dir():
                    shutil.rmtree(place, ignore_errors=True)
                else:
                    place.unlink()


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _encode(files: Sequence[tuple[str, bytes]]) -> bytes:
    heads = [[name, len(data)] for name, data in files]
    body = json.dumps(heads).encode() + b"\n" + b"".join(data for _, data in files)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _decode(data: bytes) -> list[tuple[str, bytes]] | None:
    told, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != told:
        return None
    head, _, rest = body.partition(b"\n")
    found, at = [], 0
    for name, size in json.loads(head):
        found.append((str(name), rest[at : at + size]))
        at += size
    return found
