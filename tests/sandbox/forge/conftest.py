"""The fixtures of `forge_world.py`, for every test of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from forge_world import make_world, receiver, world

__all__ = ["make_world", "receiver", "world"]
