"""Mends what can be mended without guessing: `treewright lint --fix`, and the same lines as suggestions.

`fix_leaf(files, config, strict)` takes the files of one leaf's folder and gives them back mended. Line edits
are the findings' own `suggestion`, the very text that a review comment offers; file edits (line ends, byte
order mark, last line end, `version`, file names) have no line to suggest. Bytes outside an edit stay as they
are, so comments, order and quoting are kept.

Nothing is trusted to be a mend: each edit is made on a copy, the copy is linted again, and it is kept only
when there are fewer findings than before and the parsed content is the same (ends of lines apart, and apart
from the key or address that the edit is about). So a fixed file has strictly fewer findings, or, when it
could not be read at all before, can be read now; and fixing it again changes nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lab.config import RepositoryConfig
from lab.taxonomy.findings import Finding
from lab.taxonomy.leaf import ATTRIBUTION, QNA, is_knowledge
from lab.taxonomy.lint import lint
from lab.taxonomy.tree import FilesTree
from lab.untrusted import CONTROL, YamlBudgets, YamlNode, read_yaml

BOM = b"\xef\xbb\xbf"
CHAIN = 200  # mends of broken YAML that one file may need before it can be read
_WIDTHS = (2, 4, 8)  # columns that a tab may have been meant for
# Rules whose suggestion is the only thing that can be meant; others suggest and leave the choice to a person.
_CERTAIN = ("trailing-space", "version", "wrong-type", "document-url", "licence")
_NEAR = ("unknown-field", "attribution-field")  # certain when the misspelling is one letter away
_REWORDED = ("unknown-field", "document-url")  # the edit may change one key or value of the content

_GRAVE = ("file-name", "yaml-syntax", "attribution-missing")

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Fixed:
    """`files` is the whole folder after mending; `renamed` maps old names to new ones; `mended` are the
    findings that went.
    """

    files: Files
    renamed: tuple[tuple[str, str], ...]
    mended: tuple[Finding, ...]


@dataclass(frozen=True)
class _Edit:
    """A change of the folder's files. `rewords` counts keys and values whose text it may change."""

    apply: Callable[[Files], Files]
    renames: tuple[tuple[str, str], ...] = ()
    rewords: int = 0
    opens: bool = False  # makes an unreadable file readable, so there is no content to compare with


def fix_leaf(files: Files, config: RepositoryConfig, strict: bool = False) -> Fixed:
    """The folder's files by their path in the tree, mended. Pure: the same files give the same answer."""
    first = now = _findings(files, config, strict)
    renamed: list[tuple[str, str]] = []
    progress = True
    while progress:
        progress = False
        for edit in _edits(files, now):
            attempt = edit.apply(files)
            if attempt == files or not (edit.opens or _same_content(files, attempt, edit)):
                continue
            then = _findings(attempt, config, strict)
            if _weight(then) < _weight(now):
                files, now, progress = attempt, then, True
                renamed += edit.renames
                break
    left = {(finding.file, finding.rule, finding.message) for finding in now}
    names = dict(renamed)
    gone = [
        finding
        for finding in first
        if (names.get(finding.file, finding.file), finding.rule, finding.message) not in left
    ]
    return Fixed(files, tuple(renamed), tuple(gone))


def unified(before: Files, after: Fixed) -> str:
    """What `fix_leaf` did, as `diff -u` shows it."""
    names = {new: old for old, new in after.renamed}
    parts: list[str] = []
    for path, data in sorted(after.files.items()):
        old = names.get(path, path)
        if old != path:
            parts.append(f"rename {old} -> {path}\n")
        parts += unified_file(old, path, before[old], data)
    return "".join(parts)


def unified_file(old: str, path: str, before: bytes, data: bytes) -> list[str]:
    """One file's part of a unified diff. What cannot be seen, or would act on a terminal, is an escape."""

    def seen(match: re.Match[str]) -> str:
        found = match.group()
        return found if found in "\n\t" else found.encode("unicode_escape").decode()

    def lines(raw: bytes) -> list[str]:
        text = CONTROL.sub(seen, raw.decode("utf-8", "backslashreplace"))
        return re.findall(r"[^\n]*\n|[^\n]+", text)

    shown = difflib.unified_diff(lines(before), lines(data), f"a/{old}", f"b/{path}", n=1)
    return [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in shown]


# ---- what could be done -----------------------------------------------------------------------------------


