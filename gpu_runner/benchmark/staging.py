"""Public benchmarks on this machine, before anything runs: fetched once by pinned revision, checked, listed.

    treewright stage-benchmarks mmlu gsm8k@COMMIT --data DIR             fetches from the Hub
    treewright stage-benchmarks gsm8k@COMMIT --data DIR --from FOLDER    takes a copy of the data set's files
    treewright stage-benchmarks --data DIR                               checks what is there

`DIR/staged.json` lists every file with its digest and every set with the commit of its data set; the files
keep the names that they have there. A run reads only this folder (`TREEWRIGHT_BENCHMARK_DATA`, or `treewright
benchmark --data DIR`), checks the digests first, and reaches for no network.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_runner.benchmark.model import BenchmarkError
from lab.contracts import file_digest, read_json, write_json

LISTING = "staged.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SUBJECT = "{subject}"


@dataclass(frozen=True)
class Source:
    """One public benchmark: where its data lives, which of the harness's tasks asks it, and how.

    `shots` and `metric` are those of the LAB paper's table 3 (arXiv 2403.01081), which follows the Open LLM
    Leaderboard. `splits` maps the harness's splits to file names in the data set's repository.
    """

    name: str
    repository: str
    shots: int
    metric: str
    task: str
    splits: Mapping[str, str]
    columns: tuple[str, ...]


SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            "mmlu",
            "cais/mmlu",
            5,
            "acc",
            "mmlu/default/mmlu_{subject}.yaml",
            {"test": "{subject}/test-*.parquet", "dev": "{subject}/dev-*.parquet"},
            ("question", "choices", "answer"),
        ),
        Source(
            "arc_challenge",
            "allenai/ai2_arc",
            25,
            "acc_norm",
            "arc/arc_challenge.yaml",
            {split: f"ARC-Challenge/{split}-*.parquet" for split in ("train", "validation", "test")},
            ("question", "choices", "answerKey"),
        ),
        Source(
            "hellaswag",
            "Rowan/hellaswag",
            10,
            "acc_norm",
            "hellaswag/hellaswag.yaml",
            {split: f"data/{split}-*.parquet" for split in ("train", "validation")},
            ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        ),
        Source(
            "winogrande",
            "allenai/winogrande",
            5,
            "acc",
            "winogrande/default.yaml",
            {split: f"winogrande_xl/{split}-*.parquet" for split in ("train", "validation")},
            ("sentence", "option1", "option2", "answer"),
        ),
        Source(
            "gsm8k",
            "openai/gsm8k",
            5,
            "exact_match",
            "gsm8k/gsm8k.yaml",
            {split: f"main/{split}-*.parquet" for split in ("train", "test")},
            ("question", "answer"),
        ),
    )
}


@dataclass(frozen=True)
class StagedFile:
    """`path` is relative to the folder; `subject` is empty but for MMLU."""

    path: str
    digest: str
    rows: int
    split: str
    subject: str = ""


@dataclass(frozen=True)
class Staged:
    """One set as it lies in `folder`."""

    source: Source
    revision: str
    files: tuple[StagedFile, ...]
    folder: Path

    @property
    def identity(self) -> dict[str, Any]:
        """What a score depends on: the same files under another folder are the same."""
        files = sorted((f.subject, f.split, f.path, f.digest) for f in self.files)
        return {
            "name": self.source.name,
            "repository": self.source.repository,
            "revision": self.revision,
            "files": [list(entry) for entry in files],
        }

    def subjects(self) -> list[str]:
        return sorted({file.subject for file in self.files})

    def data_files(self, subject: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for file in self.files:
            if file.subject == subject:
                found.setdefault(file.split, []).append(str(self.folder / file.path))
        return found


def parse_name(text: str) -> tuple[Source, str | None]:
    """`mmlu` or `mmlu@COMMIT`: the set and the commit that it has to be of."""
    name, _, revision = text.partition("@")
    if name not in SOURCES:
        raise BenchmarkError(f"{text!r} is no benchmark that can be staged; known: {', '.join(SOURCES)}")
    if revision and not _COMMIT.fullmatch(revision):
        raise BenchmarkError(f"{text!r}: a revision is a commit of 40 hexadecimal digits")
    return SOURCES[name], revision or None


def task_folder() -> Path:
    """Where the harness keeps its tasks; found without importing it, which would take seconds."""
    spec = find_spec("lm_eval")
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise BenchmarkError("lm-eval is not installed here: pip install 'treewright[runner]'")
    return Path(next(iter(places))) / "tasks"


def subjects_of(source: Source) -> list[str]:
    """MMLU's subjects, as the harness has them; one empty subject for every other set."""
    if _SUBJECT not in source.task:
        return [""]
    before, after = source.task.split(_SUBJECT)
    folder = task_folder() / Path(before).parent
    prefix = Path(before).name
    names = (path.name for path in folder.glob(f"{prefix}*{after}"))
    return sorted(name.removeprefix(prefix).removesuffix(after) for name in names)


