"""`treewright serve`: an OpenAI-compatible model server on this machine, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    model: str = typer.Option("embedded", help="`embedded`, or a model folder (served by vLLM)."),
    port: int = typer.Option(0, min=0, max=65535, help="0 takes a free port."),
    parallel: int = typer.Option(8, min=1, max=512, help="Requests answered at the same time."),
    ready_file: Annotated[
        Path | None, typer.Option(help="Written, as JSON, when the server is ready.")
    ] = None,
) -> None:
    """Serve a model on 127.0.0.1 and print the variables that point Treewright at it."""
    import json
    import signal
    import threading

    from gpu_runner.serving import ServeSettings, ServingError
    from gpu_runner.serving import serve as start
    from lab.contracts import write_json

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with start(model, ServeSettings(port=port, parallel=parallel)) as served:
            typer.echo(f"{served.model} is served at {served.url}")
            for name, value in served.environment().items():
                typer.echo(f"export {name}={json.dumps(value)}")
            if ready_file is not None:
                write_json(
                    ready_file, {"url": served.url, "model": served.model, "revision": served.revision}
                )
            while not stop.wait(0.5):
                if not served.running():
                    raise ServingError("the model server ended by itself.")
    except ServingError as error:
        typer.echo(f"treewright serve: {error}", err=True)
        raise typer.Exit(2) from error
