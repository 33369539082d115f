"""Turns one hostile HTML or PDF file into Markdown, in a process of its own: `convert.py` starts it as

    python -I convert_child.py html|pdf MEMORY_BYTES SECONDS OUTPUT_BYTES < document > markdown

with an empty environment. It imports nothing of this project, so that a weakness of a parser reaches neither
its settings nor its secrets. The limits are the kernel's (setrlimit); the parent ends it when time is over.
Exit codes: 0 done, 3 a message for people is on stderr, anything else a crash.
"""

from __future__ import annotations

import importlib
import re
import resource
import sys
from html.parser import HTMLParser


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BLOCKS = _names(
    """
    address article aside blockquote body center dd details dir div dl dt fieldset figcaption figure
    footer form header hgroup hr html legend li main menu ol p pre section summary table ul
    """
)
# What a reader of the page does not see, or cannot read as text.
_DROPPED = _names(
    """
    script style noscript template svg math iframe object embed canvas audio video select datalist
    textarea button nav dialog frameset noembed noframes xmp plaintext
    """
)
_VOID = _names(
    """
    area base br col embed hr img input link meta param source track wbr frame keygen basefont
    """
)
_MARKS = {"strong": "**", "b": "**", "em": "*", "i": "*", "code": "`", "kbd": "`", "samp": "`", "tt": "`"}
_WIDEST = 500  # cells of a table's row; what goes on stands in the last one
_DEEPEST = 8  # levels of lists and quotes that are still shown


class _Table:
    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.open = False


