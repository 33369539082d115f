"""Reads hostile YAML by PyYAML *events* under budgets. Reach it through `lab/untrusted.py`, the only door.

`read_yaml` never raises and never expands: it refuses aliases, tags and duplicate keys, counts nodes and
depth, and gives every scalar its exact place. An alias bomb of 308 bytes became 269 MB in another loader
(js-yaml#742), and `yaml.safe_load` expands aliases too (yaml/pyyaml#235), hence events and budgets.

Lines and columns count from 1, in characters, and lines end at "\\n" only, as Git and GitHub count them
(libyaml also counts U+0085, U+2028 and a lone carriage return, so places are computed from its character
index instead).
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from yaml.resolver import Resolver

from lab.taxonomy.yaml_words import explain, hidden, hidden_escape, printable

# libyaml's parser: ten times as fast as the one in Python. `yaml` itself does not export its name.
_PARSER: Any = getattr(getattr(yaml, "cyaml", None), "CParser", None)
_PREFIX = "tag:yaml.org,2002:"
# YAML 1.2 chapter 5.1: what a stream may contain at all.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")

_ODD_BREAK = re.compile("[\x85\u2028\u2029]|\r(?!\n)")


@dataclass(frozen=True)
class YamlBudgets:
    """What one file may cost. The largest real leaf of the predecessor's tree has 60 kB, 400 nodes and
    depth 5.
    """

    bytes: int = 1 << 20
    nodes: int = 20_000
    depth: int = 20
    problems: int = 50  # a file with more mistakes than this is reported up to here


@dataclass(frozen=True)
class YamlProblem:
    """Something wrong with the YAML itself. `rule` is a lint rule's id; `suggestion` is the whole mended
    line.
    """

    line: int
    column: int
    rule: str
    message: str
    help: str
    suggestion: str | None = None


@dataclass(frozen=True)
class YamlNode:
    """A value and its place. `type` is what plain YAML 1.1 makes of a scalar, so an unquoted `Yes` is a
    `bool`.
    """

    kind: Literal["mapping", "sequence", "scalar"]
    line: int
    column: int
    text: str = ""
    type: str = "str"  # str, int, float, bool, null, timestamp; mapping and sequence for collections
    style: str = ""  # "" plain, ' or " quoted, | or > block, { or [ for flow collections
    items: tuple[YamlNode, ...] = ()
    entries: tuple[tuple[YamlNode, YamlNode], ...] = ()
    index: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    end_line: int = 0  # a scalar's last line (its own line when it has one only)

    def get(self, key: str) -> YamlNode | None:
        """The value of a mapping's key; None when the node is no mapping or lacks the key."""
        position = self.index.get(key)
        return None if position is None else self.entries[position][1]

    def key(self, key: str) -> YamlNode | None:
        """The key's own node, for its place."""
        position = self.index.get(key)
        return None if position is None else self.entries[position][0]

    def plain(self) -> Any:
        """The value as Python data. Numbers keep their text's meaning; a timestamp stays text."""
        if self.kind == "mapping":
            return {key.text: value.plain() for key, value in self.entries}
        if self.kind == "sequence":
            return [item.plain() for item in self.items]
        return _scalar(self)


@dataclass(frozen=True)
class YamlDocument:
    """What could be read of one file: the tree (None when it could not be read to its end) and every
    problem met.
    """

    root: YamlNode | None
    problems: tuple[YamlProblem, ...]
    text: str  # "\n" line ends, no byte order mark; "" when the bytes are no UTF-8


def parse_yaml(data: bytes, budgets: YamlBudgets = YamlBudgets()) -> YamlNode | list[YamlProblem]:
    """The document as one node, or every problem. An empty file is a scalar of type `null`."""
    document = read_yaml(data, budgets)
    if document.root is None or document.problems:
        return list(document.problems)
    return document.root