def wanted(source: Source) -> list[tuple[str, str, str]]:
    """(subject, split, file name pattern) of everything that a set needs."""
    return [
        (subject, split, pattern.replace(_SUBJECT, subject))
        for subject in subjects_of(source)
        for split, pattern in source.splits.items()
    ]


def pick(source: Source, names: Iterable[str], where: str) -> list[tuple[str, str, str]]:
    """(subject, split, file name) out of a data set's file names; JSON Lines serve as well as Parquet."""
    listed = sorted(names)
    found, missing = [], []
    for subject, split, pattern in wanted(source):
        patterns = (pattern, pattern.replace("-*.parquet", ".jsonl"))
        matching = [name for name in listed if any(fnmatch.fnmatchcase(name, one) for one in patterns)]
        found += [(subject, split, name) for name in matching]
        missing += [] if matching else [pattern]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BenchmarkError(
            f"{where} holds no {missing[0]}{more}, which {source.name} needs; "
            "take another revision, or name a folder with these files by --from"
        )
    return found


def stage(
    name: str, data: Path, origin: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> Staged:
    """Put one set into `data`, from the Hub or from a copy in `origin`, and list it in `staged.json`."""
    source, revision = parse_name(name)
    if origin is not None and revision is None:
        raise BenchmarkError(
            f"a copy does not tell its revision: name it, {source.name}@COMMIT, so that the run is pinned"
        )
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{source.name}-", dir=data) as scratch:
        if origin is None:
            commit, files = _fetch(source, revision, Path(scratch), progress)
        else:
            commit, files = str(revision), _copy(source, origin, Path(scratch))
        listed = tuple(
            StagedFile(f"{source.name}/{path}", file_digest(Path(scratch) / path), rows, split, subject)
            for subject, split, path in files
            for rows in (count_rows(Path(scratch) / path, source),)
        )
        target = data / source.name
        shutil.rmtree(target, ignore_errors=True)
        (Path(scratch) / "set").mkdir()
        for _, _, path in files:
            moved = Path(scratch) / "set" / path
            moved.parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / path).rename(moved)
        (Path(scratch) / "set").rename(target)
    staged = Staged(source, commit, listed, data)
    _list(data, staged)
    return staged


def _list(data: Path, staged: Staged) -> None:
    listing = _listing(data)
    listing["sets"][staged.source.name] = {
        "repository": staged.source.repository,
        "revision": staged.revision,
        "files": [vars(file) for file in staged.files],
    }
    write_json(data / LISTING, listing)


def _listing(data: Path) -> dict[str, Any]:
    path = data / LISTING
    if not path.is_file():
        return {"version": 1, "sets": {}}
    listing: dict[str, Any] = read_json(path, "staged_benchmarks")
    return listing


