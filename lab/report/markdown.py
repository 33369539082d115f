"""The one place where contributed text becomes Markdown: comments, checks, cards, notes and job summaries all
pass here.

Contributed text (questions, paths, model output, error messages that quote them) is hostile: it may carry
HTML, mentions that ping people, links, table breaks or hidden directions. `text()` makes any string inert
inside a sentence, a table cell or an HTML `<summary>`; `code_block()` fences it with a fence longer than any
run of backticks inside.

Why numeric character references and not backslashes: a reference can never be Markdown structure (CommonMark
0.31, section 2.5), and it means the same inside an HTML block. Mentions and issue references are found by
GitHub *after* rendering, so these are broken with a zero-width space (U+200B), which is why `@` is not only
escaped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

COMMENT_BUDGET = 65_536
"""Characters in a comment (GitHub REST API). We count UTF-8 bytes, which is never more generous."""
SUMMARY_BUDGET = 65_535
"""Characters in a check run's `output.summary` and `output.text` (GitHub REST API, checks)."""

_BREAK = "&#8203;"
_ENTITIES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "\\": "&#92;",
    "`": "&#96;",
    "*": "&#42;",
    "[": "&#91;",
    "]": "&#93;",
    "|": "&#124;",
    "~": "&#126;",
    "$": "&#36;",
    "@": "@" + _BREAK,
    "#": "#" + _BREAK,
}
# What GFM links by itself (spec 6.9) and what GitHub links after rendering: schemes, www., GH-1.
_AUTOLINK = re.compile(r"(?i)(?<=[a-z0-9+.-]):(?=//)|\bmailto:|\bxmpp:|\bwww(?=\.)|\bgh(?=-\d)")
_STARTS_A_BLOCK = re.compile(r"([-+=_]|\d{1,9}[.)])")
# Bidirectional controls reorder what a reader sees (CVE-2021-42574); zero-width ones hide text in it.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SIMPLE_CODE = re.compile(r"[A-Za-z0-9_./:=+,;(){}\[\]*?!'\"<>&#@$%^~ -]+")
_QUOTED = re.compile(r"`([^`\n]{1,200})`")


def size(markdown: str) -> int:
    """Bytes of UTF-8, the measure of every budget here."""
    return len(markdown.encode("utf-8", "replace"))


def _visible(raw: str, keep: str = "") -> str:
    """`raw` without control, invisible and unpaired characters; whitespace kept only when in `keep`."""
    shown = _INVISIBLE.sub("�", raw)
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in {"Cc", "Cs", "Cn"}
        else " "
        if character in "\t\n\v\f\r\x85"
        else "�"
        for character in shown
    )


def clip(raw: str, limit: int) -> str:
    """At most `limit` characters of `raw`, an ellipsis where it was cut. Clip before escaping, never
    after.
    """
    return raw if len(raw) <= limit else raw[: max(0, limit - 1)].rstrip() + "…"


