"""`treewright tune`: train the student on the generated samples, phase by phase."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(tune)


def tune(
    work: Annotated[Path, typer.Option(help="Work folder that holds plan/ and generate/.")],
    student: Annotated[
        str,
        typer.Option(
            help="Model folder to tune, or `embedded` for the small model of the sandbox extra.",
            envvar="TREEWRIGHT_STUDENT_PATH",
        ),
    ] = "embedded",
    preset: Annotated[
        str | None, typer.Option(help="Phases to run; the plan's `tune.preset` when not given.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Override in every phase.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Override in every phase.")] = None,
    effective_batch: Annotated[int | None, typer.Option(help="Override in every phase: rows a step.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Override in every phase: new rows at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of mixing and order.")] = 0,
    precision: Annotated[str, typer.Option(help="bf16 (arithmetic; weights stay fp32) or fp32.")] = "bf16",
    ranks: Annotated[int, typer.Option(min=1, help="Training processes, one per GPU.")] = 1,
    launcher: Annotated[
        str, typer.Option(help="torchrun: all ranks on this machine; ray: on the nodes of a Ray cluster.")
    ] = "torchrun",
    pack_tokens: Annotated[
        int | None, typer.Option(help="Room of one forward pass on one rank; less needs less memory.")
    ] = None,
    lora: Annotated[
        int, typer.Option(min=0, help="Train adapters of this rank and merge them; 0 trains every weight.")
    ] = 0,
    kernels: Annotated[
        str, typer.Option(help="auto (Liger's where installed, on GPUs), liger or torch.")
    ] = "auto",
    compile_layers: Annotated[bool, typer.Option("--compile", help="torch.compile every layer.")] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's event files.")] = None,
) -> None:
    """Mix the samples into phases, tune the student on each, and write the model to WORK/tune."""
    # Before torch loads: idle worker threads that spin starve everything else on a small machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from gpu_runner.embedded import EmbeddedModelError
    from gpu_runner.stage import StageError
    from gpu_runner.student import StudentError
    from gpu_runner.tune.phases import PresetError
    from gpu_runner.tune.tune import TuneError, run, settings_from_plan
    from lab.contracts import ContractError, read_json
    from lab.synthesis.mixing import MixError

    overrides = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "effective_batch": effective_batch,
        "max_rows": max_rows,
        "pack_tokens": pack_tokens,
    }
    try:
        settings = settings_from_plan(
            work,
            student,
            preset=preset,
            overrides={key: value for key, value in overrides.items() if value is not None},
            seed=seed,
            precision=precision,
            ranks=ranks,
            launcher=launcher,
            lora_rank=lora,
            kernels=kernels,
            compile=compile_layers,
            tensorboard=str(tensorboard) if tensorboard else None,
        )
        manifest = run(work, work / "tune", settings, say=typer.echo)
    except (
        TuneError,
        PresetError,
        StageError,
        StudentError,
        EmbeddedModelError,
        MixError,
        ContractError,
    ) as error:
        typer.echo(f"tune: {error}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:  # a full disk, a folder that may not be written
        typer.echo(f"tune: {work / 'tune'}: {error}", err=True)
        raise typer.Exit(2) from error
    except RuntimeError as error:
        from gpu_runner.tune.ray_launcher import LauncherError
        from gpu_runner.tune.worker import ENDINGS

        if not isinstance(error, (*ENDINGS, LauncherError)):
            raise
        typer.echo(f"tune: {error}", err=True)
        raise typer.Exit(1) from error
    if manifest.reused:
        typer.echo(f"{work / 'tune'} is already the result of exactly this run; nothing to do")
        return
    report = read_json(work / "tune" / "phases.json", "phases")
    for phase in report["phases"]:
        if phase["skipped"]:
            typer.echo(f"phase {phase['number']} ({phase['title']}): skipped, {phase['skipped']}")
            continue
        typer.echo(
            f"phase {phase['number']} ({phase['title']}): {phase['rows']} rows, {phase['steps']} steps, "
            f"loss {phase['first_loss']:.3f} -> {phase['last_loss']:.3f}, {phase['seconds']:.0f} s"
        )
    from gpu_runner.tune.summary import checkpoint_line

    typer.echo(checkpoint_line(report["choice"]))
    typer.echo(f"{work / 'tune' / 'model'} in {manifest.seconds:.0f} s")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        from gpu_runner.tune.summary import job_summary
        from lab.contracts import read_lines

        with Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(job_summary(report, list(read_lines(work / "tune" / "metrics.jsonl"))))
