"""Splits English-like text into sentences, by rule and always the same way.

Synthesis asks one question for each sentence of a document, so a heading, a table row or a line of code
must not pass for a sentence, and `Dr. Smith` or `3.5 km` must not end one. Rules instead of a model: no
download, no randomness, and a contributor can see why a sentence was cut where it was. Scripts that write no
spaces (Chinese, Japanese, Thai and others) are cut at their own marks and measured by their characters.
"""

from __future__ import annotations

import re

# Words that a full stop follows without ending the sentence.
_ABBREVIATIONS = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "sr",
        "jr",
        "rev",
        "hon",
        "gen",
        "col",
        "lt",
        "capt",
        "sgt",
        "gov",
        "sen",
        "rep",
        "pres",
        "vs",
        "etc",
        "e.g",
        "i.e",
        "cf",
        "ca",
        "c",
        "approx",
        "al",
        "fig",
        "figs",
        "eq",
        "no",
        "nos",
        "vol",
        "vols",
        "pp",
        "p",
        "ch",
        "sec",
        "ed",
        "eds",
        "trans",
        "repr",
        "dept",
        "univ",
        "inc",
        "ltd",
        "co",
        "corp",
        "est",
        "fl",
        "b",
        "d",
        "r",
        "jan",
        "feb",
        "mar",
        "apr",
        "jun",
        "jul",
        "aug",
        "sep",
        "sept",
        "oct",
        "nov",
        "dec",
        "mon",
        "tue",
        "wed",
        "thu",
        "fri",
        "sat",
        "sun",
        "u.s",
        "u.k",
        "u.n",
        "a.m",
        "p.m",
        "ph.d",
        "m.d",
        "b.a",
        "m.a",
        "b.c",
        "a.d",
    ]
)
# These may well end a sentence; they do when a capital letter that is no name's part follows.
_OPEN = frozenset(
    ["etc", "a.m", "p.m", "inc", "ltd", "co", "b.c", "a.d", "u.s", "u.k", "ph.d", "m.d", "no", "al", "d", "b"]
)
# Possessive, and only at a run's start: a megabyte of dots costs what it is long.
_STOP = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]*_]*+(?=\s|$)")
_FOLLOWING = re.compile(r"\s+[\"'“‘«(\[*_]*+(\S{1,40})")
_LONGEST = 1000  # characters of a sentence that somebody could ask one question about
# Marks that end a sentence with or without a space behind them: CJK, Urdu, Arabic, Devanagari, Armenian,
# Ethiopic, Burmese, Khmer, Tibetan.
_STOP_ANYWHERE = re.compile(
    "[\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965\u0589\u1362\u104b\u17d4\u0f0d]+"
    "[\u300d\u300f\u201d\u2019\uff09\u3011\u300b\"')]*"
)
# Thai to Tibetan, Burmese, Khmer; kana; ideographs with their extensions: one character is not one word.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)
_LONG = 32
_STARTERS = frozenset(
    [
        "the",
        "a",
        "an",
        "it",
        "he",
        "she",
        "they",
        "we",
        "i",
        "you",
        "this",
        "that",
        "these",
        "those",
        "in",
        "on",
        "at",
        "by",
        "for",
        "from",
        "after",
        "before",
        "when",
        "while",
        "its",
        "his",
        "her",
        "their",
        "our",
        "my",
        "your",
        "some",
        "many",
        "most",
        "all",
        "each",
        "every",
        "if",
        "but",
        "and",
        "so",
        "however",
        "there",
        "here",
        "as",
    ]
)
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_BLOCK = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+")


def sentences(text: str) -> list[str]:
    """The sentences of a Markdown text in reading order, one line each: no headings, tables, code or bare
    links.
    """
    found: list[str] = []
    for block in _prose(text):
        whole = (part for part in split(block) if len(part) <= _LONGEST)
        found += [s for s in (clean(part) for part in whole) if _says_something(s)]
    return found


def split(paragraph: str) -> list[str]:
    """One paragraph's sentences, as they stand (Markdown kept), with inner line ends as spaces."""
    return [sentence for _, sentence in joined(paragraph)]


