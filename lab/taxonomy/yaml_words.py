"""Plain words for libyaml's (and PyYAML's) parser messages: what a person did, on which line, and how to
mend it.

A parser says where it gave up, which is often a line or more after the mistake (an unclosed quote is found
at the end of the file). `explain` moves the place back to the mistake where that is certain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_KEYED = re.compile(r"^(\s*(?:- )*\s*[A-Za-z_][\w-]*):[ ]+(.*?)\s*$")

CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
# What hides or reorders text: bidirectional overrides and isolates (CVE-2021-42574), tags (ASCII without a
# shape; in the flags of England, Scotland and Wales they are meant), variation selectors in a row. Joiners
# and direction marks stay: Persian, Hindi, Hebrew and emoji need them.
_HIDDEN = re.compile(
    "(?P<flag>\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f)"
    "|[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
    "|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}"
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_NAMED = dict(zip("0abvfreNLP", "\0\a\b\v\f\r\x1b\x85\u2028\u2029", strict=True))


@dataclass(frozen=True)
class Told:
    """`offset` is a character index into the text; `suggestion` is the whole mended line."""

    offset: int
    message: str
    help: str
    suggestion: str | None = None


def explain(problem: str, context: str, text: str, offset: int, start: int) -> Told:
    """`problem` and `context` are the parser's; `offset` is where it stopped, `start` where the construct
    began.
    """
    offset = min(offset, max(0, len(text) - 1))
    here = text[offset : offset + 1]
    both = f"{context} {problem}"
    told = _pasted(text, start, offset)
    if told is not None:
        return told
    if "quoted scalar" in context and "end of stream" in problem:
        return Told(
            start, "A quote opens here and is never closed.", "Close it, or put the text into a block (`|`)."
        )
    if "quoted scalar" in context and "document indicator" in problem:
        return Told(start, "A quote opens here and is not closed before `---`.", "Close the quote.")
    if "escape" in both:
        return Told(
            offset,
            "A backslash in double quotes starts an escape that YAML does not know.",
            "Use single quotes, a block (`|`), or write the backslash twice.",
        )
    if here == "\t" or "tab" in problem:
        line = _line(text, offset)
        return Told(
            offset,
            "A tab stands here; YAML takes spaces only.",
            "Replace each tab by spaces (two for each level).",
            line.replace("\t", "  "),
        )
    if "mapping values are not allowed" in problem:
        return _colon(text, offset)
    if here in ("@", "`", "%") and "cannot start any token" in problem:
        return Told(
            offset,
            "A value cannot start with a backtick."
            if here == "`"
            else f"A value cannot start with `{here}`.",
            "Put the value in quotes.",
            _quoted(_line(text, offset)),
        )
    if "could not find expected ':'" in problem:
        at = _first_bare(text, start if start <= offset else offset)
        return Told(
            at,
            "This line is neither `key: value` nor part of a text block.",
            (
                "Put a colon and a space after the key, or indent the line below its key if it "
                "belongs to a text."
            ),
        )
    if "alias" in context or "anchor" in context:
        return Told(
            start,
            f"`{text[start : start + 1]}` at the start of a value has a meaning of its own in YAML.",
            "Put the value in quotes.",
            _quoted(_line(text, start)),
        )
    if "flow" in context:
        if text[start : start + 1] not in ("[", "{"):
            start = max(text.rfind("[", 0, start), text.rfind("{", 0, start), 0)
        return Told(
            start,
            f"`{text[start : start + 1]}` opens a list or mapping here that is not closed properly.",
            "Close it, or put the value in quotes if it is text.",
            _quoted(_line(text, start)),
        )
    if "block mapping" in context or "block collection" in context or "expected '-' indicator" in problem:
        return _indentation(text, offset)
    if "sequence entries are not allowed" in problem:
        return Told(
            offset, "A list entry (`- `) cannot stand here.", "Start the list on its own line below the key."
        )
    if "block scalar" in context:
        return Told(
            offset,
            "The first line of a text block needs an indicator alone: `|` or `>`.",
            "Start the text on the next line, two spaces deeper than the key.",
        )
    if "tag" in both or "directive" in both:
        return Told(
            start,
            f"`{text[start : start + 1]}` at the start of a value has a meaning of its own in YAML.",
            "Put the value in quotes.",
            _quoted(_line(text, start)),
        )
    said = re.sub(r"[^ -~]", "?", problem or context or "unreadable")[:120]
    return Told(
        offset,
        f"This is not YAML: {said}.",
        "Compare this line's indentation, colon and quotes with the lines above.",
    )


def _line(text: str, offset: int) -> str:
    begin = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    return text[begin : end if end >= 0 else len(text)]


def _quoted(line: str) -> str | None:
    """The line with its value in single quotes (double quotes when it has an apostrophe but neither `"` nor
    `\\`).
    """
    match = _KEYED.match(line) or re.match(r"^(\s*-)[ ]+(.*?)\s*$", line)
    if match is None or not match.group(2) or match.group(2)[0] in "'\"|>":
        return None
    value = match.group(2)
    colon = ":" if _KEYED.match(line) else ""
    if "'" in value and '"' not in value and "\\" not in value:
        return f'{match.group(1)}{colon} "{value}"'
    return f"{match.group(1)}{colon} '" + value.replace("'", "''") + "'"


def _colon(text: str, offset: int) -> Told:
    line = _line(text, offset)
    match = _KEYED.match(line)
    if match is not None and re.search(r":(\s|$)", match.group(2)):
        return Told(
            offset,
            "A value with a colon and a space in it must be in quotes.",
            "Put the whole value in quotes, or into a block: `|` and the text on the next line.",
            _quoted(line),
        )
    return Told(
        offset,
        "A `key: value` cannot stand here: the line above has not ended, or the indentation differs.",
        "Align this key with its neighbours; a text of several lines needs `|` after its key.",
    )


def _pasted(text: str, start: int, offset: int) -> Told | None:
    """What came along from elsewhere: a Markdown fence, a merge's marks, spaces that YAML does not take."""
    line = _line(text, offset)
    if line.startswith("```"):
        hint = "Delete this line, and the one that closes it: the file is YAML as a whole."
        return Told(text.rfind("\n", 0, offset) + 1, "A Markdown fence stands here.", hint)
    begin = text.rfind("\n", 0, min(start, offset)) + 1
    for _ in range(_ABOVE):  # such spaces make a line part of the value above, which fails further down
        begin = text.rfind("\n", 0, max(0, begin - 1)) + 1
    for match in _ODD.finditer(text, begin, offset + 1):
        if match.group("merge"):
            hint = "Keep one of the two sides, and delete the lines `<<<<<<<`, `=======` and `>>>>>>>`."
            return Told(match.start("merge"), "A merge left its marks here.", hint)
        odd = _line(text, match.start())
        margin = odd[: len(odd) - len(odd.lstrip())]
        return Told(
            match.end() - 1,
            f"The indentation has a space here that YAML does not take (U+{ord(match.group()[-1]):04X}).",
            "Write plain spaces; such a one often comes along when text is copied from a web page.",
            " " * len(margin) + odd.lstrip(),
        )
    return None


