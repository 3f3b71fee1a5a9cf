"""What all tests share: which of them run on every Python version."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Quick and telling. Tests elsewhere join by marking themselves `smoke`.
SMOKE_FOLDERS = (HERE / "unit", HERE / "conformance" / "cpython")

# A shell starts what runs in the background with Ctrl-C ignored, and every process below would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in SMOKE_FOLDERS):
            item.add_marker(pytest.mark.smoke)