class Markdown(HTMLParser):
    """One pass over the tags, no tree and no recursion: nesting of any depth costs nothing."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[tuple[str, str]] = []  # (kind of block, text)
        self.title = ""
        self._text: list[str] = []
        self._heading = 0
        self._lists: list[list[int | str]] = []  # [tag, number of the next entry]
        self._quotes = 0
        self._bullet = ""
        self._marks: list[tuple[str, int, str]] = []
        self._pre: list[str] | None = None
        self._language = ""
        self._tables: list[_Table] = []
        self._skip: list[str | int] | None = None  # [tag, how many of it are open]
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skip is not None:
            if tag == self._skip[0]:
                if tag not in ("p", "li", "td", "th", "tr", "dt", "dd"):  # these end where the next begins
                    self._skip[1] = int(self._skip[1]) + 1
                    return
                self._skip = None
            else:
                return
        given = {name: value or "" for name, value in attrs}
        if tag in _DROPPED or (_hidden(given) and tag not in _VOID and tag not in ("html", "body")):
            self._skip = [tag, 1]
            return
        if self._pre is not None:
            if tag == "br":
                self._pre.append("\n")
            elif tag == "code" and not self._language:
                self._language = _language(given.get("class", ""))
            return
        if tag == "title":
            self._in_title = not self.title
        elif tag == "br":
            self._text.append("\n")
        elif tag == "img":
            self._text.append(_plain(given.get("alt", "")))
        elif re.fullmatch("h[1-6]", tag):
            self._flush()
            self._heading = int(tag[1])
        elif tag in _MARKS or tag == "a":
            self._marks.append((tag, len(self._text), given.get("href", "")))
        elif tag in ("td", "th", "tr", "caption") and self._tables:
            self._cell_starts(tag, given)
        elif tag in _BLOCKS:
            self._block_starts(tag, given)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skip is not None:
            if tag == self._skip[0]:
                self._skip[1] = int(self._skip[1]) - 1
                if self._skip[1] == 0:
                    self._skip = None
            return
        if self._pre is not None:
            if tag == "pre":
                self._code()
            return
        if tag == "title":
            self._in_title = False
        elif re.fullmatch("h[1-6]", tag):
            self._flush()
        elif tag in _MARKS or tag == "a":
            self._mark(tag)
        elif tag in ("td", "th") and self._tables:
            self._cell_ends()
        elif tag == "caption" and len(self._tables) == 1:
            self._flush()
            self._tables[-1].open = False
        elif tag == "table" and self._tables:
            self._table()
        elif tag in _BLOCKS:
            self._flush()
            if tag in ("ul", "ol", "menu", "dir") and self._lists:
                self._lists.pop()
            elif tag == "blockquote":
                self._quotes = max(0, self._quotes - 1)
            elif tag == "li":
                self._bullet = ""

    def handle_data(self, data: str) -> None:
        if self._skip is not None:
            return
        if self._in_title:
            self.title = (self.title + data)[:300]
        elif self._pre is not None:
            self._pre.append(data)
        else:
            code = any(_MARKS.get(mark) == "`" for mark, _, _ in self._marks[-_DEEPEST:])
            self._text.append(re.sub(r"[\s]+", " ", data) if code else _plain(data))

    def finish(self) -> str:
        self.close()
        if self._pre is not None:
            self._code()
        while self._tables:
            self._table()
        self._flush()
        title = " ".join(self.title.split())
        if title and not any(kind == "heading" and text.startswith("# ") for kind, text in self.out):
            self.out.insert(0, ("heading", f"# {_plain(title)}"))
        parts: list[str] = []
        before = ""
        for kind, text in self.out:
            if parts:
                parts.append("\n" if kind == before == "item" else "\n\n")
            parts.append(text)
            before = kind
        return "".join(parts) + "\n" if parts else ""

    def _block_starts(self, tag: str, given: dict[str, str]) -> None:
        if tag == "table":
            if not self._tables:
                self._flush()
            self._tables.append(_Table())
            return
        self._flush()
        if tag == "pre":
            self._pre, self._language = [], _language(given.get("class", ""))
        elif tag in ("ul", "ol", "menu", "dir"):
            start = given.get("start", "")
            self._lists.append([tag, int(start) if re.fullmatch("[0-9]{1,6}", start) else 1])
        elif tag == "blockquote":
            self._quotes += 1
        elif tag == "li":
            self._bullet = "- "
            if self._lists and self._lists[-1][0] == "ol":
                self._bullet = f"{self._lists[-1][1]}. "
                self._lists[-1][1] = int(self._lists[-1][1]) + 1

    def _flush(self) -> None:
        """Ends the open block: what was collected becomes a heading, a list entry or a paragraph."""
        if self._tables:  # blocks inside a cell are one line
            self._text.append(" ")
            return
        while self._marks:
            self._mark(self._marks[-1][0])
        lines = [" ".join(line.split()) for line in "".join(self._text).split("\n")]
        text = "\n".join(line for line in lines if line)
        self._text.clear()
        heading, self._heading = self._heading, 0
        if not text:
            return
        if heading:
            self.out.append(("heading", f"{'#' * heading} {' '.join(text.split())}"))
            return
        indent = "  " * min(max(0, len(self._lists) - 1), _DEEPEST) if self._lists else ""
        kind = "item" if self._lists else "paragraph"
        lines = [_start(line) for line in text.split("\n")]
        first, rest = indent + self._bullet, indent + ("  " if self._lists else "")
        lead = "> " * min(self._quotes, _DEEPEST)
        if self._lists and not self._bullet:
            first = rest
        self._bullet = ""
        self.out.append((kind, "\n".join(lead + (rest if at else first) + t for at, t in enumerate(lines))))

    def _mark(self, tag: str) -> None:
        place = next((at for at in range(len(self._marks) - 1, -1, -1) if self._marks[at][0] == tag), None)
        if place is None or len(self._marks) - place > _DEEPEST:
            return
        _, start, link = self._marks.pop(place)
        text = "".join(self._text[start:])
        inner = text.strip()
        if not inner:
            return
        mark = _MARKS.get(tag, "")
        if mark == "`":
            run = max((len(found) for found in re.findall("`+", inner)), default=0)
            fence = "`" * (run + 1)
            room = " " if run else ""
            made = f"{fence}{room}{inner}{room}{fence}"
        elif tag == "a":
            made = f"[{inner}]({_link(link)})" if _link(link) else inner
        else:
            plain = bool(self._heading) or "\n" in inner or inner.startswith("*")
            made = inner if plain else f"{mark}{inner}{mark}"
        left = " " if text[:1].isspace() else ""
        right = " " if text[-1:].isspace() else ""
        self._text[start:] = [left + made + right]

    def _code(self) -> None:
        text = "".join(self._pre or []).replace("\r\n", "\n").strip("\n")
        self._pre = None
        language, self._language = self._language, ""
        if self._tables:
            self._text.append(_plain(text))
        elif text.strip():
            run = max((len(found) for found in re.findall("`+", text)), default=0)
            fence = "`" * max(3, run + 1)
            self.out.append(("code", f"{fence}{language}\n{text}\n{fence}"))

    def _cell_starts(self, tag: str, given: dict[str, str]) -> None:
        if len(self._tables) > 1:
            self._text.append(" ")
            return
        table = self._tables[-1]
        self._cell_ends()
        if tag == "caption":
            table.open = True
        elif tag == "tr" or not table.rows:
            table.rows.append([])
        if tag in ("td", "th"):
            span = given.get("colspan", "")
            wide = min(int(span), 20) if re.fullmatch("[1-9][0-9]?", span) else 1
            if len(table.rows[-1]) < _WIDEST:
                table.rows[-1].extend([""] * wide)
            table.open = True

    def _cell_ends(self) -> None:
        if len(self._tables) != 1:
            return
        while self._marks:
            self._mark(self._marks[-1][0])
        table = self._tables[-1]
        text = " ".join("".join(self._text).split())
        self._text.clear()
        if not text:
            table.open = False
        elif not table.open or not table.rows:  # text between cells, or a caption
            self.out.append(("paragraph", _start(text)))
        else:
            row = table.rows[-1]
            at = next((at for at in range(len(row) - 1, -1, -1) if row[at]), -1) + 1
            row[min(at, len(row) - 1)] = text.replace("|", "\\|")
        table.open = False

    def _table(self) -> None:
        if len(self._tables) > 1:
            self._tables.pop()
            self._text.append(" ")
            return
        self._cell_ends()
        rows = [row for row in self._tables.pop().rows if any(row)]
        width = max((len(row) for row in rows), default=0)
        if width == 1 or len(rows) == 1:  # a frame for the page's layout, not a table
            self.out += [
                ("paragraph", _start(cell.replace("\\|", "|"))) for row in rows for cell in row if cell
            ]
        elif rows and width * len(rows) <= 200_000:
            lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in rows]
            lines.insert(1, f"|{' --- |' * width}")
            self.out.append(("table", "\n".join(lines)))
        else:
            self.out += [("paragraph", " ".join(cell for cell in row if cell)) for row in rows]


def _hidden(given: dict[str, str]) -> bool:
    style = re.sub(r"\s+", "", given.get("style", "")[:2000].lower())
    return "hidden" in given or "display:none" in style or "visibility:hidden" in style


def _language(classes: str) -> str:
    found = re.search(r"(?:^|\s)(?:language|lang|highlight)-([A-Za-z0-9+#.-]{1,20})(?:\s|$)", classes[:500])
    return found.group(1) if found else ""


def _link(target: str) -> str:
    """Web addresses only; a link into the same page, a script or data is no source."""
    target = target.strip()
    if len(target) > 500 or not re.match(r"https?://", target, re.IGNORECASE):
        return ""
    return re.sub(r"[\s()<>\\`*|]", lambda found: f"%{ord(found.group()) & 0xFF:02X}", target)


def _plain(text: str) -> str:
    """Text that Markdown must not read as marks."""
    text = re.sub(r"[\s\x00-\x1f\x7f]+", " ", text)
    return re.sub(r"([`*\\])", r"\\\1", text).replace("<", "\\<")


def _start(line: str) -> str:
    """A line that Markdown must not read as a heading, list, quote, table, fence or underline."""
    line = re.sub(r"^([0-9]{1,9})([.)])(?=\s|$)", r"\1\\\2", line)
    return re.sub(r"^(#{1,6}(?=\s|$)|[-+](?=\s|$)|>|\||~~~|={1,}\s*$|-{2,}\s*$)", r"\\\1", line)


def html(text: str) -> str:
    parser = Markdown()
    parser.feed(text)
    return parser.finish()


def pdf(data: bytes) -> str:
    """Kreuzberg's Markdown, without text recognition, images or its cache; `pages N` on the first line."""
    kreuzberg = importlib.import_module("kreuzberg")  # an extra; its types are not needed here
    config = kreuzberg.ExtractionConfig(
        output_format="markdown",
        use_cache=False,
        disable_ocr=True,
        enable_quality_processing=False,
        images=None,
        concurrency=kreuzberg.ConcurrencyConfig(max_threads=1),
    )
    try:
        found = kreuzberg.extract_bytes_sync(data, "application/pdf", config)
    except kreuzberg.KreuzbergError as error:
        told = str(error).lower()
        if "password" in told or "encrypt" in told:
            told = "it is locked by a password"
        elif "invalid" in told or "format" in told or "parse" in told or "load" in told:
            told = "it is damaged, or it is no PDF"
        else:
            told = " ".join(told.split())[:120]
        raise Complaint(told) from None
    return f"pages {found.metadata.get('page_count') or 0}\n{found.content}"


class Complaint(Exception):  # noqa: N818 - told to people, not an error of ours
    """What a person can mend."""


def main(kind: str, memory: int, seconds: int, output: int) -> int:
    if sys.platform != "darwin":  # macOS does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (output, output))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    data = sys.stdin.buffer.read()
    try:
        made = html(data.decode("utf-8")) if kind == "html" else pdf(data)
        sys.stdout.buffer.write(made.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()
    except Complaint as complaint:
        sys.stderr.write(str(complaint))
        return 3
    except MemoryError:
        sys.stderr.write("it needs more memory than it may use")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *(int(number) for number in sys.argv[2:5])))
