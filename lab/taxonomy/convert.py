"""Documents of a commit become Markdown: Markdown and plain text here, HTML and PDF in a child process.

`KINDS` says which file is read as what. A converter is anything with the shape of `Converter`; the defaults
are ours for HTML (`convert_child.py`) and Kreuzberg for PDF (the extra `pdf`), and a runner that has
Docling's models can pass its own in `converters`. Parsers of PDF and HTML are where hostile files bite, so
they run in a process without our environment, with the kernel's limits on memory, time and output.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lab.canonical import digest
from lab.taxonomy.document_cache import DocumentCache
from lab.taxonomy.document_limits import DocumentError, DocumentLimits, setting
from lab.taxonomy.fetch import watch
from lab.untrusted import printable, unhidden

Kind = Literal["text", "html", "pdf"]
KINDS: Mapping[str, Kind] = {
    ".md": "text",
    ".markdown": "text",
    ".txt": "text",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
}
KIND_NAMES: Mapping[Kind, str] = {"text": "Markdown or plain text", "html": "HTML", "pdf": "PDF"}
SUPPORTED = "Markdown (.md), plain text (.txt), HTML (.html) and PDF (.pdf)"
KREUZBERG = "4.10.4"
_CHILD = Path(__file__).with_name("convert_child.py")
_LFS = b"version https://git-lfs.github.com/spec/"
_OUTPUT = 64 << 20
_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff]")
_GRACE = 0.2


def kind_of(path: str) -> Kind | None:
    """What a file is read as, by its name; None when it is not read at all."""
    name = path.rpartition("/")[2].lower()
    return KINDS.get("." + name.rpartition(".")[2]) if "." in name else None


@dataclass(frozen=True)
class Budget:
    """What is left for the conversion of a leaf's documents: `deadline` on the monotonic clock."""

    deadline: float
    limits: DocumentLimits


class Converter(Protocol):
    """`identity` names the method and its version: results are cached under it. `convert` gives Markdown or
    raises `DocumentError` with a reason that names the path.
    """

    @property
    def identity(self) -> str: ...

    def convert(self, path: str, data: bytes, budget: Budget) -> str: ...


class Html:
    """Our own, for pages in UTF-8: what a reader sees, tables as GFM, no scripts, styles or comments."""

    # A digest of the code, so that a changed converter never answers from the cache.
    identity = f"html {digest(_CHILD.read_text('utf-8'))[7:19]}"

    def convert(self, path: str, data: bytes, budget: Budget) -> str:
        text = decode(path, data)
        return run_child("html", path, text.encode(), budget)


class Kreuzberg:
    """PDF with a text layer (facts: Kreuzberg 4.10.4, MIT, no download and no network)."""

    identity = f"kreuzberg {KREUZBERG} 1"

    def convert(self, path: str, data: bytes, budget: Budget) -> str:
        if not data.lstrip()[:5].startswith(b"%PDF-"):
            raise DocumentError(
                f"`{printable(path)}` is named .pdf but is no PDF.", "Export the document as PDF again."
            )
        _installed(path)
        head, _, text = run_child("pdf", path, data, budget).partition("\n")
        return mend_pdf(text, int(head.removeprefix("pages ")))


CONVERTERS: Mapping[Kind, Converter] = {"html": Html(), "pdf": Kreuzberg()}


