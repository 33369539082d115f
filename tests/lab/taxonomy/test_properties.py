"""What holds for any bytes: no exception, known rules, places inside the file, budgets kept."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from hypothesis import given, settings
from hypothesis import strategies as st

from lab.taxonomy import examples
from lab.untrusted import parse_yaml

FUZZ = Path(__file__).parents[2] / "fuzz" / "yaml_reader.py"
BASES = [examples.SKILL, examples.GROUNDED, examples.KNOWLEDGE, examples.ATTRIBUTION, examples.CONFIG]


def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_yaml_reader", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = fuzz().check


@given(st.sampled_from(BASES), st.integers(0, 400), st.integers(0, 60), st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_noise_in_a_leaf_breaks_no_promise(base: str, at: int, cut: int, noise: bytes) -> None:
    data = base.encode()
    CHECK(data[:at] + noise + data[at + cut :])


@given(
    st.sampled_from(BASES),
    st.integers(0, 400),
    st.text(alphabet=st.characters(exclude_categories=()), max_size=60),
)
@settings(max_examples=150, deadline=None)
def test_any_characters_in_a_leaf_break_no_promise(base: str, at: int, text: str) -> None:
    CHECK((base[:at] + text + base[at:]).encode("utf-8", "surrogatepass"))


_VALUES = st.recursive(
    st.sampled_from(
        ["x", "''", "1", "Yes", "~", "2024-01-01", '"a: b"', "*a", "&a x", "!t x", "|", "[", "{", "#"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(
            st.tuples(st.sampled_from(["context", "question", "answer", "repo", "x"]), inner), max_size=4
        ).map(lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"),
    ),
    max_leaves=12,
)
_KEYS = [
    "version",
    "created_by",
    "task_description",
    "seed_examples",
    "document",
    "domain",
    "document_outline",
]


@given(st.lists(st.tuples(st.sampled_from(_KEYS), _VALUES), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_values_under_the_known_keys_break_no_promise(fields: list[tuple[str, str]]) -> None:
    CHECK("".join(f"{key}: {value}\n" for key, value in fields).encode())


def test_a_broken_promise_is_noticed() -> None:
    """The checker itself: a place outside the file does not pass."""
    inside = fuzz()._inside
    inside(b"a\nbc", 2, 3)
    for line, column in ((3, 1), (0, 1), (1, 3), (1, 0)):
        try:
            inside(b"a\nbc", line, column)
        except AssertionError:
            continue
        raise AssertionError((line, column))


def test_the_fuzz_target_runs_by_hand(tmp_path: Path) -> None:
    command = [sys.executable, str(FUZZ), "--seconds", "1", "--seed", "7", "--no-atheris"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "every promise held" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_fast_parser_is_the_one_in_use() -> None:
    """PyYAML's own parser gives the same events at a tenth of the speed; its wheels have libyaml."""
    from lab.taxonomy import yaml_reader

    assert yaml_reader._PARSER is not None
    assert not isinstance(parse_yaml(b"a: [1, 2]\n"), list)
