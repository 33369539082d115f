"""What one leaf's documents may cost the machine that reads them, and the error that says what went wrong.

A repository's own limits (files, size of a file, size and time of a fetch) are `DocumentPolicy` in
`.github/treewright.yml`. These here are the operator's, because one machine serves many repositories; each
is an environment variable with a default, read where documents are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

PREFIX = "TREEWRIGHT_DOCUMENTS_"
MIRRORS = "TREEWRIGHT_GIT_MIRRORS"


class DocumentError(RuntimeError):
    """Documents could not be had. `reason` says what was wrong, `hint` what to do; both may be shown to
    people.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        self.reason = reason
        self.hint = hint
        super().__init__(f"{reason} {hint}".strip())


@dataclass(frozen=True)
class DocumentLimits:
    """All of one leaf's documents together, except the cache.

    `total_mb` as stored in Git; `words` after conversion (200,000 are about 1,100 passages, more than a
    leaf's rows can use); `entries` of the commit's folders that are looked at; `convert_seconds` and
    `convert_mb` (memory) for the converter's process (a 1.7 MB PDF takes 0.5 s and 0.3 GiB); `cache_mb` on
    disk.
    """

    total_mb: int = 32
    words: int = 200_000
    entries: int = 200_000
    convert_seconds: int = 60
    convert_mb: int = 2048
    cache_mb: int = 2048

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> DocumentLimits:
        """`TREEWRIGHT_DOCUMENTS_TOTAL_MB` and so on. Raises `DocumentError` for what is no whole number."""
        values: dict[str, int] = {}
        for each in fields(cls):
            told = env.get(f"{PREFIX}{each.name.upper()}", "").strip()
            if told:
                if not told.isascii() or not told.isdecimal() or not 0 < int(told[:10]) < 10**9:
                    raise DocumentError(
                        f"{PREFIX}{each.name.upper()} is not a whole number above 0.",
                        f"Unset it (default {each.default}), or write one such as {each.default}.",
                    )
                values[each.name] = int(told)
        return cls(**values)


def setting(name: str) -> str:
    """How to name an operator's limit to people."""
    return f"{PREFIX}{name.upper()}"


def mirrors_from_environment(env: Mapping[str, str]) -> dict[str, str]:
    """`TREEWRIGHT_GIT_MIRRORS`: the operator's map from a leaf's clone URL to an internal one, as JSON.
    Raises `DocumentError`.
    """
    raw = env.get(MIRRORS, "").strip()
    try:
        value = json.loads(raw) if raw else {}
    except ValueError as error:
        raise DocumentError(f"{MIRRORS} is not JSON: {error}.", "Unset it, or correct it.") from None
    if not isinstance(value, dict) or not all(isinstance(url, str) for url in value.values()):
        raise DocumentError(f"{MIRRORS} must map URLs to URLs:", '{"https://…": "http://…"}')
    return value
