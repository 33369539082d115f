"""A stage: a folder in, a folder out, and a manifest that says what made what.

    manifest = execute("tune", inputs=[work / "plan", work / "generate"], outputs=work / "tune",
                       settings={...}, body=write_everything_into)

The key of a run is the digest of its stage, inputs, settings and tool versions. A finished folder with the
same key is left alone. Anything else runs in `<outputs>.partial-<key8>`, which survives a crash so that the
body can go on in it, and only a finished folder, its manifest fsynced, is renamed to `<outputs>`. `kill -9`
at any moment leaves either the old folder, or a partial one that the next run completes; the swap of an old
finished folder for a new one is healed too.

What the body keeps under `partial/.scratch/` (checkpoints, caches) is neither listed nor kept in the
finished folder.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lab.contracts import canonical, digest, file_digest, read_json, require, write_json

MANIFEST = "manifest.json"
SCRATCH = ".scratch"


class StageError(RuntimeError):
    """A stage cannot start or finish; the message says where and what to do."""


@dataclass(frozen=True)
class Output:
    """One file of a stage; `path` is relative to the stage's folder, `/` between its parts."""

    path: str
    digest: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What one run of a stage read, how it was set, and what it wrote (schema `manifest.json`).

    `reused` is true when nothing ran because a finished folder with the same key was found; it is not
    written.
    """

    stage: str
    key: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    tools: Mapping[str, str]
    outputs: tuple[Output, ...]
    started_at: str
    seconds: float
    resumed: bool
    reused: bool = field(default=False, compare=False)

    @property
    def digest(self) -> str:
        """Of what was written, not of when or how: equal outputs keep every later stage valid."""
        return digest([self.stage, [[output.path, output.digest] for output in self.outputs]])

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "key": self.key,
            "digest": self.digest,
            "inputs": dict(self.inputs),
            "settings": dict(self.settings),
            "tools": dict(self.tools),
            "outputs": [
                {"path": output.path, "digest": output.digest, "bytes": output.bytes}
                for output in self.outputs
            ],
            "started_at": self.started_at,
            "seconds": self.seconds,
            "resumed": self.resumed,
        }


def execute(
    name: str,
    inputs: Sequence[Path] | Mapping[str, Path],
    outputs: Path,
    settings: Mapping[str, Any],
    body: Callable[[Path], None],
    *,
    tools: Sequence[str] = (),
) -> Manifest:
    """Run `body(partial)` unless `outputs` already holds the result of exactly this run.

    An input is an earlier stage's folder (its files are checked against its manifest), or any other file or
    folder (digested as it is). `tools` names distributions whose version changes the result, `torch` for
    example. Raises StageError; whatever `body` raises passes through, and the partial folder stays for the
    next attempt.
    """
    canonical(dict(settings))  # refuses what JSON cannot hold, before any work is done
    versions = tool_versions(tools)
    named = inputs if isinstance(inputs, Mapping) else {path.name: path for path in inputs}
    if len(named) != len(inputs):
        raise StageError(f"{name}: two inputs share a name: {', '.join(map(str, inputs))}")
    digests = {label: input_digest(path) for label, path in named.items()}
    for path in named.values():
        _require_current(path)
    key = digest({"stage": name, "inputs": digests, "settings": dict(settings), "tools": versions})
    partial = outputs.with_name(f"{outputs.name}.partial-{key.removeprefix('sha256:')[:8]}")
    outputs.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(name, outputs):
        for path in (outputs, partial):
            found = _finished(path, key)
            if found is not None:
                if path == partial:  # killed after the manifest was written, before the rename
                    _swap(partial, outputs)
                _clean(outputs)
                return found
        resumed = partial.exists()
        partial.mkdir(exist_ok=True)
        started, clock = datetime.now(UTC), time.monotonic()
        body(partial)
        manifest = Manifest(
            stage=name,
            key=key,
            inputs=digests,
            settings=dict(settings),
            tools=versions,
            outputs=_settle(partial),
            started_at=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - clock, 3),
            resumed=resumed,
        )
        require("manifest", manifest.to_json(), f"{name}'s manifest")
        write_json(partial / MANIFEST, manifest.to_json())
        _fsync_folder(partial)
        _swap(partial, outputs)
        _clean(outputs)
        return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished stage's folder; StageError when there is none or it is not one."""
    path = folder / MANIFEST
    if not path.is_file():
        raise StageError(f"{folder} holds no {MANIFEST}: run `treewright {folder.name}` first")
    try:
        value = read_json(path, "manifest")
    except ValueError as error:
        raise StageError(f"{path} is damaged ({error}); remove {folder} and run the stage again") from error
    manifest = Manifest(
        stage=value["stage"],
        key=value["key"],
        inputs=value["inputs"],
        settings=value["settings"],
        tools=value["tools"],
        outputs=tuple(Output(**output) for output in value["outputs"]),
        started_at=value["started_at"],
        seconds=value["seconds"],
        resumed=value["resumed"],
    )
    if manifest.digest != value["digest"]:
        raise StageError(f"{path} was edited: its digest does not fit its outputs; run the stage again")
    return manifest