_ABOVE = 10  # lines
_ODD = re.compile(
    "^(?:(?P<merge><{7} |={7}$|>{7} )"
    r"|[ ]*[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000](?=\s*(?:- |[A-Za-z_]+:)))",
    re.MULTILINE,
)


def _indentation(text: str, offset: int) -> Told:
    line = _line(text, offset)
    begin = text.rfind("\n", 0, offset) + 1
    before = text[:begin].rstrip("\n").rsplit("\n", 1)[-1]
    done = line[: offset - begin].rstrip()
    if done[-1:] in ("'", '"') and line[offset - begin :].strip():
        opened = _opened_before(text, begin, done)
        if opened is not None:
            closes = f"line {text.count(chr(10), 0, offset) + 1}"
            message = f"A quote opens here and is closed by the next one only, on {closes}."
            return Told(opened, message, "Close it where the value ends.")
        return Told(
            offset,
            "Text follows a closing quote.",
            "Put the whole value in quotes; an apostrophe inside single quotes is written twice (`''`).",
        )
    value = _KEYED.match(line)
    if done[-1:] in ("]", "}") and value is not None and value.group(2)[:1] in ("[", "{"):
        return Told(
            offset,
            f"Text follows a closing `{done[-1]}`.",
            f"Put the whole value in quotes: one that starts with `{value.group(2)[0]}` is not read as text.",
            _quoted(line),
        )
    if re.match(r" *-[A-Za-z_]", line):
        dash = line.index("-") + 1
        hint = "Write `- `, a dash and a space, before a list's entry."
        return Told(begin + dash, "A space is missing after the dash.", hint, f"{line[:dash]} {line[dash:]}")
    indent = len(line) - len(line.lstrip(" "))
    above = re.match(r" *(?:- +)*", before)
    return Told(
        offset,
        f"The indentation does not fit: the text begins in column {indent + 1} here, in column "
        f"{(above.end() if above else 0) + 1} on the line above.",
        (
            "Align keys of one entry below each other; every entry of a list starts with `- ` in the "
            "same column."
        ),
    )


