"""Cuts documents into passages for the teacher: by headings, then by paragraphs, never inside a sentence that
fits.

A chunk's id is a digest of its document, heading and text, so the same document gives the same ids on every
machine, and a second run asks the teacher nothing that it has answered. Passages of about 180 words are near
the 250 tokens that the small embedded teacher attends to well; the predecessor used about 500 tokens with a
large one. The measure is words (`sentences.size`, which knows scripts without spaces) unless the caller has
the teacher's tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.canonical import digest
from lab.taxonomy.documents import SourceDocument
from lab.taxonomy.sentences import joined, size
from lab.taxonomy.sizes import ESTIMATE, Tokens

_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*)$")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_MARKS = 30  # accents of one letter at most (Unicode's stream-safe text format, UAX 15)


@dataclass(frozen=True)
class Chunk:
    """`heading` is the way to it (`Isles > Lights`), `index` its place in the document, from 0."""

    id: str
    document: str
    heading: str
    text: str
    index: int


def chunk(document: SourceDocument, words: int = 180, measure: Callable[[str], int] = size) -> list[Chunk]:
    """Passages of at most `words` by `measure` (words, or tokens when given a tokenizer's count). Tables,
    lists and code stay whole where they fit; cut ones keep their head row or fence. A sentence that is
    longer by itself is cut between words, and a word between characters.
    """
    chunks: list[Chunk] = []
    seen: set[str] = set()
    for heading, body in sections(document.text):
        for text in _pack(_pieces(body, words, measure), words, measure):
            key = digest([document.digest, heading, text])
            if key not in seen:  # a passage that stands twice teaches nothing new
                seen.add(key)
                chunks.append(Chunk(key, document.digest, heading, text, len(chunks)))
    return chunks


CHUNK_TOKENS = 250


def cut(document: SourceDocument, tokens: Tokens = ESTIMATE) -> list[Chunk]:
    """The passages that generation, preview and plan work with: of `CHUNK_TOKENS` tokens when the teacher's
    tokenizer is there to count them, else of about as many by words.
    """
    return chunk(document, CHUNK_TOKENS, tokens.count) if tokens.counted else chunk(document)


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
            open_(len(heading.group(1)), _title(heading.group(2)))
        elif under and body and body[-1].strip() and not body[-1].lstrip().startswith(("|", "-", "*", ">")):
            title = body.pop()
            open_(1 if under.group(1)[0] == "=" else 2, title)
        else:
            body.append(line)
    close()
    return found


def _title(text: str) -> str:
    """Without the closing `#` marks that CommonMark allows; `C#` keeps its own."""
    text = text.strip(" \t")
    bare = text.rstrip("#")
    return bare.rstrip(" \t") if not bare or bare[-1] in " \t" else text


_Piece = tuple[str, str]  # (what joins it to the piece before, text)
_Measure = Callable[[str], int]


def _pack(pieces: Sequence[_Piece], most: int, measure: _Measure) -> list[str]:
    """Whole pieces while they fit."""
    packed: list[str] = []
    current = ""
    for joint, piece in pieces:
        # Measured joined: a tokenizer's counts do not add up, and words can grow together.
        if current and measure(current + joint + piece) > most:
            packed.append(current.strip("\n"))
            current = ""
        current = current + joint + piece if current else piece
    packed.append(current.strip("\n"))
    return [text for text in packed if text.strip()]


def _pieces(body: str, most: int, measure: _Measure) -> list[_Piece]:
    """Paragraphs that fit, and the parts of those that do not; no piece is larger than `most`."""
    pieces: list[_Piece] = []
    for paragraph in _paragraphs(body):
        if measure(paragraph) <= most:
            pieces.append(("\n\n", paragraph))
            continue
        lines = paragraph.split("\n")
        parts = _fenced(lines, most, measure) or _tabled(lines, most, measure)
        if not parts:
            lined = paragraph.lstrip().startswith(("|", "```", "~~~", "- ", "* ", "+ "))
            if lined or paragraph.startswith("    "):
                parts = [("\n", line) for line in lines]
            else:
                parts = joined(paragraph)
            parts[0] = ("\n\n", parts[0][1])
            parts = [small for joint, part in parts for small in _small(joint, part, most, measure)]
        pieces += parts
    return pieces


def _fenced(lines: list[str], most: int, measure: _Measure) -> list[_Piece]:
    """A long block of code as several blocks, each with its fence."""
    mark = _FENCE.match(lines[0])
    if not mark or len(lines) < 3 or lines[-1].strip() != mark.group(1):
        return []
    return _framed([lines[0]], lines[1:-1], [lines[-1]], most, measure)


def _tabled(lines: list[str], most: int, measure: _Measure) -> list[_Piece]:
    """A long table as several, each with the head row: rows without it say nothing."""
    if len(lines) < 3 or not {"|", "-"} <= set(lines[1]) <= set(" \t:|-"):
        return []
    if measure("\n".join(lines[:2])) * 3 > most:
        return []
    return _framed(lines[:2], lines[2:], [], most, measure)


def _framed(head: list[str], lines: list[str], tail: list[str], most: int, measure: _Measure) -> list[_Piece]:
    """Empty when a single line does not fit into the frame: then the frame is given up."""
    parts: list[list[str]] = [[]]
    for line in lines:
        if measure("\n".join([*head, line, *tail])) > most:
            return []
        if parts[-1] and measure("\n".join([*head, *parts[-1], line, *tail])) > most:
            parts.append([])
        parts[-1].append(line)
    return [("\n\n", "\n".join([*head, *part, *tail])) for part in parts]


def _small(joint: str, piece: str, most: int, measure: _Measure) -> list[_Piece]:
    """A sentence or line that does not fit, cut between words; a word that does not, after its clauses' marks
    or between characters.
    """
    if measure(piece) <= most:
        return [(joint, piece)]
    units: list[_Piece] = []
    for found in re.finditer(r"(\s*)(\S+)", piece):
        for at, part in enumerate(_halves(found.group(2), most, measure)):
            units.append(("" if at else found.group(1), part))
    made: list[_Piece] = []
    for gap, unit in units:
        if made and measure(made[-1][1] + gap + unit) <= most:
            made[-1] = (made[-1][0], made[-1][1] + gap + unit)
        else:
            made.append((gap if made else joint, unit if made else gap + unit))
    return made


def _halves(word: str, most: int, measure: _Measure) -> list[str]:
    if len(word) < 2 or measure(word) <= most:
        return [word]
    clauses = re.findall(
        "[^\uff0c\u3001\uff1b\uff1a]+[\uff0c\u3001\uff1b\uff1a]*|[\uff0c\u3001\uff1b\uff1a]+", word
    )
    if len(clauses) > 1:
        return [part for clause in clauses for part in _halves(clause, most, measure)]
    middle = len(word) // 2
    # An accent stays with its letter; where there are only accents, any place will do.
    near = range(middle, min(middle + _MARKS, len(word) - 1))
    middle = next((at for at in near if not unicodedata.combining(word[at])), middle)
    return _halves(word[:middle], most, measure) + _halves(word[middle:], most, measure)


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