def _fetch(
    source: Source, revision: str | None, scratch: Path, progress: Callable[[str], None]
) -> tuple[str, list[tuple[str, str, str]]]:
    """The only function of the benchmarks that reaches the network, and only by `stage-benchmarks`."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    api = HfApi(library_name="treewright")
    try:
        info = api.dataset_info(source.repository, revision=revision)
        names = api.list_repo_files(source.repository, repo_type="dataset", revision=info.sha)
        files = pick(source, names, f"{source.repository} at {info.sha}")
        for number, (_, _, path) in enumerate(files, start=1):
            progress(f"{source.name}: {number} of {len(files)}, {path}")
            api.hf_hub_download(
                source.repository, path, repo_type="dataset", revision=info.sha, local_dir=scratch
            )
    except (httpx2.HTTPError, OfflineModeIsEnabled, OSError) as error:  # the Hub's own errors are both
        told = next(iter(str(error).splitlines()), type(error).__name__)
        raise BenchmarkError(
            f"{source.repository} cannot be fetched ({told}); on a machine without "
            f"network, copy the data set's files there and use `--from FOLDER`"
        ) from error
    return str(info.sha), files


def _copy(source: Source, origin: Path, scratch: Path) -> list[tuple[str, str, str]]:
    if not origin.is_dir():
        raise BenchmarkError(f"{origin} is not a folder")
    names = (path.relative_to(origin).as_posix() for path in origin.rglob("*") if path.is_file())
    files = pick(source, names, str(origin))
    for _, _, path in files:
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin / path, scratch / path)
    return files


def count_rows(path: Path, source: Source) -> int:
    """Rows of a file that has the columns which the harness reads; BenchmarkError otherwise."""
    if path.suffix == ".parquet":
        from pyarrow import ArrowException  # type: ignore[import-untyped]  # the library has no types
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]  # the library has no types

        try:
            with ParquetFile(path) as file:
                columns, rows = set(file.schema_arrow.names), int(file.metadata.num_rows)
        except (ArrowException, OSError) as error:
            raise BenchmarkError(f"{path.name} is no Parquet file: {error}") from error
    else:
        try:
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
            columns = set.intersection(*(set(line) for line in lines)) if lines else set()
            rows = len(lines)
        except (ValueError, TypeError, RecursionError) as error:
            raise BenchmarkError(f"{path.name} is no JSON Lines file: {error}") from error
    lacking = sorted(set(source.columns) - columns)
    if lacking or not rows:
        told = f"lacks the column {lacking[0]}" if lacking else "has no rows"
        raise BenchmarkError(f"{path.name} {told}: it is not {source.name} as the harness reads it")
    return rows


def staged_sets(names: Sequence[str], data: Path | None) -> list[Staged]:
    """The sets that a run needs, each file checked against its digest.

    Raises BenchmarkError with the command that stages what is missing."""
    if not names:
        return []
    if data is None:
        raise BenchmarkError(
            f"benchmark.standard asks for {', '.join(names)}, and no data are staged: run `treewright "
            f"stage-benchmarks {' '.join(names)} --data DIR` and set TREEWRIGHT_BENCHMARK_DATA=DIR"
        )
    listing = _listing(data)
    return [_check(name, data, listing) for name in names]


def _check(name: str, data: Path, listing: Mapping[str, Any]) -> Staged:
    source, revision = parse_name(name)
    again = f"run `treewright stage-benchmarks {name} --data {data}`"
    entry = listing["sets"].get(source.name)
    if entry is None:
        raise BenchmarkError(f"{data} does not hold {source.name}: {again}")
    if revision and entry["revision"] != revision:
        raise BenchmarkError(
            f"{data} holds {source.name} of {entry['revision']}, and the repository pins {revision}: {again}"
        )
    files = tuple(StagedFile(**file) for file in entry["files"])
    for file in files:
        path = data / file.path
        if not path.is_file() or file_digest(path) != file.digest:
            told = "has other content than when it was staged" if path.is_file() else "is not there"
            raise BenchmarkError(f"{path} {told}: {again}")
    lacking = {(s, split) for s, split, _ in wanted(source)} - {(f.subject, f.split) for f in files}
    if lacking:
        raise BenchmarkError(f"{data} holds {source.name} without {sorted(lacking)[0]}: {again}")
    return Staged(source, entry["revision"], files, data)


def check_all(data: Path) -> list[Staged]:
    """Everything that the folder lists, checked."""
    return staged_sets(sorted(_listing(data)["sets"]), data)
