"""`treewright selftest`: a short life of a pull request on this machine. Exit 0 when every check passed, 1
otherwise, 2 when something needed is not installed."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    app.command("selftest")(selftest)


def selftest(
    patience: float = typer.Option(300.0, min=1, help="Seconds to wait for a check run before giving up."),
) -> None:
    """Play a pull request from its first mistake to its release, with the models of this environment."""
    import signal
    import sys

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    try:
        from treewright.selftest import Line, SelfTest
    except ModuleNotFoundError as error:
        typer.echo(f"{error.name} is not installed: pip install 'treewright[bot,sandbox]'", err=True)
        raise typer.Exit(2) from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    console = Console(highlight=False)

    def say(line: Line) -> None:
        console.print(f"{'[green]ok[/]' if line.ok else '[red]failed[/]'}  {escape(line.name)}")

    test = SelfTest(say)
    well = test.run()
    table = Table(title="Treewright on this machine", title_justify="left")
    for column in ("check", "state", "seconds", "found"):
        table.add_column(column, overflow="fold", justify="right" if column == "seconds" else "left")
    for line in test.lines:
        state = "[green]ok[/]" if line.ok else "[red]failed[/]"
        table.add_row(escape(line.name), state, f"{line.seconds:.1f}", escape(line.found))
    console.print()
    console.print(table)
    raise typer.Exit(0 if well else 1)
