"""Fuzzes the reader of hostile YAML and the whole of lint behind it. Run by hand: `python
tests/fuzz/yaml_reader.py --seconds 600 [--seed N] [FILE...]`.

With `atheris` installed its coverage leads the way (libFuzzer's options may follow `--`); without it, real
and example leaves are mutated at random. What must hold for any bytes: no exception, no more than the
budgets, every finding of a known rule, on a line of the file and a column of that line. A failing input is
written to the current folder as `crash-<digest>`; give it as FILE to see it again. The suite runs one second
of it (`tests/lab/taxonomy/test_properties.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from lab.config import RepositoryConfig  # noqa: E402 - the path is set first
from lab.contracts import problems  # noqa: E402 - the path is set first
from lab.taxonomy import examples  # noqa: E402 - the path is set first
from lab.taxonomy.lint import lint  # noqa: E402 - the path is set first
from lab.taxonomy.rules import RULES  # noqa: E402 - the path is set first
from lab.taxonomy.tree import TooLarge  # noqa: E402 - the path is set first
from lab.untrusted import YamlBudgets, YamlNode, read_yaml  # noqa: E402 - the path is set first

CORPUS = ROOT.parent / "shared" / "corpus"
SECONDS = 5.0  # of one input; a megabyte takes a fraction of it
_PIECES = (
    b"\t", b"\r\n", b"\r", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", "\u2028".encode(), "\x85".encode(), b": ",
    b"- ", b"|\n", b">-\n", b"'", b'"', b"[", b"{", b"}", b"&a ", b"*a", b"!!binary ", b"<<: *a\n", b"? ",
    b"---\n", b"...\n", b"%YAML 1.2\n", b"#", b"version: 3\n", b"seed_examples:\n", b"  - question: ", b"\\x",
    b"context: |\n", b"12:30:45", b"0o17", b"1_000", b".nan", b"~", b"2024-13-45", b"\xf0\x9f\x8c\xb2", b"",
)  # fmt: skip


class Memory:
    """A tree of files in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def paths(self) -> list[str]:
        return sorted(self.files)

    def read(self, path: str, limit: int) -> bytes:
        if len(self.files[path]) > limit:
            raise TooLarge(path, len(self.files[path]), limit)
        return self.files[path]


def check(data: bytes) -> None:
    """Raises when any promise is broken."""
    start = time.process_time()
    budgets = YamlBudgets()
    document = read_yaml(data, budgets)
    assert len(document.problems) <= budgets.problems + 2
    if document.root is not None:
        nodes, depth = _size(document.root)
        assert nodes <= budgets.nodes
        assert depth <= budgets.depth + 1
    files = {
        "knowledge/a/b/qna.yaml": data,
        "compositional_skills/a/b/qna.yaml": data,
        "compositional_skills/a/b/attribution.txt": data,
        "foundational_skills/a/b/qna.yml": data,
        ".github/treewright.yml": data,
        ".treewright/general.jsonl": data,
    }
    for only in (None, list(files)):
        report = lint(Memory(files), RepositoryConfig(), only)
        assert problems("lint_report", report.to_json()) == []
        for finding in report.findings:
            assert finding.rule in RULES
            assert finding.message
            _inside(files.get(finding.file, b""), finding.line, finding.column)
    assert time.process_time() - start < SECONDS, "too slow"


def _inside(data: bytes, line: int, column: int) -> None:
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = text.split("\n")
    assert 1 <= line <= len(lines), f"line {line} of {len(lines)}"
    assert 1 <= column <= len(lines[line - 1]) + 1, f"column {column} of {len(lines[line - 1])}"


def _size(node: YamlNode) -> tuple[int, int]:
    inner = [*node.items, *(each for pair in node.entries for each in pair)]
    sizes = [_size(each) for each in inner]
    return 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)


def seeds() -> list[bytes]:
    """Leaves to start from: the examples of each kind, and the corpus where it is at hand."""
    own = [examples.SKILL, examples.GROUNDED, examples.KNOWLEDGE, examples.ATTRIBUTION, examples.CONFIG]
    found = [text.encode() for text in own] + [examples.ITEMS.encode()]
    folders = [ROOT / "examples", CORPUS]
    files = sorted(path for folder in folders if folder.is_dir() for path in folder.rglob("qna.yaml"))
    return found + [path.read_bytes() for path in files if path.stat().st_size < 20_000]


def mutants(generator: random.Random) -> Iterator[bytes]:
    pool = seeds()
    while True:
        data = bytearray(generator.choice(pool))
        for _ in range(generator.randint(1, 6)):
            at = generator.randint(0, len(data))
            match generator.randint(0, 5):
                case 0:
                    data[at:at] = generator.choice(_PIECES) * generator.choice((1, 1, 1, 2, 30))
                case 1:
                    del data[at : at + generator.randint(1, 40)]
                case 2 if at < len(data):
                    data[at] = generator.randrange(256)
                case 3:
                    other = generator.choice(pool)
                    start = generator.randint(0, len(other))
                    data[at:at] = other[start : start + generator.randint(1, 200)]
                case 4:
                    lines = data.split(b"\n")
                    generator.shuffle(lines)
                    data = bytearray(b"\n".join(lines))
                case _:
                    piece = bytes(data[at : at + generator.randint(1, 30)])
                    data[at:at] = piece * generator.choice((1, 2, 50))
        yield bytes(data)


def attempt(data: bytes) -> None:
    try:
        check(data)
    except BaseException:
        name = Path(f"crash-{hashlib.sha256(data).hexdigest()[:12]}")
        name.write_bytes(data)
        print(f"written to {name}", file=sys.stderr)
        raise


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the YAML reader and lint.")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--no-atheris", action="store_true", help="mutate at random even if atheris is there")
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    options = parser.parse_args(own)
    for file in options.files:
        check(file.read_bytes())
    if options.files:
        return 0
    if not options.no_atheris:
        try:
            atheris = importlib.import_module("atheris")
        except ImportError:
            print("atheris is not installed; mutating at random.", file=sys.stderr)
        else:
            rest = arguments[len(own) + 1 :] or [f"-max_total_time={int(options.seconds)}"]
            atheris.instrument_all()
            atheris.Setup([sys.argv[0], *rest], attempt)
            atheris.Fuzz()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    end, count = time.monotonic() + options.seconds, 0
    for data in mutants(random.Random(seed)):
        attempt(data)
        count += 1
        if time.monotonic() >= end:
            break
    print(f"{count} inputs, seed {seed}: every promise held.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
