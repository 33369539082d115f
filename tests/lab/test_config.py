"""The repository's configuration: defaults, places of mistakes, and a round trip."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_runner.tune.phases import OVERRIDES, PRESETS, preset
from lab.config import EMBEDDED_MODEL, ModelName, RepositoryConfig, load_config
from lab.contracts import problems, schema


def test_without_a_file_the_defaults_let_nobody_in_beyond_write_permission() -> None:
    config, findings = load_config(None)
    assert findings == []
    assert (config.approval.permission, config.approval.users, config.approval.teams) == ("write", (), ())
    assert not config.approval.author_may_approve
    assert config.models.teacher == ModelName(EMBEDDED_MODEL, "main")


def test_the_defaults_are_those_that_the_schema_tells() -> None:
    told = schema("repository_config")["properties"]
    data = RepositoryConfig().to_json()
    for section, described in told.items():
        for name, each in described.get("properties", {}).items():
            if "default" in each:
                assert data[section][name] == each["default"], f"{section}.{name}"


def test_a_file_is_read_and_comes_back_the_same() -> None:
    text = b"""\
version: 1
approval: {permission: maintain, users: [mona], teams: [acme/curators]}
lint: {rules: {context-length: off, created-by: error}, limits: {context_words: 100}}
gate: {general_margin: 1}
tune: {preset: stacked, overrides: {epochs: 2, learning_rate: 2.0e-5}}
release: {model: acme/acme-lm}
"""
    config, findings = load_config(text)
    assert findings == []
    assert config.lint.rules == {"context-length": "off", "created-by": "error"}
    assert config.lint.limits.context_words == 100
    assert config.gate.general_margin == 1.0
    assert config.tune.overrides == {"epochs": 2, "learning_rate": 2e-5}
    assert problems("repository_config", config.to_json()) == []
    assert RepositoryConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("text", "line", "column", "told"),
    [
        (b"version: 2\n", 1, 10, "only 1 is known"),
        (b"approval: {}\n", 1, 1, "`version` is missing"),
        (b"version: 1\nbudgets:\n  previews: 3\n", 3, 3, "no key of budgets"),
        (b"version: 1\napproval: {users: mona}\n", 2, 19, "not a list"),
        (b"version: 1\ngate: {confidence: 2}\n", 2, 20, "out of range"),
        (b"version: 1\nlint:\n  rules: {licence: maybe}\n", 3, 20, "none of the choices"),
        (b"version: 1\nlint:\n  rules: {license: off}\n", 3, 11, "no lint rule"),
        (b"version: 1\nlint:\n  rules: {yaml-alias: off}\n", 3, 11, "cannot be changed"),
        (b"version: 1\ndocuments:\n  hosts:\n", 3, 9, "documents.hosts has no value"),
        (b"version: 1\ntune: {preset: embeded-cpu}\n", 2, 16, "none of the choices"),
        (b"version: 1\ntune: {overrides: {learning_rat: 1}}\n", 2, 20, "no key of tune.overrides"),
        (b"version: 1\ntune: {overrides: {learning_rate: .nan}}\n", 2, 35, "not a number"),
        (b"version: 1\nbenchmark: {general: ../../etc/passwd}\n", 2, 22, "not acceptable"),
        (b"version: 1\nversion: 1\n", 2, 1, "second time"),
        (b"[\n", 1, 1, "not closed"),
        (b"", 1, 1, "empty"),
    ],
)
def test_a_mistake_is_told_at_its_place_and_the_defaults_hold(
    text: bytes, line: int, column: int, told: str
) -> None:
    config, findings = load_config(text)
    assert config == RepositoryConfig()
    assert told in findings[0].message
    assert (findings[0].rule, findings[0].line, findings[0].column) == ("config", line, column)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tune: {overrides: {learning_rate: 1e-5}}", "write `1.0e-5`"),
        ("gate: {general_margin: 2.5E1}", "write `2.5e+1`"),
        ("budgets: {previews_in_flight: '3'}", "write `3`"),
        ("approval: {users: [123]}", "`'123'`"),
        ("documents: {hosts: ['https://github.com']}", "such as github.com"),
    ],
)
def test_a_mistake_is_told_with_what_to_write_instead(text: str, told: str) -> None:
    assert told in load_config(f"version: 1\n{text}\n".encode())[1][0].help


def test_lint_knows_the_tuning_stages_presets_and_settings() -> None:
    known = schema("repository_config")["properties"]["tune"]["properties"]
    assert sorted(known["preset"]["enum"]) == sorted(PRESETS)
    assert tuple(known["overrides"]["properties"]) == OVERRIDES
    for name, told in known["overrides"]["properties"].items():
        for value in [*told.get("enum", ()), *(told[end] for end in ("minimum", "maximum") if end in told)]:
            preset("stacked", {name: value})


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_no_bytes_can_widen_a_permission(noise: bytes) -> None:
    config, findings = load_config(b"version: 1\napproval:\n  users: [mona]\n" + noise)
    assert config.approval.users in ((), ("mona",)) or not findings
    if findings:
        assert config == RepositoryConfig()
