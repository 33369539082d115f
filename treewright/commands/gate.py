"""`treewright gate`: may this model be released? Exit 0 for pass, 1 otherwise, 2 when it cannot be asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gpu_runner.gate import Verdict

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "error": "red"}
_HEADS = {
    "pass": "The release passes.",
    "fail": "The release fails.",
    "inconclusive": "The release is neither proven good nor bad.",
    "error": "The run is broken; no score is drawn from it.",
}
_COLUMNS = ("test", "items", "before", "after", "difference at least", "at most", "needed", "result")


def register(app: typer.Typer) -> None:
    app.command("gate")(gate)


def gate(
    work: Annotated[Path, typer.Option(help="Work folder that holds plan/, generate/ and benchmark/.")],
) -> None:
    """Decide by the policy that was written before the run: pass, fail or inconclusive."""
    from rich.console import Console

    from gpu_runner.gate import run
    from gpu_runner.stage import StageError
    from lab.contracts import ContractError

    try:
        _, verdict = run(work)
    except (StageError, ContractError, OSError) as error:
        typer.echo(f"gate: {error}", err=True)
        raise typer.Exit(2) from error
    _show(verdict, Console())
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(_markdown(verdict))
    raise typer.Exit(0 if verdict.outcome == "pass" else 1)


def _cells(verdict: Verdict) -> list[tuple[str, ...]]:
    return [
        (
            f"{test.name}, {test.metric.replace('_', ' ')}",
            str(test.items),
            f"{test.base:.1%}",
            f"{test.candidate:.1%}",
            f"{test.low:+.1%}",
            f"{test.high:+.1%}",
            f"above {test.threshold:+.1%}",
            test.result,
        )
        for test in verdict.tests
    ]


def _lines(verdict: Verdict) -> list[str]:
    """The reason first, then every test; a reason that quotes a test is not said twice."""
    if verdict.errors:
        return list(verdict.errors)
    return list(dict.fromkeys((verdict.reason, *(test.sentence for test in verdict.tests))))


def _show(verdict: Verdict, console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    if verdict.tests:
        table = Table(title="Gate")
        for number, name in enumerate(_COLUMNS):
            table.add_column(name, justify="right" if 0 < number < len(_COLUMNS) - 1 else "left")
        for cells in _cells(verdict):
            table.add_row(*map(escape, cells))
        console.print(table)
    colour = _COLOURS[verdict.outcome]
    console.print(f"[bold {colour}]{verdict.outcome}[/]: {_HEADS[verdict.outcome]}", highlight=False)
    for line in _lines(verdict):
        console.print(f"- {escape(line)}", highlight=False)


def _markdown(verdict: Verdict) -> str:
    """The verdict for a job's summary page. Names pass the renderer's escaping; the numbers are ours."""
    from lab.report.markdown import table, text

    parts = [f"## Gate: {verdict.outcome}", text(_HEADS[verdict.outcome])]
    if verdict.tests:
        parts.append(table(_COLUMNS, [[text(name), *numbers] for name, *numbers in _cells(verdict)]))
    parts.append("\n".join(f"- {text(line)}" for line in _lines(verdict)))
    return "\n\n".join(parts) + "\n"