def _opened_before(text: str, begin: int, done: str) -> int | None:
    """Where the quote that the end of `done` closes was opened, when that was on an earlier line."""
    mark = done[-1]
    if done.count(mark) % 2 == 0:
        return None
    for line in reversed(list(re.finditer(r"[^\n]+", text[max(0, begin - 8000) : begin]))):
        opens = re.match(rf"(?:.*?:|\s*-) +{mark}", line.group())
        if opens is not None and line.group().count(mark) % 2:
            return max(0, begin - 8000) + line.start() + opens.end() - 1
    return None


def _first_bare(text: str, offset: int) -> int:
    """The start of the first line at or after `offset` that is no key, no list entry, no comment."""
    begin = text.rfind("\n", 0, offset) + 1
    for match in re.finditer(r"[^\n]*", text[begin : begin + 4000]):
        line = match.group()
        if line.strip() and not re.match(r"\s*(?:-(?:\s|$)|#|[^\s#].*?:(?:\s|$))", line):
            return begin + match.start() + len(line) - len(line.lstrip())
    return offset


def printable(text: str, limit: int = 200) -> str:
    """Contributed text for one line of a message: no control characters, no direction overrides, at most
    `limit`.
    """
    clean = CONTROL.sub("\ufffd", text.replace("\n", " ").replace("\t", " "))
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def hidden(text: str) -> Iterator[tuple[int, str]]:
    """Where each run of characters begins that hides or reorders text, and its first character."""
    for match in _HIDDEN.finditer(text):
        if match.group("flag") is None:
            yield match.start(), match.group()[0]


def unhidden(text: str) -> str:
    """The text without those characters."""
    return _HIDDEN.sub(lambda match: match.group("flag") or "", text)


def hidden_escape(source: str) -> tuple[int, str] | None:
    """The first escape in a double-quoted scalar's source that stands for such a character, or for a control
    character that no file may hold as it is.
    """
    for match in _ESCAPE.finditer(source):
        digits = match.group(1) or match.group(2) or match.group(3)
        meant = _NAMED.get(match.group(4), " ") if digits is None else chr(min(int(digits, 16), 0x10FFFF))
        controls = meant not in "\t\n" and (
            meant < " " or "\x7f" <= meant <= "\x9f" or meant in "\u2028\u2029"
        )
        if controls or _HIDDEN.match(meant):
            return match.start(), meant
    return None