def _edits(files: Files, findings: tuple[Finding, ...]) -> Iterator[_Edit]:
    """Candidates, the widest first: all lines at once, then one at a time for what does not go together."""
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.file in files:
            by_rule.setdefault(finding.rule, []).append(finding)
    yield from _renames(files, findings)
    for finding in by_rule.get("yaml-encoding", ()):
        if files[finding.file].startswith(BOM):
            yield _bytes(finding.file, lambda data: data.removeprefix(BOM))
    for finding in by_rule.get("line-ending", ()):
        yield _bytes(finding.file, lambda data: data.replace(b"\r\n", b"\n"))
    for file in sorted({finding.file for finding in by_rule.get("trailing-space", ())}):
        # Not by the suggestions, of which there are a hundred at most: a file may have a million such lines.
        yield _bytes(file, lambda data: re.sub(rb"[ \t]+(?=\r?(?:\n|\Z))", b"", data))
    for finding in by_rule.get("final-newline", ()):
        yield _bytes(finding.file, lambda data: data + b"\n")
    for finding in by_rule.get("yaml-syntax", ()):
        yield from _opened(files, finding)
    for finding in (*by_rule.get("version", ()), *by_rule.get("missing-field", ())):
        if "`version` is missing" in finding.message:
            yield _with_version(finding.file, files[finding.file])
    certain = [finding for finding in findings if finding.file in files and is_certain(finding, files)]
    for file in sorted({finding.file for finding in certain}):
        mine = [finding for finding in certain if finding.file == file]
        yield _lines(file, mine)
        if len(mine) > 1:
            for finding in mine:
                yield _lines(file, [finding])


def is_certain(finding: Finding, files: Files) -> bool:
    """Whether the suggestion is the only thing that can be meant, so that a machine may write it."""
    if finding.suggestion is None:
        return False
    if finding.rule in _CERTAIN:
        return True
    return finding.rule in _NEAR and _near(_line(files[finding.file], finding.line), finding.suggestion)