def read_yaml(data: bytes, budgets: YamlBudgets = YamlBudgets()) -> YamlDocument:
    """Like `parse_yaml`, but a file with mendable problems (a duplicate key, a carriage return) gives its
    tree as well.
    """
    if len(data) > budgets.bytes:
        return YamlDocument(None, (too_large(len(data), budgets.bytes),), "")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        problem = YamlProblem(
            before.count(b"\n") + 1,
            column,
            "yaml-encoding",
            f"The byte 0x{data[error.start]:02x} here is not UTF-8 text.",
            "Save the file as UTF-8 (in most editors: Save with encoding, UTF-8).",
        )
        return YamlDocument(None, (problem,), "")
    problems: list[YamlProblem] = []
    if text.startswith("\ufeff"):
        text = text[1:]
        problems.append(
            YamlProblem(
                1,
                1,
                "yaml-encoding",
                "The file starts with an invisible byte order mark.",
                "Save the file as UTF-8 without BOM.",
            )
        )
    if text.count("\r") - text.count("\r\n") > text.count("\n"):
        # Git takes such a file for one line, so nothing more could be said about a place in it.
        returns = YamlProblem(
            1,
            1,
            "yaml-encoding",
            "The lines end in carriage returns only, as on very old Macs.",
            "Save the file with Unix line ends (LF).",
        )
        return YamlDocument(None, (*problems, returns), text)
    odd = _ODD_BREAK.search(text)
    if odd:
        line, column = Places(text).at(odd.start())
        problems.append(
            YamlProblem(
                line,
                column,
                "yaml-encoding",
                f"An invisible line separator (U+{ord(odd.group()):04X}) stands here.",
                "Delete it; it often comes along when text is copied from a web page.",
            )
        )
        text = _ODD_BREAK.sub(" ", text)  # libyaml would start a line there, and Git does not
    if "\r\n" in text:
        line = text.count("\n", 0, text.index("\r\n")) + 1
        problems.append(
            YamlProblem(
                line,
                1,
                "line-ending",
                "The file has Windows line ends (carriage return and line feed).",
                "Save the file with Unix line ends (LF); in Git: `git config core.autocrlf input`.",
            )
        )
        text = text.replace("\r\n", "\n")
    bad = _UNPRINTABLE.search(text)
    if bad:
        line, column = Places(text).at(bad.start())
        problems.append(
            YamlProblem(
                line,
                column,
                "yaml-encoding",
                f"An invisible control character (U+{ord(bad.group()):04X}) stands here.",
                "Delete it; it often comes along when text is copied from a PDF or a terminal.",
            )
        )
        return YamlDocument(None, tuple(problems), text)
    problems += _unseen(text)
    reader = _Reader(text, budgets, problems)
    return YamlDocument(reader.read(), tuple(sorted(problems, key=lambda p: (p.line, p.column))), text)


def _unseen(text: str) -> list[YamlProblem]:
    """The first hidden character of each line, of twenty lines at most."""
    places, found = Places(text), dict[int, YamlProblem]()
    for offset, character in hidden(text):
        line, column = places.at(offset)
        if line not in found:
            message = f"A character that hides or reorders text (U+{ord(character):04X}) stands here."
            help_ = "Delete it; a reviewer does not see what it does, and a model reads it."
            found[line] = YamlProblem(line, column, "yaml-encoding", message, help_)
        if len(found) == 20:
            break
    return list(found.values())


