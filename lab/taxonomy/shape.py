"""Holds a YAML tree against a JSON Schema from `schemas/`, and says what is wrong at which node.

A JSON Schema library forgets lines, so this reads the small part of JSON Schema that our own files use,
over nodes that know their place: type, const, enum, required, properties, additionalProperties, items,
minItems, uniqueItems, minLength, pattern, minimum, maximum. A test holds its verdicts against the
`jsonschema` package's on every schema.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from lab.untrusted import YamlNode

Kind = Literal[
    "type", "const", "enum", "required", "unknown", "few", "repeated", "empty", "pattern", "range", "unsafe"
]
_NUMBERS = ("int", "float")
_TYPES: Mapping[str, tuple[str, ...]] = {
    "string": ("str",),
    "integer": ("int",),
    "number": _NUMBERS,
    "boolean": ("bool",),
    "null": ("null",),
    "object": ("mapping",),
    "array": ("sequence",),
}


@dataclass(frozen=True)
class Misfit:
    """One way in which `node` misses its schema. `path` leads to it; `key` is the missing or unknown key."""

    kind: Kind
    node: YamlNode
    path: tuple[str | int, ...]
    schema: Mapping[str, Any]
    key: str = ""
    first: YamlNode | None = None  # for `repeated`: the earlier item

    @property
    def field(self) -> str:
        """The last name on the path: the field that this is about."""
        return next((part for part in reversed(self.path) if isinstance(part, str)), "")


@cache
def shape(name: str) -> dict[str, Any]:
    """The schema `schemas/<name>.json`, without the weight of a schema library."""
    loaded: dict[str, Any] = json.loads((resources.files("schemas") / f"{name}.json").read_text("utf-8"))
    return loaded


def misfits(node: YamlNode, schema: Mapping[str, Any], path: tuple[str | int, ...] = ()) -> Iterator[Misfit]:
    """Every misfit below `node`, in the order of the file's structure. Never raises."""
    kind = schema.get("type")
    if kind is not None and not _is(node, kind, schema):
        yield Misfit("type", node, path, schema)
        return
    if node.kind == "mapping":
        yield from _mapping(node, schema, path)
    elif node.kind == "sequence":
        yield from _sequence(node, schema, path)
    else:
        yield from _value(node, schema, path)


def _is(node: YamlNode, kind: str, schema: Mapping[str, Any]) -> bool:
    if node.type in _TYPES[kind]:
        return True
    # YAML 1.1 reads a bare `off` as a boolean; where the words are listed, the word is what was meant.
    return node.kind == "scalar" and kind == "string" and node.text in schema.get("enum", ())


def _mapping(node: YamlNode, schema: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Misfit]:
    known: Mapping[str, Any] = schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in node.index:
            yield Misfit("required", node, path, known.get(name, {}), name)
    for key, value in node.entries:
        if key.text in known:
            yield from misfits(value, known[key.text], (*path, key.text))
        elif rest is False:
            yield Misfit("unknown", key, path, schema, key.text)
        elif isinstance(rest, Mapping):
            yield from misfits(value, rest, (*path, key.text))


def _sequence(node: YamlNode, schema: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Misfit]:
    if len(node.items) < schema.get("minItems", 0):
        yield Misfit("few", node, path, schema)
    if schema.get("uniqueItems"):
        seen: dict[str, YamlNode] = {}
        for number, item in enumerate(node.items):
            same = json.dumps(item.plain(), sort_keys=True, default=str)
            if same in seen:
                yield Misfit("repeated", item, (*path, number), schema, first=seen[same])
            else:
                seen[same] = item
    inner = schema.get("items")
    if inner is not None:
        for number, item in enumerate(node.items):
            yield from misfits(item, inner, (*path, number))


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    """As JSON Schema means it (ECMA 262): `$` is the very end; Python also takes a line end before it."""
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    return re.compile(f"{pattern[:-1]}\\Z" if ends else pattern)


def _value(node: YamlNode, schema: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Misfit]:
    value = node.plain()
    if "const" in schema and value != schema["const"]:
        yield Misfit("const", node, path, schema)
    if "enum" in schema and value not in schema["enum"] and node.text not in schema["enum"]:
        yield Misfit("enum", node, path, schema)
    if len(node.text) < schema.get("minLength", 0) and node.type == "str":
        yield Misfit("empty", node, path, schema)
    elif "pattern" in schema and node.type == "str" and not _pattern(schema["pattern"]).search(node.text):
        yield Misfit("pattern", node, path, schema)
    if node.type in _NUMBERS:
        if not isinstance(value, int | float) or math.isnan(value):
            yield Misfit("type", node, path, schema)
        elif not schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf):
            yield Misfit("range", node, path, schema)