def to_markdown(
    path: str,
    data: bytes,
    budget: Budget,
    cache: DocumentCache | None = None,
    converters: Mapping[Kind, Converter] = CONVERTERS,
) -> str:
    """The document as Markdown in UTF-8 with line ends of one character. Raises `DocumentError`."""
    if data.startswith(_LFS):
        raise DocumentError(
            f"`{printable(path)}` is a Git LFS pointer, not the document.",
            "Commit the document itself, without LFS.",
        )
    kind = kind_of(path)
    if kind is None:
        raise DocumentError(f"`{printable(path)}` is of no type that is read.", f"Use {SUPPORTED}.")
    if kind == "text":
        text = markdown(decode(path, data))
    else:
        converter = converters[kind]
        key = digest([converter.identity, kind, data.hex()])
        kept = cache.read(key) if cache else None
        text = kept[0][1].decode("utf-8") if kept else tidy(converter.convert(path, data, budget))
        if cache and not kept:
            cache.write(key, [("markdown", text.encode("utf-8"))])
    text = _UNSEEN.sub("", unhidden(text))
    if not text.strip():
        hint = "Pin a commit where it has content."
        if kind == "pdf":
            hint = (
                "A scanned document has no text in it: run text recognition (OCR) first, or write Markdown."
            )
        raise DocumentError(f"`{printable(path)}` is empty: it has no text.", hint)
    return text