def joined(paragraph: str) -> list[tuple[str, str]]:
    """As `split`, each with what stands before it: a space, or nothing where the text has none."""
    text = re.sub(r"\s+", " ", paragraph).strip()
    stops = [*_STOP.finditer(text), *_STOP_ANYWHERE.finditer(text)]
    parts: list[tuple[str, str]] = []
    start = 0
    for match in sorted(stops, key=re.Match.end):
        if match.end() <= start:
            continue
        anywhere = match.re is _STOP_ANYWHERE
        if match.end() < len(text) and not anywhere and not _ends(text, start, match):
            continue
        parts.append((" " if text[start : start + 1] == " " else "", text[start : match.end()].strip()))
        start = match.end()
    if text[start:].strip():
        parts.append((" " if text[start : start + 1] == " " else "", text[start:].strip()))
    return parts


def size(text: str) -> int:
    """Words, as a teacher's context feels them: what stands between spaces; two characters of a script
    without spaces; eight characters of something longer than any word, such as an address or encoded data.
    """
    total = 0
    for word in text.split():
        if word.isascii() and len(word) <= _LONG:
            total += 1
            continue
        unspaced = len(_UNSPACED.findall(word))
        rest = len(word) - unspaced
        total += -(-unspaced // 2) + (0 if not rest else 1 if rest <= _LONG else -(-rest // 8))
    return total


def clean(sentence: str) -> str:
    """Without Markdown's marks: emphasis, links (their text stays), images, footnotes, HTML tags."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", sentence)
    text = re.sub(r"\[\^[^\]]*\]", "", text)
    text = re.sub(r"\[([^\]]*)\]\((?:[^()]|\([^()]*\))*\)", r"\1", text)
    text = re.sub(r"\[([^\]]*)\]\[[^\]]*\]", r"\1", text)
    text = re.sub(r"</?[A-Za-z][^<>]{0,200}>", "", text)
    text = re.sub(r"(\*\*\*|\*\*|\*)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<!\w)(__|_)(?=\S)(.+?)(?<=\S)\1(?!\w)", r"\2", text)
    text = re.sub(r"`+([^`]+)`+", r"\1", text)
    text = re.sub(r"\\([\\`*_{}\[\]()#+.!|-])", r"\1", text)
    return re.sub(r"\s+", " ", text).strip()


def _says_something(sentence: str) -> bool:
    return len(sentence.split()) >= 2 or len(_UNSPACED.findall(sentence)) >= 4


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the mark ends the sentence, judged by the word before it and the word after it."""
    after = _FOLLOWING.match(text, match.end())
    following = after.group(1) if after else ""
    if not match.group().startswith(".") or match.group().startswith(".."):
        return not following[:1].islower()
    word = re.search(r"[\w.]*$", text[max(start, match.start() - 40) : match.start()])
    last = (word.group() if word else "").lower().strip(".")
    if last in _ABBREVIATIONS:
        return last in _OPEN and following[:1].isupper() and following.strip(",.;").lower() in _STARTERS
    if len(last) == 1 and last.isalpha() and last != "i":  # an initial, as in J. Smith
        return following.strip(",.;").lower() in _STARTERS
    if last.isdigit() and match.start() - len(last) == start:  # the number of a list entry
        return False
    return not following[:1].islower()


def _prose(text: str) -> list[str]:
    """Paragraphs and list entries; everything that is not running text is left out."""
    blocks: list[list[str]] = [[]]
    fence = ""
    lines = text.replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if mark and (not fence or mark.group(1).startswith(fence)):
            fence = "" if fence else mark.group(1)
            blocks.append([])
            continue
        bare = line.strip().removeprefix(">").strip()
        below = lines[number + 1].strip() if number + 1 < len(lines) else ""
        if (
            fence
            or not bare
            or bare.startswith(("#", "|", "<!--", "[^"))
            or re.fullmatch(r"[-=*_ |:]{2,}", bare)
        ):
            blocks.append([])
        elif re.fullmatch(r"=+|-{2,}", below) and not blocks[-1]:
            blocks.append([])  # a setext heading
        elif line.startswith(("    ", "\t")) and not blocks[-1]:
            blocks.append([])  # indented code
        elif re.fullmatch(r"\[[^\]]+\]:\s*\S+.*", bare) or re.fullmatch(r"<?https?://\S+>?", bare):
            blocks.append([])
        elif _BLOCK.match(line):
            blocks.append([_BLOCK.sub("", line).strip()])
        else:
            blocks[-1].append(bare)
    return [" ".join(block) for block in blocks if block]
