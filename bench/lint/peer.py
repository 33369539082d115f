"""Runs instructlab-schema over a list of files; started by `run.py` with the peer's own Python. Prints JSON.

Files come on standard input, one a line. What the peer prints goes to a buffer.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import resource
import sys
import time

from instructlab.schema.taxonomy import TaxonomyParser


def main() -> None:
    logging.disable(logging.CRITICAL)
    files = sys.stdin.read().splitlines()
    parser = TaxonomyParser(
        schema_version=0
    )  # each file by its own version, as its check of a whole tree does
    started, used = time.perf_counter(), cpu()
    errors = 0
    with contextlib.redirect_stdout(io.StringIO()):
        for file in files:
            errors += parser.parse(file).errors
    wall, spent = time.perf_counter() - started, cpu() - used
    print(json.dumps({"wall": wall, "cpu": spent, "files": len(files), "errors": errors}))


def cpu() -> float:
    """Seconds of processor time, the programs that were started included."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)


if __name__ == "__main__":
    main()
