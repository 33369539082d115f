"""The tuning run for a GitHub job summary: one row a phase, what was refused, and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpu_runner.tune.curves import mermaid
from lab.report.markdown import table, text


def job_summary(report: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """`report` is `phases.json`, `metrics` the lines of `metrics.jsonl`."""
    rows = [
        [
            f"{phase['number']}: {text(phase['title'])}",
            str(phase["rows"]),
            str(len(phase["refused"])),
            str(phase["steps"]),
            _loss(phase),
            "" if phase["tokens_per_second"] is None else f"{phase['tokens_per_second']:.0f}",
        ]
        for phase in report["phases"]
    ]
    mfu = "" if report["mfu"] is None else f", MFU {100 * report['mfu']:.1f} %"
    adapters = f", LoRA of rank {report['lora_rank']}, merged" if report["lora_rank"] else ""
    head = ["phase", "rows", "refused", "steps", "loss", "tokens/s"]
    lines = [
        "## Tuning",
        "",
        (
            f"{text(report['student'])} by {text(report['preset'])} on {report['ranks']} × "
            f"{report['device']}, {report['precision']}{adapters}: {report['seconds']:.0f} s{mfu}, "
            f"{report['peak_memory_bytes'] / 1e9:.1f} GB at most."
        ),
        "",
        table(head, rows),
        "",
        text(checkpoint_line(report["choice"])),
        "",
        mermaid(metrics),
        "",
    ]
    return "\n".join(lines)


def checkpoint_line(choice: Mapping[str, Any]) -> str:
    """Which checkpoint the model is, in one sentence. `choice` is that of `phases.json`."""
    if choice["chosen"] is None:
        return f"Checkpoint: {choice['why']}"
    found = choice["candidates"][choice["chosen"] - 1]
    return (
        f"Checkpoint: epoch {found['epoch']} of {len(choice['candidates'])} of phase {found['phase']}, by "
        f"{choice['rows']} rows held back from training ({found['mean']:.3f} nats a token, 95 % interval "
        f"{found['low']:.3f} to {found['high']:.3f}): {choice['why']}"
    )


def _loss(phase: Mapping[str, Any]) -> str:
    if phase["skipped"]:
        return text(phase["skipped"])
    return f"{phase['first_loss']:.3f} to {phase['last_loss']:.3f}"