def decode(path: str, data: bytes) -> str:
    """Text of a file that must be UTF-8, without a BOM and with `\\n` at line ends."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(
            f"`{printable(path)}` is not UTF-8 text: byte 0x{data[error.start]:02X} at offset {error.start} "
            f"(line {line}).",
            "Save it as UTF-8 and pin the new commit.",
        ) from None
    if "\0" in text:
        at = text.index("\0")
        raise DocumentError(
            f"`{printable(path)}` is not a text file: it has a NUL at offset {len(text[:at].encode())}.",
            f"Use {SUPPORTED}.",
        )
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def markdown(text: str) -> str:
    """Without what a reader of the rendered page does not see: front matter, and comments outside code."""
    if text.startswith("---\n"):
        front, found, rest = text[4:].partition("\n---\n")
        if found and all(re.match(r"[\w.-]+:|\s|#|-|$", line) for line in front.split("\n")):
            text = rest.lstrip("\n")
    if "<!--" not in text:
        return text
    out: list[str] = []
    fence, comment = "", False
    for line in text.split("\n"):
        mark = re.match(r" {0,3}(```+|~~~+)", line)
        if mark and not comment and (not fence or mark.group(1).startswith(fence)):
            fence = "" if fence else mark.group(1)
        if fence:
            out.append(line)
            continue
        kept, at = "", 0
        while at < len(line):
            end = line.find("-->" if comment else "<!--", at)
            if not comment:
                kept += line[at:] if end < 0 else line[at:end]
            if end < 0:
                break
            at = end + (3 if comment else 4)
            comment = not comment
        if kept.strip() or not line.strip():
            out.append(kept)
    return "\n".join(out)


def tidy(text: str) -> str:
    """Of converted text: no control characters, no line ends but `\\n`, no more than one empty line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    text = _UNSEEN.sub("", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n" if text.strip() else ""


_LONGEST = 20_000  # characters of a mended paragraph
_ENDED = re.compile(r"[.!?:;。！？…][\"'”’»)\]]*(?:\[\d+\])*$")


def mend_pdf(text: str, pages: int) -> str:
    """Kreuzberg finds headings by the size of letters, and takes lines of running text for headings when a
    page has many sizes (measured on a printed web page: 13 of 26 headings). Such a line joins the paragraph
    that it is part of; lines that return on every page are left out.
    """
    blocks = [block.strip() for block in re.split(r"\n{2,}", text) if block.strip()]
    often = Counter(_shape(block) for block in blocks)
    kept = [b for b in blocks if not (len(b) < 200 and often[_shape(b)] >= max(3, (pages + 1) // 2))]
    made: list[str] = []
    for number, block in enumerate(kept):
        title = re.match(r"(#{1,6}) +(.*)", block)
        if title and "\n" not in block:
            after = kept[number + 1] if number + 1 < len(kept) else ""
            if not _is_running(title.group(2), after):
                made.append(block)
                continue
            block = title.group(2)
        before = made[-1] if made else ""
        open_ = before and len(before) < _LONGEST and not _ENDED.search(before[-60:])
        if open_ and _plain(before) and _plain(block):
            made[-1] = f"{before} {block}"
        else:
            made.append(block)
    return "\n\n".join(made)


def _shape(block: str) -> str:
    return re.sub(r"\d+", "0", block.lstrip("# "))


def _plain(block: str) -> bool:
    return not block.startswith(("#", "|", "- ", "* ", "```", ">")) and not re.match(r"\d+[.)] ", block)


def _is_running(title: str, after: str) -> bool:
    """Whether the line is running text: it starts small, holds a sentence's end, breaks off, or is too long,
    or what follows goes on with a small letter.
    """
    return (
        title[:1].islower()
        or len(title.split()) > 12
        or title.endswith((",", ";", "-", ".", "("))
        or bool(re.search(r"[a-z\d)\]][.!?](?:\[\d+\])* +\S", re.sub(r"^[\d.]+ ", "", title)))
        or (bool(re.match(r"[a-z]", after.lstrip("# "))) and len(title.split()) > 3)
    )


def _installed(path: str) -> None:
    try:
        found = importlib.metadata.version("kreuzberg")
    except importlib.metadata.PackageNotFoundError:
        found = ""
    if found != KREUZBERG:
        what = f"has kreuzberg {found}, not {KREUZBERG}" if found else "has no reader for PDF"
        raise DocumentError(
            f"`{printable(path)}` is a PDF, and this installation {what}.",
            "Run `pip install 'treewright[pdf]'` on the machine that reads documents, or convert the "
            "document to Markdown.",
        )


def run_child(kind: Kind, path: str, data: bytes, budget: Budget) -> str:
    """What the child wrote. Raises `DocumentError` when it complains, crashes, or goes over a limit."""
    shown, limits = f"`{printable(path)}`", budget.limits
    left = budget.deadline - time.monotonic()
    slow = DocumentError(
        f"Converting {shown} took too long: a leaf's documents have {limits.convert_seconds} s together.",
        f"Use smaller or fewer documents, or ask the operator to raise {setting('convert_seconds')}.",
    )
    if left <= 0:
        raise slow
    with (
        tempfile.TemporaryDirectory(prefix="treewright-") as folder,
        tempfile.TemporaryFile(dir=folder) as fed,
        tempfile.TemporaryFile(dir=folder) as made,
        tempfile.TemporaryFile(dir=folder) as told,
    ):
        fed.write(data)
        fed.seek(0)
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", str(_CHILD), kind),
                *(str(limits.convert_mb << 20), str(int(left) + 1), str(_OUTPUT)),
            ],
            # One thread per pool and no home: nothing of this machine's settings is read.
            env={"HOME": folder, "TMPDIR": folder, "LC_ALL": "C.UTF-8", "RAYON_NUM_THREADS": "1"},
            cwd=folder,
            stdin=fed,
            stdout=made,
            stderr=told,
            start_new_session=True,
        )

        def check() -> None:
            if time.monotonic() > budget.deadline + _GRACE:
                raise slow

        watch(process, check)
        told.seek(0)
        words = told.read(4000).decode("utf-8", "replace")
        if process.returncode == 0:
            made.seek(0)
            return made.read(_OUTPUT + 1).decode("utf-8")
    code = process.returncode
    if code == 3:
        raise DocumentError(f"{shown} cannot be read: {printable(words, 160)}.", "Export it again, unlocked.")
    if code in (-24, -9):  # SIGXCPU and what follows it
        raise slow
    if code == 4 or "memory" in words.lower() or "alloc" in words.lower():
        raise DocumentError(
            f"Converting {shown} needs more than {limits.convert_mb} MiB of memory.",
            f"Use a smaller document, or ask the operator to raise {setting('convert_mb')}.",
        )
    if code == -25 or "File too large" in words:
        raise DocumentError(f"{shown} becomes more than {_OUTPUT >> 20} MiB of text.", "Split the document.")
    raise DocumentError(
        f"The converter for {KIND_NAMES[kind]} could not read {shown} (it ended with {code}).",
        "Export the document again with another program, or write Markdown.",
    )
