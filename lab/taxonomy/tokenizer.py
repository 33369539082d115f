"""The teacher's own tokenizer, from a `tokenizer.json`: size limits, chunks and costs are counted by it, and
not estimated.

    TREEWRIGHT_TEACHER_TOKENIZER=/models/teacher/tokenizer.json treewright lint
    treewright lint --tokenizer /models/teacher/tokenizer.json

The file is the one that lies beside a model's weights. It is read with the `tokenizers` package (the extra
`tokenizer`; no torch); nothing is fetched, and only the operator or the person at the command line names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lab.taxonomy.sizes import ESTIMATE, Tokens
from lab.untrusted import printable

VARIABLE = "TREEWRIGHT_TEACHER_TOKENIZER"
_LARGEST = 64 * 1024 * 1024


class TokenizerError(ValueError):
    """The tokenizer cannot be used; says which file, why, and what to do."""


def teacher_tokens(env: Mapping[str, str], path: Path | None = None) -> Tokens:
    """The tokenizer at `path`, else the one that the environment names, else the estimate. Raises
    `TokenizerError`.
    """
    named = str(path) if path is not None else env.get(VARIABLE, "").strip()
    if not named:
        return ESTIMATE
    place = Path(named)
    if place.is_dir():
        place = place / "tokenizer.json"
    try:
        stamp = place.stat()
    except OSError as error:
        raise TokenizerError(_told(place, error.strerror or "it cannot be read")) from None
    return _load(place, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=4)
def _load(place: Path, _changed: int, size: int) -> Tokens:
    if size > _LARGEST:
        raise TokenizerError(_told(place, f"it has {size:,} bytes; at most {_LARGEST:,} are read"))
    try:
        from tokenizers import Tokenizer
    except ImportError:
        hint = 'install it with: pip install "treewright[tokenizer]"'
        raise TokenizerError(_told(place, f"the package `tokenizers` is missing; {hint}")) from None
    try:
        data = place.read_bytes()
        _check(json.loads(data))
        made = Tokenizer.from_str(data.decode())
    except OSError as error:
        raise TokenizerError(_told(place, error.strerror or "it cannot be read")) from None
    except (ValueError, RecursionError) as error:
        raise TokenizerError(_told(place, f"it is no tokenizer: {error}")) from None
    except Exception as error:  # the package raises bare Exception for a file that it cannot use
        raise TokenizerError(_told(place, f"it is no tokenizer: {error}")) from None
    made.no_truncation()
    made.no_padding()

    def count(text: str) -> int:
        return len(made.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)

    return Tokens(count, "sha256:" + hashlib.sha256(data).hexdigest())


def _check(value: Any) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise ValueError("it has no `model`")


def _told(place: Path, why: str) -> str:
    return (
        f"The teacher's tokenizer {printable(str(place), 200)}: {printable(why, 300)}. Name the "
        f"tokenizer.json of the teacher's model by --tokenizer or {VARIABLE}, or none to estimate tokens."
    )
