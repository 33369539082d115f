"""What a workflow file says that the forge must know: inputs, name of the run, permissions, environments.

Only read, never run. GitHub's workflow syntax reference is the source of the rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from sandbox.forge.records import Json
from sandbox.forge.state import InvalidError

MAX_BYTES = 512 * 1024
MAX_INPUTS, MAX_INPUT_CHARACTERS = 25, 65_535  # GitHub docs, "Events that trigger workflows"
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_PERMISSIONS = (
    "actions",
    "checks",
    "contents",
    "issues",
    "pull_requests",
    "statuses",
    "id_token",
    "deployments",
)


@dataclass(frozen=True)
class JobSpec:
    key: str
    environment: str | None
    permissions: Mapping[str, str]
    workflow_ref: str  # the file that defines it, as in the claim job_workflow_ref
    workflow_name: str


def parse(data: bytes, path: str) -> Json:
    if len(data) > MAX_BYTES:
        raise InvalidError(f"{path} is larger than {MAX_BYTES} bytes.", "Workflow")
    try:
        body = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise InvalidError(f"{path} is not valid YAML: {error}", "Workflow") from error
    if not isinstance(body, dict) or not isinstance(body.get("jobs"), dict):
        raise InvalidError(f"{path} has no jobs.", "Workflow")
    return body


def triggers(body: Json) -> Json:
    # YAML 1.1 reads the key `on` as the truth value.
    either: dict[Any, Any] = body
    raw = either.get("on", either.get(True))
    if isinstance(raw, str):
        return {raw: None}
    if isinstance(raw, list):
        return dict.fromkeys(str(item) for item in raw)
    return raw if isinstance(raw, dict) else {}


def dispatch_inputs(body: Json, path: str, given: Mapping[str, Any]) -> dict[str, str]:
    """The inputs of a dispatch with their defaults; refuses what GitHub refuses."""
    on = triggers(body)
    if "workflow_dispatch" not in on:
        raise InvalidError(f"Workflow {path} does not have 'workflow_dispatch' trigger", "Workflow")
    trigger = on["workflow_dispatch"] or {}
    declared = (trigger.get("inputs") or {}) if isinstance(trigger, dict) else None
    if not isinstance(declared, dict) or not all(isinstance(a, dict | None) for a in declared.values()):
        raise InvalidError(f"{path}: workflow_dispatch.inputs is not a mapping of inputs.", "Workflow")
    if len(declared) > MAX_INPUTS:
        raise InvalidError(f"{path}: only {MAX_INPUTS} inputs are allowed.", "Workflow")
    if len(json.dumps(given, ensure_ascii=False)) > MAX_INPUT_CHARACTERS:
        raise InvalidError(f"inputs are larger than {MAX_INPUT_CHARACTERS} characters.", "Workflow")
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise InvalidError(f"Unexpected inputs provided: {unknown}", "Workflow")
    values: dict[str, str] = {}
    for name, about in declared.items():
        about = about or {}
        value = given.get(name, about.get("default"))
        if value is None or value == "":
            if about.get("required"):
                raise InvalidError(f"Required input '{name}' not provided", "Workflow")
            value = "false" if about.get("type") == "boolean" else ""
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if about.get("type") == "choice" and text not in [str(o) for o in about.get("options") or []]:
            raise InvalidError(
                f"Provided value '{text}' for input '{name}' not in the list of allowed values", "Workflow"
            )
        values[name] = text
    return values


def run_name(body: Json, path: str, inputs: Mapping[str, str], actor: str, ref: str) -> str:
    """`run-name` with `${{ inputs.x }}` and `${{ github.actor }}` filled in; the rest becomes empty."""
    name = str(body.get("name") or path)
    template = body.get("run-name")
    return _filled(template, inputs, actor, ref)[:255] or name if isinstance(template, str) else name


def _filled(template: str, inputs: Mapping[str, str], actor: str, ref: str) -> str:
    known = {f"inputs.{k}": v for k, v in inputs.items()}
    known |= {f"github.event.inputs.{k}": v for k, v in inputs.items()}
    known |= {"github.actor": actor, "github.ref_name": ref}
    return _EXPRESSION.sub(lambda match: known.get(match.group(1), ""), template).strip()


@dataclass(frozen=True)
class Concurrency:
    """`concurrency` at the top of a workflow (GitHub's workflow syntax). One run of a group goes on; of those
    that wait, only the newest is kept unless `queue: max` says all.
    """

    group: str = ""  # "" is no group at all
    cancel: bool = False
    keep: bool = False


def concurrency(body: Json, path: str, inputs: Mapping[str, str], actor: str, ref: str) -> Concurrency:
    raw = body.get("concurrency")
    about = raw if isinstance(raw, dict) else {"group": raw or ""}
    cancel, queue = about.get("cancel-in-progress", False) is True, about.get("queue", "single")
    if queue not in ("single", "max") or (cancel and queue == "max"):
        wanted = "single, or max without cancel-in-progress"
        raise InvalidError(f"{path}: concurrency.queue is {wanted}.", "Workflow")
    return Concurrency(_filled(str(about.get("group") or ""), inputs, actor, ref), cancel, queue == "max")


def _permissions(raw: Any) -> dict[str, str] | None:
    if raw == "write-all":
        return dict.fromkeys(_PERMISSIONS, "write")
    if raw == "read-all":
        return dict.fromkeys(_PERMISSIONS, "read")
    if isinstance(raw, dict):
        return {str(k).replace("-", "_"): str(v) for k, v in raw.items()}
    return None


def _refuse_more(key: str, inner: Mapping[str, str], outer: Mapping[str, str]) -> None:
    """GitHub does not start a run whose called workflow asks for more than its caller gives."""
    order = ("none", "read", "write")
    for name, level in inner.items():
        given = outer.get(name, "none")
        if level in order and order.index(level) > (order.index(given) if given in order else 0):
            shown = name.replace("_", "-")
            raise InvalidError(
                f"The nested job {key!r} is requesting '{shown}: {level}', but is only allowed "
                f"'{shown}: {given}'.", "Workflow",
            )  # fmt: skip


def job_specs(
    body: Json, workflow_ref: str, load: Callable[[str], tuple[Json, str] | None], depth: int = 0,
    outer: Mapping[str, str] | None = None,
) -> list[JobSpec]:  # fmt: skip
    """Every job with its own permissions and environment, those of reusable workflows too.

    `load` answers the parsed file and its ref for a `uses:`, None when it is not at hand. Raises
    `InvalidError` when a called workflow asks for more than its caller gave it.
    """
    default, name = _permissions(body.get("permissions")), str(body.get("name") or "")
    found: list[JobSpec] = []
    for key, job in body["jobs"].items():
        if not isinstance(job, dict):
            continue
        own = _permissions(job.get("permissions"))
        wanted = own if own is not None else default
        if outer is not None and wanted is not None:
            _refuse_more(str(key), wanted, outer)
        granted = dict(wanted if wanted is not None else outer if outer is not None else {"contents": "read"})
        if isinstance(job.get("uses"), str):
            called = load(job["uses"]) if depth < 4 else None
            if called is not None:
                found += job_specs(called[0], called[1], load, depth + 1, granted)
            continue
        environment = job.get("environment")
        if isinstance(environment, dict):
            environment = environment.get("name")
        where = str(environment) if environment else None
        found.append(JobSpec(str(key), where, granted, workflow_ref, name))
    return found


def token_permissions(specs: list[JobSpec]) -> dict[str, str]:
    """act gives all jobs one GITHUB_TOKEN, so it may what any of them declares: unlike GitHub, knowingly."""
    order = ("none", "read", "write")
    merged: dict[str, str] = {"metadata": "read"}
    for spec in specs:
        for name, level in spec.permissions.items():
            if level in order and order.index(level) > order.index(merged.get(name, "none")):
                merged[name] = level
    return merged
