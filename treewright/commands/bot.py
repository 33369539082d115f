"""`treewright bot`: the GitHub App. `setup` makes it, `run` serves it, `replay` reads a stored delivery
without any network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bot.settings import Settings as BotSettings
    from bot.simulate import Outcome


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The GitHub App: checks, comments, approvals, releases.", no_args_is_help=True)
    group.command("setup")(setup)
    group.command("run")(run)
    group.command("replay")(replay)
    group.command("simulate")(simulate)
    app.add_typer(group, name="bot")


def setup(
    webhook_url: Annotated[str, typer.Option(help="Where GitHub will deliver: https://YOUR-HOST/webhook.")],
    into: Annotated[Path, typer.Option(help="Folder for the credentials; made for you only.")] = Path(
        "treewright-app"
    ),
    org: Annotated[str, typer.Option(help="Organization that owns the App; none: your own account.")] = "",
    name: Annotated[str, typer.Option(help="The App's name; no other App on GitHub may have it.")] = "",
    host: Annotated[
        str, typer.Option(help="GitHub, or the address of your GitHub Enterprise Server.")
    ] = "https://github.com",
    public: Annotated[bool, typer.Option("--public", help="Others may install it, too.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page on 127.0.0.1; 0 is any.")] = 0,
    open_browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page by itself.")
    ] = True,
) -> None:
    """Make the GitHub App: opens a page here that leads to GitHub, and stores what GitHub gives back."""
    import webbrowser

    from bot.setup import VALID_SECONDS, Plan, SetupError, next_steps, prepare
    from bot.setup_page import SetupServer

    if not webhook_url.startswith("https://") and "://127.0.0.1" not in webhook_url:
        typer.echo(
            "--webhook-url: GitHub delivers over https; put a TLS proxy in front of the bot.", err=True
        )
        raise typer.Exit(2)
    try:
        called = name or f"treewright-{org}".rstrip("-")
        plan = Plan.of(host, name=called, webhook_url=webhook_url, folder=into, owner=org, public=public)
        prepare(into)
    except SetupError as error:
        typer.echo(f"treewright bot setup: {error}.", err=True)
        raise typer.Exit(2) from None
    server = SetupServer(plan, port)
    server.start()
    typer.echo(f"Open this page on this machine, within 15 minutes:\n\n  {server.url}\n")
    if open_browser:
        webbrowser.open(server.url)
    try:
        server.outcome.done.wait(VALID_SECONDS)
    except KeyboardInterrupt:
        server.outcome.trouble = "stopped; nothing was stored"
    finally:
        server.shutdown()
        server.server_close()
    made = server.outcome.made
    if made is None:
        typer.echo(f"treewright bot setup: {server.outcome.trouble or 'nobody came back in time'}.", err=True)
        raise typer.Exit(1)
    typer.echo(next_steps(plan, made, Path(server.outcome.settings)))


Settings = Annotated[
    Path | None,
    typer.Option("--settings", envvar="TREEWRIGHT_BOT_SETTINGS", help="File of NAME=value lines (app.env)."),
]


def run(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    settings: Settings = None,
) -> None:
    """Serve the bot. Its settings come from TREEWRIGHT_BOT_* in the environment, and from a file."""
    from bot.settings import SettingsError, load

    try:
        loaded = load(settings)
        from bot.main import serve

        serve(loaded, host, port)
    except SettingsError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def replay(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A delivery, or a webhook's body.")
    ],
    event: Annotated[
        str, typer.Option(help="The X-GitHub-Event header, when the file does not say it.")
    ] = "",
    simulated: Annotated[
        bool, typer.Option("--simulate", help="Play it against GitHub, reading only; needs the settings.")
    ] = False,
    settings: Settings = None,
) -> None:
    """Say what the bot reads in a delivery: the event, and the commands in it. Nothing is sent."""
    import json
    from dataclasses import asdict

    from bot.commands import parse
    from bot.events import CommentEvent, read
    from bot.simulate import SimulationError, read_delivery

    try:
        delivery = read_delivery(file.read_bytes(), event)
    except SimulationError as error:
        typer.echo(f"{file}: {error}", err=True)
        raise typer.Exit(2) from None
    found = read(delivery.event, delivery.payload)
    if found is None:
        typer.echo("nothing for the bot")
        raise typer.Exit
    typer.echo(json.dumps({type(found).__name__: asdict(found)}, indent=2))
    if isinstance(found, CommentEvent):
        for said in parse(found.body):
            typer.echo(f"{type(said).__name__}: {asdict(said)}")
    if simulated:
        from bot.simulate import simulate

        _show(lambda loaded: simulate(loaded, delivery), settings, bodies=False)


def simulate(
    pull: Annotated[str, typer.Argument(metavar="OWNER/NAME#NUMBER", help="A pull request.")],
    say: Annotated[str, typer.Option(help="A comment, such as /approve; none: it is opened again.")] = "",
    login: Annotated[str, typer.Option("--as", help="Who comments.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start from no memory at all.")] = False,
    bodies: Annotated[bool, typer.Option("--bodies", help="Show comments and summaries whole.")] = False,
    settings: Settings = None,
) -> None:
    """Say what the bot would do on a pull request. It reads GitHub and asks the models; it writes nothing."""
    import re

    match = re.fullmatch(r"([\w.-]+/[\w.-]+)#(\d+)", pull)
    if match is None or bool(say) != bool(login) or not re.fullmatch(r"[\w.-]*(\[bot\])?", login):
        typer.echo("Wanted: OWNER/NAME#NUMBER, and --say together with --as LOGIN.", err=True)
        raise typer.Exit(2)

    def play(loaded: BotSettings) -> Outcome:
        from bot.simulate import ReadOnlyApp, of_pull
        from bot.simulate import simulate as run_it

        delivery = of_pull(ReadOnlyApp(loaded), match[1], int(match[2]), say, login)
        return run_it(loaded, delivery, remember=not fresh)

    _show(play, settings, bodies)


def _show(play: Callable[[BotSettings], Outcome], settings: Path | None, bodies: bool) -> None:
    from bot.settings import SettingsError, load
    from bot.simulate import SimulationError, told

    try:
        outcome = play(load(settings))
    except (SettingsError, SimulationError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    typer.echo(f"the delivery ended as {outcome.state}{f': {outcome.detail}' if outcome.detail else ''}")
    typer.echo(f"{len(outcome.writes)} write(s) would have gone to GitHub; none did:")
    for line, write in zip(told(outcome.writes), outcome.writes, strict=True):
        typer.echo(f"  {line}")
        text = write.body.get("body") or (write.body.get("output") or {}).get("summary")
        if bodies and text:
            typer.echo("".join(f"    | {row}\n" for row in str(text).splitlines()), nl=False)
