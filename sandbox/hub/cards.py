"""A repository's card: the YAML block at the top of README.md, which the API answers and the pages show."""

from __future__ import annotations

import json
from typing import Any

import yaml

from sandbox.hub.store import Entry, Repository

CARD_LIMIT = 512 * 1024


def front_matter(content: str) -> tuple[str, str]:
    """The YAML between the first two `---` lines, and the text after it."""
    lines = content.removeprefix("\ufeff").splitlines(keepends=True)
    if not lines or lines[0].strip() != "---":
        return "", content
    for at, line in enumerate(lines[1:], start=1):
        if line.strip() == "---":
            return "".join(lines[1:at]), "".join(lines[at + 1 :])
    return "", content


def card_problem(content: str) -> str | None:
    """What is wrong with a card's metadata, or None. An empty block is allowed, as on the Hub."""
    if len(content) > CARD_LIMIT:
        return f"the card is longer than {CARD_LIMIT} characters"
    matter, _ = front_matter(content)
    try:
        value = yaml.safe_load(matter) if matter and "&" not in matter else None
    except yaml.YAMLError as problem:
        return f"the metadata is not YAML: {problem}"
    if value is not None and not isinstance(value, dict):
        return "the metadata must be a mapping"
    for field in ("tags", "datasets"):
        found = (value or {}).get(field)
        if found is not None and not (
            isinstance(found, list) and all(isinstance(item, str) for item in found)
        ):
            return f'"{field}" must be a list of texts'
    return None


def card_data(repository: Repository, entries: list[Entry]) -> dict[str, Any]:
    """The metadata of the README, or nothing when there is none or it does not parse."""
    readme = next((entry for entry in entries if entry.path == "README.md" and not entry.lfs), None)
    if readme is None or readme.size > CARD_LIMIT:
        return {}
    content = repository.blob(readme.blob).decode(errors="replace")
    if card_problem(content):
        return {}
    value = yaml.safe_load(front_matter(content)[0] or "{}")
    # Dates and the like are shown as text, so that the answer is JSON.
    cleaned: dict[str, Any] = json.loads(json.dumps(value or {}, default=str))
    return cleaned