def too_large(size: int, limit: int) -> YamlProblem:
    """The answer to a file that is refused by its size, before one byte of it is read."""
    return YamlProblem(
        1,
        1,
        "yaml-limits",
        f"The file has {_size(size)}; at most {_size(limit)} are read.",
        "Split the leaf into several smaller ones, and put long texts into the document repository.",
    )


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{-(-count // 1024)} KiB"


class Places:
    """Character offsets to (line, column), clamped into the text: a place is always inside the file."""

    def __init__(self, text: str) -> None:
        self._starts = [0] + [match.end() for match in re.finditer("\n", text)]
        self._length = len(text)
        if len(self._starts) > 1 and self._starts[-1] == self._length:
            self._starts.pop()  # what follows the last line end is no line

    def at(self, offset: int) -> tuple[int, int]:
        offset = max(0, min(offset, self._length - 1))
        line = bisect.bisect_right(self._starts, offset) - 1
        return line + 1, offset - self._starts[line] + 1


class _Stop(Exception):  # noqa: N818 - leaves the event loop, never the module
    pass


class _Open:
    """A collection whose end has not come yet."""

    def __init__(self, kind: Literal["mapping", "sequence"], line: int, column: int, style: str) -> None:
        self.kind: Literal["mapping", "sequence"] = kind
        self.line, self.column, self.style = line, column, style
        self.items: list[YamlNode] = []
        self.entries: list[tuple[YamlNode, YamlNode]] = []
        self.key: YamlNode | None = None
        self.index: dict[str, int] = {}


class _Reader:
    def __init__(self, text: str, budgets: YamlBudgets, problems: list[YamlProblem]) -> None:
        self.text, self.budgets, self.problems = text, budgets, problems
        self.places = Places(text)
        self.nodes = 0
        self.stack: list[_Open] = []
        self.root: YamlNode | None = None
        self.documents = 0

    def read(self) -> YamlNode | None:
        try:
            for event in self._events():
                self._take(event)
        except _Stop:
            return None
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
            return None
        except (yaml.YAMLError, RecursionError, ValueError, UnicodeError) as error:
            self._say(
                0,
                "yaml-syntax",
                f"This is not YAML: {printable(str(error), 120)}.",
                "Look at the first lines.",
            )
            return None
        return self.root or YamlNode("scalar", 1, 1, type="null", end_line=1)

    def _events(self) -> Iterator[Any]:
        if _PARSER is not None:
            parser = _PARSER(self.text)
            try:
                while parser.check_event():
                    yield parser.get_event()
            finally:
                parser.dispose()
        else:
            yield from yaml.parse(self.text, Loader=yaml.SafeLoader)

    def _say(self, offset: int, rule: str, message: str, help_: str, fatal: bool = False) -> None:
        line, column = self.places.at(offset)
        self.problems.append(YamlProblem(line, column, rule, message, help_))
        if fatal:
            raise _Stop
        if len(self.problems) >= self.budgets.problems:
            self._say(
                offset,
                "yaml-limits",
                "Reading stopped here: too many problems.",
                "Mend those above first.",
                True,
            )

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        offset = mark.index if mark is not None else len(self.text)
        start = error.context_mark.index if error.context_mark is not None else offset
        told = explain(error.problem or "", error.context or "", self.text, offset, start)
        line, column = self.places.at(told.offset)
        self.problems.append(
            YamlProblem(line, column, "yaml-syntax", told.message, told.help, told.suggestion)
        )

    def _take(self, event: Any) -> None:
        offset = event.start_mark.index if event.start_mark is not None else 0
        if isinstance(event, yaml.ScalarEvent):
            self._count(offset)
            self._tag_and_anchor(event, offset)
            line, column = self.places.at(offset)
            last = self.places.at(
                max(offset, (event.end_mark.index if event.end_mark is not None else 0) - 1)
            )[0]
            style = event.style or ""
            if style == '"' and event.end_mark is not None:
                self._escapes(offset, event.end_mark.index)
            kind = _type(event.value) if event.implicit[0] and not style else "str"
            self._add(YamlNode("scalar", line, column, event.value, kind, style, end_line=last))
        elif isinstance(event, yaml.AliasEvent):
            self._count(offset)
            name = printable(str(event.anchor), 40)
            self._say(
                offset,
                "yaml-alias",
                f"`*{name}` is a YAML alias; aliases are not allowed here.",
                "Write the text out. If the value is meant to start with `*`, put it in quotes.",
            )
            line, column = self.places.at(offset)
            self._add(YamlNode("scalar", line, column, f"*{event.anchor}", end_line=line))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._count(offset)
            self._tag_and_anchor(event, offset)
            if len(self.stack) >= self.budgets.depth:
                self._say(
                    offset,
                    "yaml-limits",
                    f"More than {self.budgets.depth} levels of nesting.",
                    "A leaf needs five levels; look for stray brackets, dashes or indentation.",
                    fatal=True,
                )
            mapping = isinstance(event, yaml.MappingStartEvent)
            line, column = self.places.at(offset)
            flow = ("{" if mapping else "[") if event.flow_style else ""
            self.stack.append(_Open("mapping" if mapping else "sequence", line, column, flow))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.stack.pop()
            last = self.places.at(max(0, (event.end_mark.index if event.end_mark is not None else 0) - 1))[0]
            self._add(
                YamlNode(
                    done.kind,
                    done.line,
                    done.column,
                    type=done.kind,
                    style=done.style,
                    items=tuple(done.items),
                    entries=tuple(done.entries),
                    index=done.index,
                    end_line=last,
                )
            )
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._say(
                    offset,
                    "yaml-syntax",
                    "A second YAML document starts here (`---`); a file holds one.",
                    (
                        "Remove this line. If `---` belongs to a text, put the text into a block "
                        "(`|`) and indent it."
                    ),
                    fatal=True,
                )

    def _count(self, offset: int) -> None:
        self.nodes += 1
        if self.nodes > self.budgets.nodes:
            self._say(
                offset,
                "yaml-limits",
                f"More than {self.budgets.nodes} values in one file.",
                "Split the leaf into several smaller ones.",
                fatal=True,
            )

    def _tag_and_anchor(self, event: Any, offset: int) -> None:
        if event.tag is not None and event.tag != "":
            tag = printable(str(event.tag).removeprefix(_PREFIX), 60)
            self._say(
                offset,
                "yaml-tag",
                f"The YAML tag `{tag if tag.startswith('!') else '!!' + tag}` is not allowed.",
                "Remove the tag; put a value that starts with `!` in quotes.",
            )
        if event.anchor is not None:
            self._say(
                offset,
                "yaml-alias",
                f"`&{printable(str(event.anchor), 40)}` is a YAML anchor; anchors are not allowed here.",
                "Remove it; put a value that starts with `&` in quotes.",
            )

    def _escapes(self, start: int, end: int) -> None:
        found = hidden_escape(self.text[start:end])
        if found is not None:
            self._say(
                start + found[0],
                "yaml-encoding",
                f"This escape stands for an invisible character (U+{ord(found[1]):04X}).",
                "Delete it; a backslash that is meant as such is written twice.",
            )

    def _add(self, node: YamlNode) -> None:
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        if parent.kind == "sequence":
            parent.items.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            key, parent.key = parent.key, None
            self._entry(parent, key, node)

    def _entry(self, parent: _Open, key: YamlNode, value: YamlNode) -> None:
        if key.kind != "scalar":
            self._at(
                key, "yaml-syntax", "A list or a mapping cannot be a key here.", "Use a word as the key."
            )
            return
        first = parent.index.get(key.text)
        if first is not None:
            line = parent.entries[first][0].line
            self._at(
                key,
                "duplicate-key",
                (
                    f"`{printable(key.text, 60)}` stands here a second time (first on line {line}); "
                    "YAML would keep one only."
                ),
                "Delete one of the two, or start a new list entry with `- `.",
            )
            return
        parent.index[key.text] = len(parent.entries)
        parent.entries.append((key, value))

    def _at(self, node: YamlNode, rule: str, message: str, help_: str) -> None:
        self.problems.append(YamlProblem(node.line, node.column, rule, message, help_))
        if len(self.problems) >= self.budgets.problems:
            raise _Stop


def _type(value: str) -> str:
    """What YAML 1.1 (as PyYAML resolves it) makes of a plain scalar. Long texts are strings."""
    if len(value) > 64:
        return "str"
    for tag, pattern in Resolver.yaml_implicit_resolvers.get(value[:1], ()):
        if pattern.match(value):
            short = str(tag).removeprefix(_PREFIX)
            return short if short in ("int", "float", "bool", "null", "timestamp") else "str"
    return "str"


def _scalar(node: YamlNode) -> Any:
    if node.type == "null":
        return None
    if node.type == "bool":
        return node.text.lower() in ("yes", "true", "on")
    if node.type in ("int", "float"):
        try:
            digits = node.text.replace("_", "")
            if node.type == "float":
                return float(digits.replace(".inf", "inf").replace(".nan", "nan").lower())
            if re.fullmatch(r"[-+]?0[0-7]+", digits):
                return int(digits, 8)
            return int(digits, 0)
        except ValueError:  # sexagesimal such as 12:30:00, and anything else that is hardly meant as a number
            return node.text
    return node.text
