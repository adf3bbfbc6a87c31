"""How many results wait to be encoded. While there are too many, the device waits: they take gigabytes."""

from __future__ import annotations

import threading

MOST = 32  # a class map of 8 megapixels takes 8 MB, a feature map 25 MB


class Backlog:
    """Counts work that threads have not finished. Such work never waits for the device, so the wait ends."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._closed = False

    def add(self) -> None:
        """One more piece of work waits."""
        with self._changed:
            self._count += 1

    def done(self) -> None:
        """One piece of work is finished."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._count < MOST)

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
