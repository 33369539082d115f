"""`treewright explain RULE`: what a lint rule wants, why, and an example of each. `--all` prints every
rule.
"""

from __future__ import annotations

import enum
from typing import Annotated

import typer


class Format(enum.StrEnum):
    """Formats of an explanation."""

    text = "text"
    markdown = "markdown"


def register(app: typer.Typer) -> None:
    @app.command("explain", help="Explain a lint rule, with an example.")
    def explain_command(
        rule: Annotated[str | None, typer.Argument(help="The rule's id, as printed by lint.")] = None,
        all_: Annotated[bool, typer.Option("--all", help="Every rule.")] = False,
        format_: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.text,
    ) -> None:
        raise typer.Exit(_run(rule, all_, format_))


def _run(rule: str | None, all_: bool, format_: Format) -> int:
    import difflib

    from lab.taxonomy import render
    from lab.taxonomy.rules import RULES

    if all_ == (rule is not None):
        typer.echo("Name one rule, or use --all.", err=True)
        return 2
    if rule is not None and rule not in RULES:
        near = difflib.get_close_matches(rule, list(RULES), n=1)
        help_ = f"Did you mean {near[0]}?" if near else "`treewright explain --all` lists them."
        typer.echo(f"There is no rule {rule}. {help_}", err=True)
        return 2
    if format_ is Format.markdown and all_:
        typer.echo(render.rules_markdown(), nl=False)
    else:
        told = render.rule_text if format_ is Format.text else render.rule_markdown
        typer.echo("\n\n".join(told(name) for name in ([rule] if rule is not None else RULES)))
    return 0
