"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data: $LIMBECK_DATA, else shared/data beside the repository; skips where there is none."""
    given = os.environ.get("LIMBECK_DATA")
    root = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"{root} not found: set LIMBECK_DATA")
    return root
