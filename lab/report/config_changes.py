"""What a pull request would change in `.github/treewright.yml`, setting by setting.

`changes(old, new)` compares two configurations as they take effect, with their defaults filled in, so that a
reworded file changes nothing and a removed line shows the default that comes back. Values are contributed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lab.config import CONFIG_PATH, RepositoryConfig
from lab.report.markdown import code, table

_MOST = 60
_GUARDED = ("approval.", "documents.hosts", "release.", "gate.", "budgets.")
"""Settings that decide who may do what, and what reaches the public: a maintainer looks twice."""


@dataclass(frozen=True)
class SettingChange:
    """`old` and `new` as they stand in YAML's flow style, empty for a setting that is not there."""

    name: str
    old: str
    new: str

    @property
    def guarded(self) -> bool:
        return self.name.startswith(_GUARDED)

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def changes(old: RepositoryConfig, new: RepositoryConfig) -> list[SettingChange]:
    """Changed settings; those that guard something first, then by name."""
    before, after = dict(_flat(old.to_json())), dict(_flat(new.to_json()))
    found = [
        SettingChange(name, before.get(name, ""), after.get(name, ""))
        for name in sorted(before.keys() | after.keys())
        if before.get(name, "") != after.get(name, "")
    ]
    return sorted(found, key=lambda change: not change.guarded)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{name}.")
        elif isinstance(inner, str):
            yield prefix + name, inner
        else:
            yield prefix + name, json.dumps(inner, ensure_ascii=False)


def section(rows: Sequence[Mapping[str, str]] | None, readable: bool) -> list[str]:
    """The part of the comment; nothing when the file does not change (`rows` None)."""
    if rows is None:
        return []
    title = f"#### What changes in {code(CONFIG_PATH)}"
    if not readable:
        return [
            title,
            "The new file has errors. Until they are mended the defaults would hold; see the findings.",
        ]
    if not rows:
        return [title, "No setting: the file says the same in other words."]
    shown = [SettingChange(row["name"], row["old"], row["new"]) for row in rows[:_MOST]]
    cells = [
        [f"**{code(one.name, 80)}**" if one.guarded else code(one.name, 80), _value(one.old), _value(one.new)]
        for one in shown
    ]
    left = len(rows) - len(shown)
    notes = [f"{left} more changed settings are left out."] if left > 0 else []
    if any(one.guarded for one in shown):
        notes.append("Settings in bold decide who may approve, what is fetched, and what is released.")
    notes.append("Settings are read from the default branch only, so nothing of this holds before the merge.")
    return [title, table(["setting", "now", "after the merge"], cells), " ".join(notes)]


def _value(value: str) -> str:
    return code(value, 200) or "–"
