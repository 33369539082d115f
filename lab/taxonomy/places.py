"""Where files lie: names of folders and files, leaves outside, inside or beside each other.

Only paths are looked at, so these checks cost the same however large the files are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from lab.taxonomy.collect import Findings
from lab.taxonomy.tree import BRANCHES
from lab.untrusted import printable

# Names that some file system cannot hold, and names that tools take for something else.
_RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"com{n}" for n in range(1, 10)),
    *(f"lpt{n}" for n in range(1, 10)),
}
_GROUNDED = "compositional_skills/grounded/"


def outside(found: Findings) -> None:
    top = printable(found.file.split("/")[0], 60) if "/" in found.file else "the top"
    found.add(
        "outside-branches", (1, 1), f"`{top}` is not one of {', '.join(BRANCHES)}; this leaf is ignored."
    )


def misnamed(found: Findings, beside: bool) -> None:
    """`beside`: whether the folder has a leaf already."""
    folder, _, name = found.file.rpartition("/")
    if beside:
        help_ = "A folder holds one leaf: merge the file into `qna.yaml`, or give it a folder of its own."
    else:
        help_ = f"Rename it: `git mv {printable(found.file)} {printable(folder)}/qna.yaml`."
    message = f"`{printable(name, 80)}` is never read; a leaf's file is named `qna.yaml`."
    found.add("file-name", (1, 1), message, help_)


def folders(found: Findings) -> None:
    """The names of the folders that the leaf lies in, told at its first line."""
    parts = found.file.split("/")[1:-1]
    if not parts:
        found.add(
            "path-name",
            (1, 1),
            f"The leaf lies directly in `{found.file.split('/')[0]}`; it needs a folder of its own.",
        )
    for part in parts:
        shown = f"The folder name `{printable(part, 80)}`"
        plain = re.sub(r"[^a-z0-9]+", "_", part.casefold()).strip("_")
        help_ = f"Name it `{plain}`." if plain else ""
        if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,80}", part) or "--" in part:
            found.add(
                "path-name", (1, 1), f"{shown} has characters that it cannot have, or is too long.", help_
            )
        elif part[0] in ".-" or part[-1] == "." or part.casefold().split(".")[0] in _RESERVED:
            found.add("path-name", (1, 1), f"{shown} cannot be used on every system.", help_)
        elif not re.fullmatch(r"[a-z0-9_]+", part):
            found.add("path-style", (1, 1), f"{shown} is not lower case with underscores.", help_)


def nested(found: Findings, present: Collection[str]) -> None:
    """The leaf lies below a folder that is a leaf already."""
    parts = found.file.split("/")[:-1]
    for depth in range(len(parts) - 1, 0, -1):
        upper = "/".join([*parts[:depth], "qna.yaml"])
        if upper in present:
            message = f"This leaf lies inside the leaf `{printable('/'.join(parts[:depth]), 120)}`."
            found.add("nested-leaf", (1, 1), message)
            return


def grounded(found: Findings, contexts: bool) -> None:
    """Skills with contexts and those without have their own places."""
    inside = found.file.startswith(_GROUNDED)
    if contexts == inside or not found.file.startswith("compositional_skills/"):
        return
    below = found.file.split("/", 2 if inside else 1)[-1].rpartition("/")[0]
    if contexts:
        message = "This skill works on a context, but lies outside `compositional_skills/grounded/`."
        help_ = f"Move it to `{_GROUNDED}{printable(below, 120)}`."
    else:
        message = "This skill has no contexts, but lies under `compositional_skills/grounded/`."
        help_ = f"Move it to `compositional_skills/{printable(below, 120)}`."
    found.add("grounded-folder", (1, 1), message, help_)


def spellings(paths: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Folders by their name without case, where more than one spelling exists; the best spelling first."""
    known: dict[str, set[str]] = {}
    seen: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in seen:
            seen.add(folder)
            known.setdefault(folder.casefold(), set()).add(folder)
            folder = folder.rpartition("/")[0]
    return {
        plain: sorted(found, key=lambda each: (each != each.lower(), each))
        for plain, found in known.items()
        if len(found) > 1
    }


def spelled(found: Findings, known: Mapping[str, Sequence[str]], changed: bool) -> None:
    """The topmost folder of the leaf that another one differs from by case only. In a changed leaf it is
    told whichever of the two it has.
    """
    parts = found.file.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = "/".join(parts[:depth])
        others = known.get(folder.casefold())
        if others is None:
            continue
        if changed or folder != others[0]:
            other = next((each for each in others if each != folder), folder)
            message = f"`{printable(folder, 120)}` and `{printable(other, 120)}` differ only by case."
            found.add("path-case", (1, 1), message, f"Use `{printable(others[0], 120)}` for both.")
        return
