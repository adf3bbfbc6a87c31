"""How far a long command is, on stderr."""

from __future__ import annotations

import sys
import time

from sapiens_ray.cli.console import is_live, tell

QUIET_S = 2.0  # before the first line: short commands show none
EVERY_S = {True: 0.2, False: 10.0}  # seconds between two lines: on a terminal, elsewhere


class Steps:
    """One line that is rewritten on a terminal, a line every ten seconds elsewhere; none if `quiet`. Call it with every
    step; as a context, it removes its line at the end."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.live = quiet, is_live(sys.stderr)
        self._next = time.monotonic() + QUIET_S
        self._shown = False

    def __call__(self, what: str, done: int, of: int | None) -> None:
        """what: what is counted, in the plural. done, of: how many of how many; None if that is not known."""
        now = time.monotonic()
        if self.quiet or now < self._next:
            return
        line = f"{done}{'' if of is None else f' of {of}'} {what}"
        if self.live:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            tell(line)
        self._shown, self._next = True, now + EVERY_S[self.live]

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown and self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
