"""`treewright benchmark`: the base model and the tuned one over the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command("benchmark")(benchmark)


def benchmark(
    work: Annotated[Path, typer.Option(help="Work folder that holds plan/ and tune/.")],
    student: Annotated[str, typer.Option(help="The base model: `embedded`, or a transformers folder.")],
) -> None:
    """Measure base and candidate on general and held-out questions, in one job."""
    from rich.console import Console

    from gpu_runner.benchmark.model import BenchmarkError, go_offline

    go_offline()
    from gpu_runner.benchmark.benchmark import run
    from gpu_runner.embedded import EmbeddedModelError, cache_folder
    from gpu_runner.stage import StageError
    from gpu_runner.student import StudentError, resolve_student
    from lab.contracts import ContractError, read_json

    errors = Console(stderr=True)
    try:
        cache = cache_folder()
        manifest = run(work, resolve_student(student, cache), cache, progress=errors.print)
    except (
        BenchmarkError,
        StageError,
        StudentError,
        EmbeddedModelError,
        ContractError,
        OSError,
    ) as error:
        errors.print(f"[red]benchmark:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error
    report: dict[str, Any] = read_json(work / "benchmark" / "benchmark.json", "benchmark")
    Console().print(_table(report))
    if manifest.reused:
        errors.print("Nothing to do: this benchmark had already run with the same inputs.")


def _table(report: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Benchmark")
    for name in ("set", "metric"):
        table.add_column(name)
    for name in ("items", "base", "candidate"):
        table.add_column(name, justify="right")
    for row in report["sets"]:
        scores = [f"{row[name]:.1%}" for name in ("base", "candidate")]
        table.add_row(escape(row["name"]), row["metric"].replace("_", " "), str(row["items"]), *scores)
    return table
