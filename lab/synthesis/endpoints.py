"""Where teacher, judge and student (the base model) answer: OpenAI-compatible endpoints named by the
environment.

The repository's configuration names models and revisions; only the operator's environment says where they are
(`TREEWRIGHT_<ROLE>_URL`, `..._MODEL`, `..._KEY`), so no contribution can send requests anywhere. Several
addresses that serve the same model are separated by commas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

ROLES = ("teacher", "judge", "student")


class EndpointError(RuntimeError):
    """A role has no usable endpoint; the message names the variable to set."""


class ModelName(Protocol):
    """What `lab.config` names: a model and its pinned revision."""

    @property
    def id(self) -> str: ...
    @property
    def revision(self) -> str: ...


@dataclass(frozen=True)
class Endpoint:
    """`url` ends in `/v1`; `model` is the served name; `revision` only enters the keys of stored answers.
    `replicas` are further addresses of the very same model."""

    role: str
    url: str
    model: str
    revision: str
    key: str | None = field(default=None, repr=False)
    replicas: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.model}@{self.revision}"

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.url, *self.replicas)

    @property
    def variable(self) -> str:
        return f"TREEWRIGHT_{self.role.upper()}_URL"


def endpoint_from_environment(role: str, model: ModelName, env: Mapping[str, str]) -> Endpoint:
    """The endpoint of `role`, or `EndpointError` that says what to set."""
    prefix = f"TREEWRIGHT_{role.upper()}"
    given = env.get(f"{prefix}_URL", "").split(",")
    urls = list(dict.fromkeys(url for url in (part.strip().rstrip("/") for part in given) if url))
    if not urls:
        raise EndpointError(
            f"No endpoint for the {role}: set {prefix}_URL to an OpenAI-compatible address that ends in /v1. "
            "For the small embedded model, run `treewright serve` first and export the lines that it prints."
        )
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not parts.path.endswith("/v1"):
            raise EndpointError(f"{prefix}_URL is not an http(s) address that ends in /v1: {url}")
    name = env.get(f"{prefix}_MODEL", "").strip() or model.id
    key = env.get(f"{prefix}_KEY", "").strip() or None
    return Endpoint(role, urls[0], name, model.revision, key, tuple(urls[1:]))


def endpoints_from_environment(
    models: Mapping[str, ModelName], env: Mapping[str, str]
) -> dict[str, Endpoint]:
    """Every role at once; one error names all that is missing."""
    found: dict[str, Endpoint] = {}
    errors: list[str] = []
    for role, model in models.items():
        try:
            found[role] = endpoint_from_environment(role, model, env)
        except EndpointError as error:
            errors.append(str(error))
    if errors:
        raise EndpointError("\n".join(errors))
    return found