def changed_files(folder: Path, manifest: Manifest) -> list[str]:
    """Each way in which the folder's files differ from the manifest; empty when they are as they were
    written.
    """
    listed = {output.path: output for output in manifest.outputs}
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    wrong = [f"{name} is missing" for name in sorted(listed.keys() - present.keys())]
    wrong += [f"{name} was added" for name in sorted(present.keys() - listed.keys())]
    for name in sorted(listed.keys() & present.keys()):
        path, output = present[name], listed[name]
        if path.stat().st_size != output.bytes or file_digest(path) != output.digest:
            wrong.append(f"{name} has other content")
    return wrong


def input_digest(path: Path) -> str:
    """The digest of a stage's folder (by its manifest, verified), of a plain folder's files, or of a file."""
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        wrong = changed_files(path, manifest)
        if wrong:
            raise StageError(
                f"{path} changed after {manifest.stage} wrote it: {'; '.join(wrong[:3])}. "
                f"Remove the folder and run `treewright {manifest.stage}` again."
            )
        return manifest.digest
    if path.is_file():
        return file_digest(path)
    if path.is_dir():
        return digest([[file.relative_to(path).as_posix(), file_digest(file)] for file in _files(path)])
    raise StageError(f"{path} is not there: run `treewright {path.name}` first")


def _require_current(folder: Path) -> None:
    """Refuse an earlier stage's folder when what it was made from was made anew beside it: another commit was
    planned, and nothing generated from it yet."""
    if not (folder / MANIFEST).is_file():
        return
    manifest = read_manifest(folder)
    for name, digested in manifest.inputs.items():
        before = folder.parent / name
        if not (before / MANIFEST).is_file():
            continue
        if read_manifest(before).digest != digested:
            raise StageError(
                f"{folder}: {manifest.stage} was run on another {name} than the one here: run `treewright "
                f"{manifest.stage}` again"
            )
        _require_current(before)


def tool_versions(names: Sequence[str]) -> dict[str, str]:
    """Python, Treewright and the named distributions; one that is not installed is an error, not a gap."""
    versions = {"python": platform.python_version()}
    for name in ("treewright", *names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise StageError(f"{name} is not installed here: pip install 'treewright[runner]'") from error
    return versions


def _finished(folder: Path, key: str) -> Manifest | None:
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder)
        if manifest.key != key or changed_files(folder, manifest):
            return None
    except StageError:
        return None  # our own earlier output is damaged: make it again
    return Manifest(**{**vars(manifest), "reused": True})


def _files(folder: Path) -> Iterator[Path]:
    """Every regular file below, sorted, without the manifest and the scratch folder; anything else is an
    error.
    """
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] == SCRATCH or relative.as_posix() == MANIFEST or path.is_dir():
            continue
        if path.is_symlink() or not path.is_file():
            raise StageError(f"{path} is not a regular file; a stage's folder holds nothing else")
        yield path


def _settle(folder: Path) -> tuple[Output, ...]:
    """Force every file to the disk and list it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    listed = []
    for path in _files(folder):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        listed.append(
            Output(path.relative_to(folder).as_posix(), file_digest(path), bytes=path.stat().st_size)
        )
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            _fsync_folder(path)
    return tuple(listed)


def _swap(partial: Path, outputs: Path) -> None:
    """Put the finished folder in its place. A kill between the two renames leaves `partial` complete: see
    `execute`.
    """
    shutil.rmtree(partial / SCRATCH, ignore_errors=True)
    if outputs.exists():
        old = outputs.with_name(f"{outputs.name}.old-{os.getpid()}")
        shutil.rmtree(old, ignore_errors=True)  # in a container a killed run had this very number
        outputs.rename(old)
    partial.rename(outputs)
    _fsync_folder(outputs.parent)


def _clean(outputs: Path) -> None:
    """Partial and old folders beside a finished one serve nobody."""
    for pattern in (f"{outputs.name}.partial-*", f"{outputs.name}.old-*"):
        for path in outputs.parent.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _only_one(name: str, outputs: Path) -> Iterator[None]:
    """A lock of the operating system: it goes with its process, however that ends."""
    path = outputs.with_name(f".{outputs.name}.lock")
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(
                f"another process is running {name} into {outputs}; wait for it or stop it"
            ) from None
        yield
