"""`treewright benchmark`: the base model and the tuned one over the same questions; `treewright
stage-benchmarks`: the public ones' data, fetched once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command("benchmark")(benchmark)
    app.command("stage-benchmarks")(stage_benchmarks)


Data = Annotated[
    Path | None,
    typer.Option(envvar="TREEWRIGHT_BENCHMARK_DATA", help="Folder of staged benchmarks."),
]


def benchmark(
    work: Annotated[Path, typer.Option(help="Work folder that holds plan/ and tune/.")],
    student: Annotated[str, typer.Option(help="The base model: `embedded`, or a transformers folder.")],
    data: Data = None,
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
    from lab.synthesis.endpoints import EndpointError

    try:
        cache = cache_folder()
        manifest = run(work, resolve_student(student, cache), cache, progress=_tell, data=data)
    except (
        BenchmarkError,
        EndpointError,
        StageError,
        StudentError,
        EmbeddedModelError,
        ContractError,
        OSError,
    ) as error:
        _tell(f"benchmark: {error}")
        raise typer.Exit(2) from error
    report: dict[str, Any] = read_json(work / "benchmark" / "benchmark.json", "benchmark")
    Console().print(_table(report))
    if manifest.reused:
        _tell("Nothing to do: this benchmark had already run with the same inputs.")


def stage_benchmarks(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="mmlu, arc_challenge, hellaswag, winogrande, gsm8k; NAME@COMMIT takes that revision. None: "
            "check what is staged."
        ),
    ] = None,
    data: Data = None,
    origin: Annotated[
        Path | None,
        typer.Option("--from", help="Take a copy of the data set's files instead of fetching them."),
    ] = None,
) -> None:
    """Fetch public benchmarks by pinned revision into a folder that runs read without a network."""
    from rich.console import Console

    from gpu_runner.benchmark.model import BenchmarkError
    from gpu_runner.benchmark.staging import check_all, stage
    from lab.contracts import ContractError

    try:
        if data is None:
            raise BenchmarkError("say where: --data DIR, or TREEWRIGHT_BENCHMARK_DATA")
        if origin is not None and len(names or ()) != 1:
            raise BenchmarkError("--from is a copy of one data set: name one benchmark")
        for name in names or ():
            stage(name, data, origin, progress=_tell)
        staged = check_all(data)
    except (BenchmarkError, ContractError, OSError) as error:
        _tell(f"stage-benchmarks: {error}")
        raise typer.Exit(2) from error
    for one in staged:
        rows = sum(file.rows for file in one.files)
        Console().print(
            f"{one.source.name}@{one.revision}: {len(one.files)} files, {rows} rows", highlight=False
        )


def _tell(line: str) -> None:
    """Plain: rich would take the brackets of "pip install 'treewright[runner]'" for markup and drop them."""
    typer.echo(line, err=True)


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
