"""Cuts documents into passages for the teacher: by headings, then by paragraphs, never inside a sentence.

A chunk's id is a digest of its document, heading and text, so it stays the same when other parts of the
document change place, and a second run asks the teacher nothing that it has answered. Passages of about 180
words are near the 250 tokens that the small embedded teacher attends to well; the predecessor used about
500 tokens with a large one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lab.taxonomy.canonical import digest
from lab.taxonomy.documents import SourceDocument
from lab.taxonomy.sentences import split

_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")


@dataclass(frozen=True)
class Chunk:
    """`heading` is the way to it (`Isles > Lights`), `index` its place in the document, from 0."""

    id: str
    document: str
    heading: str
    text: str
    index: int


def chunk(document: SourceDocument, words: int = 180) -> list[Chunk]:
    """Passages of at most `words` words; a sentence, table row or line of code longer than that stays
    whole.
    """
    chunks: list[Chunk] = []
    seen: set[str] = set()
    for heading, body in sections(document.text):
        for text in _pack(body, words):
            key = digest([document.digest, heading, text])
            if key not in seen:  # a passage that stands twice teaches nothing new
                seen.add(key)
                chunks.append(Chunk(key, document.digest, heading, text, len(chunks)))
    return chunks


def sections(text: str) -> list[tuple[str, str]]:
    """(path of headings, body) in reading order; ATX and setext headings, none inside code fences."""
    found: list[tuple[str, str]] = []
    trail: list[tuple[int, str]] = []
    body: list[str] = []
    fence = ""

    def close() -> None:
        joined = "\n".join(body).strip("\n")
        if joined.strip():
            found.append((" > ".join(title for _, title in trail), joined))
        body.clear()

    def open_(level: int, title: str) -> None:
        close()
        while trail and trail[-1][0] >= level:
            trail.pop()
        trail.append((level, title.strip()))

    for line in text.replace("\r\n", "\n").split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or (mark.group(1)[0] == fence[0] and len(mark.group(1)) >= len(fence))):
            fence = "" if fence else mark.group(1)
            body.append(line)
            continue
        heading = None if fence else _HEADING.match(line)
        under = None if fence else re.match(r"^ {0,3}(=+|-+)[ \t]*$", line)
        if heading:
            open_(len(heading.group(1)), heading.group(2))
        elif under and body and body[-1].strip() and not body[-1].lstrip().startswith(("|", "-", "*", ">")):
            title = body.pop()
            open_(1 if under.group(1)[0] == "=" else 2, title)
        else:
            body.append(line)
    close()
    return found


def _pack(body: str, words: int) -> list[str]:
    """Whole paragraphs while they fit; a longer one is cut between sentences (tables and code between
    lines).
    """
    packed: list[str] = []
    current: list[str] = []
    count = 0
    for joint, piece in _pieces(body, words):
        size = len(piece.split())
        if current and count + size > words:
            packed.append("".join(current).strip("\n"))
            current, count = [], 0
        current.append((joint if current else "") + piece)
        count += size
    if current:
        packed.append("".join(current).strip("\n"))
    return [text for text in packed if text.strip()]


def _pieces(body: str, words: int) -> list[tuple[str, str]]:
    """(what joins it to the piece before, piece)."""
    pieces: list[tuple[str, str]] = []
    for paragraph in _paragraphs(body):
        if len(paragraph.split()) <= words:
            pieces.append(("\n\n", paragraph))
            continue
        lined = paragraph.lstrip().startswith(("|", "```", "~~~", "- ", "* ", "+ ")) or paragraph.startswith(
            "    "
        )
        parts = paragraph.split("\n") if lined else split(paragraph)
        glue = "\n" if lined else " "
        pieces += [(glue if number else "\n\n", part) for number, part in enumerate(parts)]
    return pieces


def _paragraphs(body: str) -> list[str]:
    paragraphs: list[list[str]] = [[]]
    fence = ""
    for line in body.split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or mark.group(1).startswith(fence)):
            fence = "" if fence else mark.group(1)
        if line.strip() or fence:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return ["\n".join(lines) for lines in paragraphs if lines]
