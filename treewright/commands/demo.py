"""`treewright demo`: the whole loop on this machine, from a pull request to a published release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    data: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path(
        ".treewright/demo"
    ),
    keep: Annotated[
        bool | None,
        typer.Option(
            "--keep/--no-keep",
            help="Leave the pages open until Ctrl-C. The default: yes on a terminal, no elsewhere.",
        ),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="`full`, or `small`: fewer rows and items, as the tests play it.")
    ] = "full",
) -> None:
    """Play the main job with a real forge, hub, bot and a small model: two pull requests and a release."""
    import signal
    import sys
    import time

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sandbox.forge.git import GitError
    from sandbox.play import Story, perform
    from sandbox.stage_hands import Options, StoryError

    # A demo that is told to end closes its house, too: nothing is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # a log is as wide as its lines
    if scale not in ("full", "small"):
        raise typer.BadParameter(f"{scale!r} is neither `full` nor `small`", param_hint="--scale")
    started = time.monotonic()

    def show(story: Story) -> None:
        table = Table(
            title=f"What happened, in {(time.monotonic() - started) / 60:.1f} minutes", title_justify="left"
        )
        for column in ("what", "how it went", "seconds", "where to look"):
            table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
        for scene in story.scenes:
            table.add_row(
                scene.name, scene.outcome, f"{scene.seconds:.0f}" if scene.seconds else "", scene.where
            )
        console.print()
        console.print(table)

    try:
        for story in perform(Options(data=data.resolve(), scale=scale), console.print):
            show(story)
            if keep if keep is not None else sys.stdout.isatty():
                console.print("\nThe pages stay open. Press Ctrl-C to close them.")
                while True:
                    time.sleep(1)
    except KeyboardInterrupt:
        console.print("\nClosed.")
    except (StoryError, GitError) as error:
        console.print(f"[red]The demo stopped:[/red] {escape(str(error))}")
        raise typer.Exit(1) from error
