"""The job summary: one row a phase, hostile names inert, and the curves."""

from __future__ import annotations

from gpu_runner.tune.summary import job_summary
from lab.contracts import schema


def test_the_summary_has_a_row_a_phase_and_the_curves_and_no_foreign_markup() -> None:
    report = schema("phases")["examples"][0]
    report["phases"][0]["title"] = "short | <b>answers</b> @everyone"
    shown = job_summary(report, [{"phase": 1, "loss": 2.0, "learning_rate": 1e-5}])
    assert "2.289 to 0.000" in shown
    assert "embedded" in shown
    assert "epoch 1 of 2 of phase 1, by 40 rows held back" in shown
    assert "<b>" not in shown
    assert shown.count("```mermaid") == 2
    skipped = {**report["phases"][0], "skipped": "no new rows for this phase"}
    assert "no new rows for this phase" in job_summary({**report, "phases": [skipped]}, [])
