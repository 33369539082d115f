"""The `treewright` command. Each file of `treewright/commands/` adds its own command with `register(app)`.

Command modules import typer and the standard library only, at their top; everything heavy is imported inside
the function that needs it, so that `treewright --help` and `treewright lint` start fast (a test enforces it).
Exit codes: 0 fine, 1 findings (or a gate that did not pass), 2 wrong usage or environment.
"""

from __future__ import annotations

import importlib
import pkgutil

import typer

from treewright import __version__, commands

app = typer.Typer(
    name="treewright",
    help="Grow a language model from pull requests: lint, preview, approve, tune, benchmark, release.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"treewright {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """Grow a language model from pull requests: lint, preview, approve, tune, benchmark, release."""


for _module in sorted(module.name for module in pkgutil.iter_modules(commands.__path__)):
    importlib.import_module(f"treewright.commands.{_module}").register(app)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
