"""`treewright generate`: ask the teacher, check, judge, and write the training rows of a planned release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gpu_runner.generate import Progress


class Executor(StrEnum):
    LOCAL = "local"
    RAY = "ray"


def register(app: typer.Typer) -> None:
    app.command("generate")(generate)


def generate(
    work: Annotated[Path, typer.Option(help="Work folder of the release, planned before.")] = Path("work"),
    in_flight: Annotated[int, typer.Option(min=1, max=4096, help="Requests under way per endpoint.")] = 8,
    executor: Annotated[Executor, typer.Option(help="This process, or a Ray cluster (extra `scale`).")] = (
        Executor.LOCAL
    ),
    shards: Annotated[int, typer.Option(min=0, help="Parts of the plan on Ray; 0: two a processor.")] = 0,
) -> None:
    """Generate the rows of the release in `work/plan`."""
    import os

    from gpu_runner.generate import GenerateError, GenerateSettings, run
    from gpu_runner.stage import StageError
    from lab.contracts import read_json
    from lab.synthesis.endpoints import EndpointError

    if shards and executor is Executor.LOCAL:
        typer.echo("treewright generate: --shards is for --executor ray", err=True)
        raise typer.Exit(2)
    settings = GenerateSettings(
        in_flight=in_flight, rows_in_progress=4 * in_flight, executor=executor.value, shards=shards
    )
    try:
        with _shown() as show:
            manifest = run(work, os.environ, settings, show)
    except (EndpointError, GenerateError, StageError) as error:
        typer.echo(f"treewright generate: {error}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:  # a full disk, a folder that is not ours
        typer.echo(
            f"treewright generate: {error} (work folder: {work}); run again when that is mended", err=True
        )
        raise typer.Exit(2) from error
    value = read_json(work / "generate" / "yield.json")
    if manifest.reused:
        typer.echo("generated before; nothing was asked")
    _print(value["leaves"])
    rows = ", ".join(f"{count} {name}" for name, count in value["samples"].items())
    typer.echo(f"rows: {rows}")


def _print(leaves: Sequence[Mapping[str, Any]]) -> None:
    """The yield by leaf and reason, and why a leaf has fewer rows than were asked for."""
    import sys

    from rich.console import Console
    from rich.table import Table

    from lab.synthesis.yields import HEAD, shortfalls, table
    from lab.untrusted import printable

    shown = Table(*HEAD, box=None, pad_edge=False)
    for row in table(leaves):
        shown.add_row(*(printable(cell, 400) for cell in row))
    # In a log no width is known: a wide one keeps a leaf on one line.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)
    console.print(shown)
    for sentence in shortfalls(leaves):
        console.print(printable(sentence, 400), soft_wrap=True)


class _shown:  # noqa: N801 (used like the function it stands for)
    """Progress: a live line on a terminal, a plain line now and then elsewhere (logs of Actions)."""

    def __enter__(self) -> _shown:
        import os

        from rich.console import Console

        console = Console(stderr=True)
        # A runner may give its steps a terminal; what is drawn over and over is still no use in a log.
        live = console.is_terminal and os.environ.get("GITHUB_ACTIONS") != "true"
        self._status = console.status("asking the teacher") if live else None
        self._last = 0.0
        if self._status is not None:
            self._status.start()
        return self

    def __call__(self, progress: Progress) -> None:
        import time

        if self._status is not None:
            self._status.update(progress.line())
        elif time.monotonic() - self._last >= 10 or progress.done == progress.total:
            self._last = time.monotonic()
            typer.echo(progress.line(), err=True)

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
