"""Schemas, digests, and files that are never half written."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from lab import canonical
from lab.contracts import (
    ContractError,
    digest,
    file_digest,
    problems,
    read_json,
    read_lines,
    require,
    schema,
    write_bytes,
    write_json,
    write_lines,
)

MINE = [
    *(f"{kind}_v{version}" for kind in ("knowledge", "skill") for version in (1, 2, 3)),
    "repository_config",
    "lint_report",
]


@pytest.mark.parametrize("name", MINE)
def test_every_schema_is_valid_described_and_fits_its_own_examples(name: str) -> None:
    loaded = schema(name)
    Draft202012Validator.check_schema(loaded)
    assert loaded["title"]
    assert loaded["description"]
    for example in loaded["examples"]:
        assert problems(name, example) == []


def test_every_schema_file_is_json_with_a_title() -> None:
    files = [each for each in resources.files("schemas").iterdir() if each.name.endswith(".json")]
    assert files
    for each in files:
        assert json.loads(each.read_text("utf-8"))["title"], each.name


def test_a_problem_names_its_field() -> None:
    report = {"ok": True, "files": -1, "findings": []}
    assert problems("lint_report", report)[0].startswith("files: ")
    with pytest.raises(ContractError, match="here: not a valid lint_report: files"):
        require("lint_report", report, "here")


def test_a_digest_depends_on_the_value_and_not_on_its_order() -> None:
    assert digest({"b": 1, "a": "é"}) == digest({"a": "é", "b": 1}) == canonical.digest({"b": 1, "a": "é"})
    assert digest({"a": 1}) != digest({"a": "1"})
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"b": 1, "a": "x\n"}, {"c": None}]
    write_lines(tmp_path / "deep" / "rows.jsonl", rows)
    write_json(tmp_path / "one.json", rows[0])
    assert list(read_lines(tmp_path / "deep" / "rows.jsonl")) == rows
    assert read_json(tmp_path / "one.json") == rows[0]
    assert file_digest(tmp_path / "one.json").startswith("sha256:")
    with pytest.raises(ContractError):
        read_json(tmp_path / "one.json", "lint_report")


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "file"
    write_bytes(place, [b"old"])

    def failing() -> object:
        yield b"half"
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_bytes(place, failing())  # type: ignore[arg-type]  # any value on purpose
    assert place.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
