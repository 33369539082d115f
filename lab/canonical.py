"""Digests of values: SHA-256 over canonical JSON (as RFC 8785: sorted keys, no spaces, UTF-8).

`lab/contracts.py` has them too; they are apart because lint, which starts on every keystroke's save, does not
need the weight of a schema library for them.
"""

from __future__ import annotations

import hashlib
import json


def canonical(value: object) -> bytes:
    """Canonical JSON: the same value gives the same bytes on every machine. NaN is refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: object) -> str:
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()
