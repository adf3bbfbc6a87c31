"""Settings of the worker processes of a job."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import cache

LOWEST_PRIORITY = 19
# Of glibc's mallopt(3), with bytes. Blocks up to the first are kept: older versions accept no more, and a decoded photo
# of 8 megapixels is smaller. Of free memory at the end of the heap, up to the second.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BLOCK, KEPT_FREE = 32 << 20, 256 << 20


def let_models_go_first() -> None:
    """Give the calling thread, and those that it starts, the lowest priority: where CPUs are short, the thread that
    feeds the device must not wait for one. Actors with models have the priority that Ray gives its workers."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)


def use_huge_pages() -> None:
    """Let torch ask for pages of 2 MB where it allocates more. Call it before torch is imported. Outputs of models are
    new memory, which the system clears page by page: a third of the time to make an array of 38 MB."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@cache
def keep_freed_memory() -> None:
    """Let malloc keep what is freed. By default it gives large blocks back to the system, which has to clear new pages
    for the next photo: half of the time of decoding and resizing one of 0.9 megapixels on a virtual machine."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        if libc.mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK):  # the second alone would make everything slower
            libc.mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)
