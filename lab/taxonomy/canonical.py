"""The digest of `lab/contracts.py`, without the weight of a schema library: lint starts on every
keystroke's save.
"""

from __future__ import annotations

import hashlib
import json


def digest(value: object) -> str:
    """`sha256:<hex>` of canonical JSON (sorted keys, no spaces, UTF-8), equal to `lab.contracts.digest`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
