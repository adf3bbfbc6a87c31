"""Processes that are forked, as the workers of a PyTorch DataLoader are on Linux.

Such a process has copies of its parent's file systems, with their connections. fsspec lets go of them when it is first
used there; they are then closed, which removes their sockets from the epoll that both processes share, and the next
request of the parent waits for its time-out. So they are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import fsspec

_inherited: list[fsspec.AbstractFileSystem] = []


@cache
def keep_connections() -> None:
    """From now on, processes that are forked from this one keep its file systems."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=_keep)


def _keep() -> None:
    for kind in _kinds(fsspec.AbstractFileSystem):
        _inherited.extend(getattr(kind, "_cache", {}).values())


def _kinds(kind: type[fsspec.AbstractFileSystem]) -> Iterator[type[fsspec.AbstractFileSystem]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