def _near(line: str, suggestion: str) -> bool:
    """One letter was changed, added, left out or swapped with its neighbour; or only case, `-` and `_`
    differ.
    """
    old_key, new_key = line.split(":")[0].strip(" -"), suggestion.split(":")[0].strip(" -")
    if re.sub(r"[\W_]", "", old_key).casefold() == re.sub(r"[\W_]", "", new_key).casefold():
        return True
    start = 0
    while start < min(len(line), len(suggestion)) and line[start] == suggestion[start]:
        start += 1
    old, new = line[start:], suggestion[start:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    swapped = len(old) == len(new) == 2 and old == new[::-1]
    return swapped or (len(old) <= 1 and len(new) <= 1)


def _bytes(file: str, change: Callable[[bytes], bytes]) -> _Edit:
    return _Edit(lambda files: {**files, file: change(files[file])})


def _lines(file: str, findings: Iterable[Finding]) -> _Edit:
    """The first suggestion of each line; another one for the same line comes in the next round."""
    mends: dict[int, Finding] = {}
    for finding in findings:
        mends.setdefault(finding.line, finding)
    rewords = sum(finding.rule in _REWORDED for finding in mends.values())
    texts = {line: finding.suggestion or "" for line, finding in mends.items()}
    return _Edit(lambda files: {**files, file: replace_lines(files[file], texts)}, rewords=rewords)


def replace_lines(data: bytes, texts: Mapping[int, str]) -> bytes:
    """Whole lines by number (from 1), their line ends and a byte order mark kept. Lines end at "\\n" only."""
    lines = data.split(b"\n")
    for number, text in texts.items():
        if 0 < number <= len(lines):
            old = lines[number - 1]
            mark = BOM if number == 1 and old.startswith(BOM) else b""
            lines[number - 1] = mark + text.encode() + (b"\r" if old.endswith(b"\r") else b"")
    return b"\n".join(lines)


def _line(data: bytes, number: int) -> str:
    lines = data.removeprefix(BOM).split(b"\n")
    return lines[number - 1].decode("utf-8", "replace").rstrip("\r") if 0 < number <= len(lines) else ""


def _with_version(file: str, data: bytes) -> _Edit:
    """`version: 3` above the first key, for a file whose keys start at the left margin."""
    root = read_yaml(data, _budgets(data)).root
    if root is None or root.kind != "mapping" or root.style or root.column != 1:
        return _Edit(lambda files: files)
    if is_knowledge(file) and root.get("document_outline") is None:
        return _Edit(lambda files: files)  # it has an older version's shape: `treewright migrate` moves it
    end = b"\r\n" if b"\r\n" in data else b"\n"
    lines = data.split(b"\n")
    mark = BOM if root.line == 1 and data.startswith(BOM) else b""
    lines[root.line - 1] = mark + b"version: 3" + end + lines[root.line - 1].removeprefix(BOM)
    made = b"\n".join(lines)
    return _Edit(lambda files: {**files, file: made}, rewords=-1)


def _renames(files: Files, findings: tuple[Finding, ...]) -> Iterator[_Edit]:
    """A file that is plainly meant to be `qna.yaml` or `attribution.txt`, when that name is free."""
    wanted = ((QNA, _meant_qna, "file-name"), (ATTRIBUTION, _meant_attribution, "attribution-missing"))
    for name, meant, rule in wanted:
        folders = {finding.file.rpartition("/")[0] for finding in findings if finding.rule == rule}
        for folder in sorted(folders):
            new = f"{folder}/{name}"
            olds = [path for path in files if path.rpartition("/")[0] == folder and meant(path)]
            if new not in files and len(olds) == 1:
                yield _renamed(olds[0], new)


def _renamed(old: str, new: str) -> _Edit:
    def apply(files: Files) -> Files:
        return {(new if path == old else path): data for path, data in files.items()}

    return _Edit(apply, ((old, new),), opens=True)


def _meant_qna(path: str) -> bool:
    stem, dot, end = path.rpartition("/")[2].casefold().removesuffix(".txt").rpartition(".")
    return bool(dot) and end in ("yaml", "yml") and stem in ("qna", "q_n_a", "q&a", "qa", "qan", "qna.yaml")


def _meant_attribution(path: str) -> bool:
    name = path.rpartition("/")[2]
    meant = re.fullmatch(r"att?ributions?(\.te?xt|\.txt\.txt|\.md)?", name.casefold())
    return meant is not None and name != ATTRIBUTION


# ---- broken YAML ------------------------------------------------------------------------------------------


def _opened(files: Files, finding: Finding) -> Iterator[_Edit]:
    """The parser stops at the first mistake, so mends go on until the file can be read, or are dropped."""
    file, data = finding.file, files[finding.file]
    tries = [_open(data, width) for width in (_WIDTHS if b"\t" in data else _WIDTHS[:1])]
    opened = [made for made in tries if made is not None]
    if opened and len({_content(made) for made in opened}) == 1:
        made = opened[0]
        yield _Edit(lambda files: {**files, file: made}, opens=True)


def _open(data: bytes, width: int) -> bytes | None:
    for _ in range(CHAIN):
        document = read_yaml(data, _budgets(data))
        problem = next((each for each in document.problems if each.rule == "yaml-syntax"), None)
        if problem is None:
            return data if document.root is not None else None
        line, mended = _line(data, problem.line), problem.suggestion
        if mended is None or " #" in line or mended == line:
            return None
        if "\t" in line:
            margin = re.match(r"[ \t]*", line)
            start = margin.end() if margin else 0
            if "\t" not in line[:start] or "\t" in line[start:]:
                return None
            mended = line[:start].replace("\t", " " * width) + line[start:]
        data = replace_lines(data, {problem.line: mended})
    return None


# ---- proof ------------------------------------------------------------------------------------------------


def _findings(files: Files, config: RepositoryConfig, strict: bool) -> tuple[Finding, ...]:
    return lint(FilesTree(files), config, None, strict).findings


def _weight(findings: tuple[Finding, ...]) -> tuple[int, ...]:
    """What has to shrink, the gravest first: files that are not read at all, files that cannot be read, works
    without attribution, then findings, those that a long report leaves out counted as well.
    """
    hidden = 0
    for finding in findings:
        if finding.rule == "too-many" and finding.message[:1].isdigit():
            hidden += int(finding.message.split()[0].replace(",", "")) - 1
    grave = [sum(finding.rule == rule for finding in findings) for rule in _GRAVE]
    return *grave, len(findings) + hidden


def _same_content(before: Files, after: Files, edit: _Edit) -> bool:
    for path, data in after.items():
        if before[path] == data or not path.endswith((".yaml", ".yml")):
            continue
        old, new = _content(before[path]), _content(data)
        if old is None or new is None:
            return old is new
        if edit.rewords < 0:  # a key and its value came to the front
            if new[:1] + new[3:] != old or new[1:3] != ("key version", "value 3"):
                return False
        elif len(old) != len(new) or sum(a != b for a, b in zip(old, new, strict=True)) > edit.rewords:
            return False
    return True


def _content(data: bytes) -> tuple[str, ...] | None:
    """Keys, values and structure in order; without types, quoting and the spaces at the ends of lines."""
    root = read_yaml(data, _budgets(data)).root
    return None if root is None else tuple(_flat(root))


def _flat(node: YamlNode) -> Iterator[str]:
    if node.kind == "scalar":
        yield "value " + re.sub(r"[ \t]+(?=\n|\Z)", "", node.text)
    elif node.kind == "mapping":
        yield "{"
        for key, value in node.entries:
            yield f"key {key.text}"
            yield from _flat(value)
        yield "}"
    else:
        yield "["
        for item in node.items:
            yield from _flat(item)
        yield "]"


def _budgets(data: bytes) -> YamlBudgets:
    return YamlBudgets(bytes=max(len(data), 1) + 16)
