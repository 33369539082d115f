"""The only door for hostile input: YAML under budgets, paths, glob patterns, clone URLs, commit ids, text
for a terminal.

Everything a contributor writes passes through here before anything else looks at it. What is refused says
why and what to write instead (`Refused`); YAML problems come as values with places (`yaml_reader.py`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from lab.taxonomy.yaml_reader import (
    YamlBudgets,
    YamlDocument,
    YamlNode,
    YamlProblem,
    parse_yaml,
    read_yaml,
    too_large,
)
from lab.taxonomy.yaml_words import CONTROL, printable, unhidden

__all__ = [
    "CONTROL",
    "Refused",
    "YamlBudgets",
    "YamlDocument",
    "YamlNode",
    "YamlProblem",
    "clone_url",
    "commit_id",
    "glob_pattern",
    "matches",
    "may_lead",
    "parse_yaml",
    "printable",
    "read_yaml",
    "relative_path",
    "too_large",
    "unhidden",
]


class Refused(ValueError):  # noqa: N818 - a verdict on input, named as such by the architecture
    """Hostile or useless input. `reason` says what is wrong with it, `hint` what to write instead."""

    def __init__(self, reason: str, hint: str = "") -> None:
        self.reason = reason
        self.hint = hint
        super().__init__(f"{reason} {hint}".strip())


# -------------------------------------------------------------------------------------------


def relative_path(text: str) -> str:
    """A path inside a tree, unchanged. Refused: absolute, `..`, backslash, NUL, empty parts, `.git`."""
    _plain(text, "path", 1024)
    if text.startswith("/") or re.match(r"[A-Za-z]:", text):
        raise Refused(
            f"`{printable(text)}` is an absolute path.", "Write it relative to the root, such as `docs/a.md`."
        )
    parts = text.split("/")
    if ".." in parts:
        raise Refused(
            f"`{printable(text)}` leaves the repository by `..`.",
            "Write the path from the root, without `..`.",
        )
    if "" in parts or "." in parts:
        raise Refused(f"`{printable(text)}` has an empty part or `.` in it.", "Write it as `folder/file`.")
    if any(part.casefold().rstrip(". ") == ".git" or len(part.encode()) > 255 for part in parts):
        raise Refused(
            f"`{printable(text)}` has a part that is never part of a tree.", "Name a file of the repository."
        )
    return text


def glob_pattern(text: str) -> str:
    """A glob relative to a repository's root, unchanged. `*` stays in one folder, `**` crosses folders."""
    relative_path(text)
    if text[0] in "!:~-":
        raise Refused(
            f"The pattern `{printable(text)}` starts with `{text[0]}`.", "Begin with a folder, a name or `*`."
        )
    if len(text) > 300 or text.count("*") > 20:
        raise Refused(
            "The pattern is too long or has too many `*`.", "Use a few simple patterns such as `docs/*.md`."
        )
    if "{" in text or "}" in text:
        raise Refused(
            f"`{printable(text)}`: braces are not part of a pattern here.",
            "Write one pattern for each alternative.",
        )
    if text.count("[") != text.count("]"):
        raise Refused(f"A bracket of `{printable(text)}` has no partner.", "Close it, or use `?` or `*`.")
    if any("**" in part and part != "**" for part in text.split("/")):
        raise Refused(
            f"`**` in `{printable(text)}` must stand alone between slashes.", "Write `docs/**/*.md`."
        )
    return text


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern that `glob_pattern` passed takes the path. Linear in pattern times path: no
    backtracking bombs.
    """
    patterns, parts = pattern.split("/"), path.split("/")
    reach = {0}
    for part in patterns:
        if part == "**":
            low = min(reach, default=len(parts) + 1)
            reach = set(range(low, len(parts) + 1))
        else:
            reach = {at + 1 for at in reach if at < len(parts) and _part_matches(part, parts[at])}
        if not reach:
            return False
    return len(parts) in reach


def may_lead(pattern: str, folder: str) -> bool:
    """Whether something below the folder can match a pattern that `glob_pattern` passed. Wide, never
    narrow.
    """
    patterns = pattern.split("/")
    for at, part in enumerate(folder.split("/")):
        if patterns[at] == "**":
            return True
        if at == len(patterns) - 1 or not _part_matches(patterns[at], part):
            return False
    return True


def _part_matches(pattern: str, name: str) -> bool:
    if name.startswith(".") and not pattern.startswith("."):
        return False
    marks = re.findall(r"\[!?\]?[^\]]*\]|.", pattern, re.DOTALL)
    reach = {0}
    for mark in marks:
        if mark == "*":
            reach = set(range(min(reach), len(name) + 1))
        else:
            reach = {at + 1 for at in reach if at < len(name) and _one_matches(mark, name[at])}
        if not reach:
            return False
    return len(name) in reach


def _one_matches(mark: str, character: str) -> bool:
    if mark == "?":
        return True
    if len(mark) < 3 or mark[0] != "[":
        return mark == character
    body, negated = mark[1:-1], False
    if body.startswith("!"):
        body, negated = body[1:], True
    found, at = False, 0
    while at < len(body):
        if at + 2 < len(body) and body[at + 1] == "-":
            found = found or body[at] <= character <= body[at + 2]
            at += 3
        else:
            found = found or body[at] == character
            at += 1
    return found != negated


def clone_url(text: str, hosts: Collection[str]) -> str:
    """An https URL of a repository on one of `hosts`, normalised (no trailing slash). No host listed means
    none passes.
    """
    _plain(text, "URL", 400)
    shown = f"`{printable(text)}`"
    try:
        parts = urlsplit(text)
        port, host = parts.port, (parts.hostname or "").lower()
    except ValueError:
        raise Refused(f"{shown} is not a URL.", "Write `https://github.com/owner/repository.git`.") from None
    if parts.scheme != "https":
        scheme = printable(parts.scheme, 20) or "no scheme"
        raise Refused(
            f"{shown} uses {scheme}; documents are fetched over https only.",
            "Write `https://github.com/owner/repository.git`.",
        )
    if parts.username is not None or parts.password is not None:
        raise Refused(
            f"{shown} carries a user name or a password.",
            "Use a public repository, and remove it from the URL.",
        )
    if port is not None:
        raise Refused(f"{shown} names a port.", "Leave the port out.")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise Refused(f"{shown} has a query or a fragment.", "Give the repository's address only.")
    if _is_address(host):
        raise Refused(f"{shown} names an address instead of a host.", f"Use one of: {_names(hosts)}.")
    if host not in {name.lower() for name in hosts}:
        raise Refused(
            f"The host `{printable(host, 80)}` is not allowed for documents.",
            (
                f"Allowed: {_names(hosts)}. A maintainer can add hosts in .github/treewright.yml "
                "(documents.hosts)."
            ),
        )
    path = parts.path.rstrip("/")
    segments = path.split("/")[1:]
    if (
        len(segments) < 2
        or any(s in ("", ".", "..") or s.startswith("-") for s in segments)
        or not re.fullmatch(r"[A-Za-z0-9._~/-]+", path)
    ):
        raise Refused(
            f"{shown} does not name a repository.",
            "It has an owner and a name: `https://github.com/owner/repository.git`.",
        )
    if len(segments) > 2 and segments[2] in ("tree", "blob", "commit", "raw", "-"):
        raise Refused(
            f"{shown} is the address of a page inside a repository.",
            f"Write `https://{host}/{segments[0]}/{segments[1]}.git`, and put the file into `patterns`.",
        )
    return f"https://{host}{path}"


def commit_id(text: str) -> str:
    """A full commit id in lower case: 40 (SHA-1) or 64 (SHA-256) hex digits. A branch or a short id can be
    moved or ground.
    """
    if re.fullmatch(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}", text):
        return text.lower()
    hint = "Use the full id of 40 hex digits: `git rev-parse HEAD` in the document repository prints it."
    if re.fullmatch(r"[0-9a-fA-F]{4,63}", text):
        raise Refused(f"`{text}` is a shortened commit id ({len(text)} digits).", hint)
    raise Refused(f"`{printable(text, 80)}` is not a commit id; a branch or a tag can move.", hint)


def _plain(text: str, what: str, limit: int) -> None:
    if not text or len(text) > limit:
        raise Refused(
            f"The {what} is {'empty' if not text else 'too long'}.",
            f"Give a {what} of 1 to {limit} characters.",
        )
    if "\\" in text or CONTROL.search(text) or text != text.strip():
        raise Refused(
            f"`{printable(text)}` has a backslash, an invisible character or a space at an end.",
            "Use `/` between folders, and plain characters.",
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(re.fullmatch(r"[0-9.]+|0x[0-9a-f.x]+", host))
    return True


def _names(hosts: Collection[str]) -> str:
    return ", ".join(sorted(hosts)) or "none"
