"""The time for people and logs. No run compares it: clocks of machines differ and jump. Only `status --watch` does, to
know whose progress it shows."""

from __future__ import annotations

import time


def utc_now() -> str:
    """The time in UTC, such as 2026-01-31T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
