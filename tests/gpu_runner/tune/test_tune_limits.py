"""What the repository's `mixing` says reaches the phases."""

from __future__ import annotations

from pathlib import Path

from gpu_runner.tune.tune import settings_from_plan
from lab.config import load_config
from lab.contracts import write_json
from lab.synthesis.mixing import Limits


def test_mixing_budgets_of_the_configuration_are_those_of_the_stage(tmp_path: Path) -> None:
    config, findings = load_config(
        b"version: 1\nmixing:\n  leaf_rows: 30\n  source_rows: {knowledge_long: 4}\n"
    )
    assert findings == []
    write_json(tmp_path / "plan" / "plan.json", {"config": config.to_json()})
    found = settings_from_plan(tmp_path, "embedded").limits
    assert found == Limits(leaf_rows=30, source_rows={"knowledge_long": 4})
    assert settings_from_plan(tmp_path / "empty", "embedded").limits == Limits()


def test_a_source_that_does_not_exist_is_told_with_its_line() -> None:
    _, (finding,) = load_config(b"version: 1\nmixing:\n  source_rows:\n    knowledge_lung: 4\n")
    assert (finding.line, finding.rule) == (4, "config")
    assert "knowledge_long" in finding.help
