"""Templates of prompts: text with `{{ name }}`, `{{ name.part }}` and `{{ name | json }}`, and nothing else.

Prompts may come from a taxonomy, so there is no language in them to run: no loops, no calls, no attributes
but the fields of plain values. What a template puts in is made harmless, so that no document and no model's
answer can end its turn and speak as somebody else. Rendering is linear in the length of text and values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

from lab.synthesis.text import harmless

_NAME = r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*){0,3}"
_PLACE = re.compile(r"\{\{\s*(" + _NAME + r")\s*(?:\|\s*(json)\s*)?\}\}")
_LEFT_OVER = re.compile(r"\{\{|\{%|\{#")


class TemplateError(ValueError):
    """The template holds something other than text and placeholders."""


class MissingError(KeyError):
    """A placeholder names a value that the row does not have."""


def check(text: str) -> None:
    """Raise `TemplateError` unless every opening brace pair is a placeholder."""
    for piece, _, _ in _parts(text):
        if found := _LEFT_OVER.search(piece):
            near = piece[found.start() : found.start() + 40]
            raise TemplateError(f"`{near}` is no placeholder: write {{{{ name }}}} or {{{{ name | json }}}}")


def names(text: str) -> frozenset[str]:
    """The first parts of the names that the template uses."""
    return frozenset(name.split(".")[0] for _, name, _ in _parts(text) if name)


def render(text: str, values: Mapping[str, Any]) -> str:
    """Raises `MissingError`."""
    made = []
    for piece, name, form in _parts(text):
        made.append(piece)
        if name:
            made.append(_shown(look_up(values, name), form == "json"))
    return "".join(made).strip()


def look_up(values: Mapping[str, Any], name: str) -> Any:
    """`name.part` in mappings and in the fields of dataclasses. Raises `MissingError`."""
    found: Any = values
    for part in name.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif is_dataclass(found) and part in {field.name for field in fields(found)}:
            found = getattr(found, part)
        else:
            raise MissingError(name)
    return found


def _shown(value: Any, as_json: bool) -> str:
    if as_json:
        # Not escaped for HTML: a model that is shown such escapes writes them.
        return harmless(json.dumps(value, ensure_ascii=False))
    return "" if value is None else harmless(value) if isinstance(value, str) else str(value)


@lru_cache(maxsize=1024)
def _parts(text: str) -> tuple[tuple[str, str, str], ...]:
    """(text before, name, form) for each placeholder, and the rest with an empty name."""
    made, start = [], 0
    for match in _PLACE.finditer(text):
        made.append((text[start : match.start()], match.group(1), match.group(2) or ""))
        start = match.end()
    return (*made, (text[start:], "", ""))
