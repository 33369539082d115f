"""What ends a run early, with its cause: a loss that runs away, a disk that is full.

Both leave the last checkpoint as it was, so the same command, once the cause is gone, goes on from there.
"""

from __future__ import annotations

import errno
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from torch import nn

WINDOW = 50
"""Steps that the running median looks back."""
PATIENCE = 5
"""Steps in a row above the limit: one bad batch is no divergence."""
TIMES, NATS = 2.0, 1.0
"""The limit is `TIMES` the median and at least `NATS` above it: at a loss of 0.001 a second phase's new rows
would look like a runaway otherwise. All four numbers are ours."""

SPARE = 64 * 2**20


class DivergedError(RuntimeError):
    """The loss keeps rising far above what it was; the message says since when and what to try."""


class DiskFullError(RuntimeError):
    """There is no room for a checkpoint or the model; the message says how much is needed, and where."""


class LossWatch:
    """`add(phase, step, loss)` after every optimizer step, in order. A phase starts anew."""

    def __init__(self) -> None:
        self._phase, self._high = 0, 0
        self._seen: deque[float] = deque(maxlen=WINDOW)

    def add(self, phase: int, step: int, loss: float, rate: float) -> None:
        if phase != self._phase:
            self._phase, self._high = phase, 0
            self._seen.clear()
        if len(self._seen) >= PATIENCE:
            usual = median(self._seen)
            if loss > max(TIMES * usual, usual + NATS):
                self._high += 1
                if self._high >= PATIENCE:
                    raise DivergedError(
                        f"phase {phase}, step {step}: the loss was {loss:.3f} and above {TIMES:g} times its "
                        f"running median of {usual:.3f} for {PATIENCE} steps, at learning rate {rate:g}. "
                        "The run diverged: start again with a lower tune.overrides.learning_rate or a "
                        "larger effective_batch. The checkpoint before it is kept."
                    )
                return  # what is out of line does not move the median
        self._high = 0
        self._seen.append(loss)


def checkpoint_bytes(model: nn.Module, ranks: int) -> int:
    """At most, over all ranks: weights, Adam's two moments and, within a step, gradients."""
    parameters = list(model.parameters())
    every = sum(value.numel() * value.element_size() for value in parameters)
    trained = sum(value.numel() * value.element_size() for value in parameters if value.requires_grad)
    return every + 3 * trained + ranks * 2**20


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise DiskFullError unless `needed` bytes, and a little more, are free where `folder` will be."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed + SPARE:
        raise DiskFullError(
            f"{what} needs {size(needed + SPARE)} at {place}, {size(free)} are free. "
            "Make room and start the same command: it goes on from the last checkpoint."
        )


@contextmanager
def explained(folder: Path, needed: int, what: str) -> Iterator[None]:
    """Turn an operating system's "no space", however torch or safetensors wraps it, into DiskFullError."""
    try:
        yield
    except BaseException as error:
        if not any(_is_full(one) for one in _chain(error)):
            raise
        raise DiskFullError(
            f"{what} could not be written to {folder}: the disk is full or a file size limit is reached "
            f"({size(needed)} are needed). Make room and start the same command: it goes on from the last "
            "checkpoint."
        ) from error


def _chain(error: BaseException) -> Iterable[BaseException]:
    seen: list[BaseException] = []
    left: list[BaseException] = [error]
    while left:
        one = left.pop()
        if one in seen:
            continue
        seen.append(one)
        # torch.distributed.checkpoint keeps each rank's error in `failures`.
        kept = getattr(one, "failures", None)
        left += [pair[0] for pair in kept.values()] if isinstance(kept, dict) else []
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
    return seen


def _is_full(error: BaseException) -> bool:
    codes = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
    texts = ("No space left", "File too large", "Disk quota exceeded", "os error 28", "os error 27")
    if isinstance(error, OSError) and error.errno in codes:
        return True
    # torch's own writer says only that it could not write as many bytes as it wanted.
    return any(text in str(error) for text in (*texts, "unexpected pos", "PytorchStreamWriter failed"))


def size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
