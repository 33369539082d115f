"""Two workers side by side (`make test`): the whole loop first, and threads that do not starve each other."""

from __future__ import annotations

import os

import pytest

# Before anything imports torch. A worker's own models are tiny: a second thread would only take the core of
# the other worker. The whole loop's processes are told otherwise in tests/e2e.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that everything else runs beside it and not after it."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