def clip_bytes(raw: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, cut between characters."""
    data = raw.encode("utf-8", "replace")
    return raw if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore").rstrip() + "…"


def plain(s: str, limit: int) -> str:
    """Contributed text for a place that is not Markdown (a check's annotation): no control or hidden
    characters.
    """
    return clip(_visible(s, keep="\n").strip(), limit)


def text(s: str, limit: int | None = None) -> str:
    """Contributed text, inert in a sentence, a list item, a table cell or an HTML element; always one line.

    Nothing in it can become HTML, emphasis, code, a link, a mention, an issue reference, math or a table
    cell.
    """
    flat = " ".join(_visible(s).split())
    if limit is not None:
        flat = clip(flat, limit)
    start = _STARTS_A_BLOCK.match(flat)
    marker = start.end() - 1 if start else -1
    links = {match.end() for match in _AUTOLINK.finditer(flat)}
    out: list[str] = []
    for index, character in enumerate(flat):
        if index in links:
            out.append(_BREAK)
        if index == marker:
            out.append(f"&#{ord(character)};")
        elif character == "_":
            # `created_by` stays readable: an underscore between letters never opens emphasis.
            inside = 0 < index < len(flat) - 1 and flat[index - 1].isalnum() and flat[index + 1].isalnum()
            out.append("_" if inside else "&#95;")
        else:
            out.append(_ENTITIES.get(character, character))
    if len(flat) in links:
        out.append(_BREAK)
    return "".join(out)


def code(s: str, limit: int | None = None) -> str:
    """Contributed text as inline code: a rule's name, a path, a sha. Falls back to `<code>` for awkward
    characters.
    """
    flat = " ".join(_visible(s).split())
    if limit is not None:
        flat = clip(flat, limit)
    if not flat:
        return ""
    return f"`{flat}`" if _SIMPLE_CODE.fullmatch(flat) else f"<code>{text(flat)}</code>"


def words(s: str, limit: int | None = None) -> str:
    """Our own sentences that quote contributed text in backticks (lint messages): quoted parts become inline
    code.

    It is as safe as `text()` for any string, so a contributed backtick can at most make something look like
    code.
    """
    flat = s if limit is None else clip(s, limit)
    parts = _QUOTED.split(flat)
    shown = [code(part) if index % 2 else _inner(part) for index, part in enumerate(parts)]
    return "".join(shown).strip()


def _inner(part: str) -> str:
    before = " " if part[:1].isspace() else ""
    after = " " if part[-1:].isspace() and part.strip() else ""
    return before + text(part) + after


def code_block(s: str, language: str = "") -> str:
    """Contributed text as a fenced block. The fence is longer than any run of backticks inside, so nothing
    ends it.
    """
    body = _visible(s.replace("\r\n", "\n").replace("\r", "\n"), keep="\n\t").rstrip("\n")
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    info = re.sub(r"[^A-Za-z0-9+-]", "", language)
    return f"{fence}{info}\n{body}\n{fence}"


def link(label: str, url: str) -> str:
    """A link with a contributed label. An address that is not plain http or https is shown and not linked."""
    if not re.fullmatch(r"https?://[A-Za-z0-9._~:/?%@!$&'+,;=\[\]#-]+", url):
        return text(label)
    safe = url.replace("[", "%5B").replace("]", "%5D").replace("&", "&amp;")
    return f"[{text(label)}](<{safe}>)"


def fold(summary: str, body: str) -> str:
    """A closed `<details>`: `summary` is plain text (escaped here), `body` is Markdown that was already
    rendered.
    """
    return f"<details><summary>{text(summary)}</summary>\n\n{body.strip()}\n\n</details>"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of rendered cells (put contributed text through `text()` or `code()` first).

    Its shape holds whatever the cells are: every row has as many cells as there are headers, and no cell has
    a line break or a bare pipe. Headers are plain words.
    """

    def line(cells: Sequence[str]) -> str:
        padded = [*cells, *([""] * len(headers))][: len(headers)]
        flat = (" ".join(cell.split()).replace("|", "&#124;").removesuffix("\\") for cell in padded)
        return "| " + " | ".join(flat) + " |"

    lines = [line([text(header) for header in headers]), "|" + " --- |" * len(headers)]
    return "\n".join([*lines, *(line(row) for row in rows)])


def truncate(blocks: Sequence[str], budget: int, note: Callable[[int], str], separator: str = "\n\n") -> str:
    """As many whole blocks as fit `budget` bytes, in order; `note(n)` says that the last n were left out.

    A block is never cut in the middle, so a fence or a fold stays closed. Put first what must be seen.
    """
    whole = separator.join(blocks)
    if size(whole) <= budget:
        return whole
    room = budget - size(note(len(blocks))) - size(separator) - 16
    kept: list[str] = []
    for block in blocks:
        needed = size(block) + (size(separator) if kept else 0)
        if needed > room:
            break
        kept.append(block)
        room -= needed
    return separator.join([*kept, note(len(blocks) - len(kept))])
