"""Our small reader of JSON Schema agrees with the reference library on every schema that lint uses."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.contracts import problems, schema
from lab.taxonomy.shape import misfits, shape
from lab.untrusted import YamlNode, parse_yaml

NAMES = ("knowledge_v3", "skill_v1", "skill_v2", "skill_v3", "repository_config")
PIECES = [None, True, 7, 0.5, "", "text", [], ["a", "a"], {}, {"question": "q"}, "off", -1, "x/y"]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@given(
    st.sampled_from(NAMES),
    st.integers(0, 10_000),
    st.sampled_from([*PIECES, "delete", "double"]),
    st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_both_give_the_same_verdict_on_a_damaged_example(
    name: str, where: int, piece: Any, extra: bool
) -> None:
    value = json.loads(json.dumps(schema(name)["examples"][0]))
    path = places(value)[where % len(places(value))]
    parent = value
    for part in path[:-1]:
        parent = parent[part]
    if piece == "delete":
        del parent[path[-1]]
    elif piece == "double" and isinstance(parent, list):
        parent.append(parent[path[-1]])
    else:
        parent[path[-1]] = piece
    if extra:
        value["surplus"] = 1
    node = parse_yaml(
        yaml.safe_dump(value, sort_keys=False, default_flow_style=False).replace("&id", "id").encode()
    )
    if isinstance(node, YamlNode):
        assert bool(list(misfits(node, shape(name)))) == bool(problems(name, value))
