"""What a node's own processes find in their environment."""

from __future__ import annotations

import os
from typing import Final

# glibc then asks for pages of 2 MB: memory that is touched for the first time, as for each large value, comes in half the time.
# Other C libraries do not know the name.
_TUNABLES: Final = "GLIBC_TUNABLES"
_LARGE_PAGES: Final = "glibc.malloc.hugetlb=1"


def for_child() -> dict[str, str]:
    """For a child of this supervisor, and for what that starts."""
    return {_TUNABLES: _LARGE_PAGES, **os.environ, "FARMHAND_HOST_PID": str(os.getpid())}


def forget_large_pages() -> None:
    """In a slot: the programs that its tasks start shall have the environment that the farm was started with."""
    if os.environ.get(_TUNABLES) == _LARGE_PAGES:
        del os.environ[_TUNABLES]
