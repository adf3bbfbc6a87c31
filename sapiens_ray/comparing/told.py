"""What is told while outputs are compared."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str, int, int | None], None]  # what is counted, how many of them, of how many (None: not known)
