"""Runs a command and ends it, with everything it started, when the parent is gone.

    python -m gpu_runner.guard PARENT_PID COMMAND ...

A runner that is killed cannot stop its model server, which would go on holding the GPU. The guard is the
leader of the server's process group, so a signal to the group reaches all of it. Standard library only: it
starts in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 10.0


def main(parent: int, command: list[str]) -> int:
    # The group gets the same signal: wait for the server to end by itself.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"cannot start {command[0]!r}: {error.strerror}", file=sys.stderr)
        return 127
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(0.25)
            return code if code >= 0 else 128 - code
        if os.getppid() != parent:  # also while it was waiting for a server that it had told to end
            os.killpg(0, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_SECONDS)
            time.sleep(0.1)
            os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
