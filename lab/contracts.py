"""The contracts between the rooms: JSON Schemas from `schemas/`, canonical digests, files never half written.

Every file that one room writes for another has a schema here by name (`sample`, `plan`, `manifest`, ...). A
digest is SHA-256 over canonical JSON (as RFC 8785: sorted keys, no spaces, UTF-8), written `sha256:<hex>`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from lab.canonical import canonical as canonical
from lab.canonical import digest as digest


class ContractError(ValueError):
    """A value does not fit its schema; `problems` says which field and why."""

    def __init__(self, name: str, problems: list[str], where: str = "") -> None:
        self.problems = problems
        place = f"{where}: " if where else ""
        super().__init__(f"{place}not a valid {name}: " + "; ".join(problems[:5]))


@cache
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema `schemas/<name>.json`."""
    loaded: dict[str, Any] = json.loads((resources.files("schemas") / f"{name}.json").read_text("utf-8"))
    return loaded


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema(name))


def problems(name: str, value: object) -> list[str]:
    """Each way in which `value` misses the schema, as `field: message`; empty when it is valid."""
    errors = sorted(_validator(name).iter_errors(value), key=lambda error: [str(part) for part in error.path])
    return [f"{'.'.join(map(str, error.path)) or '(top)'}: {error.message[:300]}" for error in errors]


def require(name: str, value: object, where: str = "") -> None:
    """Raise `ContractError` unless `value` fits `schemas/<name>.json`."""
    found = problems(name, value)
    if found:
        raise ContractError(name, found, where)


def bytes_digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes(path: Path, parts: Iterable[bytes]) -> None:
    """Temporary name, fsync, rename: a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, [text.encode(), b"\n"])


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """One canonical JSON value a line, so that equal rows give byte-identical files."""
    write_bytes(path, (canonical(row) + b"\n" for row in rows))


def read_json(path: Path, name: str | None = None) -> Any:
    """The JSON value in `path`, checked against `schemas/<name>.json` when a name is given."""
    value = json.loads(path.read_text("utf-8"))
    if name is not None:
        require(name, value, str(path))
    return value


def read_lines(path: Path, name: str | None = None) -> Iterator[Any]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            value = json.loads(line)
            if name is not None:
                require(name, value, f"{path}:{number}")
            yield value
